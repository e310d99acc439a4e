"""A whole cell in this process: a tiny transformer from random weights, a LoRA on a shrunk BERT, and the baselines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from runner.cell import Cell
from runner.clock import ActiveClock
from runner.contract import (
    PHASES,
    CellEvent,
    CellSpec,
    Choice,
    Failed,
    Fallback,
    Finished,
    LeaseReleased,
    LeaseWanted,
    Limits,
    LoraSpec,
    Metrics,
    ModelSpec,
    PhaseFinished,
    PhaseStarted,
    Progress,
    Result,
    Verdict,
    Warned,
    encode,
    grant_file,
    read,
    verdict_file,
    write_atomic,
)
from runner.data.prepared import read_split
from runner.events import EventLog
from runner.memory import PeakMeter
from tests.runner.models.small_models import Checkpoint

MakeCell = Callable[..., CellSpec]
Read = Callable[[Path], list[Any]]


def run(spec: CellSpec, folder: Path) -> Result:
    folder.mkdir(exist_ok=True)
    with EventLog(folder / "events.jsonl", spec.cell) as events:
        return Cell(spec, folder, events).run()


@pytest.fixture(autouse=True)
def _nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else the machine does: no window is repeated, no warning given."""
    monkeypatch.setattr("runner.timing._foreign_limit", lambda: 2.0)


@pytest.fixture
def lora_spec(cell_spec: MakeCell, checkpoint: Checkpoint) -> Callable[..., CellSpec]:
    def make(**changes: Any) -> CellSpec:
        folder = str(checkpoint("bert"))
        model = ModelSpec(alias="Bert", kind="path", name=folder, folder=folder)
        return cell_spec("scratch", model=model, method="lora", lora=LoraSpec(rank=2, alpha=4), **changes)

    return make


@pytest.fixture(params=["scratch", "lora", "majority", "tfidf-logreg"])
def any_spec(request: pytest.FixtureRequest, cell_spec: MakeCell, lora_spec: MakeCell) -> MakeCell:
    if request.param == "lora":
        return lora_spec
    return lambda **changes: cell_spec(request.param, **changes)


def test_every_file_and_figure_of_a_cell(any_spec: MakeCell, tmp_path: Path, events_of: Read) -> None:
    spec = any_spec()
    result = run(spec, tmp_path)
    transformer = spec.model.kind != "baseline"
    assert read(tmp_path / "result.json", Result) == msgspec.json.decode(encode(result), type=Result)
    assert {path.name for path in tmp_path.iterdir()} == {
        "result.json",
        "events.jsonl",
        "predictions.parquet",
        *(["adapter"] if transformer else []),
    }
    assert tuple(result.phases) == PHASES
    assert all(seconds >= 0 for seconds in result.phases.values())
    assert (result.cell, result.identity, result.model) == (spec.cell, "1f", spec.model.alias)
    _check_summary(result)
    _check_predictions(spec, result, tmp_path)
    _check_events(events_of(tmp_path), result)


def _check_summary(result: Result) -> None:
    """Each figure comes from the part that explains it; each null has a reason."""
    summary, quality, timed = result.summary, result.quality, result.timing
    assert quality is not None
    assert timed is not None
    assert quality.metrics["accuracy"] == summary.accuracy
    assert (summary.f1, summary.precision, summary.recall) == tuple(
        quality.metrics[name] for name in ("f1", "precision", "recall")
    )
    assert (summary.ttft_mean_ms, summary.latency_median_ms) == (timed.latency.mean_ms, timed.latency.p50_ms)
    best = max(timed.throughput, key=lambda t: t.samples_per_s)
    assert summary.throughput_samples_per_sec == best.samples_per_s
    assert summary.throughput_tokens_per_sec == best.tokens_per_s
    assert summary.memory_allocated_mb == result.memory.rss_peak_inference_mb
    assert summary.training_time_hours is not None
    assert summary.training_time_hours * 3600 <= result.phases["train"] * (1 + 1e-9)
    nulls = {name for name in summary.__struct_fields__ if getattr(summary, name) is None}
    nulls |= {name for name, value in quality.metrics.items() if value is None}
    assert nulls <= result.reasons.keys()
    assert "latency_p99_ms" in nulls  # 12 requests
    assert "662" in result.reasons["latency_p99_ms"]


