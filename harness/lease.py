"""The lease: a cell that measures speed has the machine to itself.

Cells ask for one window at a time and take turns, so that the windows of different cells alternate. For each window all
other cells are frozen, the machine is let come to rest, the window is granted, watched, and ended; then the others run
again. A holder that ends, or that takes far too long, loses the lease: nobody waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from harness.attempts import Running
from harness.state import LeaseEnded, LeaseGranted
from runner.contract import CellSpec, ContractError, Event, Verdict, verdict_file

QUIET_S = 0.5  # the machine may take so long to come to rest before a window
BREATH_S = 0.3  # between two windows the frozen cells run for at least so long
SPARE = 3.0  # how much longer than its settings allow a window may last ...
SPARE_S = 30.0  # ... and what it may last at least


class LoadWatch(Protocol):
    """What the host can see of other work (harness.load)."""

    async def quiet(self, patience_s: float) -> None: ...
    async def begin(self, gpus: tuple[str, ...]) -> None: ...
    async def end(self) -> tuple[str, ...]:
        """Why the window since `begin` was disturbed."""
        ...


class Lease:
    """`tell` hears of each window; `refuse` ends a cell that stands in the way of its own lease, and says why."""

    def __init__(self, load: LoadWatch, tell: Callable[[Event], object], refuse: Callable[[str, str], None]) -> None:
        self._load = load
        self._tell = tell
        self._refuse = refuse
        self._waiting: dict[str, int] = {}  # cell -> window, in the order they asked
        self._windows: Counter[str] = Counter()  # asked for by an attempt ...
        self._too_long: Counter[str] = Counter()  # ... and taken from it
        self._released = asyncio.Event()
        self.holder: str | None = None
        self.wanted = asyncio.Event()

    def is_waiting(self, cell: str) -> bool:
        return cell in self._waiting

    def want(self, spec: CellSpec, window: int) -> None:
        """One that asks more often than its settings need is refused: others would never go on."""
        self._windows[spec.cell] += 1
        if self._windows[spec.cell] > spec.evaluation.windows * (1 + spec.evaluation.repeats):
            self._refuse(spec.cell, "it asked for more windows of timing than its settings need")
            return
        self._waiting[spec.cell] = window
        self.wanted.set()

    def release(self, cell: str) -> None:
        self._waiting.pop(cell, None)
        if self.holder == cell:
            self._released.set()
        if not self._waiting:
            self.wanted.clear()

    def leave(self, cell: str) -> None:
        """When an attempt ends, however it ends."""
        self.release(cell)
        del self._windows[cell], self._too_long[cell]

    async def turn(self, running: Mapping[str, Running]) -> None:
        """One window of the cell that has waited longest; no cell may start meanwhile. Raises SetupError."""
        cell = next((name for name in self._waiting if name in running), None)
        if cell is None:
            return
        self.holder = cell
        self._released.clear()
        others = [one for name, one in running.items() if name != cell]  # whatever they say that they do
        frozen: list[Running] = []
        reasons: list[str] = []
        try:
            await asyncio.gather(*(_freeze(one, frozen, reasons) for one in others))
            await self._load.quiet(QUIET_S)
            if cell in running and cell in self._waiting:  # it may have ended meanwhile
                await self._window(running[cell], self._waiting.pop(cell), frozen, reasons)
        except ContractError as error:
            self._refuse(cell, str(error))
        finally:
            self.holder = None
            await asyncio.gather(*(one.thaw() for one in frozen))
            if not self._waiting:
                self.wanted.clear()

    async def _window(self, holder: Running, number: int, frozen: list[Running], reasons: list[str]) -> None:
        """The holder measures; it hears what was seen meanwhile, and so does the journal."""
        cell = holder.spec.cell
        still = tuple(one.spec.cell for one in frozen)
        await self._load.begin(holder.spec.gpus)
        holder.attempt.grant(number)
        granted = time.monotonic()
        self._tell(LeaseGranted(cell=cell, window=number, frozen=still))
        limit_s = longest_window_s(holder.spec)
        try:
            async with asyncio.timeout(limit_s):
                await self._released.wait()
        except TimeoutError:
            reasons.append(f"the window lasted longer than {limit_s:.0f} s, and other cells ran again")
            self._too_long[cell] += 1
            if self._too_long[cell] > 1:
                self._refuse(cell, "it kept the lease for too long, again and again")
        reasons += await self._load.end()
        holder.attempt.tell(verdict_file(number), Verdict(reasons=tuple(reasons)))
        seconds = time.monotonic() - granted
        self._tell(LeaseEnded(cell=cell, window=number, seconds=seconds, frozen=still, reasons=tuple(reasons)))


async def _freeze(one: Running, frozen: list[Running], reasons: list[str]) -> None:
    if await one.freeze():
        frozen.append(one)
    else:
        reasons.append(f"{one.spec.cell} could not be frozen")


def longest_window_s(spec: CellSpec) -> float:
    evaluation = spec.evaluation
    most = evaluation.latency_max_s + len(evaluation.throughput_batch_sizes) * evaluation.throughput_max_s
    return SPARE_S + SPARE * most / evaluation.windows
