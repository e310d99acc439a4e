"""Finished cells as the ranking takes them: the seeds of one model, method and device form an entry, with its flags."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.board import FEW_TEST_ROWS, Figure, SpeedKey
from harness.metrics import CONFUSION_METRICS, PROBABILITY_METRICS
from harness.statistics import IntArray
from harness.store import AttemptPaths
from runner.contract import CellSpec, Choice, Device, Provenance, Result, Throughput, Timing


@dataclass(frozen=True, eq=False)
class CellRecord:
    """A finished cell. `labels`, `predicted`: (n,) in the order every cell of the dataset has; None if not scored."""

    cell: str
    model: str
    dataset: str
    fingerprint: str
    method: str
    seed: int
    device: Device
    result: Result
    labels: IntArray | None
    predicted: IntArray | None
    architecture: str | None = None
    attempt: AttemptPaths | None = None  # where it was read; None: from a baseline file
    tails: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # of p95 and p99: order-statistic interval


@dataclass(frozen=True)
class Entry:
    """A row in the making: one record a seed, by seed."""

    model: str
    method: str
    device: str
    records: tuple[CellRecord, ...]
    superseded: bool

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(record.seed for record in self.records)

    @property
    def scored(self) -> tuple[CellRecord, ...]:
        return tuple(record for record in self.records if record.predicted is not None)


def entries_of(records: Sequence[CellRecord]) -> tuple[Entry, ...]:
    """The entries of one dataset version, by model, method and device; of a repeated seed the last finished counts."""
    found: dict[tuple[str, str, str], dict[int, CellRecord]] = defaultdict(dict)
    superseded = set()
    for record in sorted(records, key=lambda record: (record.result.provenance.finished, record.cell)):
        key = (record.model, record.method, record.device)
        if record.seed in found[key]:
            superseded.add(key)
        found[key][record.seed] = record
    return tuple(
        Entry(*key, records=tuple(by_seed[seed] for seed in sorted(by_seed)), superseded=key in superseded)
        for key, by_seed in sorted(found.items())
    )


def stacked_predictions(entry: Entry) -> IntArray:
    """Predictions (S, n) of the seeds that have any; ValueError without one."""
    return np.stack([record.predicted for record in entry.scored if record.predicted is not None])


def common_labels(records: Sequence[CellRecord]) -> IntArray:
    """The labels (n,) that all these scored cells share. Raises ValueError, naming a cell, when they do not."""
    labels: IntArray | None = None
    for record in records:
        if record.labels is None or record.predicted is None or record.labels.shape != record.predicted.shape:
            raise ValueError(f"{record.cell}: there is not one prediction for each label")
        if labels is None:
            labels = record.labels
        elif not np.array_equal(labels, record.labels):
            raise ValueError(f"{records[0].cell} and {record.cell} disagree about the labels of {record.dataset}")
    if labels is None:
        raise ValueError("there is no scored cell")
    return labels


def measured_value(name: str, result: Result) -> float | None:
    """A probability, speed or memory metric as the result gives it; None when it was not measured."""
    if name in PROBABILITY_METRICS:
        return result.quality.metrics.get(name) if result.quality else None
    if name == "latency_p95_ms":
        return result.timing.latency.p95_ms if result.timing else None
    value: float | None = getattr(result.summary, name)
    return value


def best_throughput(timing: Timing) -> Throughput | None:
    """As the summary takes it."""
    return max(timing.throughput, key=lambda one: one.samples_per_s, default=None)


def window_values(name: str, result: Result) -> list[float]:
    """A speed metric in each window of timing that counts; empty when it is not known by window."""
    if result.timing is None:
        return []
    counted = [window for window in result.timing.windows if window.counted]
    if name == "latency_median_ms":
        return [window.p50_ms for window in counted]
    if name == "ttft_mean_ms":
        return [window.mean_ms for window in counted]
    if name not in ("throughput_samples_per_sec", "throughput_tokens_per_sec"):
        return []
    best = best_throughput(result.timing)
    by_size = [{one.batch_size: one for one in window.throughput} for window in counted]
    at_best = [sizes[best.batch_size] for sizes in by_size if best and best.batch_size in sizes]
    values = [one.samples_per_s if name == "throughput_samples_per_sec" else one.tokens_per_s for one in at_best]
    return [value for value in values if value is not None]


def speed_key(where: Provenance, device: Device) -> SpeedKey:
    return SpeedKey(
        cpu_model=where.cpu_model,
        threads=where.threads,
        gpu_model=where.gpu_model,
        executor=where.executor,
        image_digest=where.image_digest,
        cpus=where.limits.cpus,
        device=device,
    )


def planned_speed_key(spec: CellSpec, cpu_model: str | None, gpu_model: str | None) -> SpeedKey:
    """That of a result which this cell would have, on a machine of these models."""
    return SpeedKey(
        cpu_model=cpu_model,
        threads=spec.threads,
        gpu_model=None if spec.device == "cpu" else gpu_model,
        executor=spec.executor,
        image_digest=spec.image_digest,
        cpus=spec.limits.cpus,
        device=spec.device,
    )


def speed_keys(entries: Sequence[Entry]) -> set[SpeedKey]:
    """The comparability keys of all measured speeds; more than one: speed is not ranked."""
    return {key for entry in entries for key in speed_keys_of(entry)}


def speed_keys_of(entry: Entry) -> set[SpeedKey]:
    return {speed_key(record.result.provenance, record.device) for record in entry.records if record.result.timing}


def parameters_of(entry: Entry) -> int | None:
    """Those of the last seed, all having the same."""
    return entry.records[-1].result.parameters_total


# --- flags and reasons -------------------------------------------------------------------------


def reason_for(name: str, entry: Entry) -> str:
    """Why the metric `name` of this entry is null: the results' own reasons first."""
    given = {reason for record in entry.records if (reason := record.result.reasons.get(name))}
    if given:
        return "; ".join(sorted(given))
    if name == "f1_binary" and entry.scored:
        return "defined for two classes only"
    if name == "score" or name in CONFUSION_METRICS:
        return "no predictions on the test split"
    return "not measured"


