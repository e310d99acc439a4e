"""Appends events to `events.jsonl`, one JSON object a line, numbered and stamped."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec

from runner.contract import Event


class EventLog:
    """Writes each event as one whole line at once, so that a reader that follows the file sees whole lines. The file is
    locked while the log is open: a host that starts again can tell by it whether the attempt still runs."""

    def __init__(self, path: Path, cell: str) -> None:
        self._file: IO[bytes] = path.open("ab", buffering=0)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._cell = cell
        self._seq = 0
        self._torn = False  # whether the file may end in half a line

    def emit(self, event: Event) -> None:
        stamped = msgspec.structs.replace(event, t=time.time(), seq=self._seq, cell=self._cell)
        self._seq += 1  # first: an event cut short by a signal must not share its number with the next
        line = self._torn * b"\n" + msgspec.json.encode(stamped) + b"\n"
        self._torn = True
        if self._file.write(line) < len(line):  # the kernel takes what still fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        self._torn = False

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