def _check_predictions(spec: CellSpec, result: Result, folder: Path) -> None:
    test = read_split(spec.dataset, "test")
    table = pq.ParquetFile(folder / "predictions.parquet").read()
    assert table["id"].to_pylist() == test.ids
    assert table["label"].to_pylist() == test.labels.tolist()
    right = np.mean(np.array(table["predicted"].to_pylist()) == test.labels)
    assert right == result.summary.accuracy
    probabilities = np.column_stack([table[f"p_{k}"].to_pylist() for k in range(2)])
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    assert result.quality is not None
    assert {figures.value for figures in result.quality.per_slice} == {"", "here"}


def _check_events(events: list[Any], result: Result) -> None:
    assert [event.seq for event in events] == list(range(len(events)))
    assert {event.cell for event in events} == {result.cell}
    assert [event.phase for event in events if isinstance(event, PhaseStarted)] == list(PHASES)
    finished = {event.phase: event.seconds for event in events if isinstance(event, PhaseFinished)}
    assert finished == result.phases
    assert isinstance(events[-1], Finished)
    assert not any(isinstance(event, Failed | LeaseWanted | LeaseReleased) for event in events)
    scored = next(event for event in events if isinstance(event, Metrics) and event.split == "test")
    assert result.quality is not None
    assert scored.values == result.quality.metrics
    assert [event.message for event in events if isinstance(event, Warned)] == list(result.warnings)
    trained = any(isinstance(event, Progress) and event.phase == "train" for event in events)
    assert trained is (result.training is not None)


def test_a_transformer_learns_and_tells_what_it_did(cell_spec: MakeCell, tmp_path: Path) -> None:
    training = msgspec.structs.replace(cell_spec().training, epochs=6, learning_rate=1e-2, patience=50)
    result = run(cell_spec("scratch", training=training), tmp_path)
    assert result.summary.accuracy is not None
    assert result.summary.accuracy >= 0.9
    assert result.training is not None
    assert result.training.steps == 30  # 80 rows / (8 * 2), 6 times
    assert result.training.best_f1 == max(point.values["f1"] or 0 for point in result.training.validation_curve)
    assert result.parameters_trainable == result.parameters_total
    assert result.effective["dtype"].value == "float32"
    assert result.effective["epochs"].value == result.requested["epochs"] == 6
    assert (tmp_path / "adapter" / "model.safetensors").exists()
    assert result.memory.rss_after_load_mb is not None
    assert result.memory.device_peak_training_mb is None


def test_the_same_cell_gives_the_same_predictions(cell_spec: MakeCell, tmp_path: Path) -> None:
    def probabilities(seed: int, name: str) -> list[float]:
        run(cell_spec("scratch", seed=seed, phases=PHASES[:-1]), tmp_path / name)
        return list(pq.ParquetFile(tmp_path / name / "predictions.parquet").read()["p_1"].to_pylist())

    first = probabilities(1, "a")
    assert probabilities(1, "b") == first
    assert probabilities(2, "c") != first


def test_what_is_kept_predicts_what_was_scored(lora_spec: MakeCell, tmp_path: Path) -> None:
    """The adapter is saved before it is merged, and the merged model is what is timed and scored."""
    from runner.models.merge import load_saved
    from runner.scoring import TransformerPredictor

    spec = lora_spec()
    result = run(spec, tmp_path)
    assert result.timing is not None
    assert result.timing.merged
    assert result.parameters_trainable is not None
    assert result.parameters_total is not None
    assert result.parameters_trainable < result.parameters_total
    loaded = load_saved(spec, tmp_path / "adapter")
    again = TransformerPredictor(
        loaded.model, loaded.tokenizer, loaded.pad_token_id, loaded.is_decoder, loaded.max_length, "cpu", "float32"
    )
    table = pq.ParquetFile(tmp_path / "predictions.parquet").read()
    found = again.predict(read_split(spec.dataset, "test").texts, 8)
    np.testing.assert_allclose(found[:, 1], table["p_1"].to_pylist(), atol=1e-5)