def common_seeds(entries: Sequence[Entry]) -> tuple[int, ...]:
    """The seeds most entries have; of equals the larger set, then the smaller numbers."""
    counts = Counter(entry.seeds for entry in entries)
    return min(counts, key=lambda seeds: (-counts[seeds], -len(seeds), seeds))


def flags_of(entry: Entry, figures: Mapping[str, Figure], group_flags: Mapping[str, bool]) -> tuple[str, ...]:
    """Flags that hold, sorted: those of the entry itself and the `group_flags` that are true."""
    own = {name for name, holds in _OWN_FLAGS.items() if holds(entry, figures)}
    return tuple(sorted(own | {name for name, holds in group_flags.items() if holds}))


def count_test_rows(entry: Entry) -> int:
    """Number of test examples; 0 when nothing was scored."""
    return max((record.labels.size for record in entry.records if record.labels is not None), default=0)


def _at_chance(entry: Entry, figures: Mapping[str, Figure]) -> bool:
    low = figures["accuracy"].low
    labels = next((record.labels for record in entry.scored), None)
    return low is not None and labels is not None and low <= np.bincount(labels).max() / labels.size


def batch_was_reduced(requested: Mapping[str, Any], effective: Mapping[str, Choice]) -> bool:
    """After memory ran out, say."""
    names = ("batch_size", "accumulation", "evaluation_batch_size", "throughput_batch_size")
    return any(name in requested and name in effective and effective[name].value != requested[name] for name in names)


def _reduced_batch(entry: Entry, _figures: Mapping[str, Figure]) -> bool:
    return any(batch_was_reduced(record.result.requested, record.result.effective) for record in entry.records)


def _no_timing(_entry: Entry, figures: Mapping[str, Figure]) -> bool:
    return any(figures[name].value is None for name in ("latency_median_ms", "throughput_samples_per_sec"))


def _few_requests(entry: Entry, _figures: Mapping[str, Figure]) -> bool:
    return any(record.result.timing and record.result.timing.latency.p95_ms is None for record in entry.records)


_OWN_FLAGS: dict[str, Callable[[Entry, Mapping[str, Figure]], bool]] = {
    "at_chance": _at_chance,
    "contaminated": lambda entry, _: any(r.result.timing and r.result.timing.contaminated for r in entry.records),
    "few_requests": _few_requests,
    "few_test_rows": lambda entry, _: bool(entry.scored) and count_test_rows(entry) < FEW_TEST_ROWS,
    "no_predictions": lambda entry, _: not entry.scored,
    "no_timing": _no_timing,
    "one_seed": lambda entry, _: len(entry.seeds) == 1,
    "reduced_batch": _reduced_batch,
    "superseded": lambda entry, _: entry.superseded,
}
