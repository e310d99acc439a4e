from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from harness.follow import Follower
from harness.run_lock import only_one
from harness.state import (
    CellFailed,
    CellFinished,
    CellRetried,
    CellStarted,
    LeaseEnded,
    LeaseGranted,
    Notice,
    RunFinished,
    RunStarted,
    RunState,
)
from harness.store import RunFolder
from runner.contract import Event, LeaseReleased, LeaseWanted, PhaseStarted, Progress, Warned
from tests.harness.builders import planned, summary

END = RunFinished(t=99.0, outcome="finished", exit_code=0)


class Host:
    """Writes what an engine and its cells write."""

    def __init__(self, folder: Path) -> None:
        self.run = RunFolder(folder)
        folder.mkdir()

    def tells(self, *events: Event) -> None:
        with self.run.journal.open("ab") as file:
            for event in events:
                file.write(msgspec.json.encode(event) + b"\n")

    def starts(self, cell: str, t: float = 1.0, attempt: int = 1) -> None:
        self.run.attempt(cell, attempt).folder.mkdir(parents=True)
        self.tells(CellStarted(t=t, cell=cell, attempt=attempt))

    def cell(self, cell: str, *events: Event, attempt: int = 1) -> None:
        with self.run.attempt(cell, attempt).events.open("ab") as file:
            for event in events:
                file.write(msgspec.json.encode(event) + b"\n")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path / "r")
    plans = tuple(planned(name) for name in "abc")
    host.tells(RunStarted(t=0.5, run="r", suite="s", folder="f", jobs=2, cells=plans))
    return host


def done(cell: str, t: float = 9.0) -> CellFinished:
    return CellFinished(t=t, cell=cell, summary=summary(), seconds=1.0)


def names(events: Iterable[Event]) -> list[str]:
    return [f"{type(event).__name__} {event.cell}".strip() for event in events]


def test_a_cells_own_events_come_between_its_start_and_its_end(host: Host) -> None:
    follower = Follower(host.run)
    assert names(follower.poll()) == ["RunStarted"]
    host.starts("a")
    host.cell("a", PhaseStarted(t=2.0, phase="load"), Warned(t=3.0, message="m"))
    assert names(follower.poll()) == ["CellStarted a", "PhaseStarted a", "Warned a"]
    assert names(follower.poll()) == []
    host.cell("a", PhaseStarted(t=4.0, phase="train"))
    host.tells(done("a"))
    host.starts("b")
    host.tells(END)
    assert names(follower.poll()) == ["PhaseStarted a", "CellFinished a", "CellStarted b", "RunFinished"]
    assert follower.finished == END


@pytest.mark.parametrize(
    "end",
    [
        CellFailed(t=5.0, cell="a", kind="code", message="m", hint="h"),
        CellRetried(t=5.0, cell="a", attempt=1, kind="code", message="m", delay_s=1.0, why="w"),
    ],
)
def test_the_events_of_another_attempt_follow_the_end_of_the_first(host: Host, end: Event) -> None:
    follower = Follower(host.run)
    host.starts("a")
    host.cell("a", Warned(t=2.0, message="first"))
    host.tells(end)
    host.starts("a", attempt=2)
    host.cell("a", Warned(t=6.0, message="second"), attempt=2)
    events = list(follower.poll())[2:]
    assert names(events) == ["Warned a", f"{type(end).__name__} a", "CellStarted a", "Warned a"]
    host.cell("a", Warned(t=7.0, message="late, of the first"))
    assert names(follower.poll()) == []


def test_a_window_is_wanted_before_it_is_granted_and_released_after(host: Host) -> None:
    follower = Follower(host.run)
    host.starts("a")
    host.cell("a", LeaseWanted(t=2.0), LeaseReleased(t=4.0), LeaseWanted(t=6.0, window=2))
    host.tells(LeaseGranted(t=3.0, cell="a", window=1), LeaseEnded(t=5.0, cell="a", window=1, seconds=2.0))
    assert names(follower.poll())[2:] == [
        "LeaseWanted a", "LeaseGranted a", "LeaseReleased a", "LeaseEnded a", "LeaseWanted a",
    ]  # fmt: skip


def test_events_are_of_the_cell_whose_folder_holds_them(host: Host) -> None:
    host.starts("a")
    host.cell("a", Warned(t=2.0, cell="b", message="m"))
    assert names(Follower(host.run).poll())[-1] == "Warned a"


