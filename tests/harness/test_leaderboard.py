from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import leaderboard
from harness.board import Leaderboard, from_json
from harness.calibration import Calibration
from harness.composite import RankOptions
from harness.entries import CellRecord
from harness.errors import InputError
from harness.leaderboard import failure_lines, standing_of, write_leaderboard
from harness.store import RunFolder
from runner.contract import (
    CellSpec,
    Failure,
    Latency,
    Result,
    Timing,
    Window,
    encode,
    read,
    write_atomic,
)
from tests.harness.builders import cell, prepared, result, write_result

LABELS = (0, 1) * 20
WRONG_ONCE = (1, 1, *LABELS[2:])
MAJORITY = (0,) * 40
DATASET = prepared(rows=len(LABELS))
SPECS = [cell(model, seed, DATASET) for model in ("good", "majority") for seed in (1, 2)]


def finish(run: RunFolder, spec: CellSpec, predicted: tuple[int, ...], labels: tuple[int, ...] = LABELS) -> None:
    write_result(run.new_attempt(spec.cell), spec, labels, predicted)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Two models with two seeds each, all finished."""
    run = RunFolder(tmp_path / "run")
    run.extend("run", {}, SPECS)
    for spec in SPECS:
        finish(run, spec, WRONG_ONCE if spec.model.alias == "good" else MAJORITY)
    return run


def test_rows_from_results_and_predictions(run: RunFolder) -> None:
    standing = standing_of(run)
    rows = {row.model: row for row in standing.board.rows}
    assert [row.model for row in standing.board.rows] == ["good", "majority"]
    assert [row.rank for row in standing.board.rows] == [1, 2]
    assert rows["good"].seeds == (1, 2)
    assert rows["good"].test_rows == 40
    accuracy = rows["good"].metrics["accuracy"]
    assert accuracy.value == pytest.approx(39 / 40)
    assert accuracy.low is not None
    assert accuracy.low < 39 / 40
    assert rows["majority"].metrics["accuracy"].value == 0.5
    assert rows["majority"].metrics["latency_median_ms"].value == 2.5
    assert (standing.failures, standing.missing) == ((), 0)


def test_failed_and_missing_cells_are_told_apart(run: RunFolder) -> None:
    failed, waiting = cell("bad", dataset=DATASET), cell("later", dataset=DATASET)
    run.extend("run", {}, [failed, waiting])
    failure = Failure(cell=failed.cell, kind="model", message="no\x1b[2J weights", hint="fetch\nthem")
    write_atomic(run.new_attempt(failed.cell).failure, encode(failure))
    standing = standing_of(run)
    assert (standing.failures, standing.missing) == ((failure,), 1)
    assert len(standing.board.rows) == 2
    assert failure_lines(standing.failures) == [f"{failed.cell} (model): no�[2J weights; fetch them"]


def test_cells_that_could_not_be_had_are_failures(run: RunFolder) -> None:
    failure = Failure(cell="bert-tiny--reviews--lora--s1", kind="environment", message="no weights", hint="fetch them")
    run.extend("run", {}, SPECS, [failure])
    standing = standing_of(run)
    assert (standing.failures, standing.missing) == ((failure,), 0)
    assert len(standing.board.rows) == 2


def damage_result(attempt: Path) -> None:
    (attempt / "result.json").write_text("{")


def damage_predictions(attempt: Path) -> None:
    (attempt / "predictions.parquet").write_bytes(b"PAR1")


def lose_predictions(attempt: Path) -> None:
    (attempt / "predictions.parquet").unlink()


@pytest.mark.parametrize("damage", [damage_result, damage_predictions, lose_predictions])
def test_a_damaged_result_does_not_hide_the_others(run: RunFolder, damage: object) -> None:
    (attempt,) = run.attempts(SPECS[0].cell)
    damage(attempt.folder)  # type: ignore[operator]
    standing = standing_of(run)
    assert {row.model: row.seeds for row in standing.board.rows} == {"good": (2,), "majority": (1, 2)}
    (failure,) = standing.failures
    assert (failure.cell, failure.kind) == (SPECS[0].cell, "no_result")
    assert str(attempt.folder) in failure.hint


def test_results_that_contradict_each_other(run: RunFolder) -> None:
    other = cell("other", dataset=DATASET)
    run.extend("run", {}, [other])
    finish(run, other, MAJORITY, labels=(1, 0) * 20)
    with pytest.raises(InputError, match="disagree about the labels"):
        standing_of(run)


def test_a_run_without_results(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.extend("run", {}, SPECS)
    standing = standing_of(run)
    assert (standing.board.rows, standing.missing) == ((), 4)


def test_the_last_attempt_counts(run: RunFolder) -> None:
    for spec in SPECS[2:]:
        finish(run, spec, LABELS)
    assert standing_of(run).board.rows[0].model == "majority"


def calibrate(run: RunFolder) -> None:
    where = read(run.attempts(SPECS[0].cell)[0].result, Result).provenance
    found = Calibration(
        hostname_hash=None, cpu_model=where.cpu_model, executor=where.executor, threads=where.threads, when=0.0,
        windows=(), latency_p50=0.02, latency_p99=0.05, throughput=0.03,
    )  # fmt: skip
    write_atomic(run.calibration, encode(found))


def test_the_calibration_of_the_run_levels_speeds(run: RunFolder) -> None:
    assert standing_of(run).board.noise_floor is None
    calibrate(run)
    board = standing_of(run).board
    assert board.noise_floor is not None
    assert (board.noise_floor.latency_p50, board.noise_floor.latency_p99, board.noise_floor.throughput) == (
        0.02,
        0.05,
        0.03,
    )
    assert all("speed_tied" in row.flags for row in board.rows), "all results have the same latency"


def test_a_damaged_calibration_is_named(run: RunFolder) -> None:
    run.calibration.write_text("{")
    with pytest.raises(InputError, match=r"calibration\.json"):
        standing_of(run)


def timing_of(*windows: Window) -> Timing:
    return Timing(
        latency=Latency(requests=9, mean_ms=1.0, std_ms=0.0), throughput=(), windows=windows, cold_start_s=None
    )


@pytest.mark.parametrize(
    "timing",
    [
        timing_of(Window(number=1, block=1, t=0.0, seconds=1.0, requests=1, mean_ms=1.0, p50_ms=1e300)),
        timing_of(*[Window(number=1, block=1, t=0.0, seconds=1.0, requests=1, mean_ms=1.0, p50_ms=1.0)] * 1001),
    ],
)
def test_windows_beyond_measure_are_that_cells_failure(run: RunFolder, timing: Timing) -> None:
    (attempt,) = run.attempts(SPECS[0].cell)
    result = read(attempt.result, Result)
    write_atomic(attempt.result, encode(msgspec.structs.replace(result, timing=timing)))
    (failure,) = standing_of(run).failures
    assert failure.cell == SPECS[0].cell


def test_the_leaderboard_on_disk(run: RunFolder) -> None:
    write_leaderboard(run, standing_of(run))
    rows = json.loads(run.leaderboard.read_text())["rows"]
    assert rows[0]["model"] == "good"
    assert set(rows[0]["accuracy"]) >= {"value", "low", "high"}
    assert {"model", "dataset", "method", "seeds", "rank", "flags", "f1", "score"} <= set(rows[0])


def test_what_is_kept_of_many_results_is_little(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[CellRecord] = []
    rank = leaderboard.rank_cells

    def noting(records: Sequence[CellRecord], *options: Any) -> Leaderboard:
        kept.extend(records)
        return rank(records, *options)

    spec = SPECS[0]
    latency = Latency(requests=2, mean_ms=1.0, std_ms=0.1, p50_ms=1.0, samples_ms=(1.0, 1.0))
    timing = Timing(latency=latency, throughput=(), cold_start_s=None)
    write_atomic(run.attempts(spec.cell)[0].result, encode(msgspec.structs.replace(result(spec), timing=timing)))
    monkeypatch.setattr(leaderboard, "rank_cells", noting)
    standing_of(run)
    assert len({id(record.labels) for record in kept}) == 1
    (timed,) = (record.result.timing for record in kept if record.cell == spec.cell)
    assert timed == msgspec.structs.replace(timing, latency=msgspec.structs.replace(latency, samples_ms=()))


def test_nothing_is_read_twice(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = cell("bad", dataset=DATASET)
    run.extend("run", {}, [failed])
    run.new_attempt(failed.cell)
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    standing_of(run)
    assert len([path for path in listed if "cells" in path]) == len(SPECS) + 1


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters_total": 10**400},
        {"parameters_total": -5},
        {"summary": {"latency_median_ms": -5e13}},
        {"summary": {"throughput_samples_per_sec": -1.0}},
        {"summary": {"accuracy": 1.5}},
    ],
)
def test_figures_that_cannot_be_are_that_cells_failure(run: RunFolder, changes: dict[str, Any]) -> None:
    (attempt,) = run.attempts(SPECS[0].cell)
    told = json.loads(attempt.result.read_text())
    for name, value in changes.items():
        told[name] = told[name] | value if isinstance(value, dict) else value
    attempt.result.write_text(json.dumps(told))
    (failure,) = standing_of(run).failures
    assert failure.cell == SPECS[0].cell


def test_a_board_of_other_settings_of_the_record_is_made_anew(run: RunFolder) -> None:
    standing_of(run)
    record = run.read_record()
    cells = tuple(msgspec.structs.replace(entry, architecture="decoder-only") for entry in record.cells)
    run.write_record(msgspec.structs.replace(record, cells=cells))
    assert {row.architecture for row in standing_of(run).board.rows} == {"decoder-only"}


# --- a kept board -------------------------------------------------------------------------------


def forbid_ranking(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    ranked: list[int] = []
    real = leaderboard.rank_cells

    def noting(records: Sequence[CellRecord], *options: Any) -> Leaderboard:
        ranked.append(len(records))
        return real(records, *options)

    monkeypatch.setattr(leaderboard, "rank_cells", noting)
    return ranked


def test_a_board_that_is_up_to_date_is_not_made_again(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = standing_of(run)
    ranked = forbid_ranking(monkeypatch)
    assert standing_of(run) == first
    assert ranked == []


def another_result(run: RunFolder) -> RankOptions | None:
    finish(run, SPECS[0], LABELS)
    return None


def other_weights(_: RunFolder) -> RankOptions | None:
    return RankOptions(weights={"f1": 1.0})


def other_normaliser(_: RunFolder) -> RankOptions | None:
    return RankOptions(normalise="robust")


def calibrated(run: RunFolder) -> RankOptions | None:
    calibrate(run)
    return None


def damaged(run: RunFolder) -> RankOptions | None:
    run.leaderboard.write_text("{")
    return None


def of_an_older_version(run: RunFolder) -> RankOptions | None:
    board = json.loads(run.leaderboard.read_text())
    del board["made_of"]
    run.leaderboard.write_text(json.dumps(board))
    return None


@pytest.mark.parametrize(
    "change", [another_result, other_weights, other_normaliser, calibrated, damaged, of_an_older_version]
)
def test_a_board_of_something_else_is_made_anew(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, change: Callable[[RunFolder], RankOptions | None]
) -> None:
    standing_of(run)
    options = change(run)
    ranked = forbid_ranking(monkeypatch)
    standing_of(run, options)
    assert ranked == [4]


def test_only_a_board_of_the_usual_options_is_kept(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = standing_of(run)
    standing_of(run, RankOptions(weights={"f1": 1.0}))
    assert from_json(run.leaderboard.read_bytes()) == usual.board


def test_a_run_that_may_only_be_read_is_ranked_all_the_same(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(leaderboard, "write_atomic", refused)
    assert len(standing_of(run).board.rows) == 2
    assert not run.leaderboard.exists()


def test_a_board_without_a_result_that_cannot_be_read_is_made_anew(run: RunFolder) -> None:
    damage_result(run.attempts(SPECS[0].cell)[0].folder)
    standing = standing_of(run)
    assert standing.board.made_of is None
    write_leaderboard(run, standing)
    assert len(standing_of(run).failures) == 1
