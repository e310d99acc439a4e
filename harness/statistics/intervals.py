"""Intervals: from bootstrap replicates, of shares, of percentiles, of ratios."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.statistics.arrays import FloatArray, IntArray, Interval
from harness.statistics.distributions import binomial_cdf, critical_z, normal_cdf, normal_quantile
from harness.statistics.quality import confusion_counts, quality_from_margins

_SAME = 1e-12  # relative: sums taken in another order differ by this much, and are the same value
_WITHHELD_ABOVE = 0.01  # a percentile is, if two samples or more beyond it are not this sure


def percentile_interval(samples: FloatArray, confidence: float = 0.95) -> Interval:
    """Bounds (...) that cut equal shares off replicates (B, ...); NaN where any replicate is.

    The percentile interval (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13), linear between
    replicates. Raises ValueError without replicates, or for a confidence outside 0..1.
    """
    return _at_levels(samples, normal_cdf(critical_z(confidence) * _both_sides(samples.ndim - 1)))


def bca_interval(
    samples: FloatArray, value: npt.ArrayLike, jackknife: FloatArray, confidence: float = 0.95
) -> Interval:
    """Bounds (...) from replicates (B, ...), the value itself (...) and what it is without each of n examples (n, ...).

    Bias-corrected and accelerated: second-order correct, where the percentile interval is first-order (Efron, "Better
    Bootstrap Confidence Intervals", 1987; Efron & Tibshirani 1993, sec. 14.3). A replicate equal to the value counts
    half to either side. NaN where all replicates lie on one side of the value, which leaves its bias unknown, or any is
    NaN. Raises ValueError as `percentile_interval` does.
    """
    center = np.asarray(value, dtype=np.float64)
    near = np.abs(samples - center) <= _SAME * np.abs(center)
    bias = normal_quantile(((samples < center) & ~near).mean(axis=0) + near.mean(axis=0) / 2)
    pull = jackknife.mean(axis=0) - jackknife
    squares = (pull**2).sum(axis=0)
    cubes = np.where(squares > 0, squares, 1.0) ** 1.5
    acceleration = np.where(squares > 0, (pull**3).sum(axis=0) / (6 * cubes), 0.0)
    bias = np.where(np.isinf(bias), np.nan, bias)
    shifted = bias + critical_z(confidence) * _both_sides(bias.ndim)
    room = 1 - acceleration * shifted
    beyond = np.where(shifted > 0, np.inf, -np.inf)  # where the acceleration overtakes the normal
    levels = normal_cdf(np.where(room > 0, bias + shifted / np.where(room > 0, room, 1.0), beyond + bias))
    return _at_levels(samples, levels)


def jackknife_quality(labels: IntArray, predicted: IntArray, classes: int) -> dict[str, FloatArray]:
    """Quality figures (n, C) of predictions (C, n) without each of the n examples in turn, for `bca_interval`.

    To leave an example out takes one count off its label and its prediction, so each pair of the two is computed once.
    Raises ValueError with fewer than two examples, and as `confusion_counts` does.
    """
    if labels.size < 2:
        raise ValueError("to leave an example out takes two")
    confusion = confusion_counts(labels, predicted, classes).astype(np.float64)
    columns = [_without_each(labels, row, table) for row, table in zip(predicted, confusion, strict=True)]
    return {name: np.stack([column[name] for column in columns], axis=1) for name in columns[0]}


def _without_each(labels: IntArray, predicted: IntArray, confusion: FloatArray) -> dict[str, FloatArray]:
    classes = len(confusion)
    kinds, where = np.unique(labels.astype(np.int64) * classes + predicted, return_inverse=True)
    is_label, is_told = (np.eye(classes)[code] for code in np.divmod(kinds, classes))
    hits = np.diagonal(confusion) - is_label * is_told
    figures = quality_from_margins(hits, confusion.sum(axis=0) - is_told, confusion.sum(axis=1) - is_label)
    return {name: values[where] for name, values in figures.items()}


def wilson_interval(successes: npt.ArrayLike, n: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """Bounds (...) of the chance behind `successes` of n independent trials; NaN for n = 0.

    The score interval (Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927), without
    correction for continuity. Inside 0..1 and of some width at 0 and n successes too. Raises ValueError for counts that
    are impossible, or a confidence outside 0..1.
    """
    hits, trials = np.broadcast_arrays(np.asarray(successes, np.float64), np.asarray(n, np.float64))
    if ((hits < 0) | (hits > trials)).any():
        raise ValueError("successes lie outside 0..n")
    z2 = critical_z(confidence) ** 2
    center = hits + z2 / 2
    reach = np.sqrt(z2 * (hits * (trials - hits) / np.where(trials > 0, trials, 1.0) + z2 / 4))
    known = np.where(trials > 0, trials + z2, np.nan)
    low, high = (center - reach) / known, (center + reach) / known
    return Interval(np.maximum(low, 0.0), np.minimum(high, 1.0))  # by rounding it may lie 1e-17 outside


def unseen_errors(shares: FloatArray, n: int, confidence: float = 0.95) -> Interval:
    """How far, (...) of at least 0 to either side, Wilson's interval of shares (...) of n examples reaches beyond the
    normal one: what an interval from resampling leaves out. Resampling cannot draw an error of which the test split
    holds none; where it holds few, such an interval is too narrow. Dies out as they become many."""
    score = wilson_interval(shares * n, n, confidence)
    reach = critical_z(confidence) * np.sqrt(shares * (1 - shares) / n)
    return Interval(np.maximum(shares - reach - score.low, 0.0), np.maximum(score.high - shares - reach, 0.0))


def order_statistic_interval(samples: FloatArray, p: float, confidence: float = 0.95) -> Interval | None:
    """Bounds of the percentile `p` (in percent: 95) of what n independent samples (n,) were drawn from, whatever its
    distribution: two of the samples, by the binomial number of those below it (David & Nagaraja, "Order Statistics",
    3rd ed. 2003, sec. 7.1). Of all pairs that cover with `confidence` or more the closest in rank, then the most even.

    None below the number of samples at which a percentile is given at all: the second from the outside must lie beyond
    it with 99 % probability (p50 11, p90 64, p95 130, p99 662 samples), and where no two samples lie so far apart.
    Raises ValueError for a `p` or confidence outside its range.
    """
    if not 0 < p < 100:
        raise ValueError(f"there is no percentile {p:g}")
    critical_z(confidence)
    n, outer = samples.size, min(p, 100 - p) / 100
    if n < 2 or binomial_cdf(n, outer)[1] > _WITHHELD_ABOVE:
        return None
    below = np.concatenate([[0.0], binomial_cdf(n, p / 100)])  # [k]: fewer than k samples are
    lower = np.arange(1, n)  # of the two samples, counted from 1
    upper = np.searchsorted(below, confidence + below[lower])
    exists = upper <= n
    if not exists.any():
        return None
    lower, upper = lower[exists], upper[exists]
    uneven = np.abs(below[lower] - (1 - below[upper]))
    best = np.lexsort((uneven, upper - lower))[0]
    ordered = np.sort(samples)
    return Interval(ordered[lower[best] - 1], ordered[upper[best] - 1])


def ratio_interval(
    a: npt.ArrayLike,
    a_low: npt.ArrayLike,
    a_high: npt.ArrayLike,
    b: npt.ArrayLike,
    b_low: npt.ArrayLike,
    b_high: npt.ArrayLike,
) -> Interval:
    """Bounds (...) of a / b from two independent estimates (...) and their intervals of one confidence, all broadcast.

    MOVER on logarithms: each bound is as far from the ratio as the two bounds it rests on, squared and added (Zou &
    Donner, "Construction of Confidence Limits about Effect Measures: A General Approach", 2008). A lower bound of 0 or
    less tells nothing of how small the estimate may be: then the ratio's low is 0, or its high is infinite. NaN where
    anything is NaN or an estimate is not positive.
    """
    values = np.broadcast_arrays(*(np.asarray(value, np.float64) for value in (a, a_low, a_high, b, b_low, b_high)))
    positive = (values[0] > 0) & (values[3] > 0)
    with np.errstate(divide="ignore"):
        top, top_low, top_high, bottom, bottom_low, bottom_high = (
            np.log(np.where(positive, np.maximum(value, 0.0), np.nan)) for value in values
        )
    ratio = top - bottom
    low = ratio - np.hypot(top - top_low, bottom_high - bottom)
    high = ratio + np.hypot(top_high - top, bottom - bottom_low)
    return Interval(np.exp(low), np.exp(high))


def _both_sides(axes: int) -> FloatArray:
    """-1 and 1 on a first axis before `axes` others."""
    return np.array([-1.0, 1.0]).reshape(2, *(1,) * axes)


def _at_levels(samples: FloatArray, levels: FloatArray) -> Interval:
    """Quantiles of replicates (B, ...) at two levels (2, ...), linear between replicates; NaN where a level is."""
    if not len(samples):
        raise ValueError("there are no replicates")
    ordered = np.ascontiguousarray(np.moveaxis(samples, 0, -1))  # to sort along a contiguous axis is faster
    ordered = np.sort(ordered, axis=-1)  # a NaN comes last
    last = ordered.shape[-1] - 1
    known = ~np.isnan(levels)
    places = np.broadcast_to(np.where(known, levels, 0.5) * last, (2, *ordered.shape[:-1]))
    floors = np.floor(places).astype(np.int64)
    ceilings = np.minimum(floors + 1, last)
    lower, upper = (np.take_along_axis(ordered[None], at[..., None], axis=-1)[..., 0] for at in (floors, ceilings))
    share = places - floors
    values = np.where(share > 0, lower + share * (upper - lower), lower)
    return Interval(*np.where(known & ~np.isnan(ordered[..., -1]), values, np.nan))
