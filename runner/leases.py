"""The cell's side of the lease: each window of timing is asked for, and the host says afterwards what it saw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runner.contract import Event


class Leases:
    """`asked` False: there is no host; every window is granted at once and nothing is known about it."""

    def __init__(self, out: Path, emit: Callable[[Event], None], *, asked: bool) -> None:
        self._out = out
        self._emit = emit
        self._asked = asked
