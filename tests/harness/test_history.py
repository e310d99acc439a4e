"""Finished cells correct the estimates of those to come; what lies there is not to be trusted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as changed

from harness import history
from harness.estimates import CONTEXT_MB, Estimate, epochs_of, start_s
from harness.history import History, estimates_for
from harness.store import RunFolder
from runner.contract import (
    CellSpec,
    Choice,
    Latency,
    Memory,
    ModelSpec,
    Quality,
    Result,
    Throughput,
    Timing,
    TrainingReport,
    cell_name,
    encode,
    identity_of,
    write_atomic,
)
from tests.harness.builders import cell, prepared, result

COMPUTED = Estimate(memory_mb=1000, disk_mb=50, seconds=500.0, kept_mb=20, timing_s=30.0)
PHASES = {"load": 2.0, "tokenize": 1.0, "train": 60.0, "score": 6.0, "time": 11.0}


def encoder(seed: int = 1, **changes: Any) -> CellSpec:
    spec = changed(
        cell(seed=seed, dataset=prepared(rows=100)),
        model=ModelSpec(alias="BERT", kind="hub", name="a/bert"),
        method="lora",
        **changes,
    )
    identity = identity_of(spec)
    return changed(spec, identity=identity, cell=cell_name(spec, identity))


def timing(tokens: float | None = 20.0) -> Timing:
    rate = Throughput(
        batch_size=8, samples=1, seconds=1.0, samples_per_s=10.0, tokens_per_s=None if tokens is None else 10.0 * tokens
    )
    return Timing(latency=Latency(requests=1, mean_ms=1.0, std_ms=0.0), throughput=(rate,), cold_start_s=None)


def finished(results: Path, spec: CellSpec, run: str = "earlier", **changes: Any) -> Path:
    """The cell's result on disk: 60 s of training for 300 samples of 20 tokens, 1,500 MB at most."""
    report = TrainingReport(
        steps=1, epochs=3, samples_seen=300, seconds=60, samples_per_s=5, best_step=1, best_f1=1, stopped_early=False
    )
    requested = {
        "batch_size": spec.training.batch_size, "accumulation": spec.training.accumulation,
        "max_length": spec.dataset.max_length, "epochs": spec.training.epochs,
    }  # fmt: skip
    fields: dict[str, Any] = {
        "phases": PHASES, "requested": requested, "training": report, "timing": timing(),
        "quality": Quality(rows=100, metrics={}),
        "memory": Memory(rss_after_load_mb=700, rss_peak_training_mb=1499.5, rss_peak_inference_mb=900),
    }  # fmt: skip
    attempt = RunFolder(results / run).new_attempt(spec.cell)
    left: Result = changed(result(spec), **(fields | changes))
    write_atomic(attempt.result, encode(left))
    return attempt.result


def peaks(training_mb: float) -> Memory:
    return Memory(rss_peak_training_mb=training_mb, rss_peak_inference_mb=50)


def improved(results: Path, spec: CellSpec) -> Estimate:
    return History(results).improve(spec, COMPUTED)


def test_without_results_the_estimate_stays(tmp_path: Path) -> None:
    assert improved(tmp_path / "none", encoder()) == COMPUTED


def test_another_seed_of_the_same_cell_is_measured(tmp_path: Path) -> None:
    finished(tmp_path, encoder(seed=7))
    found = improved(tmp_path, encoder(seed=8))
    assert (found.basis, found.memory_mb, found.timing_s) == ("measured", 1500, 11.0)
    assert found.seconds == start_s(encoder()) + sum(PHASES.values())
    assert (found.disk_mb, found.kept_mb) == (COMPUTED.disk_mb, COMPUTED.kept_mb)


def test_seconds_are_a_mean_and_memory_the_largest(tmp_path: Path) -> None:
    finished(tmp_path, encoder(seed=1), phases={"train": 10.0}, memory=peaks(100))
    finished(tmp_path, encoder(seed=2), phases={"train": 30.0}, memory=peaks(300))
    found = improved(tmp_path, encoder(seed=3))
    assert (found.seconds - start_s(encoder()), found.memory_mb) == (20.0, 300)


@pytest.mark.parametrize(
    "memory",
    [
        Memory(),
        Memory(rss_after_load_mb=700, rss_peak_training_mb=900),  # it went on after the training
        Memory(rss_after_load_mb=700, rss_peak_inference_mb=900),  # a part was trained elsewhere
    ],
)
def test_figures_that_are_not_known_stay_computed(tmp_path: Path, memory: Memory) -> None:
    finished(tmp_path, encoder(), memory=memory)
    assert improved(tmp_path, encoder()).memory_mb == COMPUTED.memory_mb


def test_a_cell_done_at_two_places_tells_no_seconds(tmp_path: Path) -> None:
    finished(tmp_path, encoder(), phases={"time": 3.0}, reasons={"phases.train": "measured in an earlier attempt"})
    assert improved(tmp_path, encoder()) == COMPUTED


