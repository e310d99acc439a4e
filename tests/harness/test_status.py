from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from harness.cli import main
from harness.control import Commands, EngineStatus, listening
from harness.errors import InputError
from harness.journal import Journal
from harness.run_lock import only_one
from harness.state import CellFailed, CellFinished, CellRetried, CellStarted, Notice, RunFinished, RunStarted
from harness.status import CellCounts, RunStatus, find_any_run, known_runs, status_of
from harness.store import RunFolder
from runner.contract import Event, Progress, encode
from tests.harness.builders import planned, summary

STARTED = RunStarted(run="r", suite="s", folder="f", jobs=2, cells=tuple(planned(name) for name in "abcdef"))
SOME = (
    Notice(message="m"),
    STARTED,
    CellFinished(cell="a", summary=summary(), seconds=1.0, reused=True),
    CellFinished(cell="b", summary=summary(), seconds=7.0),
    CellFailed(cell="c", kind="data", message="m", hint="h"),
    CellStarted(cell="d", attempt=1),
    CellRetried(cell="e", attempt=1, kind="killed", message="m", delay_s=1.0, why="w"),
)
BROKEN = RunFinished(outcome="broken", exit_code=3, message="no \x1b[2Jspace", hint="free some")


def make(folder: Path, *events: Event) -> RunFolder:
    folder.mkdir(parents=True)
    (folder / "request.json").write_text("{}")
    with closing(Journal(folder / "journal.jsonl")) as journal:
        for event in events:
            journal.append(event)
    return RunFolder(folder)


def while_working(run: RunFolder, **said: bool) -> RunStatus:
    """Seen while an engine works on it and says this of itself."""
    answer = EngineStatus(pid=4711, journal_bytes=0, **said)

    async def look() -> RunStatus:
        async with listening(run.folder, Commands(lambda: answer, lambda now: None)):
            return await asyncio.to_thread(status_of, run)

    with only_one(run):
        return asyncio.run(look())


def test_of_a_running_run(tmp_path: Path) -> None:
    run = make(tmp_path / "r", *SOME)
    run.attempt("d", 1).folder.mkdir(parents=True)
    progress = Progress(cell="d", phase="train", step=1, steps=9, eta_s=90.0)
    run.attempt("d", 1).events.write_bytes(encode(progress).replace(b"\n", b"") + b"\n")
    found = while_working(run)
    assert (found.run, found.folder, found.engine_pid, found.state) == ("r", str(run.folder), 4711, "running")
    assert found.cells == CellCounts(total=6, done=1, failed=1, running=1, queued=2, reused=1)
    assert found.started is not None
    assert found.eta_s == pytest.approx(90.0, abs=5)  # of the running cell, by its own events


@pytest.mark.parametrize(
    ("said", "state"), [({"preparing": True}, "preparing"), ({"stopping": True}, "stopping"), ({}, "running")]
)
def test_of_what_the_engine_says(tmp_path: Path, said: dict[str, bool], state: str) -> None:
    found = while_working(make(tmp_path / "r", *SOME), **said)
    assert found.state == state
    assert (found.eta_s is None) or state == "running"


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ((), "killed"),
        (SOME, "killed"),
        ((*SOME, RunFinished(outcome="interrupted", exit_code=130)), "interrupted"),
        ((*SOME, RunFinished(outcome="failed", exit_code=1)), "failed"),
        ((*SOME, BROKEN), "broken"),
        ((*SOME, BROKEN, *SOME), "killed"),
    ],
)
def test_of_a_run_without_an_engine(tmp_path: Path, events: Sequence[Event], state: str) -> None:
    found = status_of(make(tmp_path / "r", *events))
    assert (found.state, found.engine_pid, found.eta_s) == (state, None, None)
    assert found.cells.running == 0
    cells = found.cells
    assert cells.total == cells.done + cells.failed + cells.queued + cells.reused == (6 if events else 0)
    assert found.message == ("no \x1b[2Jspace" if state == "broken" else "")


