from __future__ import annotations

import base64
import os
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from harness import evidence
from harness.errors import InputError
from harness.evidence import Evidence, gather, read_baseline, write_baseline
from harness.leaderboard import ranked
from harness.store import RunFolder
from runner.contract import Latency, Result, Throughput, Timing, Window, encode, read, write_atomic
from tests.harness.builders import cell, prepared, write_result

LABELS = (0, 1) * 20
DATASET = prepared(rows=len(LABELS))
SPECS = [cell(model, seed, DATASET) for model in ("a", "b") for seed in (1, 2)]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.extend("run", {}, SPECS)
    for number, spec in enumerate(SPECS):
        predicted = list(LABELS)
        predicted[number] = 1 - predicted[number]
        write_result(run.new_attempt(spec.cell), spec, LABELS, predicted)
    return run


def told(found: Evidence) -> list[tuple[object, ...]]:
    """Arrays as lists, so that evidence can be compared."""
    arrays = [tuple(np.asarray(x).tolist() for x in (r.labels, r.predicted)) for r in found.records]
    return [(r.cell, r.result, r.attempt, r.tails, *both) for r, both in zip(found.records, arrays, strict=True)]


def forbid_parsing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    parsed: list[str] = []
    real = evidence.checked_result
    monkeypatch.setattr(evidence, "checked_result", lambda entry, one: parsed.append(entry.cell) or real(entry, one))
    return parsed


