"""Finished cells to rank, made by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from harness.board import Leaderboard, Row
from harness.ranking import CellRecord
from runner.contract import (
    CodeVersion,
    Latency,
    Provenance,
    Quality,
    Result,
    Summary,
    Throughput,
    Timing,
    Window,
)

LABELS = np.array([0, 1] * 150)


def predictions(accuracy: float, seed: int = 0, labels: np.ndarray = LABELS) -> np.ndarray:
    wrong = np.random.default_rng(seed).permutation(labels.size) >= round(accuracy * labels.size)
    return np.where(wrong, 1 - labels, labels)


def provenance(**changes: Any) -> Provenance:
    fields: dict[str, Any] = {
        "started": 0.0, "finished": 1.0, "hostname_hash": None, "os": "Linux", "cpu_model": "A", "cores": 2,
        "threads": 2, "ram_mb": 1000.0, "gpu_model": None, "python": "3.12", "packages": {}, "code": CodeVersion(),
        "model_revision": None, "weights_sha256": {}, "dataset_fingerprint": "f", "seed": 42,
    }  # fmt: skip
    return Provenance(**(fields | changes))


def cell(
    model: str,
    *,
    accuracy: float = 0.8,
    ms: float | None = 5.0,
    per_s: float | None = 200.0,
    p95: float | None = 8.0,
    seed: int = 42,
    dataset: str = "sst2",
    fingerprint: str = "f1",
    method: str = "lora",
    device: str = "cpu",
    contaminated: bool = False,
    where: Provenance | None = None,
    windows: tuple[Window, ...] = (),
    predicted: np.ndarray | None = None,
    labels: np.ndarray = LABELS,
    **fields: Any,
) -> CellRecord:
    latency = Latency(requests=200, mean_ms=ms or 0, std_ms=0.1, p50_ms=ms, p95_ms=p95)
    throughput = Throughput(batch_size=8, samples=100, seconds=1.0, samples_per_s=per_s or 0, tokens_per_s=None)
    timing = Timing(
        latency=latency, throughput=(throughput,), windows=windows, cold_start_s=None, contaminated=contaminated
    )
    given: dict[str, Any] = {
        "cell": f"{model}--{dataset}--{method}--s{seed}--{device}", "identity": "i", "model": model,
        "dataset": dataset, "method": method, "seed": seed, "device": device, "label_names": ("no", "yes"),
        "summary": Summary(model_name=model, latency_median_ms=ms, throughput_samples_per_sec=per_s),
        "quality": Quality(rows=labels.size, metrics={"roc_auc": 0.9}),
        "timing": None if ms is None else timing,
        "provenance": where or provenance(),
    }  # fmt: skip
    result = Result(**(given | fields))
    return CellRecord(
        cell=result.cell,
        model=model,
        dataset=dataset,
        fingerprint=fingerprint,
        method=method,
        seed=seed,
        device=device,
        result=result,
        labels=labels,
        predicted=predictions(accuracy, seed, labels) if predicted is None else predicted,
    )


def window(number: int, ms: float, per_s: float = 200.0, counted: bool = True) -> Window:
    sizes = {1: 1 / ms, 8: per_s}  # a throughput for each batch size, the best at 8
    rates = tuple(
        Throughput(batch_size=size, samples=9, seconds=1.0, samples_per_s=rate, tokens_per_s=9 * rate)
        for size, rate in sizes.items()
    )
    return Window(
        number=number, block=number, t=0.0, seconds=1.0, requests=40, mean_ms=ms + 1, p50_ms=ms, throughput=rates,
        counted=counted,
    )  # fmt: skip


def five_windows(ms: float = 5.0, per_s: float = 200.0, spread: float = 0.02) -> tuple[Window, ...]:
    """Their mean is `ms` and `per_s`, their standard deviation `spread` times that and sqrt(2.5)."""
    factors = [1 + spread * step for step in (-2, -1, 0, 1, 2)]
    return tuple(window(n, ms * factor, per_s * factor) for n, factor in enumerate(factors, 1))


def without_predictions(record: CellRecord) -> CellRecord:
    return dataclasses.replace(record, labels=None, predicted=None)


def by_model(board: Leaderboard) -> dict[str, Row]:
    return {row.model: row for row in board.rows}


def score(row: Row) -> float:
    value = row.metrics["score"].value
    assert value is not None
    return value