@pytest.mark.parametrize(("events", "state"), [((), "preparing"), (SOME, "running"), ((*SOME, BROKEN), "preparing")])
def test_an_engine_without_a_socket_is_known_by_its_lock(tmp_path: Path, events: Sequence[Event], state: str) -> None:
    run = make(tmp_path / "r", *events)
    with only_one(run):
        found = status_of(run)
    assert (found.state, found.engine_pid) == (state, os.getpid())


def test_runs_are_found_before_they_have_cells(tmp_path: Path) -> None:
    make(tmp_path / "results" / "begun")
    (tmp_path / "results" / "old").mkdir()
    (tmp_path / "results" / "old" / "run.json").write_text("{}")
    (tmp_path / "results" / "other").mkdir()
    results = tmp_path / "results"
    assert {run.folder.name for run in known_runs(results)} == {"begun", "old"}
    assert find_any_run("begun", results).folder == results / "begun"
    assert find_any_run(str(results / "old"), Path("elsewhere")).folder == results / "old"
    with pytest.raises(InputError, match=r"unknown run 'begum'.*did you mean 'begun'"):
        find_any_run("begum", results)
    with pytest.raises(InputError) as caught:
        find_any_run("x", tmp_path / "nothing")
    assert "moodbench run demo" in caught.value.hint


# --- the command ------------------------------------------------------------------------------


def test_status_as_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "r", *SOME, BROKEN)
    assert main(["status", "r", "--json", "--results", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) >= {"run", "folder", "engine_pid", "state", "cells", "started", "eta_s"}
    assert set(found["cells"]) == {"total", "done", "failed", "running", "queued", "reused"}
    assert main(["status", "--json", "--results", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == [found]


def test_status_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "r", *SOME, BROKEN)
    assert main(["status", "r", "--results", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"run 'r': broken (no engine), in {tmp_path / 'r'}"
    assert lines[1] == "6 cells: 2 done, 1 failed, 3 queued (1 already finished before)"
    assert lines[2:] == ["error: no �[2Jspace", "hint: free some"]


def test_status_of_all_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "No runs yet.\n"
    make(tmp_path / "one", *SOME, BROKEN)
    make(tmp_path / "two")
    assert main(["status", "--results", str(tmp_path)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["run", "state", "done", "failed", "running", "started", "left", "engine"]
    assert sorted(row[:5] for row in rows[1:]) == [
        ["one", "broken", "2/6", "1", "0"],
        ["two", "killed", "0/0", "0", "0"],
    ]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["status", "absent"], "unknown run 'absent'"),
        (["stop", "r"], "run 'r' is not running"),
        (["attach", "absent"], "unknown run 'absent'"),
        (["resume", "absent"], "unknown run 'absent'"),
        (["explain", "absent", "x"], "unknown run 'absent'"),
    ],
)
def test_what_cannot_be_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    make(tmp_path / "r", *SOME, BROKEN)
    assert main([*arguments, "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert part in error
    assert "hint: " in error


def test_a_running_run_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with only_one(make(tmp_path / "r", *SOME)):
        assert main(["resume", "r", "--results", str(tmp_path)]) == 2
    assert "run 'r' is running" in capsys.readouterr().err


def test_attach_to_a_killed_engine_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "r", *SOME)
    assert main(["attach", "r", "--results", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "so far 3 of 6 cells have ended" in error
    assert "error: the engine of run 'r' is gone (killed?)" in error
    assert "`moodbench resume r` goes on" in error
    assert main(["attach", "r", "--json", "--results", str(tmp_path)]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines[:2]] == ["notice", "run_started"]
    assert (lines[-1]["event"], lines[-1]["outcome"]) == ("run_finished", "broken")
    assert len(lines) == len(SOME) + 1


def test_attach_to_a_broken_run_says_what_broke_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "r", BROKEN)
    assert main(["attach", "r", "--results", str(tmp_path)]) == 3
    assert capsys.readouterr().err == "error: no �[2Jspace\nhint: free some\n"
    assert (tmp_path / "r" / "journal.jsonl").exists()  # a display removes nothing
