from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from harness import journal
from harness.errors import SetupError
from harness.journal import EventTail, Journal, tail_journal
from harness.state import CellStarted, LeaseGranted, Notice, PlannedCell, RunStarted
from runner.contract import CellEvent, ContractError, Event, Progress, Warned

# --- the journal --------------------------------------------------------------------------------


def messages(path: Path) -> tuple[list[str], int]:
    events, unreadable = whole(EventTail(path, Notice))
    return [event.message for event in events if isinstance(event, Notice)], unreadable


def whole(tail: EventTail) -> tuple[list[Event], int]:
    events = tail.read()
    for _ in range(99):
        events += tail.read()
    return events, tail.unreadable


def test_the_journal_stamps_and_numbers(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    events = [journal.append(Notice(message=text)) for text in ("a", "b")]
    journal.close()
    assert [event.seq for event in events] == [0, 1]
    assert all(event.t > 0 for event in events)
    assert messages(tmp_path / "journal.jsonl") == (["a", "b"], 0)


def test_a_torn_line_harms_no_later_one(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(msgspec.json.encode(Notice(message="before")) + b'\n{"event":"notice","mess')
    journal = Journal(path)
    journal.append(Notice(message="after"))
    journal.close()
    assert messages(path) == (["before", "after"], 1)


def test_a_line_that_fits_by_half_is_an_error_and_harms_no_other(full_disk: Path) -> None:
    journal = Journal(full_disk / "journal.jsonl")
    journal.append(Notice(message="first"))
    with pytest.raises(SetupError, match="is full"):
        journal.append(Notice(message="x" * 8000))
    (full_disk / "filler").unlink()
    journal.append(Notice(message="last"))
    journal.close()
    assert messages(full_disk / "journal.jsonl") == (["first", "last"], 1)


def test_numbers_go_on_where_the_last_host_left_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "LAST_LINE_BYTES", 16)  # less than a line
    path = tmp_path / "journal.jsonl"
    for expected in (0, 1):
        opened = Journal(path)
        assert opened.append(Notice(message="x" * 50)).seq == expected
        opened.close()
    with path.open("ab") as file:
        file.write(b'garbage\n{"event":"notice","seq":7,"mess')
    opened = Journal(path)
    assert opened.append(Notice(message="after")).seq == 2
    opened.close()
    assert messages(path) == (["x" * 50] * 2 + ["after"], 2)


class Disk:
    """Takes the place of fsync: notes how large the file was, waits while it is `held`, and answers with `error`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[int] = []
        self.begun, self.held = threading.Event(), threading.Event()
        self.held.set()
        self.error: OSError | None = None
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, descriptor: int) -> None:
        self.synced.append(os.fstat(descriptor).st_size)
        self.begun.set()
        assert self.held.wait(30)
        if self.error is not None:
            raise self.error


def test_changes_of_state_are_on_the_disk_when_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    path = tmp_path / "journal.jsonl"
    with closing(Journal(path)) as opened:
        opened.append(Notice(message="a"))
        opened.append(LeaseGranted(cell="c", window=1))
    assert disk.synced == []
    with closing(Journal(path)) as opened:
        opened.append(CellStarted(cell="c", attempt=1))
    assert disk.synced == [path.stat().st_size]


def test_nobody_waits_for_the_disk_and_one_sync_covers_what_came_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    path = tmp_path / "journal.jsonl"
    disk.held.clear()
    with closing(Journal(path)) as opened:
        opened.append(CellStarted(cell="c", attempt=1))
        first_bytes = path.stat().st_size
        assert disk.begun.wait(30)
        for number in range(2, 9):
            opened.append(CellStarted(cell="c", attempt=number))
        disk.held.set()
    assert disk.synced == [first_bytes, path.stat().st_size]
    assert [event.seq for event in whole(tail_journal(path))[0]] == list(range(8))


def test_what_the_disk_did_not_take_is_an_error_of_a_later_event_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    disk.error = OSError(errno.EIO, os.strerror(errno.EIO))
    path = tmp_path / "journal.jsonl"
    with closing(Journal(path)) as opened:
        opened.append(CellStarted(cell="c", attempt=1))
        with pytest.raises(SetupError, match="Input/output error"):
            for _ in range(10_000):
                opened.append(Notice(message="meanwhile"))
                time.sleep(0.001)
        disk.error = None
        opened.append(Notice(message="last"))
    events, unreadable = whole(tail_journal(path))
    assert unreadable == 0
    assert [event.seq for event in events] == list(range(len(events)))


def test_closing_says_what_the_disk_did_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    disk.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    opened = Journal(tmp_path / "journal.jsonl")
    opened.append(CellStarted(cell="c", attempt=1))
    with pytest.raises(SetupError, match="is full"):
        opened.close()
    opened.close()  # nothing is left open


def test_a_line_as_long_as_a_large_run_needs(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    plan = PlannedCell(cell="c" * 100, model="m", dataset="d", method="lora", seed=1, device="cpu")
    started = RunStarted(run="r", suite="s", folder="f", jobs=1, cells=(plan,) * 10_000)
    opened = Journal(path)
    told = [opened.append(started), opened.append(Notice(message="next"))]
    opened.close()
    assert path.stat().st_size > 4 * journal.EVENT_CHUNK_BYTES
    assert whole(tail_journal(path)) == (told, 0)
    cells = EventTail(path, CellEvent)
    assert whole(cells)[1] == 2  # not of a cell's: the long one is passed over, the other unknown


# --- following it -------------------------------------------------------------------------------


def test_tailing_a_growing_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = EventTail(path, CellEvent)
    assert tail.read() == []  # not there yet
    event = Progress(cell="c", phase="train", step=1, steps=2)
    line = msgspec.json.encode(event) + b"\n"
    with path.open("ab", buffering=0) as file:
        file.write(line + line[:10])
        assert tail.read() == [event]
        assert tail.read() == []
        file.write(line[10:])
        assert tail.read() == [event]
        file.write(b"\n")
        assert tail.read() == []
        file.write(line)
        assert tail.read() == [event]


@pytest.mark.parametrize(
    "garbage",
    [
        b"nonsense",
        b"\xff\xfe",
        b'{"event":"unheard_of"}',
        b'{"event":"warning"}',
        b'{"deep":' + b"[" * 9_999,
        b"{}",
        b"\x00" * 9,
    ],
)
def test_garbage_is_counted_and_skipped(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "events.jsonl"
    event = Warned(cell="c", message="m")
    line = msgspec.json.encode(event) + b"\n"
    path.write_bytes(line + garbage + b"\n" + line)
    tail = EventTail(path, CellEvent)
    assert tail.read() == [event, event]
    assert tail.unreadable == 1


# --- a file that is not what it was -------------------------------------------------------------


def line(message: str) -> bytes:
    return msgspec.json.encode(Warned(cell="c", message=message)) + b"\n"


def told(tail: EventTail) -> list[str]:
    return [event.message for event in tail.read() if isinstance(event, Warned)]


def test_nothing_is_opened_while_nothing_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line("a") + b'{"torn')
    tail = EventTail(path, CellEvent)
    assert told(tail) == ["a"]
    opened: list[Path] = []
    plain = journal.open_plain
    monkeypatch.setattr(journal, "open_plain", lambda p, limit: opened.append(p) or plain(p, limit))
    assert (tail.read(), opened) == ([], [])
    with path.open("ab") as file:
        file.write(b"\n" + line("b"))
    assert (told(tail), len(opened)) == (["b"], 1)


def test_a_file_that_was_replaced_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line("a"))
    tail = EventTail(path, CellEvent)
    assert told(tail) == ["a"]
    for new in ("b", "c"):
        (tmp_path / "other").write_bytes(line(new))
        (tmp_path / "other").replace(path)
        found = told(tail)
        assert found[-1] == new
        assert len(found) == (2 if new == "b" else 1)  # said once
    assert tail.unreadable == 0


def test_a_file_that_was_cut_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line("a") + line("b"))
    tail = EventTail(path, CellEvent)
    assert told(tail) == ["a", "b"]
    os.truncate(path, 3)
    assert len(told(tail)) == 1
    assert tail.read() == []
    path.write_bytes(line("c"))
    assert told(tail) == ["c"]


def test_a_file_that_is_shorter_than_where_to_begin(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line("a"))
    tail = EventTail(path, CellEvent, start_bytes=10_000)
    assert told(tail)[-1:] == ["a"]


def test_a_file_that_is_gone_may_come_back(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line("a"))
    tail = EventTail(path, CellEvent)
    assert told(tail) == ["a"]
    path.unlink()
    assert tail.read() == []


def test_one_that_is_replaced_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "EVENTS_BYTES", 1000)
    path = tmp_path / "events.jsonl"
    tail = EventTail(path, CellEvent)
    found = []
    for number in range(100):
        path.write_bytes(line("a" * (number % 2 + 1)))
        os.truncate(path, 0) if number % 3 == 0 else None
        found += tail.read()
    assert len(found) < 30
    assert "of events" in found[-1].message  # type: ignore[attr-defined]


def test_links_are_not_followed_however_they_came(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line("a"))
    tail = EventTail(path, CellEvent)
    assert told(tail) == ["a"]
    path.rename(tmp_path / "real")
    path.symlink_to(tmp_path / "real")
    with pytest.raises(ContractError, match="not a plain file"):
        tail.read()
