from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from harness.cli import main
from harness.errors import InputError
from harness.explain import explain, find_cell
from harness.journal import Journal
from harness.reuse import REUSED_FILE, ReusedFrom
from harness.state import CellFailed, CellFinished, CellRetried, CellStarted, RunFinished, RunStarted
from harness.store import RunFolder
from runner.contract import CellSpec, Choice, Event, Failure, Fallback, encode, write_atomic
from tests.harness.builders import cell, planned, result, summary

HALF = Fallback(batch_size=8, accumulation=8, reason="halved: memory ran out in the phase 'train'")
STOPPED = RunFinished(outcome="interrupted", exit_code=130)


class Run:
    """A run with one cell that can be told of."""

    def __init__(self, folder: Path) -> None:
        self.spec = cell("good")
        self.folder = RunFolder(folder)
        self.folder.extend("r", {}, [self.spec, cell("goodish"), cell("other")])

    def tell(self, *events: Event) -> None:
        with closing(Journal(self.folder.journal)) as journal:
            for event in events:
                journal.append(msgspec.structs.replace(event, cell=event.cell or self._cell_of(event)))

    def _cell_of(self, event: Event) -> str:
        return "" if isinstance(event, RunStarted | RunFinished) else self.spec.cell

    def attempt(self, *, failure: Failure | None = None, spec: CellSpec | None = None, resumes: bool = False) -> None:
        attempt = self.folder.new_attempt(self.spec.cell)
        write_atomic(attempt.spec, encode(spec or self.spec))
        attempt.log.write_text("")
        if failure is not None:
            write_atomic(attempt.failure, encode(failure))
        self.tell(CellStarted(attempt=attempt.number, cores=(0, 1), resumes=resumes))

    def begin(self) -> None:
        self.tell(RunStarted(run="r", suite="s", folder="f", jobs=1, cells=(planned(self.spec.cell),)))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "r")
    run.begin()
    return run


def failure(kind: str = "out_of_memory") -> Failure:
    return Failure(cell="x", kind=kind, message="no memory", hint="less", phase="train", t=1.0)  # type: ignore[arg-type]


def retried(**changes: object) -> CellRetried:
    fields = {"attempt": 1, "kind": "out_of_memory", "message": "no memory", "delay_s": 0.0, "why": "half needs less"}
    return CellRetried(**(fields | changes))  # type: ignore[arg-type]


def test_every_attempt_and_what_followed(run: Run) -> None:
    run.attempt(failure=failure())
    run.tell(retried(fallback=HALF))
    run.attempt(failure=failure("killed"), resumes=True)
    run.tell(retried(attempt=2, kind="killed", message="ended", delay_s=4.0, why="nobody did it"))
    run.attempt()
    run.tell(CellFailed(kind="nan_loss", message="NaN", hint="lower the rate"))
    story = explain(run.folder, run.spec.cell, alive=False)
    assert [attempt.number for attempt in story.attempts] == [1, 2, 3]
    first, second, third = story.attempts
    assert (first.state, first.kind, first.message, first.phase) == ("failed", "out_of_memory", "no memory", "train")
    assert first.follows == "tried again with batch size 8, accumulation 8: half needs less"
    assert first.where == "native, device cpu, cores 0,1, 1 thread"
    assert (second.resumes, second.follows) == (True, "tried again after 4.0 s: nobody did it")
    assert (third.kind, third.hint) == ("nan_loss", "lower the rate")
    assert third.follows == "not tried again: the same seed leads to the same loss"
    assert third.log == str(run.folder.attempt(run.spec.cell, 3).log)
    assert all(attempt.seconds is not None and attempt.started for attempt in story.attempts)


def test_what_was_not_done_as_asked_for(run: Run) -> None:
    run.attempt()
    done = msgspec.structs.replace(
        result(run.spec),
        requested={"batch_size": 16, "device": "cpu"},
        effective={"batch_size": Choice(value=8, reason=HALF.reason), "device": Choice(value="cpu", reason="given")},
    )
    write_atomic(run.folder.attempt(run.spec.cell, 1).result, encode(done))
    run.tell(CellFinished(summary=summary(), seconds=24.0))
    [attempt] = explain(run.folder, run.spec.cell, alive=False).attempts
    assert (attempt.state, attempt.seconds, attempt.follows, attempt.log) == ("finished", 24.0, "", None)
    [difference] = attempt.differences
    assert (difference.name, difference.requested, difference.effective) == ("batch_size", "16", "8")
    assert difference.reason == HALF.reason


def test_an_attempt_that_its_engine_did_not_outlive_was_cut_off(run: Run) -> None:
    run.attempt()
    assert explain(run.folder, run.spec.cell, alive=True).attempts[0].state == "running"
    assert explain(run.folder, run.spec.cell, alive=False).attempts[0].state == "cut off"
    run.begin()
    assert explain(run.folder, run.spec.cell, alive=True).attempts[0].state == "cut off"
    run.attempt(resumes=True)
    states = [attempt.state for attempt in explain(run.folder, run.spec.cell, alive=True).attempts]
    assert states == ["cut off", "running"]