def test_min_steps_on_a_small_dataset_are_told(cell_spec: MakeCell, tmp_path: Path) -> None:
    training = msgspec.structs.replace(cell_spec().training, epochs=1, min_steps=12, patience=1)
    result = run(cell_spec("scratch", training=training, phases=("load", "tokenize", "train", "score")), tmp_path)
    assert result.effective["epochs"].value == 3  # 5 steps an epoch
    assert "raised from 1" in result.effective["epochs"].reason
    assert result.requested["epochs"] == 1
    assert result.training is not None
    assert result.training.steps >= 12


def test_stopping_early_is_a_warning(cell_spec: MakeCell, tmp_path: Path) -> None:
    training = msgspec.structs.replace(cell_spec().training, epochs=9, learning_rate=1e-9, patience=1)
    result = run(cell_spec("scratch", training=training, phases=("train", "score")), tmp_path)
    assert result.training is not None
    assert result.training.stopped_early
    assert "stopped early at step 5" in result.warnings[0]


def test_phases_not_asked_for_are_left_out_with_a_reason(cell_spec: MakeCell, tmp_path: Path) -> None:
    result = run(cell_spec("scratch", phases=("load", "tokenize", "train", "score")), tmp_path)
    assert "export" not in result.phases
    assert not (tmp_path / "adapter").exists()
    assert result.timing is None
    assert "not asked for" in result.reasons["latency_median_ms"]
    nulls = {name for name in result.summary.__struct_fields__ if getattr(result.summary, name) is None}
    assert nulls == {name for name in result.reasons if name in result.summary.__struct_fields__}


class Host:
    """What the host does about leases, while the cell sleeps. `s`: the machine's seconds; each sleep takes ten."""

    def __init__(self, folder: Path, reasons: tuple[str, ...] = ()) -> None:
        self.folder, self.verdict, self.s = folder, encode(Verdict(reasons=reasons)), 0.0

    def sleep(self, seconds: float) -> None:
        self.s += 10
        lines = (self.folder / "events.jsonl").read_bytes().splitlines()
        event = msgspec.json.decode(lines[-1], type=CellEvent)
        if isinstance(event, LeaseWanted):
            (self.folder / grant_file(event.window)).touch()
        else:
            assert isinstance(event, LeaseReleased)
            write_atomic(self.folder / verdict_file(event.window), self.verdict)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path)
    monkeypatch.setattr("runner.leases.time.sleep", host.sleep)
    return host


def test_each_window_of_timing_has_a_lease_and_waiting_is_no_timing(
    cell_spec: MakeCell, tmp_path: Path, events_of: Read, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ActiveClock, "__call__", lambda self: host.s)
    evaluation = msgspec.structs.replace(cell_spec().evaluation, windows=2)
    result = run(cell_spec(lease=True, evaluation=evaluation), tmp_path)
    found = [
        (type(event).__name__, getattr(event, "phase", None) or getattr(event, "window", None))
        for event in events_of(tmp_path)
        if isinstance(event, LeaseWanted | LeaseReleased | PhaseStarted | PhaseFinished)
    ][-7:]
    assert found == [
        ("PhaseFinished", "score"),
        ("PhaseStarted", "time"),
        ("LeaseWanted", 1),
        ("LeaseReleased", 1),
        ("LeaseWanted", 2),
        ("LeaseReleased", 2),
        ("PhaseFinished", "time"),
    ]
    assert host.s == 40
    assert result.phases["time"] == 0


def test_what_the_host_saw_is_a_warning(cell_spec: MakeCell, tmp_path: Path, host: Host) -> None:
    host.verdict = encode(Verdict(reasons=("somebody else was here",)))
    result = run(cell_spec(lease=True), tmp_path)
    assert "somebody else was here" in result.warnings[0]


