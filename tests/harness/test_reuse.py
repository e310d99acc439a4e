from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import reuse as reusing
from harness.entries import SpeedKey, planned_speed_key
from harness.errors import SetupError
from harness.leaderboard import standing_of
from harness.reuse import REUSED_FILE, Reusable, ReusedFrom, adopt, find_reusable, reuse
from harness.store import AttemptPaths, RunFolder
from runner.contract import (
    STATE_FILE,
    CellSpec,
    Checkpoint,
    ContractError,
    Fallback,
    Latency,
    PreparedDataset,
    Timing,
    TrainingSpec,
    cell_name,
    digests,
    encode,
    identity_of,
    read,
    write_atomic,
)
from tests.harness.builders import cell, prepared, result

LABELS = (0, 1) * 20
LATENCY = Latency(requests=2, mean_ms=1.0, std_ms=0.1, p50_ms=1.0, samples_ms=(1.0, 1.0))


@pytest.fixture
def dataset(tmp_path: Path) -> PreparedDataset:
    folder = tmp_path / "dataset"
    folder.mkdir()
    pq.write_table(pa.table({"label": pa.array(LABELS)}), folder / "test.parquet")
    return prepared(folder=str(folder), rows=len(LABELS))


@pytest.fixture
def spec(dataset: PreparedDataset) -> CellSpec:
    return cell("MiniLM-L6", dataset=dataset, method="lora")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def own(results: Path, spec: CellSpec) -> RunFolder:
    run = RunFolder(results / "own")
    run.extend("own", {}, [spec])
    return run


def key_of(spec: CellSpec) -> SpeedKey:
    return planned_speed_key(spec, cpu_model="cpu", gpu_model=None)


def elsewhere(spec: CellSpec) -> SpeedKey:
    return planned_speed_key(spec, cpu_model="another", gpu_model=None)


def finish(run: RunFolder, spec: CellSpec, *, cpu: str = "cpu", age_s: int = 0, timed: bool = True) -> AttemptPaths:
    """A finished attempt as the runner leaves it."""
    attempt = run.new_attempt(spec.cell)
    predicted = pa.array((1, *LABELS[1:]))
    pq.write_table(pa.table({"label": pa.array(LABELS), "predicted": predicted}), attempt.predictions)
    attempt.adapter.mkdir()
    (attempt.adapter / "weights.safetensors").write_bytes(b"weights")
    write_atomic(attempt.spec, encode(spec))
    made = result(spec)
    where = msgspec.structs.replace(made.provenance, cpu_model=cpu)
    timing = Timing(latency=LATENCY, throughput=(), cold_start_s=None) if timed else None
    phases = {"train": 3.0, "export": 1.0, "score": 2.0, "time": 4.0}
    write_atomic(attempt.result, encode(msgspec.structs.replace(made, provenance=where, timing=timing, phases=phases)))
    os.utime(attempt.result, (1e9 - age_s, 1e9 - age_s))
    return attempt


def other_run(results: Path, name: str, *specs: CellSpec) -> RunFolder:
    run = RunFolder(results / name)
    run.extend(name, {}, specs)
    return run


def found(own: RunFolder, *specs: CellSpec, key: Callable[[CellSpec], SpeedKey] = key_of) -> dict[str, Reusable]:
    return find_reusable(specs, own.folder.parent, own, key)


# --- finding ------------------------------------------------------------------------------------


def test_a_finished_cell_of_another_run_is_found(results: Path, own: RunFolder, spec: CellSpec) -> None:
    assert found(own, spec) == {}
    theirs = other_run(results, "theirs", spec)
    assert found(own, spec) == {}
    theirs.new_attempt(spec.cell)
    assert found(own, spec) == {}
    attempt = finish(theirs, spec)
    (reusable,) = found(own, spec).values()
    assert (reusable.run, reusable.attempt, reusable.speed_differs) == ("theirs", attempt, False)
    assert find_reusable([spec], results / "absent", own, key_of) == {}


