from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from harness.errors import InputError, SetupError
from harness.store import AttemptPaths, FinishedCell, RunFolder, find_run, run_folder, storage_problem
from runner.contract import CellSpec, Failure, TrainingSpec, encode, write_atomic
from runner.events import EventLog
from tests.harness.builders import cell, prepared, result


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def names(folder: RunFolder, *specs: CellSpec, suite: str = "s") -> list[str]:
    return [entry.cell for entry in folder.extend("run", {"name": suite}, specs).cells]


# --- attempts ---------------------------------------------------------------------------------


def test_attempts_are_numbered_and_never_overwritten(run: RunFolder) -> None:
    first, second = run.new_attempt("c"), run.new_attempt("c")
    assert [first.folder.name, second.folder.name] == ["attempt-001", "attempt-002"]
    for number in ("1000", "030", "999", "007", "400"):
        (run.cell("c") / f"attempt-{number}").mkdir()
    (run.cell("c") / "attempt-notes.txt").touch()
    assert [attempt.number for attempt in run.attempts("c")] == [1, 2, 7, 30, 400, 999, 1000]
    assert run.new_attempt("c").number == 1001


def test_a_cell_is_finished_when_an_attempt_holds_a_result(run: RunFolder) -> None:
    spec = cell()
    assert run.result(spec.cell) is None
    first = run.new_attempt(spec.cell)
    write_atomic(first.result, encode(result(spec)))
    run.new_attempt(spec.cell)  # a later one without
    assert run.finished_attempt(spec.cell) == first
    assert run.result(spec.cell) == result(spec)


def test_the_last_attempts_failure_counts(run: RunFolder) -> None:
    assert run.failure("c") is None
    failure = Failure(cell="c", kind="model", message="m", hint="h")
    write_atomic(run.new_attempt("c").failure, encode(failure))
    assert run.failure("c") == failure
    run.new_attempt("c")
    assert run.failure("c") is None


def finish(run: RunFolder, spec: CellSpec) -> AttemptPaths:
    attempt = run.new_attempt(spec.cell)
    write_atomic(attempt.result, encode(result(spec)))
    return attempt


def test_the_finished_ones_of_many(run: RunFolder) -> None:
    specs = [cell(seed=seed) for seed in range(5)]
    names(run, *specs)
    good, damaged, foreign, failed, _untouched = specs
    finish(run, good)
    last = finish(run, good)
    run.new_attempt(good.cell)
    finish(run, damaged).result.write_text("{")
    write_atomic(run.new_attempt(foreign.cell).result, encode(result(good)))
    write_atomic(run.new_attempt(failed.cell).failure, encode(Failure(cell="c", kind="model", message="m", hint="h")))
    found = run.finished(spec.cell for spec in specs)
    assert list(found) == [good.cell]
    assert found[good.cell] == FinishedCell(last, result(good).summary, 0.0)


# --- what a later attempt goes on from ----------------------------------------------------------


def leave(attempt: AttemptPaths, mark: str, *pieces: str) -> None:
    for name in pieces:
        if name == "predictions":
            attempt.predictions.write_text(mark)
        else:
            (attempt.folder / name).mkdir()
            (attempt.folder / name / "file").write_text(mark)


def marks(attempt: AttemptPaths) -> str:
    """Of checkpoint, adapter and predictions; `-` for what is not there."""
    paths = (attempt.checkpoint / "file", attempt.adapter / "file", attempt.predictions)
    return " ".join(path.read_text() if path.exists() else "-" for path in paths)


def attempts_with(run: RunFolder, *contents: str) -> AttemptPaths:
    """Earlier attempts, each given as the pieces it left, and a new one."""
    for number, pieces in enumerate(contents, start=1):
        leave(run.new_attempt("c"), str(number), *pieces.split())
    return run.new_attempt("c")