@pytest.mark.parametrize("share", [0.02, 0.4])
def test_a_busy_machine_is_a_warning(
    share: float, cell_spec: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner import timing

    def leave(self: Any, *_: object) -> None:
        self.share = share

    monkeypatch.setattr(timing, "_foreign_limit", lambda: 0.1)
    monkeypatch.setattr(timing._ForeignLoad, "__exit__", leave)
    result = run(cell_spec(), tmp_path)
    assert result.timing is not None
    assert result.timing.contaminated is (share > 0.1)
    assert ["40.0 % of" in warning for warning in result.warnings] == [True] * (share > 0.1)


def test_an_unknown_peak_has_a_reason(cell_spec: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reset(self: PeakMeter) -> None:
        self.reason = "not here"

    monkeypatch.setattr(PeakMeter, "reset", reset)
    result = run(cell_spec(), tmp_path)
    assert result.summary.memory_allocated_mb is None
    assert result.reasons["rss_peak_training_mb"] == result.reasons["rss_peak_inference_mb"] == "not here"
    assert "memory_allocated_mb" in result.reasons


def test_provenance_is_the_cells_own(cell_spec: MakeCell, tmp_path: Path) -> None:
    limits = Limits(memory_mb=4096, cpus=1.5)
    spec = cell_spec(seed=5, executor="docker", image_digest="sha256:abc", limits=limits)
    provenance = run(spec, tmp_path).provenance
    assert provenance.started < provenance.finished
    assert (provenance.seed, provenance.dataset_fingerprint) == (5, spec.dataset.fingerprint)
    assert (provenance.threads, provenance.image_digest) == (1, "sha256:abc")
    assert (provenance.executor, provenance.limits) == ("docker", limits)
    assert provenance.packages["torch"]
    assert provenance.ram_mb > 0
    assert provenance.hostname_hash is not None
    assert len(provenance.hostname_hash) == 12


def test_the_seed_reaches_libraries_and_the_order_of_the_data(
    cell_spec: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from runner import subjects

    seeds: list[int] = []
    real = subjects.Trainer
    monkeypatch.setattr(subjects, "Trainer", lambda **given: (seeds.append(given["seed"]), real(**given))[1])
    run(cell_spec("scratch", seed=7, phases=("train", "score")), tmp_path)
    assert seeds == [7]
    assert torch.are_deterministic_algorithms_enabled()


def test_the_reasons_of_null_metrics_are_kept(
    cell_spec: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.tasks.classification._roc_auc", lambda *_: None)
    result = run(cell_spec(phases=("train", "score")), tmp_path)
    assert result.quality is not None
    assert result.quality.metrics["roc_auc"] is None
    assert "roc_auc" in result.reasons


def test_a_fallback_is_used_and_told(cell_spec: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.scoring import TransformerPredictor

    sizes: list[int] = []
    real = TransformerPredictor.predict_encoded
    monkeypatch.setattr(
        TransformerPredictor,
        "predict_encoded",
        lambda self, ids, size, *more: (sizes.append(size), real(self, ids, size, *more))[1],
    )
    fallback = Fallback(batch_size=4, accumulation=4, evaluation_batch_size=2, reason="memory ran out")
    result = run(cell_spec("scratch", fallback=fallback, phases=("train", "score")), tmp_path)
    assert set(sizes) == {1, 2}  # the first request alone, then validation and scoring
    assert result.training is not None
    assert result.training.samples_seen == result.training.steps * 16
    for name, asked, used in (("batch_size", 8, 4), ("accumulation", 2, 4), ("evaluation_batch_size", 8, 2)):
        assert result.requested[name] == asked
        assert result.effective[name] == Choice(value=used, reason="memory ran out")
    plain = run(cell_spec("scratch", phases=("train", "score")), tmp_path / "plain")
    assert plain.effective["evaluation_batch_size"] == Choice(value=8, reason="as configured")