def test_a_torn_line_waits_and_is_passed_over_once_others_follow(host: Host) -> None:
    follower = Follower(host.run)
    list(follower.poll())
    whole = msgspec.json.encode(Notice(message="whole")) + b"\n"
    with host.run.journal.open("ab") as file:
        file.write(whole[:10])
    assert names(follower.poll()) == []
    with host.run.journal.open("ab") as file:
        file.write(whole[10:] + whole[:10] + b"\n" + whole)  # the second was cut by a kill
    assert names(follower.poll()) == ["Notice", "Notice"]


def test_late_it_reads_no_events_of_cells_that_have_ended(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for cell in "ab":
        host.starts(cell)
        host.cell(cell, Warned(t=2.0, message=cell), Progress(t=3.0, phase="train", step=1, steps=2))
    host.tells(done("a"))
    (host.run.attempt("a", 1).events).unlink()
    (host.run.attempt("a", 1).events).symlink_to("/dev/null")  # reading it would be an error
    opened = []
    monkeypatch.setattr("harness.journal.open_plain", _recording(opened))
    follower = Follower(host.run)
    assert names(follower.catch_up()) == [
        "RunStarted", "CellStarted a", "CellStarted b", "CellFinished a", "Warned b", "Progress b",
    ]  # fmt: skip
    list(follower.poll())
    assert sorted({path.parent.parent.name for path in opened if path.name == "events.jsonl"}) == ["b"]
    opened.clear()
    list(follower.poll())
    assert opened == []  # nothing has changed


def _recording(opened: list[Path]):  # type: ignore[no-untyped-def]
    from runner.contract import open_plain

    def record(path: Path, limit: int):  # type: ignore[no-untyped-def]
        opened.append(path)
        return open_plain(path, limit)

    return record


def test_late_to_a_run_that_was_killed_and_goes_on(host: Host) -> None:
    host.starts("a")
    host.cell("a", Warned(t=2.0, message="of the killed engine"))
    host.tells(RunStarted(t=5.0, run="r", suite="s", folder="f", jobs=2, cells=(planned("a"),)))
    assert names(Follower(host.run).catch_up()) == ["RunStarted", "CellStarted a", "RunStarted"]


def test_from_where_an_engine_began(host: Host) -> None:
    host.tells(END)
    size = host.run.journal.stat().st_size
    follower = Follower(host.run, size)
    assert (names(follower.catch_up()), follower.finished) == ([], None)
    host.tells(Notice(message="m"))
    assert names(follower.poll()) == ["Notice"]


def test_an_end_that_something_follows_is_no_end(host: Host) -> None:
    follower = Follower(host.run)
    host.tells(END)
    list(follower.poll())
    assert follower.finished == END
    host.tells(Notice(message="another engine"))
    list(follower.poll())
    assert follower.finished is None


def test_what_is_no_file_of_events_ends_nothing(host: Host) -> None:
    host.starts("a")
    host.run.attempt("a", 1).events.mkdir()
    follower = Follower(host.run)
    assert names(follower.poll()) == ["RunStarted", "CellStarted a"]
    host.tells(done("a"))
    assert names(follower.poll()) == ["CellFinished a"]


def test_an_engine_that_is_gone_is_noticed_after_its_last_words(host: Host) -> None:
    follower = Follower(host.run)
    with only_one(host.run):
        list(follower.poll())
        assert not follower.is_gone()
    host.tells(Notice(message="last words"))
    assert not follower.is_gone()
    assert names(follower.poll()) == ["Notice"]
    assert follower.is_gone()


def test_no_journal_yet(tmp_path: Path) -> None:
    follower = Follower(RunFolder(tmp_path))
    assert (list(follower.catch_up()), list(follower.poll())) == ([], [])


def test_ten_thousand_finished_cells_are_read_once(tmp_path: Path) -> None:
    host = Host(tmp_path / "r")
    cells = [f"cell-{i}" for i in range(10_000)]
    host.tells(RunStarted(run="r", suite="s", folder="f", jobs=2, cells=tuple(planned(c) for c in cells)))
    host.tells(*(event for c in cells for event in (CellStarted(cell=c, attempt=1), done(c))))
    follower, state = Follower(host.run), RunState()
    for event in follower.catch_up():
        state.apply(event)
    assert state.count("done") == 10_000
    assert not list(follower.poll())
