"""The noise of speed in a ranking: intervals from windows of timing, and the floor below which figures are equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.board import NoiseFloor
from harness.entries import Entry, measured_value, window_values
from harness.metrics import METRICS
from harness.statistics import FloatArray, Interval, half_width, levelled

FLOORS: Mapping[str, str] = {
    "latency_median_ms": "latency_p50",
    "latency_p95_ms": "latency_p99",
    "latency_p99_ms": "latency_p99",
    "ttft_mean_ms": "latency_p50",
    "throughput_samples_per_sec": "throughput",
    "throughput_tokens_per_sec": "throughput",
}
"""Which part of the noise floor a metric is held to; of the p95, which has none, the next larger."""

SHOWN_LEVEL = ("latency_median_ms", "throughput_samples_per_sec")
"""A row is flagged `speed_tied` when one of these is level with another row's."""


@dataclass(frozen=True)
class Measured:
    """A metric of one entry: `figures` (S,), one a seed, and its `windows` (S, W), NaN where there is none."""

    figures: FloatArray
    windows: FloatArray

    @property
    def in_windows(self) -> bool:
        """Whether there are windows of every seed."""
        return bool((~np.isnan(self.windows)).any(axis=-1).all())


def measured(name: str, entry: Entry) -> Measured | None:
    """Seeds without the metric are left out; None when no seed has it."""
    found = [
        (x, window_values(name, r.result)) for r in entry.records if (x := measured_value(name, r.result)) is not None
    ]
    if not found:
        return None
    windows = np.full((len(found), max(1, *(len(values) for _, values in found))), np.nan)
    for row, (_, values) in zip(windows, found, strict=True):
        row[: len(values)] = values
    return Measured(np.array([figure for figure, _ in found]), windows)


def interval_of(name: str, entry: Entry, found: Measured, value: float, confidence: float) -> Interval | str:
    """The interval of a mean `value`, or why there is none: from its windows, where they are known of every seed, else
    from the seeds alone. That of a tail percentile with one seed comes from the order of its requests, as if they were
    independent."""
    if len(found.figures) == 1 and (tail := _tail_of(name, entry)):
        return Interval(np.array(min(value, tail[0])), np.array(max(value, tail[1])))
    half = half_width(found.windows if found.in_windows else found.figures[:, None], confidence)
    if not np.isnan(half):
        return Interval(np.maximum(value - half, 0.0), value + half)
    if found.in_windows:
        return "no interval: measured with one seed, in one window"
    return "no interval: measured with one seed"


def _tail_of(name: str, entry: Entry) -> tuple[float, float] | None:
    return next((record.tails[name] for record in entry.records if name in record.tails), None)


# --- the noise floor --------------------------------------------------------------------------


def applies(floor: NoiseFloor, entries: Sequence[Entry]) -> bool:
    """Whether all speeds were measured as the floor was: it says nothing of a GPU, another processor or executor."""
    timed = [record for entry in entries for record in entry.records if record.result.timing]
    return all(
        record.device == "cpu"
        and (where := record.result.provenance).cpu_model == floor.cpu_model
        and where.executor == floor.executor
        and where.threads == floor.threads
        for record in timed
    )


def level(name: str, values: FloatArray, floor: NoiseFloor | None) -> FloatArray:
    """Values (..., M) of the metric `name` as they count; those of speed that the floor cannot part are one."""
    if floor is None or name not in FLOORS:
        return values
    return levelled(values, getattr(floor, FLOORS[name]), higher_is_better=METRICS[name].higher_is_better)


def shared_levels(name: str, values: FloatArray, floor: NoiseFloor | None) -> FloatArray:
    """(M,): the value that each shares with others; NaN where it stands alone."""
    if floor is None or name not in FLOORS:
        return np.full_like(values, np.nan)
    common = level(name, values, floor)
    return np.where((common[:, None] == common).sum(axis=-1) > 1, common, np.nan)