def test_what_is_kept_is_what_was_read(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = gather(run)
    parsed = forbid_parsing(monkeypatch)
    second = gather(run)
    assert parsed == []
    assert told(first) == told(second)
    assert len(first.records) == 4
    assert (first.name, first.folder, first.failures, first.missing) == ("run", run, (), 0)


def test_a_result_that_was_replaced_is_read_again(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    gather(run)
    (attempt,) = run.attempts(SPECS[0].cell)
    result = read(attempt.result, Result)
    write_atomic(attempt.result, encode(msgspec.structs.replace(result, warnings=("other",))))
    parsed = forbid_parsing(monkeypatch)
    assert gather(run).records[0].result.warnings == ("other",)
    assert parsed == [SPECS[0].cell]


def test_predictions_that_were_replaced_are_read_again(run: RunFolder) -> None:
    gather(run)
    (attempt,) = run.attempts(SPECS[0].cell)
    spec = SPECS[0]
    write_result(attempt, spec, LABELS, LABELS)
    found = gather(run).records[0].predicted
    assert found is not None and found.tolist() == list(LABELS)


def test_a_newer_attempt_counts(run: RunFolder) -> None:
    gather(run)
    write_result(run.new_attempt(SPECS[0].cell), SPECS[0], LABELS, LABELS)
    record = gather(run).records[0]
    assert record.attempt is not None and record.attempt.number == 2


@pytest.mark.parametrize("damage", [b"", b"{", b'{"schema_version": 99, "name": "x"}', b'{"name": "x", "cells": [{}]}'])
def test_kept_evidence_that_is_damaged_is_made_anew(run: RunFolder, damage: bytes) -> None:
    before = gather(run)
    run.evidence.write_bytes(damage)
    assert told(gather(run)) == told(before)
    assert run.evidence.read_bytes() != damage


def garbled(kept: dict[str, Any]) -> None:
    kept["cells"][0]["predicted"] = "AAAA"


def too_short(kept: dict[str, Any]) -> None:
    kept["cells"][0]["predicted"] = base64.b64encode(b"\1" + zlib.compress(b"\0")).decode()


def out_of_range(kept: dict[str, Any]) -> None:
    kept["cells"][0]["predicted"] = base64.b64encode(b"\1" + zlib.compress(b"\7" * len(LABELS))).decode()


def without_labels(kept: dict[str, Any]) -> None:
    kept["labels"] = {}


def other_labels(kept: dict[str, Any]) -> None:
    packed = base64.b64encode(b"\1" + zlib.compress(b"\1" * len(LABELS))).decode()
    kept["labels"] = dict.fromkeys(kept["labels"], packed)


@pytest.mark.parametrize("damage", [garbled, too_short, out_of_range, without_labels, other_labels])
def test_what_is_damaged_within_is_read_anew(run: RunFolder, damage: Callable[[dict[str, Any]], None]) -> None:
    before = gather(run)
    kept = msgspec.json.decode(run.evidence.read_bytes())
    damage(kept)
    run.evidence.write_bytes(msgspec.json.encode(kept))
    assert told(gather(run)) == told(before)


def test_a_run_that_may_only_be_read(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(evidence, "write_atomic", refused)
    assert len(gather(run).records) == 4
    assert not run.evidence.exists()


def test_labels_are_held_once(run: RunFolder) -> None:
    for found in (gather(run), gather(run)):
        assert len({id(record.labels) for record in found.records}) == 1


def timed(spec_cell: str, run: RunFolder) -> Result:
    (attempt,) = run.attempts(spec_cell)
    sizes = tuple(
        Throughput(batch_size=size, samples=9, seconds=1.0, samples_per_s=float(size), tokens_per_s=None)
        for size in (1, 8)
    )
    windows = tuple(
        Window(number=n, block=n, t=0.0, seconds=1.0, requests=200, mean_ms=5.0, p50_ms=5.0 + n, throughput=sizes,
               counted=n != 2)
        for n in (1, 2, 3)
    )  # fmt: skip
    samples = tuple(np.random.default_rng(0).lognormal(1.6, 0.1, 700).tolist())
    p95 = float(np.quantile(samples, 0.95))
    latency = Latency(requests=700, mean_ms=5.0, std_ms=0.5, p50_ms=5.0, p95_ms=p95, samples_ms=samples)
    timing = Timing(latency=latency, throughput=sizes, windows=windows, cold_start_s=None)
    result = msgspec.structs.replace(read(attempt.result, Result), timing=timing)
    write_atomic(attempt.result, encode(result))
    return result


def test_bulk_is_left_out_and_nothing_that_the_ranking_needs(run: RunFolder) -> None:
    whole = timed(SPECS[0].cell, run)
    record = gather(run).records[0]
    kept = record.result.timing
    assert kept is not None and whole.timing is not None
    assert kept.latency.samples_ms == ()
    assert [window.number for window in kept.windows] == [1, 3]
    assert {one.batch_size for window in kept.windows for one in window.throughput} == {8}
    assert len(msgspec.json.encode(record.result)) < len(msgspec.json.encode(whole)) / 4
    low, high = record.tails["latency_p95_ms"]
    ordered = np.sort(whole.timing.latency.samples_ms)
    assert low < np.quantile(ordered, 0.95) < high
    assert "latency_p99_ms" not in record.tails, "the result gives none"


def test_with_one_seed_a_tail_has_the_interval_of_its_requests(run: RunFolder) -> None:
    for spec in SPECS:
        timed(spec.cell, run)
    one_seed = [record for record in gather(run).records if record.seed == 1]
    found = gather(run)
    board = ranked(Evidence("x", None, tuple(one_seed), (), 0, None)).board
    figure = board.rows[0].metrics["latency_p95_ms"]
    assert (figure.low, figure.high) == one_seed[0].tails["latency_p95_ms"]
    both = ranked(found).board.rows[0].metrics["latency_p95_ms"]
    assert both.low == both.high == both.value, "equal in both seeds"


# --- baselines ----------------------------------------------------------------------------------


def test_a_baseline_is_the_run_without_its_folder(run: RunFolder, tmp_path: Path) -> None:
    found = gather(run)
    path = tmp_path / "baseline.json"
    write_baseline(found, path)
    back = read_baseline(path)
    assert (back.name, back.folder) == ("run", None)
    assert [r.attempt for r in back.records] == [None] * 4
    assert ranked(back).board == ranked(found).board


def test_a_baseline_of_nothing_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.extend("run", {}, SPECS)
    with pytest.raises(InputError, match="no finished cell"):
        write_baseline(gather(run), tmp_path / "baseline.json")


@pytest.mark.parametrize("content", ["", "{}", '{"name": "x", "schema_version": 99}', '{"rows": []}'])
def test_what_is_no_baseline_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(content)
    with pytest.raises(InputError, match="baseline"):
        read_baseline(path)


def test_a_baseline_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        read_baseline(tmp_path / "none.json")


@pytest.mark.parametrize("damage", ["labels", "predicted"])
def test_a_baseline_that_someone_changed(run: RunFolder, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(gather(run), path)
    kept = msgspec.json.decode(path.read_bytes())
    if damage == "labels":
        kept["labels"] = {}
    else:
        kept["cells"][0]["predicted"] = "AAAA"
    path.write_bytes(msgspec.json.encode(kept))
    with pytest.raises(InputError, match="is no baseline"):
        read_baseline(path)


@pytest.mark.parametrize("part", ["labels", "predicted"])
def test_a_baseline_that_inflates_without_end(run: RunFolder, tmp_path: Path, part: str) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(gather(run), path)
    kept = msgspec.json.decode(path.read_bytes())
    bomb = base64.b64encode(b"\1" + zlib.compress(bytes(40_000_000))).decode()
    if part == "labels":
        kept["labels"] = dict.fromkeys(kept["labels"], bomb)
    else:
        kept["cells"][0]["predicted"] = bomb
    path.write_bytes(msgspec.json.encode(kept))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="is no baseline"):
            read_baseline(path)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_a_baseline_of_a_run_that_does_not_say_how_many_examples_it_has(run: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(gather(run), path)
    kept = msgspec.json.decode(path.read_bytes())
    for one in kept["cells"]:
        one["entry"]["test_rows"] = None
    path.write_bytes(msgspec.json.encode(kept))
    assert len(read_baseline(path).records) == 4


def test_evidence_is_not_kept_again_without_need(run: RunFolder) -> None:
    gather(run)
    os.utime(run.evidence, (1, 1))
    gather(run)
    assert run.evidence.stat().st_mtime == 1
