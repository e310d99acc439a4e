"""The run's own journal, and the reader that follows it or a cell's events while they grow."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

import msgspec

from harness.state import CellFailed, CellFinished, CellRetried, CellStarted, RunEvent, RunFinished, RunStarted
from harness.store import writing
from runner.contract import ContractError, Event, Warned, open_plain

EVENT_CHUNK_BYTES = 2**18  # of a file of events at a time, and of one line of a cell's
EVENTS_BYTES = 128 * 2**20  # of a cell's events in all; training for a day leaves 30 MB
JOURNAL_LINE_BYTES = 2**26  # the start of a run with 10,000 cells takes 2 MB
LAST_LINE_BYTES = 2**16  # read from the end of a journal at first, to find its last line
# What must be known after the machine itself went down.
DURABLE = (RunStarted, CellStarted, CellFinished, CellRetried, CellFailed, RunFinished)


class Journal:
    """Appends the run's own events, each written at once; a torn line is left to readers to skip."""

    def __init__(self, path: Path) -> None:
        with writing(path):
            self._file = path.open("a+b", buffering=0)
            self._torn = _ends_torn(self._file)
            self._seq = _last_seq(self._file) + 1
        self._path = path
        self._disk = _Disk(self._file.fileno())

    def append(self, event: Event) -> Event:
        """Stamps and writes the event; the stamped one is returned. It is on the disk soon, where its kind asks for
        that. Raises SetupError, also where the disk did not take an earlier one."""
        with writing(self._path):
            self._disk.check()
            stamped = msgspec.structs.replace(event, t=time.time(), seq=self._seq)
            self._seq += 1
            line = self._torn * b"\n" + msgspec.json.encode(stamped) + b"\n"
            self._torn = True
            if self._file.write(line) < len(line):  # the kernel takes what still fits
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._torn = False
            if isinstance(event, DURABLE):
                self._disk.want()
        return stamped

    def close(self) -> None:
        """When all of it is on the disk. Raises SetupError where that cannot be."""
        with writing(self._path):
            try:
                self._disk.close()
            finally:
                self._file.close()


class _Disk:
    """Syncs a file from a thread of its own, so that nobody waits: 0.2 ms on a quiet SSD, 6 ms on a busy one. One sync
    covers all that was written before it began."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._changed = threading.Condition()
        self._is_wanted = False
        self._is_closing = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def want(self) -> None:
        with self._changed:
            self._is_wanted = True
            self._changed.notify()

    def check(self) -> None:
        """Raises, once, what the disk has answered."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Returns when nothing is wanted any more."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()
        self.check()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_wanted or self._is_closing)
                if not self._is_wanted:
                    return
                self._is_wanted = False
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                self._error = error


class _Numbered(msgspec.Struct):
    seq: int


def _ends_torn(file: IO[bytes]) -> bool:
    """Whether an earlier host died, or found the disk full, within a line."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def _last_seq(file: IO[bytes]) -> int:
    """The number of the last event that can be read; -1 without any."""
    size = file.seek(0, os.SEEK_END)
    wanted = LAST_LINE_BYTES
    while True:
        start = max(0, size - wanted)
        file.seek(start)
        lines = file.read(size - start).split(b"\n")
        for line in reversed(lines if start == 0 else lines[1:]):  # the first may lack its beginning
            try:
                return msgspec.json.decode(line, type=_Numbered).seq
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
        if start == 0:
            return -1
        wanted *= 8


class EventTail:
    """Follows a growing file of events: each call returns whole lines that have come since the last, so many at a time.
    One that was replaced or cut is read from its start again. `trusted`: the host's own, of any size."""

    def __init__(self, path: Path, kinds: Any, *, trusted: bool = False, start_bytes: int = 0) -> None:
        self._path = path
        self._decoder = msgspec.json.Decoder(kinds)
        self._line_bytes = JOURNAL_LINE_BYTES if trusted else EVENT_CHUNK_BYTES
        self._limit_bytes = sys.maxsize if trusted else EVENTS_BYTES
        self._chunk_bytes = EVENT_CHUNK_BYTES
        self._offset = start_bytes
        self._taken_bytes = 0  # of all files that had this name
        self._file_id: tuple[int, int] | None = None
        self._seen_bytes = 0
        self._within_long_line = False
        self._is_given_up = False
        self._was_replaced = False
        self.is_behind = False  # there may be more than the last call took
        self.unreadable = 0  # lines that are no event of the contract

    def read(self) -> list[Event]:
        """Raises ContractError where there is something else than a file of events."""
        self.is_behind = False
        if self._is_given_up:
            return []
        replaced_before = self._was_replaced
        data = self._next_chunk()
        self.is_behind = len(data) == self._chunk_bytes
        events = [event for line in self._whole_lines(data) if (event := self._decoded(line)) is not None]
        if self._was_replaced and not replaced_before:
            events.insert(0, _warned("its file of events was replaced or cut: it is read from its start again"))
        if self._taken_bytes > self._limit_bytes:
            self._is_given_up, self.is_behind = True, False
            size = f"{self._limit_bytes / 2**20:.0f} MB"
            events.append(_warned(f"more than {size} of events: what follows is not shown"))
        return events

    def _next_chunk(self) -> bytes:
        try:
            if not self._may_have_more(os.lstat(self._path)):
                return b""
            with open_plain(self._path, sys.maxsize) as file:
                self._start_again_if_other(os.fstat(file.fileno()))
                file.seek(self._offset)
                data = file.read(self._chunk_bytes)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise ContractError(f"{self._path}: cannot be read ({error.strerror})") from None
        self._seen_bytes = self._offset + len(data)
        return data

    def _may_have_more(self, found: os.stat_result) -> bool:
        return (found.st_dev, found.st_ino) != self._file_id or found.st_size != self._seen_bytes

    def _start_again_if_other(self, found: os.stat_result) -> None:
        file_id = (found.st_dev, found.st_ino)
        if self._file_id not in (None, file_id) or found.st_size < self._offset:
            self._offset, self._chunk_bytes, self._within_long_line = 0, EVENT_CHUNK_BYTES, False
            self._was_replaced = True
        self._file_id = file_id

    def _whole_lines(self, data: bytes) -> list[bytes]:
        """And go on behind them; a line that is too long is passed over."""
        whole, end, _ = data.rpartition(b"\n")
        if not end:
            if self.is_behind and self._chunk_bytes < self._line_bytes:
                self._chunk_bytes = min(4 * self._chunk_bytes, self._line_bytes)
            elif self.is_behind:
                self._go_on(len(data))
                self.unreadable += not self._within_long_line
                self._within_long_line = True
            return []
        self._go_on(len(whole) + 1)
        self._chunk_bytes = EVENT_CHUNK_BYTES
        lines = whole.split(b"\n")
        if self._within_long_line:
            self._within_long_line = False
            return lines[1:]
        return lines

    def _go_on(self, size: int) -> None:
        self._offset += size
        self._taken_bytes += size

    def _decoded(self, line: bytes) -> Event | None:
        try:
            event: Event = self._decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.unreadable += 1
            return None
        return event


def tail_journal(path: Path, start_bytes: int = 0) -> EventTail:
    """Follows a run's own events."""
    return EventTail(path, RunEvent, trusted=True, start_bytes=start_bytes)


def _warned(message: str) -> Warned:
    return Warned(t=time.time(), message=message)
