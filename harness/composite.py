"""The composite score: weighted columns, normalised among the models that are ranked together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from harness.board import Normaliser
from harness.statistics import FloatArray

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


@dataclass(frozen=True)
class Scale:
    """How a column enters the score: weight times (value - centre) / width. `worst`: what a missing value counts as,
    the worst that is there: a model must not gain by not being measured. An infinite width: the column tells nothing.
    """

    weight: float
    centre: float
    width: float
    worst: float

    def applied(self, values: FloatArray) -> FloatArray:
        filled = np.where(np.isnan(values), self.worst, values)
        scaled: FloatArray = self.weight * (filled - self.centre) / self.width
        return scaled


def scales_of(values: Mapping[str, FloatArray], weights: Mapping[str, float], how: Normaliser) -> dict[str, Scale]:
    """From the columns (M,) of the models that are ranked together; the sign of a weight gives the direction. Columns
    that nobody has are left out.

    The scale is that of the values at hand, and their replicates are put on the same one. A scale made anew in every
    replicate would be a ratio with a random denominator: of models that are equal but for chance it makes 0 and 1, and
    intervals of such scores and of ranks by them cover 60 to 90 % instead of 95.
    """
    scales = {}
    for name, weight in weights.items():
        known = values[name][~np.isnan(values[name])]
        if known.size:
            worst = float(known.min() if weight > 0 else known.max())
            centre, width = NORMALISERS[how](known)
            scales[name] = Scale(weight, centre, width, worst)
    return scales


def composite(columns: Mapping[str, FloatArray], scales: Mapping[str, Scale]) -> FloatArray:
    """Scores (..., M) of columns (..., M). Relative to the models that the scales were made of: under `minmax` the
    weights' positive sum for the best in everything, 0 for a model alone; a constant column contributes nothing."""
    total: FloatArray = np.sum([scale.applied(columns[name]) for name, scale in scales.items()], axis=0)
    return total


class _Centred(NamedTuple):
    centre: float
    width: float


def _centred(values: FloatArray, centre: float, width: float) -> _Centred:
    """Means over seeds taken in another order differ in the last bits; that must not become a whole unit."""
    varies = np.ptp(values) > 1e-12 * np.abs(values).max()
    return _Centred(centre, width if varies else math.inf)


def _min_max(values: FloatArray) -> _Centred:
    """To 0..1."""
    return _centred(values, float(values.min()), float(np.ptp(values)))


def _zscore(values: FloatArray) -> _Centred:
    """Standard deviations from the mean."""
    return _centred(values, float(values.mean()), float(values.std()))


def _robust(values: FloatArray) -> _Centred:
    """Interquartile ranges from the median: one model far off does not squeeze the others together. Where the middle
    half is all equal, the whole range takes its place."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    span = float(np.ptp(values))
    return _centred(values, float(median), float(high - low) if high - low > 1e-9 * span else span)


def _as_they_are(values: FloatArray) -> _Centred:
    return _Centred(0.0, 1.0)


NORMALISERS: Mapping[Normaliser, Callable[[FloatArray], _Centred]] = {
    "minmax": _min_max,
    "zscore": _zscore,
    "robust": _robust,
    "none": _as_they_are,
}
