"""The run's own journal, and the reader that follows it or a cell's events while they grow."""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from harness.store import writing
from runner.contract import ContractError, Event, Warned, open_plain

EVENT_CHUNK_BYTES = 2**18  # of a cell's events at a time, and of one line
EVENTS_BYTES = 128 * 2**20  # of a cell's events in all; training for a day leaves 30 MB


class Journal:
    """Appends the run's own events, each flushed at once; a torn line is left to readers to skip."""

    def __init__(self, path: Path) -> None:
        with writing(path):
            self._file = path.open("a+b", buffering=0)
            self._torn = self._ends_torn()
        self._path = path
        self._seq = 0

    def append(self, event: Event) -> Event:
        """Stamps and writes the event; the stamped one is returned."""
        stamped = msgspec.structs.replace(event, t=time.time(), seq=self._seq)
        self._seq += 1
        line = self._torn * b"\n" + msgspec.json.encode(stamped) + b"\n"
        self._torn = True
        with writing(self._path):
            if self._file.write(line) < len(line):  # the kernel takes what still fits
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._torn = False
        return stamped

    def _ends_torn(self) -> bool:
        """Whether an earlier host died, or found the disk full, within a line."""
        if self._file.seek(0, os.SEEK_END) == 0:
            return False
        self._file.seek(-1, os.SEEK_END)
        return self._file.read(1) != b"\n"

    def close(self) -> None:
        self._file.close()


class EventTail:
    """Follows a growing events file: each call returns whole lines that have come since the last, so many at a time."""

    def __init__(self, path: Path, kinds: Any) -> None:
        self._path = path
        self._decoder = msgspec.json.Decoder(kinds)
        self._offset = 0
        self._within_long_line = False
        self._is_given_up = False
        self.is_behind = False  # there may be more than the last call took
        self.unreadable = 0  # lines that are no event of the contract

    def read(self) -> list[Event]:
        """Raises ContractError where there is something else than a file of events."""
        self.is_behind = False
        if self._is_given_up:
            return []
        data = self._next_chunk()
        self.is_behind = len(data) == EVENT_CHUNK_BYTES
        events = [event for line in self._whole_lines(data) if (event := self._decoded(line)) is not None]
        if self._offset > EVENTS_BYTES:
            self._is_given_up, self.is_behind = True, False
            message = f"more than {EVENTS_BYTES / 2**20:.0f} MB of events: what follows is not shown"
            events.append(Warned(t=time.time(), message=message))
        return events

    def _next_chunk(self) -> bytes:
        try:
            with open_plain(self._path, sys.maxsize) as file:
                file.seek(self._offset)
                return file.read(EVENT_CHUNK_BYTES)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise ContractError(f"{self._path}: cannot be read ({error.strerror})") from None

    def _whole_lines(self, data: bytes) -> list[bytes]:
        """And go on behind them; a line longer than a chunk is passed over."""
        whole, end, _ = data.rpartition(b"\n")
        if not end:
            if self.is_behind:
                self._offset += len(data)
                self.unreadable += not self._within_long_line
                self._within_long_line = True
            return []
        self._offset += len(whole) + 1
        lines = whole.split(b"\n")
        if self._within_long_line:
            self._within_long_line = False
            return lines[1:]
        return lines

    def _decoded(self, line: bytes) -> Event | None:
        try:
            event: Event = self._decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.unreadable += 1
            return None
        return event
