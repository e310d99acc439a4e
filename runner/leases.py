"""The cell's side of the lease: each window of timing is asked for, and the host says afterwards what it saw."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from runner.contract import (
    ContractError,
    Event,
    LeaseReleased,
    LeaseWanted,
    Verdict,
    grant_file,
    read,
    verdict_file,
)

POLL_S = 0.02


@dataclass
class Lease:
    """One window; the `verdict` is there when the window has been left without an error."""

    number: int
    verdict: Verdict = field(default_factory=Verdict)


class Leases:
    """`asked` False: there is no host; every window is granted at once and nothing is known about it. `waited_s` sums
    what was spent on waiting for the host, in seconds of `clock`."""

    def __init__(
        self, out: Path, emit: Callable[[Event], None], *, asked: bool, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.asked = asked
        self.waited_s = 0.0
        self._out = out
        self._emit = emit
        self._clock = clock
        self._windows = 0

    @contextmanager
    def window(self) -> Iterator[Lease]:
        """The next window. It is given back however it is left; the host's verdict is awaited only where someone is
        left to hear it."""
        self._windows += 1
        lease = Lease(self._windows)
        if not self.asked:
            yield lease
            return
        self._emit(LeaseWanted(window=lease.number))
        try:
            self._wait_for(self._out / grant_file(lease.number))
            yield lease
        finally:
            self._emit(LeaseReleased(window=lease.number))
        told = self._out / verdict_file(lease.number)
        self._wait_for(told)
        lease.verdict = _read_verdict(told)

    def _wait_for(self, file: Path) -> None:
        started = self._clock()
        try:
            while not file.exists():
                time.sleep(POLL_S)
        finally:
            self.waited_s += self._clock() - started


def _read_verdict(file: Path) -> Verdict:
    try:
        return read(file, Verdict)
    except (ContractError, OSError) as error:
        return Verdict(reasons=(f"what the host saw cannot be read: {error}",))
