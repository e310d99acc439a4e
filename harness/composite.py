"""The composite score: weighted columns, normalised among the models that are ranked together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from harness.board import Normaliser
from harness.statistics import BoolArray, FloatArray

COMPOSITE_WEIGHTS: Mapping[str, float] = {
    "accuracy": 0.30,
    "f1": 0.30,
    "throughput_samples_per_sec": 0.20,
    "latency_median_ms": -0.20,
}


@dataclass(frozen=True)
class RankOptions:
    """`weights`: metric -> weight, whose sign is the metric's direction. `seed`: of the resampling."""

    weights: Mapping[str, float] = field(default_factory=lambda: dict(COMPOSITE_WEIGHTS))
    normalise: Normaliser = "minmax"
    replicates: int = 2000
    seed: int = 0
    confidence: float = 0.95


def composite(columns: Mapping[str, FloatArray], weights: Mapping[str, float], normalise: Normaliser) -> FloatArray:
    """Weighted sum (..., M) of normalised columns (..., M); the sign of a weight gives the direction.

    The score is relative to the models it is computed with: under `minmax` the weights' positive sum for the best in
    everything, 0 for a model alone. A constant column contributes nothing, and a missing (NaN) value counts as the
    worst that is there: a model must not gain by not being measured.
    """
    terms = [weight * normalised(_filled(columns[name], weight), normalise) for name, weight in weights.items()]
    total: FloatArray = np.sum(terms, axis=0, dtype=np.float64)
    return total


def normalised(values: FloatArray, how: Normaliser) -> FloatArray:
    """Values (..., M) on a common scale over the last axis; constant columns, or such without a value, give 0."""
    return NORMALISERS[how](values)


def score_varies(columns: Mapping[str, FloatArray], weights: Mapping[str, float]) -> bool:
    """Whether some column tells models apart in some replicate."""
    return any(bool(_varies(columns[name]).any()) for name in weights)


def _filled(values: FloatArray, weight: float) -> FloatArray:
    """NaN replaced by the worst value of its row; a row of nothing else stays as it is."""
    missing = np.isnan(values)
    if not missing.any():
        return values
    worst = np.where(missing, np.sign(weight) * np.inf, values)
    ends = worst.min(axis=-1, keepdims=True) if weight > 0 else worst.max(axis=-1, keepdims=True)
    return np.where(missing, np.where(np.isinf(ends), np.nan, ends), values)


def _varies(values: FloatArray) -> BoolArray:
    """(..., 1). Means over seeds taken in another order differ in the last bits; that must not become a whole unit."""
    low, high = values.min(axis=-1, keepdims=True), values.max(axis=-1, keepdims=True)
    varies: BoolArray = high - low > 1e-12 * np.maximum(np.abs(high), np.abs(low))  # false for NaN
    return varies


def _scaled(values: FloatArray, centre: FloatArray, width: FloatArray) -> FloatArray:
    """(values - centre) / width; 0 where the column does not vary or the width is 0."""
    scaled = np.zeros_like(values)
    np.divide(values - centre, width, out=scaled, where=_varies(values) & (width > 0))
    return scaled


def _min_max(values: FloatArray) -> FloatArray:
    """To 0..1."""
    low = values.min(axis=-1, keepdims=True)
    return _scaled(values, low, values.max(axis=-1, keepdims=True) - low)


def _zscore(values: FloatArray) -> FloatArray:
    """Standard deviations from the mean."""
    return _scaled(values, values.mean(axis=-1, keepdims=True), values.std(axis=-1, keepdims=True))


def _robust(values: FloatArray) -> FloatArray:
    """Interquartile ranges from the median: one model far off does not squeeze the others together. Where the middle
    half is all equal, the whole range takes its place."""
    quartiles = np.quantile(values, [0.25, 0.5, 0.75], axis=-1, keepdims=True)
    width = quartiles[2] - quartiles[0]
    span = values.max(axis=-1, keepdims=True) - values.min(axis=-1, keepdims=True)
    return _scaled(values, quartiles[1], np.where(width > 1e-9 * span, width, span))


def _as_they_are(values: FloatArray) -> FloatArray:
    return np.where(_varies(values), values, 0.0)


NORMALISERS: Mapping[Normaliser, Callable[[FloatArray], FloatArray]] = {
    "minmax": _min_max,
    "zscore": _zscore,
    "robust": _robust,
    "none": _as_they_are,
}
