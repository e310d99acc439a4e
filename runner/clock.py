"""The cell's own time: wall time without what the host has kept it stopped for, so that a frozen cell loses nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from runner.contract import FROZEN_FILE, ContractError, open_plain

Clock = Callable[[], float]  # seconds from any start; never goes back
NUMBER_BYTES = 64


class ActiveClock:
    """Seconds since it was made. The host counts those for which the cell was frozen in a file of the attempt; one that
    is absent or no number counts as what was last read. Monotonic, whatever is done to the machine's clock."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FROZEN_FILE
        self._seen: tuple[int, ...] | None = None  # of the file as last read
        self._frozen_s = 0.0
        self._last_s = 0.0
        self._frozen_before_s = self.frozen_s()
        self._started = time.perf_counter()

    def __call__(self) -> float:
        elapsed = time.perf_counter() - self._started
        frozen = self.frozen_s() - self._frozen_before_s
        self._last_s = max(self._last_s, elapsed - frozen)
        return self._last_s

    def frozen_s(self) -> float:
        """For how long the host has kept this attempt stopped so far, before the clock was made too."""
        try:
            found = self._file.stat(follow_symlinks=False)
            seen = (found.st_ino, found.st_mtime_ns, found.st_size)
            if seen != self._seen:
                self._seen = seen
                with open_plain(self._file, NUMBER_BYTES) as file:
                    seconds = msgspec.json.decode(file.read(NUMBER_BYTES), type=float)
                if math.isfinite(seconds):
                    self._frozen_s = max(self._frozen_s, seconds)
        except (OSError, ContractError, msgspec.MsgspecError, UnicodeDecodeError):
            pass
        return self._frozen_s


def per_second(count: float, seconds: float) -> float | None:
    """None where no time has passed."""
    return count / seconds if seconds > 0 else None
