"""Intervals of speed, from seeds and the windows within them; speeds that are equal but for noise."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from harness.statistics.arrays import FloatArray


@lru_cache(maxsize=1024)
def student_t(df: int, confidence: float = 0.95) -> float:
    """What |T| of `df` degrees of freedom stays below with this probability: 2.776 for 4 and 95 %.

    Bisection on the finite series for whole degrees of freedom (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4).
    """
    if df < 1:
        raise ValueError("Student's t needs a degree of freedom")
    low, high = 0.0, math.pi / 2
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if _within_angle(middle, df) < confidence else (low, middle)
    return math.sqrt(df) * math.tan(low)


def _within_angle(angle: float, df: int) -> float:
    """P(|T| <= sqrt(df) * tan(angle))."""
    term = math.cos(angle) if df % 2 else 1.0
    total = 0.0
    for power in range(1 + df % 2, df, 2):
        total += term
        term *= power / (power + 1) * math.cos(angle) ** 2
    return 2 / math.pi * (angle + math.sin(angle) * total) if df % 2 else math.sin(angle) * total


class Spread(NamedTuple):
    """Standard error (...) of a mean and its degrees of freedom (...); NaN and 0 with fewer than two values."""

    error: FloatArray
    freedom: FloatArray


def spread_of_mean(windows: FloatArray) -> Spread:
    """Of the mean of windows (..., S, W) within seeds. NaN: no such window.

    Seeds are the outer level. The spread of their means holds that of the windows within them, so with several seeds
    it gives the whole variance, with S - 1 degrees of freedom. With one seed the windows are the outer level, and the
    interval leaves out how speed varies from process to process (Kalibera & Jones, "Rigorous Benchmarking in Reasonable
    Time", 2013). Seeds with unequal numbers of windows weigh the same.
    """
    means = _mean_of_present(windows)
    several = (~np.isnan(means)).sum(axis=-1) > 1
    between, within = _spread(means), _spread(windows.reshape(*windows.shape[:-2], -1))
    return Spread(*(np.where(several, a, b) for a, b in zip(between, within, strict=True)))


def half_width(windows: FloatArray, confidence: float = 0.95) -> FloatArray:
    """Half the width (...) of the interval of a mean by Student's t, from windows (..., S, W) as in `spread_of_mean`;
    NaN with fewer than two values. Five windows of one seed cover 95 % with symmetric noise, 94 % with a skewness of
    0.6, 88 % with one of 2."""
    error, freedom = spread_of_mean(windows)
    t = np.array([student_t(int(df), confidence) if df else np.nan for df in freedom.ravel()]).reshape(freedom.shape)
    return t * error


def _spread(values: FloatArray) -> Spread:
    """Over the last axis, NaN left out."""
    counts = (~np.isnan(values)).sum(axis=-1)
    squares = np.nansum((values - _mean_of_present(values)[..., None]) ** 2, axis=-1)
    enough = np.maximum(counts, 2)
    error = np.where(counts > 1, np.sqrt(squares / (enough - 1) / enough), np.nan)
    return Spread(error, np.where(counts > 1, counts - 1, 0).astype(np.float64))


def speed_samples(mean: float, error: float, freedom: float, replicates: int, rng: np.random.Generator) -> FloatArray:
    """Replicates (B,) of a mean speed: Student's t, as its interval is. Held to 0 and twice the mean, beyond which the
    heavy tails of two seeds say nothing; all equal where the error is not known (NaN)."""
    if not freedom or np.isnan(error):
        return np.full(replicates, mean)
    samples: FloatArray = mean + error * rng.standard_t(freedom, replicates)
    return np.clip(samples, 0.0, 2 * mean)


def _mean_of_present(values: FloatArray) -> FloatArray:
    counts = (~np.isnan(values)).sum(axis=-1)
    return np.where(counts > 0, np.nansum(values, axis=-1) / np.maximum(counts, 1), np.nan)


def levelled(values: FloatArray, floor: float, *, higher_is_better: bool) -> FloatArray:
    """Values (..., M) of which those that differ by less than noise are one: the mean of their group.

    A group is a best value and all that are no further from it than `floor` times the mean of the two; then the best
    of the rest begins the next. Groups do not chain: none is wider than the floor. NaN stays NaN.
    """
    flat = values.reshape(-1, values.shape[-1])
    order = np.argsort(-flat if higher_is_better else flat, axis=-1, kind="stable")
    ordered = np.take_along_axis(flat, order, axis=-1)
    groups = np.zeros(flat.shape, dtype=np.int64)
    anchor = ordered[:, 0].copy()
    for place in range(1, flat.shape[-1]):
        value = ordered[:, place]
        apart = ~(np.abs(value - anchor) <= floor * np.abs(value + anchor) / 2)
        anchor = np.where(apart, value, anchor)
        groups[:, place] = groups[:, place - 1] + apart
    numbers = groups + np.arange(len(flat))[:, None] * flat.shape[-1]
    sums = np.bincount(numbers.ravel(), weights=ordered.ravel(), minlength=flat.size)
    sizes = np.bincount(numbers.ravel(), minlength=flat.size)
    means = (sums / np.maximum(sizes, 1))[numbers]
    result = np.empty_like(flat)
    np.put_along_axis(result, order, means, axis=-1)
    return result.reshape(values.shape)
