"""Finished cells with all of their result, made by hand: what the figures of `report_material` come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.entries import CellRecord
from harness.report.material import ReportCell
from harness.statistics import confusion_counts, quality_from_confusion
from runner.contract import (
    ClassFigures,
    CurvePoint,
    Latency,
    Memory,
    Quality,
    Result,
    SliceFigures,
    Summary,
    Throughput,
    Timing,
    TrainingReport,
    Window,
)

from .ranked import provenance

BATCH_SIZES = (1, 4, 8, 16, 32)
RATED = "reviews"
"""The dataset of two classes that has slices and an NPS."""


@dataclass(frozen=True)
class Model:
    """`strength`: its accuracy, `ms`: its median latency, both before noise."""

    name: str
    method: str = "lora"
    strength: float = 0.85
    ms: float = 10.0
    parameters: int | None = 20_000_000
    architecture: str | None = "encoder-only"

    @property
    def label(self) -> str:
        return self.name if self.method == "none" else f"{self.name} {self.method}"


def report_cell(
    model: Model,
    dataset: str,
    names: tuple[str, ...],
    labels: np.ndarray,
    seed: int,
    requests: int,
    points: int,
    noise: int,
) -> ReportCell:
    rng = np.random.default_rng(noise)
    wrong = rng.random(labels.size) > model.strength
    predicted = np.where(wrong, (labels + 1 + rng.integers(0, len(names) - 1, labels.size)) % len(names), labels)
    quality = _quality(dataset, names, labels, predicted)
    timing = _timing(model, requests, rng)
    memory = _memory(model)
    result = Result(
        cell=f"{model.name}--{dataset}--{model.method}--s{seed}",
        identity="i",
        model=model.name,
        dataset=dataset,
        method=model.method,  # type: ignore[arg-type]
        seed=seed,
        device="cpu",
        label_names=names,
        summary=Summary(
            model_name=model.name,
            accuracy=quality.metrics["accuracy"],
            f1=quality.metrics["f1"],
            latency_median_ms=timing.latency.p50_ms,
            throughput_samples_per_sec=max(one.samples_per_s for one in timing.throughput),
            memory_allocated_mb=memory.rss_peak_inference_mb,
        ),
        quality=quality,
        training=None if model.method == "none" else _training(model, points, rng),
        timing=timing,
        memory=memory,
        parameters_total=model.parameters,
        provenance=provenance(seed=seed),
    )
    p95 = timing.latency.p95_ms
    record = CellRecord(
        cell=result.cell,
        model=model.name,
        dataset=dataset,
        fingerprint=f"{dataset}-fingerprint",
        method=model.method,
        seed=seed,
        device="cpu",
        result=result,
        labels=labels,
        predicted=predicted,
        architecture=model.architecture,
        tails={} if p95 is None else {"latency_p95_ms": (0.95 * p95, 1.08 * p95)},
    )
    return ReportCell(record=record, result=result)


def _quality(dataset: str, names: tuple[str, ...], labels: np.ndarray, predicted: np.ndarray) -> Quality:
    counts = confusion_counts(labels, predicted, len(names))
    hits, told, actual = np.diagonal(counts), counts.sum(axis=0), counts.sum(axis=1)
    slices = ()
    if dataset == RATED:
        branch = np.arange(labels.size) % 3
        slices = tuple(
            SliceFigures(
                column="Branch",
                value=value,
                rows=int((branch == place).sum()),
                accuracy=float((labels == predicted)[branch == place].mean()),
                f1=0.8,
            )
            for place, value in enumerate(("California", "Hong Kong", "Paris"))
        )
    return Quality(
        rows=labels.size,
        metrics={name: float(value) for name, value in quality_from_confusion(counts).items()} | {"ece": 0.04},
        per_class=tuple(
            ClassFigures(
                label=name,
                precision=float(hits[k] / max(told[k], 1)),
                recall=float(hits[k] / max(actual[k], 1)),
                f1=float(2 * hits[k] / max(told[k] + actual[k], 1)),
                support=int(actual[k]),
            )
            for k, name in enumerate(names)
        ),
        per_slice=slices,
        confusion=tuple(tuple(int(n) for n in line) for line in counts),
    )


def _timing(model: Model, requests: int, rng: np.random.Generator) -> Timing:
    samples = model.ms * np.exp(0.15 * rng.standard_normal(requests)) + 0.3 * model.ms * (rng.random(requests) > 0.9)
    p50, p90, p95 = (float(np.quantile(samples, q)) for q in (0.5, 0.9, 0.95))
    drift = 1 + 0.03 * rng.standard_normal()  # from process to process
    throughput = tuple(_throughput(size, drift * 1000 / model.ms * size**0.6) for size in BATCH_SIZES)
    windows = tuple(
        Window(
            number=n, block=n, t=0.0, seconds=1.0, requests=requests // 5, mean_ms=p50, p50_ms=p50 * (1 + 0.01 * n),
            throughput=tuple(_throughput(one.batch_size, one.samples_per_s * (1 + 0.01 * n)) for one in throughput),
        )
        for n in range(1, 6)
    )  # fmt: skip
    latency = Latency(
        requests=requests,
        mean_ms=float(samples.mean()),
        std_ms=float(samples.std()),
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95 if requests >= 130 else None,
        p99_ms=float(np.quantile(samples, 0.99)) if requests >= 662 else None,
        samples_ms=tuple(map(float, samples)),
    )
    return Timing(latency=latency, throughput=throughput, windows=windows, cold_start_s=2.0, contaminated=False)


def _throughput(size: int, rate: float) -> Throughput:
    return Throughput(batch_size=size, samples=100, seconds=1.0, samples_per_s=rate, tokens_per_s=20 * rate)


def _memory(model: Model) -> Memory:
    weights = 4 * (model.parameters or 0) / 2**20
    return Memory(
        rss_after_load_mb=300 + weights,
        rss_before_inference_mb=310 + weights,
        rss_peak_training_mb=500 + 2 * weights if model.method != "none" else None,
        rss_peak_inference_mb=360 + 1.2 * weights,
    )


def _training(model: Model, points: int, rng: np.random.Generator) -> TrainingReport:
    steps = np.arange(1, points + 1)
    loss = 0.7 * np.exp(-3 * steps / points) + 0.1 + 0.03 * rng.standard_normal(points)
    f1 = model.strength * (1 - np.exp(-6 * steps / points))
    evaluated = range(points // 8, points, max(1, points // 8))
    return TrainingReport(
        steps=points,
        epochs=1.0,
        samples_seen=points * 16,
        seconds=60.0,
        samples_per_s=100.0,
        best_step=evaluated[-1] + 1,
        best_f1=float(f1[evaluated[-1]]),
        stopped_early=False,
        loss_curve=tuple(CurvePoint(step=int(s), values={"loss": float(y)}) for s, y in zip(steps, loss, strict=True)),
        validation_curve=tuple(
            CurvePoint(step=int(steps[n]), values={"f1": float(f1[n]), "loss": float(loss[n])}) for n in evaluated
        ),
    )
