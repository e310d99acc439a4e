"""The joint bootstrap: test examples and seeds, drawn for all models of a dataset at once, so that differences between
models are paired."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from harness.statistics.arrays import BoolArray, Counts, FloatArray, IntArray
from harness.statistics.quality import check_codes, quality_from_margins

_BLOCK_ELEMENTS = 8_000_000  # of one temporary array of floats


def example_counts(n: int, replicates: int, rng: np.random.Generator) -> Counts:
    """How often each of n examples is drawn in each replicate, (B, n); every row sums to n.

    The counts of n draws with replacement (Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979). Raises
    ValueError for n = 0.
    """
    if n == 0:
        raise ValueError("there is no test example to resample")
    counts = np.empty((replicates, n), dtype=np.uint8)  # a count above 255 has a probability below 1e-500
    for row in counts:  # one at a time stays in the cache
        row[:] = np.bincount(rng.integers(0, n, n, dtype=np.uint16 if n < 2**16 else np.int64), minlength=n)
    return counts


def resampled_quality(labels: IntArray, predicted: IntArray, classes: int, counts: Counts) -> dict[str, FloatArray]:
    """Quality figures (B, C) of the predictions (C, n) of C cells when example i counts `counts[b, i]` times.

    In one replicate all cells see the same examples. Raises ValueError as `confusion_counts` does.
    """
    check_codes(labels, predicted, classes)
    codes = np.arange(classes)
    is_label = labels == codes[:, None]
    actual = _weighted(counts, is_label)
    # Right answers by class, and predictions by class; those of the last class are the rest.
    per_cell = classes if classes <= 2 else 2 * classes - 1
    width = max(1, _BLOCK_ELEMENTS // (per_cell * max(labels.size, len(counts))))
    parts = []
    for start in range(0, len(predicted), width):
        block = predicted[start : start + width, None, :]
        right = block == codes[:, None]
        indicators = (right & is_label).reshape(-1, labels.size)
        if classes > 2:
            indicators = np.concatenate([indicators, right[:, :-1].reshape(-1, labels.size)])
        sums = _weighted(counts, indicators)
        cells = len(block)
        hits = sums[:, : cells * classes].reshape(len(counts), cells, classes)
        if classes > 2:
            told = sums[:, cells * classes :].reshape(len(counts), cells, classes - 1)
        elif classes == 2:  # of class 0: right ones, and those of class 1 that were missed
            told = hits[..., :1] + (actual[:, None, 1:] - hits[..., 1:])
        else:
            told = hits[..., :0]
        rest = labels.size - told.sum(axis=-1, keepdims=True)
        parts.append(quality_from_margins(hits, np.concatenate([told, rest], axis=-1), actual[:, None, :]))
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}


def seed_draws(seeds: int, replicates: int, rng: np.random.Generator) -> FloatArray:
    """Standard normal draws (seeds, 2, B) for `seed_deviations`; a further seed leaves those before it as they were."""
    return rng.standard_normal((seeds, 2, replicates))


def seed_deviations(draws: FloatArray, seeds: int) -> FloatArray:
    """Random weights (B, S), rows summing to 0, from draws (at least S, 2, B): applied to the figures of S seeds they
    give their mean's deviation from the truth, if seeds are normal.

    A direction that is uniform among those orthogonal to (1, ..., 1), over a chi of S - 1 degrees of freedom: whatever
    the figures, the weighted sum is Student's t of S - 1 degrees of freedom times s / sqrt(S). Drawing seeds with
    replacement instead gives (S - 1) / S of the variance and no heavier tails, which with three seeds covers 85 %
    instead of 95 % where seeds matter most. One seed tells nothing of its spread: its weight is 0.
    """
    if seeds == 1:
        return np.zeros((draws.shape[-1], 1))
    normal = draws[:seeds, 0].T
    chi = np.sqrt(np.mean(draws[1:seeds, 1] ** 2, axis=0))
    scale = chi[:, None] * np.sqrt(seeds * (seeds - 1))
    deviations: FloatArray = (normal - normal.mean(axis=1, keepdims=True)) / scale
    return deviations


def mean_over_seeds(figures: FloatArray, samples: FloatArray, deviations: FloatArray) -> FloatArray:
    """Replicates (B, ...) of the mean over seeds of figures (..., S), from their replicates over examples (B, ..., S)
    and `seed_deviations` (B, S).

    Examples and seeds are crossed random factors (Owen, "The pigeonhole bootstrap", 2007), and the mean varies with
    both. What seeds differ by holds how each meets the examples in its own way, so of the examples only that part is
    added which all seeds share: the replicates are narrowed to the covariance between seeds. (To take that part off the
    spread of the seeds instead leaves too little where the spread happens to be small: 91 % covered with three seeds,
    86 % with two.) An interval of 95 % covers 95 to 96.5 % with five seeds, 95 to 98 % with three, 95 to 99 % with two,
    most where examples and seeds weigh the same: a normal and a Student's t added are on the safe side. So is the
    difference of two models from their replicates (95 to 99.5 %); given the differences by seed as figures it is exact.
    """
    seeds = figures.shape[-1]
    means: FloatArray = samples.mean(axis=-1)
    if seeds == 1:
        return means
    center, whole = means.mean(axis=0), means.var(axis=0)
    of_one = samples.var(axis=0).mean(axis=-1)
    shared = np.maximum((seeds * whole - of_one) / (seeds - 1), 0.0)  # the mean covariance of two seeds
    narrowed = np.sqrt(shared / np.where(whole > 0, whole, 1.0))
    joint: FloatArray = center + narrowed * (means - center) + np.einsum("bs,...s->b...", deviations, figures)
    return joint


def _weighted(counts: Counts, indicators: BoolArray) -> FloatArray:
    """counts (B, n) times indicators (C, n), (B, C). Sums of whole numbers below 2**24, so float32 is exact and equal
    models stay equal to the last bit."""
    columns = indicators.T.astype(np.float32)
    parts = [counts[a:b].astype(np.float32) @ columns for a, b in _blocks(*counts.shape)]
    return np.concatenate(parts).astype(np.float64)


def _blocks(rows: int, width: int) -> Iterator[tuple[int, int]]:
    size = max(1, _BLOCK_ELEMENTS // width)
    return ((start, min(start + size, rows)) for start in range(0, rows, size))


def cost_of_an_error(samples: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """By figure, (M,): how far it moves when accuracy moves by one, from their spreads over replicates (B, M). Where
    accuracy does not vary, that of balanced classes: 1 of a macro mean, 2 of MCC."""
    spread = _spreads(samples["accuracy"])
    known = spread > 0
    costs = {}
    for name, values in samples.items():
        moves = _spreads(values) / np.where(known, spread, 1.0)
        costs[name] = np.where(known, moves, 2.0 if name == "mcc" else 1.0)
    return costs


def _spreads(samples: FloatArray) -> FloatArray:
    """(M,): standard deviations, each to the last bit what it is without the others."""
    return np.array([np.ascontiguousarray(column).std() for column in samples.T])
