"""events.jsonl: whole lines, numbered and stamped, whatever happens in between."""

from __future__ import annotations

import errno
import fcntl
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner import events
from runner.contract import Failed, Metrics, PhaseStarted, Warned
from runner.events import EventLog

Read = Callable[[Path], list[Any]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def test_events_are_numbered_stamped_and_named(path: Path, events_of: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.5, 11.5])
    monkeypatch.setattr("runner.events.time.time", lambda: next(times))
    with EventLog(path, "a--cell") as log:
        log.emit(PhaseStarted(phase="load", cell="another", seq=99))
        log.emit(Failed(kind="code", message="line\nbreak"))
    first, second = events_of(path.parent)
    assert first == PhaseStarted(phase="load", t=10.5, seq=0, cell="a--cell")
    assert second == Failed(kind="code", message="line\nbreak", t=11.5, seq=1, cell="a--cell")
    assert path.read_bytes().count(b"\n") == 2


def test_a_reader_sees_each_line_at_once(path: Path, events_of: Read) -> None:
    with EventLog(path, "c") as log:
        for number in range(1, 4):
            log.emit(Warned(message="x" * 10_000))
            assert len(events_of(path.parent)) == number
            assert path.read_bytes().endswith(b"}\n")


def test_nan_is_null(path: Path) -> None:
    with EventLog(path, "c") as log:
        log.emit(Metrics(phase="train", split="test", values={"loss": math.nan}))
    assert json.loads(path.read_text())["values"] == {"loss": None}


class FullDisk:
    """A raw file that takes `room` bytes, then only part of a line, then refuses; `free` empties the disk."""

    def __init__(self, file: Any, room: float) -> None:
        self.file, self.room, self.name = file, room, file.name

    def write(self, data: bytes) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = data[: int(min(self.room, len(data)))]
        self.room -= len(taken)
        return int(self.file.write(taken))

    def close(self) -> None:
        self.file.close()


def test_half_a_line_is_an_error_and_does_not_spoil_the_next(path: Path) -> None:
    with EventLog(path, "c") as log:
        log.emit(Warned(message="first"))
        disk = log._file = FullDisk(log._file, room=20)  # type: ignore[assignment]
        for _ in range(2):
            with pytest.raises(OSError, match="No space left") as caught:
                log.emit(Warned(message="lost"))
            assert caught.value.errno == errno.ENOSPC
        disk.room = math.inf  # type: ignore[attr-defined]
        log.emit(Failed(kind="disk_full", message="told"))
        log.emit(Warned(message="last"))
    first, half, told, last = path.read_text().splitlines()
    assert (json.loads(first)["seq"], json.loads(told)["seq"], json.loads(last)["seq"]) == (0, 3, 4)
    assert json.loads(told)["message"] == "told"
    with pytest.raises(json.JSONDecodeError):
        json.loads(half)


def test_an_interrupted_event_does_not_share_its_number(
    path: Path, events_of: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = events.msgspec.json.encode

    def interrupt(event: Any) -> bytes:
        monkeypatch.setattr(events.msgspec.json, "encode", real)
        raise KeyboardInterrupt

    with EventLog(path, "c") as log:
        monkeypatch.setattr(events.msgspec.json, "encode", interrupt)
        with pytest.raises(KeyboardInterrupt):
            log.emit(Warned(message="lost"))
        log.emit(Warned(message="told"))
    assert [event.seq for event in events_of(path.parent)] == [1]


def test_the_file_is_closed_and_not_emptied(path: Path, events_of: Read) -> None:
    for message in ("one", "two"):
        with EventLog(path, "c") as log:
            log.emit(Warned(message=message))
        with pytest.raises(ValueError, match="closed"):
            log.emit(Warned(message="late"))
    assert [event.message for event in events_of(path.parent)] == ["one", "two"]


def test_the_file_is_locked_as_long_as_the_log_is_open(path: Path) -> None:
    def lock() -> None:
        with path.open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with EventLog(path, "c") as log:
        log.emit(Warned(message="here"))
        with pytest.raises(BlockingIOError):
            lock()
    lock()


def test_a_file_system_without_locks_is_no_hindrance(
    path: Path, events_of: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("runner.events.fcntl.flock", refuse)
    with EventLog(path, "c") as log:
        log.emit(Warned(message="told"))
    assert len(events_of(path.parent)) == 1