def test_a_cell_whose_batch_was_halved_tells_nothing(tmp_path: Path) -> None:
    batch = encoder().training.batch_size
    finished(tmp_path, encoder(seed=1), effective={"batch_size": Choice(value=batch // 2, reason="halved")})
    assert improved(tmp_path, encoder(seed=2)) == COMPUTED
    finished(tmp_path, encoder(seed=3), effective={"batch_size": Choice(value=batch, reason="as configured")})
    assert improved(tmp_path, encoder(seed=2)).basis == "measured"


def test_on_a_gpu_what_its_allocator_held_counts(tmp_path: Path) -> None:
    spec = encoder(device="cuda")
    finished(tmp_path, spec, memory=Memory(device_reserved_mb=4000))
    assert improved(tmp_path, spec).device_mb == 4000 + CONTEXT_MB
    assert improved(tmp_path, encoder()).basis == "computed"  # the CPU's is another cell


@pytest.mark.parametrize(
    "changes",
    [
        {"training": changed(encoder().training, batch_size=8)},
        {"training": changed(encoder().training, epochs=1)},
        {"dataset": prepared(rows=100, max_length=64)},
        {"dataset": prepared(rows=100, fingerprint="e" * 64)},
    ],
)
def test_other_settings_or_data_are_similar(tmp_path: Path, changes: dict[str, Any]) -> None:
    finished(tmp_path, encoder())
    assert improved(tmp_path, encoder(**changes)).basis == "similar"


@pytest.mark.parametrize("changes", [{"method": "full"}, {"model": ModelSpec(alias="b", kind="hub", name="b")}])
def test_other_models_and_methods_say_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    finished(tmp_path, encoder())
    other = changed(encoder(), **changes)
    assert improved(tmp_path, other) == COMPUTED


def test_nor_do_other_numbers_of_threads(tmp_path: Path) -> None:
    finished(tmp_path, encoder())
    assert improved(tmp_path, encoder(threads=4)) == COMPUTED


def test_seconds_are_scaled_by_rows_epochs_and_length(tmp_path: Path) -> None:
    """300 samples of 20 tokens took 60 s; 5 epochs of 600 texts of 128 tokens take 64 times as long."""
    finished(tmp_path, encoder())
    spec = encoder(
        dataset=prepared("other", "e" * 64, rows=600), training=changed(encoder().training, epochs=5, min_steps=0)
    )
    assert epochs_of(spec) == 5
    found = improved(tmp_path, spec)
    assert found.basis == "similar"
    assert found.seconds == pytest.approx(start_s(spec) + 2 + 1 + 60 * 10 * 6.4 + 6 * 6 * 6.4 + 11)
    assert found.timing_s == 11.0


def test_memory_of_a_smaller_cell_is_the_least(tmp_path: Path) -> None:
    finished(tmp_path, encoder())
    larger = changed(encoder().training, batch_size=32)
    assert improved(tmp_path, encoder(training=larger)).memory_mb == 1500
    smaller = changed(encoder().training, batch_size=8)
    assert improved(tmp_path, encoder(training=smaller)).memory_mb == COMPUTED.memory_mb


def test_without_a_count_of_tokens_nothing_is_scaled(tmp_path: Path) -> None:
    finished(tmp_path, encoder(), timing=timing(tokens=None))
    assert improved(tmp_path, encoder(dataset=prepared("other", "e" * 64))) == COMPUTED


def test_three_results_of_a_group_are_read_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    real = history.open_plain

    def counted(path: Path, limit: int) -> Any:
        opened.append(path)
        return real(path, limit)

    monkeypatch.setattr(history, "open_plain", counted)
    specs = [encoder(seed=seed) for seed in range(6)]
    for age, spec in enumerate(specs):
        path = finished(tmp_path, spec, phases={"train": float(age)})
        os.utime(path.parent.parent, (1000 - age, 1000 - age))
    found = estimates_for([encoder(seed=seed) for seed in range(10, 30)], tmp_path)
    assert len(opened) == 3
    assert {round(each.seconds - start_s(encoder())) for each in found.values()} == {1}  # of 0, 1 and 2


def bad_files() -> Sequence[bytes]:
    return (
        b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"provenance": {}}',
        b'{"provenance": {"dataset_fingerprint": "x"}, "phases": {"train": "long"}}',
    )  # fmt: skip


@pytest.mark.parametrize("content", bad_files())
def test_a_broken_result_is_passed_over(tmp_path: Path, content: bytes) -> None:
    finished(tmp_path, encoder(seed=1)).write_bytes(content)
    finished(tmp_path, encoder(seed=2), phases={"train": 5.0})
    assert improved(tmp_path, encoder()).seconds == start_s(encoder()) + 5


def test_what_no_plain_file_is_passed_over(tmp_path: Path) -> None:
    path = finished(tmp_path, encoder())
    path.unlink()
    os.mkfifo(path)
    link = finished(tmp_path, encoder(seed=2))
    link.unlink()
    link.symlink_to(tmp_path / "elsewhere")
    assert improved(tmp_path, encoder()) == COMPUTED


def test_absurd_figures_stay_finite(tmp_path: Path) -> None:
    finished(tmp_path, encoder(), phases={"train": 1e308, "load": -5.0}, memory=peaks(1e308))
    same, other = improved(tmp_path, encoder()), improved(tmp_path, encoder(dataset=prepared("o", "e" * 64)))
    assert (same.memory_mb, same.seconds) == (history.GREATEST, history.GREATEST + start_s(encoder()))
    assert other.seconds <= 2 * history.GREATEST


def test_other_folders_and_unfinished_cells_do_not_disturb(tmp_path: Path) -> None:
    (tmp_path / "run" / "cells" / "no cell").mkdir(parents=True)
    (tmp_path / "run" / "cells" / "a--b--c--d--e--f--g").mkdir()
    (tmp_path / "file").write_text("")
    RunFolder(tmp_path / "run").new_attempt(encoder().cell)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cells").write_text("")
    assert improved(tmp_path, encoder()) == COMPUTED


def test_cells_that_differ_in_more_than_the_seed_have_their_own_estimates(tmp_path: Path) -> None:
    larger = encoder(training=changed(encoder().training, batch_size=32))
    longer = encoder(dataset=prepared(rows=100, max_length=512))
    found = estimates_for([encoder(1), encoder(2), larger, longer], tmp_path)
    assert found[encoder(1).cell] == found[encoder(2).cell]
    assert len({each.memory_mb for each in found.values()}) == 3
