"""Evidence to compare, made by hand, and whole runs on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from harness.board import NoiseFloor
from harness.entries import CellRecord
from harness.evidence import Evidence
from harness.selection import Selection
from harness.store import RunFolder
from runner.contract import CellSpec, Latency, Result, Throughput, Timing, Window, encode, read, write_atomic
from tests.harness.builders import cell, prepared, write_result

ROWS = 400
LABELS = tuple(int(i % 2) for i in range(ROWS))


def evidence(*records: CellRecord, name: str = "run", floor: NoiseFloor | None = None) -> Evidence:
    return Evidence(name=name, folder=None, records=records, failures=(), missing=0, noise_floor=floor)


def selection(*records: CellRecord, name: str = "run", model: str | None = None) -> Selection:
    return Selection(name, evidence(*records, name=name), model)


def answers(wrong: int, *, rows: int = ROWS, start: int = 0) -> tuple[int, ...]:
    """Right but for `wrong` examples from the `start`-th on."""
    return tuple(i % 2 ^ (start <= i < start + wrong) for i in range(rows))


def windows(ms: float, per_s: float) -> tuple[Window, ...]:
    rates = [Throughput(batch_size=8, samples=9, seconds=1.0, samples_per_s=per_s, tokens_per_s=None)]
    return tuple(
        Window(
            number=n, block=n, t=0.0, seconds=1.0, requests=200, mean_ms=ms, p50_ms=ms * (1 + 0.01 * (n - 3)),
            throughput=tuple(rates),
        )
        for n in range(1, 6)
    )  # fmt: skip


def timing(ms: float, *, contaminated: bool = False) -> Timing:
    return Timing(
        latency=Latency(requests=1000, mean_ms=ms, std_ms=0.1, p50_ms=ms, p95_ms=2 * ms),
        throughput=windows(ms, 1000 / ms)[0].throughput,
        windows=windows(ms, 1000 / ms),
        cold_start_s=None,
        contaminated=contaminated,
    )


def spec(model: str, seed: int = 1, dataset: str = "reviews", fingerprint: str = "f" * 64) -> CellSpec:
    return cell(model, seed, prepared(dataset, fingerprint, rows=ROWS))


def finish(run: RunFolder, one: CellSpec, predicted: Sequence[int], *, ms: float = 5.0, cpu: str = "cpu") -> None:
    """A finished attempt with its speed, measured on this processor."""
    attempt = run.new_attempt(one.cell)
    write_result(attempt, one, LABELS, predicted)
    result = read(attempt.result, Result)
    replace = msgspec.structs.replace
    summary = replace(result.summary, latency_median_ms=ms, throughput_samples_per_sec=1000 / ms)
    where = replace(result.provenance, cpu_model=cpu)
    write_atomic(attempt.result, encode(replace(result, summary=summary, timing=timing(ms), provenance=where)))


def run_of(results: Path, name: str, *cells: tuple[CellSpec, Sequence[int] | None], **speed: Any) -> RunFolder:
    """A run of these cells: their answers, or None where one has not run; `speed` as `finish` takes it."""
    run = RunFolder(results / name)
    run.extend(name, {}, [one for one, _ in cells])
    for one, predicted in cells:
        if predicted is not None:
            finish(run, one, predicted, **speed)
    return run


def noisy(labels: np.ndarray, wrong_share: float, rng: np.random.Generator) -> np.ndarray:
    return np.where(rng.random(labels.size) < wrong_share, 1 - labels, labels)
