"""A started attempt as the engine follows it: its files, its process, and the time it may take."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field

from harness.executors import Exit, Handle
from harness.store import AttemptPaths
from runner.contract import FROZEN_FILE, CellSpec, ContractError, Limits, Phase


class Clock:
    """The time an attempt has taken, in all and in its phase; that in which it stands still or waits for the lease does
    not count."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._last = time.monotonic()
        self._total_s = 0.0
        self._phase_s = 0.0
        self._phase: Phase | None = None
        self.over: Exit | None = None  # what the end of the attempt then means

    def enter(self, phase: Phase) -> None:
        self._phase, self._phase_s = phase, 0.0

    def advance(self, *, standing: bool) -> None:
        """To be called when `standing` is about to change, and before `has_run_out`."""
        now = time.monotonic()
        if not standing:
            self._total_s += now - self._last
            self._phase_s += now - self._last
        self._last = now

    def has_run_out(self) -> bool:
        """To be called often; True once, when a limit is passed."""
        if self.over is not None:
            return False
        self.over = self._verdict()
        return self.over is not None

    def _verdict(self) -> Exit | None:
        limits = self._limits
        of_phase = limits.phase_seconds.get(self._phase) if self._phase else None
        if of_phase is not None and self._phase_s > of_phase:
            what = f"the phase '{self._phase}' took longer than its {of_phase:g} s"
        elif limits.seconds is not None and self._total_s > limits.seconds:
            what = f"the cell took longer than its {limits.seconds:g} s"
        else:
            return None
        return Exit(code=None, cause="timeout", detail=what)


@dataclass
class Running:
    """An attempt that has a process."""

    spec: CellSpec
    attempt: AttemptPaths
    handle: Handle
    clock: Clock = field(init=False)
    phase: Phase | None = None
    refused: str | None = None  # it is ended for what it laid in its folder
    is_frozen: bool = False
    _frozen_since: float = 0.0
    _frozen_s: float = 0.0

    def __post_init__(self) -> None:
        self.clock = Clock(self.spec.limits)

    async def freeze(self) -> bool:
        self.clock.advance(standing=False)
        since = time.monotonic()
        if not await self.handle.freeze():
            return False
        self.is_frozen, self._frozen_since = True, since
        return True

    async def thaw(self) -> None:
        """The cell is told how long it has stood still before it can look at a clock."""
        self._frozen_s += time.monotonic() - self._frozen_since
        with suppress(ContractError):  # it shut its folder: its own figures will be too slow
            self.attempt.tell(FROZEN_FILE, round(self._frozen_s, 4))
        self.clock.advance(standing=True)
        self.is_frozen = False
        await self.handle.thaw()