@pytest.mark.parametrize(
    ("contents", "carried"),
    [
        ([], "- - -"),
        ([""], "- - -"),
        (["checkpoint"], "1 - -"),
        (["checkpoint adapter predictions"], "1 1 1"),
        (["checkpoint adapter", "checkpoint"], "2 1 -"),
        (["checkpoint adapter predictions", ""], "1 1 1"),
        (["adapter predictions", "checkpoint"], "2 1 1"),  # killed after the first of three renames
    ],
)
def test_of_each_piece_the_newest_goes_over(run: RunFolder, contents: list[str], carried: str) -> None:
    new = attempts_with(run, *contents)
    assert run.carry("c", new) == (carried != "- - -")
    assert marks(new) == carried
    assert not run.carry("c", run.attempts("c")[0])  # nothing comes before the first


def test_what_was_carried_is_carried_on(run: RunFolder) -> None:
    second = attempts_with(run, "checkpoint adapter predictions")
    assert run.carry("c", second)
    third = run.new_attempt("c")
    assert run.carry("c", third)
    assert [marks(attempt) for attempt in run.attempts("c")] == ["- - -", "- - -", "1 1 1"]


@pytest.mark.parametrize("kill_at", range(4))
def test_a_host_that_is_killed_between_the_moves(run: RunFolder, kill_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    second = attempts_with(run, "checkpoint adapter predictions")
    moves = 0
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        nonlocal moves
        if moves == kill_at:
            raise KeyboardInterrupt
        moves += 1
        return rename(path, target)

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        run.carry("c", second)
    third = run.new_attempt("c")
    assert run.carry("c", third)
    assert marks(third) == "1 1 1"


def test_a_finished_attempt_keeps_what_is_its_own(run: RunFolder) -> None:
    new = attempts_with(run, "checkpoint adapter predictions")
    (first, _) = run.attempts("c")
    first.result.symlink_to("nowhere")  # whatever it may be worth
    assert not run.carry("c", new)
    assert marks(first) == "1 1 1"


def test_links_and_wrong_kinds_are_left(run: RunFolder, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("secret")
    first, second = run.new_attempt("c"), run.new_attempt("c")
    leave(first, "1", "adapter")
    second.checkpoint.symlink_to(outside)
    second.adapter.write_text("a file")
    second.predictions.mkdir()
    new = run.new_attempt("c")
    assert run.carry("c", new)
    assert marks(new) == "- 1 -"
    assert second.checkpoint.is_symlink()
    assert (outside / "file").read_text() == "secret"


def test_what_cannot_be_moved_is_left(run: RunFolder) -> None:
    new = attempts_with(run, "checkpoint adapter")
    leave(new, "new", "checkpoint")
    assert run.carry("c", new)
    assert marks(new) == "new 1 -"


# --- whether an attempt still runs --------------------------------------------------------------


def test_an_attempt_runs_while_its_events_are_locked(run: RunFolder) -> None:
    attempt = run.new_attempt("c")
    assert not run.still_running(attempt)
    with EventLog(attempt.events, "c"):
        assert run.still_running(attempt)
        assert run.still_running(attempt)
    assert not run.still_running(attempt)


def test_what_is_no_file_of_events_does_not_run(run: RunFolder) -> None:
    attempt = run.new_attempt("c")
    os.mkfifo(attempt.events)
    assert not run.still_running(attempt)
    attempt.events.unlink()
    with EventLog(attempt.folder / "elsewhere", "c"):
        attempt.events.symlink_to("elsewhere")
        assert not run.still_running(attempt)


# --- the record -------------------------------------------------------------------------------


def test_extending_adds_cells_and_suites(run: RunFolder) -> None:
    first, second = cell("majority"), cell("tfidf-logreg")
    assert names(run, first) == [first.cell]
    assert names(run, first, second) == [first.cell, second.cell]
    assert names(run, second, suite="t") == [first.cell, second.cell]
    assert run.read_record().suites == ({"name": "s"}, {"name": "t"})


def test_a_cell_with_other_settings_takes_its_predecessors_place(run: RunFolder) -> None:
    before, other = cell("majority"), cell("majority", seed=2)
    training = TrainingSpec(epochs=9)
    after = cell("majority", training=training)
    assert names(run, before, other) == [before.cell, other.cell]
    assert names(run, after) == [after.cell, other.cell]
    assert after.cell != before.cell


def unavailable(cell: str, message: str = "no weights") -> Failure:
    return Failure(cell=cell, kind="environment", message=message, hint="fetch them")


def test_what_could_not_be_had_is_kept_until_it_can(run: RunFolder) -> None:
    tiny, other = unavailable("bert-tiny--reviews--lora--s1"), unavailable("bert-tiny--reviews--lora--s10")
    run.extend("run", {}, [cell()], [tiny, other])
    assert run.read_record().unavailable == (tiny, other)
    later = unavailable(tiny.cell, "still none")
    run.extend("run", {}, [cell(seed=2)], [later])
    assert run.read_record().unavailable == (later, other)
    had = cell("BERT-tiny", method="lora")
    assert had.cell.startswith(f"{tiny.cell}--")
    assert run.extend("run", {}, [cell("BERT-tiny", method="lora", seed=100)]).unavailable == (later, other)
    assert run.extend("run", {}, [had]).unavailable == (other,)
    assert run.read_record().unavailable == (other,)


def test_a_record_from_before_unavailable_cells_were_kept(run: RunFolder) -> None:
    names(run, cell())
    old = msgspec.json.decode(run.record_path.read_bytes())
    del old["unavailable"]
    run.record_path.write_bytes(msgspec.json.encode(old))
    assert run.read_record().unavailable == ()


def test_another_version_of_a_dataset_is_refused_and_nothing_changes(run: RunFolder) -> None:
    names(run, cell())
    record = run.read_record()
    with pytest.raises(InputError, match="another version of 'reviews'"):
        names(run, cell("tfidf-logreg", dataset=prepared(fingerprint="e" * 64)))
    assert run.read_record() == record


@pytest.mark.parametrize("content", ["{", '{"name": "x"}', '{"schema_version": 99, "name": "x"}', "[]"])
def test_a_damaged_record_is_one_sentence(run: RunFolder, content: str) -> None:
    run.folder.mkdir()
    run.record_path.write_text(content)
    with pytest.raises(InputError, match="cannot read the run"):
        run.read_record()


def test_no_record(run: RunFolder) -> None:
    with pytest.raises(InputError, match="not a run folder"):
        run.read_record()


# --- names of runs ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", " a", "a\n", "a\x1b[31m", "a\x00"])
def test_names_that_cannot_be_folders(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot name a run"):
        run_folder(tmp_path, name)


def test_names_that_can(tmp_path: Path) -> None:
    assert run_folder(tmp_path, "my run-2.żółw").folder == tmp_path / "my run-2.żółw"


def test_finding_a_run_by_name_or_folder(tmp_path: Path) -> None:
    names(RunFolder(tmp_path / "nightly"), cell())
    assert find_run("nightly", tmp_path).folder == tmp_path / "nightly"
    assert find_run(str(tmp_path / "nightly"), Path("elsewhere")).folder == tmp_path / "nightly"
    with pytest.raises(InputError) as caught:
        find_run("nigthly", tmp_path)
    assert "did you mean 'nightly'" in caught.value.message
    with pytest.raises(InputError) as caught:
        find_run("nightly", tmp_path / "absent")
    assert "moodbench run" in caught.value.hint


# --- what a file system may answer ------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "part"),
    [
        (errno.ENOSPC, "disk that holds /x is full"),
        (errno.EDQUOT, "disk that holds /x is full"),
        (errno.EACCES, "cannot write to /x"),
        (errno.EROFS, "cannot write to /x"),
        (errno.ENAMETOOLONG, "cannot write to /x: File name too long"),
    ],
)
def test_storage_problems(number: int, part: str) -> None:
    problem = storage_problem(OSError(number, os.strerror(number)), Path("/x"))
    assert part in problem.message
    assert problem.hint


def test_a_full_disk_keeps_the_old_record(full_disk: Path) -> None:
    run = RunFolder(full_disk / "run")
    names(run, cell())
    many = [cell(seed=seed) for seed in range(60)]
    with pytest.raises(SetupError, match="is full"):
        names(run, *many)
    assert len(run.read_record().cells) == 1
    assert [path.name for path in run.folder.iterdir()] == ["run.json"]
