"""Quality figures and their bootstrap, intervals of speed, as pure functions on arrays.

Letters for shapes: n test examples, K classes, M models, S seeds, W windows of timing, B bootstrap replicates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Weights = npt.NDArray[np.float32]

_BLOCK_ELEMENTS = 4_000_000  # of one temporary array; about ten of them live at once, which stays below 300 MB


class Interval(NamedTuple):
    """Lower and upper bounds, of equal shape."""

    low: FloatArray
    high: FloatArray


# --- figures ----------------------------------------------------------------------------------


def confusion_counts(labels: IntArray, predicted: IntArray, classes: int) -> IntArray:
    """Counts [..., true, predicted] of shape (..., K, K) from labels (n,) and predictions (..., n).

    Raises ValueError when shapes differ or a label lies outside 0..K-1.
    """
    _check(labels, predicted, classes)
    flat = predicted.reshape(-1, labels.size)
    cells = labels * classes + flat + np.arange(len(flat))[:, None] * classes**2
    counts = np.bincount(cells.ravel(), minlength=len(flat) * classes**2)
    return counts.reshape(*predicted.shape[:-1], classes, classes).astype(np.int64)


def quality_from_confusion(confusion: npt.ArrayLike) -> dict[str, FloatArray]:
    """Quality figures of shape (...) from confusion matrices (..., K, K), [true, predicted]; weights may be fractions.

    As `quality_from_margins`.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    return quality_from_margins(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-2), counts.sum(axis=-1))


def quality_from_margins(hits: FloatArray, predicted: FloatArray, actual: FloatArray) -> dict[str, FloatArray]:
    """Quality figures of shape (...) from three counts per class (..., K): right, predicted, true.

    These margins hold all that accuracy, macro precision, recall and F1, weighted F1 and MCC need. A division by zero
    gives 0 and every one of the K classes counts in a macro mean, as in scikit-learn with `labels=range(K)` and
    `zero_division=0`. `f1_binary` (of class 1) exists for K = 2 only. MCC for K classes: Gorodkin, "Comparing two
    K-category assignments by a K-category correlation coefficient", 2004, eq. 8.
    """
    f1 = _ratio(2 * hits, predicted + actual)
    total = actual.sum(axis=-1)
    correct = hits.sum(axis=-1)
    spread = (total**2 - (predicted**2).sum(axis=-1)) * (total**2 - (actual**2).sum(axis=-1))
    covariance = correct * total - (predicted * actual).sum(axis=-1)
    figures = {
        "accuracy": _ratio(correct, total),
        "f1": f1.mean(axis=-1),
        "f1_weighted": _ratio((f1 * actual).sum(axis=-1), total),
        "precision": _ratio(hits, predicted).mean(axis=-1),
        "recall": _ratio(hits, actual).mean(axis=-1),
        "mcc": _ratio(covariance, np.sqrt(np.maximum(spread, 0))),
    }
    if hits.shape[-1] == 2:
        figures["f1_binary"] = f1[..., 1]
    return figures


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    return np.divide(numerator, denominator, out=np.zeros_like(denominator), where=denominator != 0)


def _check(labels: IntArray, predicted: IntArray, classes: int) -> None:
    if predicted.shape[-1] != labels.size:
        raise ValueError(f"{predicted.shape[-1]} predictions for {labels.size} labels")
    for name, values in (("label", labels), ("prediction", predicted)):
        if values.size and not (values.min() >= 0 and values.max() < classes):
            raise ValueError(f"a {name} lies outside 0..{classes - 1}")


# --- resampling -------------------------------------------------------------------------------


def multinomial_weights(n: int, replicates: int, rng: np.random.Generator) -> Weights:
    """How often each of n examples is drawn in each replicate, (B, n); every row sums to n.

    The counts of n draws with replacement (Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979).
    """
    draws = rng.integers(0, n, size=(replicates, n))
    draws += np.arange(replicates)[:, None] * n
    return np.bincount(draws.ravel(), minlength=replicates * n).reshape(replicates, n).astype(np.float32)