def test_of_several_the_newest_counts_and_one_with_the_same_speed_before_it(
    results: Path, own: RunFolder, spec: CellSpec
) -> None:
    older, newer = other_run(results, "a", spec), other_run(results, "b", spec)
    finish(older, spec, age_s=20)
    expected = finish(older, spec, age_s=5)
    finish(newer, spec, age_s=10)
    assert found(own, spec)[spec.cell].attempt == expected
    fast = finish(newer, spec, cpu="another", age_s=1)
    assert found(own, spec)[spec.cell].attempt == expected
    reusable = found(own, spec, key=elsewhere)[spec.cell]
    assert (reusable.attempt, reusable.speed_differs) == (fast, False)


def test_a_speed_of_other_conditions_is_told_apart(results: Path, own: RunFolder, spec: CellSpec) -> None:
    theirs = other_run(results, "theirs", spec)
    attempt = finish(theirs, spec)
    assert found(own, spec, key=elsewhere)[spec.cell].speed_differs
    shutil.rmtree(attempt.adapter)  # nothing is gained without
    assert found(own, spec, key=elsewhere) == {}
    finish(theirs, spec, timed=False)
    assert not found(own, spec, key=elsewhere)[spec.cell].speed_differs


def test_a_cell_that_has_begun_here_is_not_given_a_checkpoint(results: Path, own: RunFolder, spec: CellSpec) -> None:
    finish(other_run(results, "theirs", spec), spec)
    begun = own.new_attempt(spec.cell)
    begun.checkpoint.mkdir()
    (begun.checkpoint / STATE_FILE).write_text("{}")
    assert found(own, spec, key=elsewhere) == {}
    assert len(found(own, spec)) == 1  # a whole result is better


@pytest.mark.parametrize("change", ["training", "dataset", "runner_version", "weights"])
def test_other_settings_are_another_cell(results: Path, spec: CellSpec, dataset: PreparedDataset, change: str) -> None:
    changes: dict[str, Any] = {
        "training": {"training": TrainingSpec(epochs=9)},
        "dataset": {"dataset": msgspec.structs.replace(dataset, fingerprint="e" * 64)},
        "runner_version": {"runner_version": "9"},
        "weights": {"model": msgspec.structs.replace(spec.model, weights_sha256={"model.safetensors": "0" * 64})},
    }
    other = msgspec.structs.replace(spec, **changes[change])
    other = msgspec.structs.replace(other, identity=identity_of(other), cell=cell_name(other, identity_of(other)))
    finish(other_run(results, "theirs", other), other)
    run = other_run(results, "mine", spec)
    assert found(run, spec) == {}
    # not even where the name is the same by chance, or somebody's doing
    shutil.move(results / "theirs/cells" / other.cell, results / "theirs/cells" / spec.cell)
    assert found(run, spec) == {}


def test_what_a_result_says_of_itself_is_not_enough(results: Path, own: RunFolder, spec: CellSpec) -> None:
    theirs = other_run(results, "theirs", spec)
    finish(theirs, spec)
    record = theirs.read_record()
    (entry,) = record.cells
    planned = msgspec.structs.replace(entry, identity="0" * 64)  # the same name by chance
    theirs.write_record(msgspec.structs.replace(record, cells=(planned,)))
    assert found(own, spec) == {}


def test_what_a_run_has_itself_is_not_of_another(own: RunFolder, spec: CellSpec) -> None:
    finish(own, spec)
    assert found(own, spec) == {}


def of_another_identity(attempt: AttemptPaths) -> None:
    damaged = attempt.result.read_bytes().replace(b'"identity": "', b'"identity": "0')
    attempt.result.write_bytes(damaged)


@pytest.mark.parametrize(
    "damage",
    [
        lambda attempt: attempt.result.write_text("{"),
        lambda attempt: attempt.result.write_bytes(attempt.result.read_bytes().replace(b"minilm-l6--", b"other--")),
        of_another_identity,
        lambda attempt: attempt.predictions.unlink(),
        lambda attempt: attempt.predictions.write_bytes(b"PAR1"),
        lambda attempt: pq.write_table(
            pa.table({"label": pa.array(LABELS[::-1]), "predicted": pa.array(LABELS)}), attempt.predictions
        ),
        lambda attempt: attempt.result.symlink_to(attempt.result.rename(attempt.folder / "moved")),
    ],
)
def test_what_cannot_be_relied_on_is_passed_over_for_an_older_one(
    results: Path, own: RunFolder, spec: CellSpec, damage: Callable[[AttemptPaths], object]
) -> None:
    theirs = other_run(results, "theirs", spec)
    whole = finish(theirs, spec, age_s=100)
    newest = finish(theirs, spec)
    damage(newest)
    if newest.result.exists():
        os.utime(newest.result, (2e9, 2e9))
    assert found(own, spec)[spec.cell].attempt == whole