def test_a_stopped_attempt_goes_on_next_time(run: Run) -> None:
    run.attempt()
    run.tell(CellFailed(kind="interrupted", message="stopped", hint="h", interrupted=True), STOPPED)
    [attempt] = explain(run.folder, run.spec.cell, alive=False).attempts
    assert attempt.state == "stopped"
    assert "moodbench resume" in attempt.follows


def test_a_cell_that_never_began_says_why(run: Run) -> None:
    run.tell(CellFailed(kind="out_of_memory", message="needs 90 GB", hint="batch_size 1 would fit"))
    story = explain(run.folder, run.spec.cell, alive=False)
    assert (story.attempts, story.unavailable) == ((), "needs 90 GB; batch_size 1 would fit")


def test_attempts_that_the_journal_knows_nothing_of(run: Run) -> None:
    attempt = run.folder.new_attempt(run.spec.cell)
    write_atomic(attempt.result, encode(result(run.spec)))
    run.folder.new_attempt(run.spec.cell).result.mkdir()
    [whole, odd] = explain(run.folder, run.spec.cell, alive=False).attempts
    assert (whole.state, whole.started, whole.where) == ("finished", None, "")
    assert odd.state == "cut off"


@pytest.mark.parametrize(
    ("speed", "state", "words"),
    [
        (True, "finished", "run 'other', attempt 2, with its speed"),
        (False, "taken over", "run 'other', attempt 2, without its speed, which is measured again here"),
    ],
)
@pytest.mark.parametrize("alive", [True, False])
def test_where_an_attempt_was_taken_from(
    run: Run, capsys: pytest.CaptureFixture[str], speed: bool, state: str, words: str, alive: bool
) -> None:
    origin = ReusedFrom(run="other", attempt=2, speed=speed)
    attempt = run.folder.new_attempt(run.spec.cell)
    write_atomic(attempt.spec, encode(run.spec))
    write_atomic(attempt.folder / REUSED_FILE, encode(origin))
    if speed:
        write_atomic(attempt.result, encode(result(run.spec)))
        run.tell(CellFinished(summary=summary(), seconds=24.0, reused=True))
    else:
        run.attempt(resumes=True)
        run.tell(CellFinished(summary=summary(), seconds=24.0))
    taken, *later = explain(run.folder, run.spec.cell, alive=alive).attempts
    assert (taken.state, taken.taken_from, taken.follows) == (state, origin, "")
    assert [(one.state, one.resumes, one.taken_from) for one in later] == ([] if speed else [("finished", True, None)])
    assert main(["explain", "r", "good--", "--results", str(run.folder.folder.parent)]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[1].startswith(f"attempt 1: {state}")
    assert f"from:     {words}" in lines


def test_a_cell_does_not_say_that_it_was_taken_over(run: Run) -> None:
    run.attempt()
    attempt = run.folder.attempt(run.spec.cell, 1)
    write_atomic(attempt.folder / REUSED_FILE, encode(ReusedFrom(run="other", attempt=2, speed=False)))
    [story] = explain(run.folder, run.spec.cell, alive=True).attempts
    assert (story.state, story.taken_from) == ("running", None)


@pytest.mark.parametrize("given", ["other--reviews--none--s1", "other", "OTHER"])
def test_a_cell_by_its_beginning_or_a_part(run: Run, given: str) -> None:
    assert find_cell(run.folder, given).startswith("other--reviews--none--s1--")


def test_a_whole_name_is_no_beginning(run: Run) -> None:
    assert find_cell(run.folder, run.spec.cell) == run.spec.cell
    assert find_cell(run.folder, "good--").startswith("good--")


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("good", ["'good' may be any of 2 cells"]),
        ("othr--reviews", ["no cell 'othr--reviews'", "nearest names: other"]),
    ],
)
def test_no_single_cell(run: Run, given: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        find_cell(run.folder, given)
    assert all(part in f"{caught.value.message} {caught.value.hint}" for part in parts)


def test_the_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.attempt(failure=failure())
    run.tell(retried(message="no \x1b[2Jmemory", fallback=HALF))
    run.attempt(resumes=True)
    run.tell(CellFinished(summary=summary(), seconds=24.0))
    results = str(run.folder.folder.parent)
    assert main(["explain", "r", "good--", "--results", results]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    lines = [line.strip() for line in out.splitlines()]
    assert lines[0] == run.spec.cell
    assert lines[1].startswith("attempt 1: failed after ")
    assert "why:      out_of_memory: no �[2Jmemory" in lines
    assert "then:     tried again with batch size 8, accumulation 8: half needs less" in lines
    assert "attempt 2: finished after 24.0 s" in lines
    assert "resumed:  from what an earlier attempt had completed" in lines
    assert main(["explain", "r", "good--", "--json", "--results", results]) == 0
    assert [attempt["number"] for attempt in json.loads(capsys.readouterr().out)["attempts"]] == [1, 2]
    assert main(["explain", "r", "other", "--results", results]) == 0
    assert "not started yet" in capsys.readouterr().out