def seed_uniforms(seeds: int, replicates: int, rng: np.random.Generator) -> FloatArray:
    """Uniforms (B, S) in [0, 1) that choose seeds; a further seed leaves the columns before it as they were."""
    return rng.random((seeds, replicates)).T


def seed_weights(uniforms: FloatArray, seeds: int) -> FloatArray:
    """Share of each seed in each replicate, (B, seeds), rows summing to 1, from uniforms (B, at least `seeds`).

    Models with the same seeds get the same draws (paired); others draw from their own with the same uniforms.
    """
    drawn = (uniforms[:, :seeds] * seeds).astype(np.int64)
    shares: FloatArray = np.mean(drawn[:, :, None] == np.arange(seeds), axis=1, dtype=np.float64)
    return shares


def bootstrap_quality(
    labels: IntArray,
    predicted: Sequence[IntArray],
    classes: int,
    *,
    uniforms: FloatArray,
    rng: np.random.Generator,
) -> dict[str, FloatArray]:
    """Bootstrap replicates (B, M) of every quality figure, resampling test examples and seeds jointly.

    `labels` (n,); `predicted`: one array (S of that model, n) a model; `uniforms` (B, largest S). In one replicate all
    models see the same examples and, where their seeds agree, the same seeds, so differences between models are
    paired. A figure is computed per seed and then averaged over the drawn seeds. Crossed resampling of two random
    factors: Owen, "The pigeonhole bootstrap", 2007. With few seeds their share of the variance is
    underestimated by (S - 1) / S, as in any bootstrap. Raises ValueError as `confusion_counts` does, and for n = 0.
    """
    if labels.size == 0:
        raise ValueError("there is no test example to resample")
    for predictions in predicted:
        _check(labels, predictions, classes)
    cells = np.concatenate(predicted)
    seeds = [len(predictions) for predictions in predicted]
    rows = max(1, _BLOCK_ELEMENTS // labels.size)
    parts: list[dict[str, FloatArray]] = []
    for start in range(0, len(uniforms), rows):
        drawn = uniforms[start : start + rows]
        weights = multinomial_weights(labels.size, len(drawn), rng)
        figures = _weighted_quality(weights, labels, cells, classes)
        parts.append({name: _average_seeds(values, seeds, drawn) for name, values in figures.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def percentile_interval(samples: FloatArray, confidence: float = 0.95) -> Interval:
    """Percentile interval over the first axis of (B, ...) (Efron & Tibshirani 1993, ch. 13). NaN where any is NaN."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(samples, [tail, 1 - tail], axis=0)
    return Interval(low, high)


def _weighted_quality(weights: Weights, labels: IntArray, cells: IntArray, classes: int) -> dict[str, FloatArray]:
    """Quality figures (B, C) of predictions (C, n) under example weights (B, n)."""
    codes = np.arange(classes)
    is_label = labels == codes[:, None]
    actual = (weights @ is_label.T.astype(np.float32)).astype(np.float64)[:, None, :]
    columns = 2 * classes * max(labels.size, len(weights))
    block = max(1, _BLOCK_ELEMENTS // columns)
    parts = []
    for start in range(0, len(cells), block):
        is_predicted = cells[start : start + block, None, :] == codes[:, None]
        indicators = np.stack([is_predicted & is_label, is_predicted]).astype(np.float32)
        # Sums of whole numbers below 2**24, so float32 is exact and equal models stay equal to the last bit.
        sums = weights @ indicators.reshape(-1, labels.size).T
        counts = sums.reshape(len(weights), 2, -1, classes).astype(np.float64)
        parts.append(quality_from_margins(counts[:, 0], counts[:, 1], np.broadcast_to(actual, counts[:, 0].shape)))
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


def _average_seeds(values: FloatArray, seeds: Sequence[int], uniforms: FloatArray) -> FloatArray:
    """Figures (B, C = sum of seeds) -> means over the drawn seeds of each model, (B, M)."""
    shares = {count: seed_weights(uniforms, count) for count in set(seeds)}
    ends = np.cumsum(seeds)
    means = [(values[:, end - count : end] * shares[count]).sum(axis=1) for end, count in zip(ends, seeds, strict=True)]
    return np.stack(means, axis=1)


# --- speed: seeds, and windows within ---------------------------------------------------------


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


def half_width(windows: FloatArray, confidence: float = 0.95) -> FloatArray:
    """Half the width (...) of the interval of a mean, from windows (..., S, W) within seeds. NaN: no such window, and
    in the answer: fewer than two values.

    Seeds are the outer level. The spread of their means holds that of the windows within them, so with several seeds
    it gives the whole variance, with S - 1 degrees of freedom. With one seed the windows are the outer level, and the
    interval leaves out how speed varies from process to process. Student's t either way: Kalibera & Jones, "Rigorous
    Benchmarking in Reasonable Time", 2013. Seeds with unequal numbers of windows weigh the same.
    Five windows of one seed cover 95 % with symmetric noise, 94 % with a skewness of 0.6, 88 % with one of 2.
    """
    means = _mean_of_present(windows)
    several = (~np.isnan(means)).sum(axis=-1) > 1
    within = _student_half_width(windows.reshape(*windows.shape[:-2], -1), confidence)
    return np.where(several, _student_half_width(means, confidence), within)


def _student_half_width(values: FloatArray, confidence: float) -> FloatArray:
    """t * s / sqrt(n) over the last axis, NaN left out."""
    counts = (~np.isnan(values)).sum(axis=-1)
    squares = np.nansum((values - _mean_of_present(values)[..., None]) ** 2, axis=-1)
    enough = np.maximum(counts, 2)
    t = np.array([student_t(int(n) - 1, confidence) for n in enough.ravel()]).reshape(counts.shape)
    return np.where(counts > 1, t * np.sqrt(squares / (enough - 1) / enough), np.nan)


def _mean_of_present(values: FloatArray) -> FloatArray:
    counts = (~np.isnan(values)).sum(axis=-1)
    return np.where(counts > 0, np.nansum(values, axis=-1) / np.maximum(counts, 1), np.nan)


def window_uniforms(seeds: int, windows: int, replicates: int, rng: np.random.Generator) -> FloatArray:
    """Uniforms (B, S, W) in [0, 1) that choose windows; a further seed or window leaves the others as they were."""
    return np.stack([child.random((windows, replicates)).T for child in rng.spawn(seeds)], axis=1)


def resampled_means(
    figures: FloatArray, windows: FloatArray, seed_draws: FloatArray, window_draws: FloatArray
) -> FloatArray:
    """Bootstrap replicates (B,) of the mean of figures (S,), one a seed, from their windows (S, W), NaN: none.

    Draws seeds, then windows within each seed drawn, by uniforms (B, at least S) and (B, at least S, at least W).
    Models with as many seeds and windows get the same draws. Resampling both levels as they are would count the
    windows twice when there are many seeds and too little when there is one (Davison & Hinkley 1997, sec. 3.8), so
    what a window drawn deviates by is scaled by sqrt(W / (W - 1) / S): then their share of the variance is right for
    any number of seeds. The seeds' own share is underestimated by (S - 1) / S, as in `bootstrap_quality`.
    """
    seeds = len(figures)
    drawn = (seed_draws[:, :seeds] * seeds).astype(np.int64)
    counts = (~np.isnan(windows)).sum(axis=-1)
    packed = np.take_along_axis(windows, np.argsort(np.isnan(windows), axis=-1, kind="stable"), axis=-1)
    number = counts[drawn][..., None]
    chosen = (window_draws[:, :seeds, : windows.shape[-1]] * number).astype(np.int64)
    present = np.arange(windows.shape[-1]) < number
    values = np.where(present, packed[drawn[..., None], chosen], np.nan)
    deviations = np.nan_to_num(_mean_of_present(values) - _mean_of_present(windows)[drawn])
    scale = np.where(counts > 1, np.sqrt(counts / np.maximum(counts - 1, 1) / seeds), 0.0)
    means: FloatArray = (figures[drawn] + scale[drawn] * deviations).mean(axis=-1)
    return means


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