@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 99}'])
def test_a_run_whose_record_cannot_be_read_is_passed_over(
    results: Path, own: RunFolder, spec: CellSpec, content: str
) -> None:
    theirs = other_run(results, "a", spec)
    finish(theirs, spec)
    theirs.record_path.write_text(content)
    (results / "a-file").touch()
    (results / "empty").mkdir()
    assert found(own, spec) == {}
    finish(other_run(results, "b", spec), spec)
    assert found(own, spec)[spec.cell].run == "b"


def test_only_what_is_wanted_is_read(
    results: Path, own: RunFolder, spec: CellSpec, dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [cell(f"m{number}", dataset=dataset) for number in range(5)]
    theirs = other_run(results, "theirs", spec, *others)
    for one in (spec, *others):
        finish(theirs, one)
    other_run(results, "without", *others)
    checked: list[str] = []
    real = reusing.checked_result
    monkeypatch.setattr(reusing, "checked_result", lambda entry, one: checked.append(entry.cell) or real(entry, one))
    assert list(found(own, spec)) == [spec.cell]
    assert checked == [spec.cell]


# --- taking over --------------------------------------------------------------------------------


def content(attempt: AttemptPaths) -> dict[str, bytes]:
    files = (path for path in attempt.folder.rglob("*") if path.is_file())
    return {str(path.relative_to(attempt.folder)): path.read_bytes() for path in files}


def test_a_whole_attempt_is_taken_over(results: Path, own: RunFolder, spec: CellSpec) -> None:
    theirs = finish(other_run(results, "theirs", spec), spec)
    own.new_attempt(spec.cell)
    assert [one.run for one in reuse([spec], results, own, key_of)] == ["theirs"]
    (_, attempt) = own.attempts(spec.cell)
    origin = read(attempt.folder / REUSED_FILE, ReusedFrom)
    assert (origin.run, origin.attempt, origin.speed) == ("theirs", 1, True)
    taken = content(attempt)
    del taken[REUSED_FILE]
    assert taken == content(theirs)
    assert attempt.result.samefile(theirs.result)
    assert own.finished([spec.cell])[spec.cell].attempt == attempt
    assert standing_of(own).board.rows[0].metrics["accuracy"].value == pytest.approx(39 / 40)


def test_elsewhere_only_the_speed_is_still_to_come(results: Path, own: RunFolder, spec: CellSpec) -> None:
    theirs = finish(other_run(results, "theirs", spec), spec)
    small = msgspec.structs.replace(spec, fallback=Fallback(batch_size=2, reason="memory ran out"))
    theirs.spec.write_bytes(encode(small))
    before = content(theirs)
    assert len(reuse([spec], results, own, elsewhere)) == 1
    (attempt,) = own.attempts(spec.cell)
    assert own.finished([spec.cell]) == {}
    state = read(attempt.checkpoint / STATE_FILE, Checkpoint)
    assert (state.identity, state.phases) == (spec.identity, {"train": 3.0, "export": 1.0, "score": 2.0})
    assert state.batches.batch_size == 2  # as it was
    assert state.files == digests(theirs.folder, ("adapter", "predictions.parquet"))
    later = own.new_attempt(spec.cell)
    assert own.carry(spec.cell, later)
    assert (later.checkpoint / STATE_FILE).exists()
    later.predictions.write_bytes(b"scored again")
    (later.adapter / "weights.safetensors").write_bytes(b"trained again")
    assert content(theirs) == before
    assert reuse([spec], results, own, elsewhere) == []  # once is enough


def test_files_are_copied_where_they_cannot_be_linked(
    results: Path, own: RunFolder, spec: CellSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = finish(other_run(results, "theirs", spec), spec)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    reuse([spec], results, own, key_of)
    (attempt,) = own.attempts(spec.cell)
    assert attempt.result.read_bytes() == theirs.result.read_bytes()
    assert not attempt.result.samefile(theirs.result)


def test_nothing_is_followed(results: Path, own: RunFolder, spec: CellSpec, tmp_path: Path) -> None:
    theirs = finish(other_run(results, "theirs", spec), spec)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (theirs.adapter / "link").symlink_to(secret)
    (theirs.adapter / "folder").mkdir()
    os.mkfifo(theirs.adapter / "pipe")
    reuse([spec], results, own, key_of)
    (attempt,) = own.attempts(spec.cell)
    assert [path.name for path in attempt.adapter.iterdir()] == ["weights.safetensors"]
    shutil.rmtree(attempt.folder)
    shutil.rmtree(theirs.adapter)
    theirs.adapter.symlink_to(tmp_path)
    reuse([spec], results, own, key_of)
    (attempt,) = own.attempts(spec.cell)
    assert not os.path.lexists(attempt.adapter)


def became_a_link(attempt: AttemptPaths) -> None:
    attempt.predictions.rename(attempt.folder / "moved")
    attempt.predictions.symlink_to("moved")


@pytest.mark.parametrize(
    "change",
    [
        lambda attempt: shutil.rmtree(attempt.folder.parent.parent.parent),
        lambda attempt: attempt.result.unlink(),
        lambda attempt: attempt.spec.write_text("{}"),
        lambda attempt: attempt.spec.write_bytes(
            attempt.spec.read_bytes().replace(b'"identity": "', b'"identity": "0')
        ),
        lambda attempt: attempt.predictions.unlink(),
        became_a_link,
    ],
)
def test_what_changed_after_it_was_found_leaves_nothing_behind(
    results: Path, own: RunFolder, spec: CellSpec, change: Callable[[AttemptPaths], object]
) -> None:
    theirs = finish(other_run(results, "theirs", spec), spec)
    reusable = found(own, spec)[spec.cell]
    change(theirs)
    with pytest.raises(ContractError):
        adopt(reusable, own)
    assert list(own.cell(spec.cell).iterdir()) == []


@pytest.mark.parametrize("kill_at", range(6))
def test_a_host_that_is_killed_meanwhile_leaves_no_attempt(
    results: Path, own: RunFolder, spec: CellSpec, kill_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(other_run(results, "theirs", spec), spec)
    reusable = found(own, spec)[spec.cell]
    steps = 0

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def step(*args: object, **options: object) -> object:
            nonlocal steps
            steps += 1
            if steps > kill_at:
                raise KeyboardInterrupt
            return real(*args, **options)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", counted(os.link))
        patch.setattr(Path, "rename", counted(Path.rename))
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a killed host tidies nothing up
        try:
            adopt(reusable, own)
        except KeyboardInterrupt:
            assert own.attempts(spec.cell) == []
        else:
            assert kill_at == 5  # four links and a name
            assert list(own.finished([spec.cell])) == [spec.cell]
    assert adopt(reusable, own) == own.attempts(spec.cell)[-1]
    assert all(path.name.startswith("attempt-") for path in own.cell(spec.cell).iterdir())


def test_a_full_disk_is_said(results: Path, own: RunFolder, spec: CellSpec, full_disk: Path) -> None:
    theirs = other_run(results, "theirs", spec)
    attempt = finish(theirs, spec)
    (attempt.adapter / "large").write_bytes(b"x" * 2**17)
    reusable = found(own, spec)[spec.cell]
    (full_disk / "filler").unlink()
    small = RunFolder(full_disk / "run")
    with pytest.raises(SetupError, match="is full"):
        adopt(reusable, small)
    assert list(small.cell(spec.cell).iterdir()) == []


def test_two_runs_that_take_over_from_each_other(results: Path, dataset: PreparedDataset) -> None:
    specs = [cell(f"m{number}", dataset=dataset) for number in range(12)]
    runs = [other_run(results, name, *specs) for name in ("a", "b")]
    for number, one in enumerate(specs):
        finish(runs[number % 2], one)
    errors: list[BaseException] = []

    def take(run: RunFolder) -> None:
        try:
            for _ in range(3):
                missing = [one for one in specs if one.cell not in run.finished(other.cell for other in specs)]
                reuse(missing, results, run, key_of)
        except BaseException as error:  # noqa: BLE001 - of another thread
            errors.append(error)

    threads = [threading.Thread(target=take, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for run in runs:
        assert len(run.finished(one.cell for one in specs)) == 12
        assert all(len(run.attempts(one.cell)) == 1 for one in specs)
