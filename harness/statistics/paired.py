"""Two models on the same test examples: tests of no difference."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.statistics.arrays import FloatArray, IntArray
from harness.statistics.distributions import half_binomial_cdf, normal_cdf
from harness.statistics.quality import confusion_counts, quality_from_confusion, quality_from_margins

_NO_DIFFERENCE = 1e-12  # sums taken in another order differ by this much
_BLOCK_ELEMENTS = 8_000_000  # of one temporary array of floats


def discordant_counts(labels: IntArray, predicted: IntArray) -> IntArray:
    """(M, M): how many of the n < 2**24 examples the row's model has right and the column's wrong, from predictions
    (M, n). Its transpose holds the opposite. Raises ValueError when shapes differ."""
    if predicted.shape[-1] != labels.size:
        raise ValueError(f"{predicted.shape[-1]} predictions for {labels.size} labels")
    right = (predicted == labels).astype(np.float32)  # whole numbers below 2**24 are exact in it
    both = (right @ right.T).astype(np.int64)
    counts: IntArray = np.diagonal(both)[:, None] - both
    return counts


def mcnemar_exact(b: npt.ArrayLike, c: npt.ArrayLike) -> FloatArray:
    """Two-sided p values (...) of the numbers (...) of examples that only the first, and only the second, has right.

    If neither is better, each such example is a fair coin: twice the smaller binomial tail, at most 1, and 1 without
    any such example (McNemar, "Note on the Sampling Error of the Difference Between Correlated Proportions", 1947;
    exact as in Fagerland, Lydersen & Laake, "The McNemar Test for Binary Matched-Pairs Data", 2013). With few such
    examples it errs less often than its level says. Raises ValueError for counts below 0.
    """
    first, second = np.broadcast_arrays(np.asarray(b, dtype=np.int64), np.asarray(c, dtype=np.int64))
    fewer = np.minimum(first, second)
    if (fewer < 0).any():
        raise ValueError("there are fewer than 0 examples")
    p: FloatArray = np.minimum(2 * half_binomial_cdf(fewer, first + second), 1.0)
    return p


def paired_bootstrap(differences: FloatArray) -> FloatArray:
    """Two-sided p values (...) of no difference, from replicates (B, ...) of the difference on the same examples.

    Twice the smaller share of replicates on one side of 0, which inverts the percentile interval: below 0.05 where the
    95 % interval leaves 0 out (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, sec. 15.4). The difference
    itself counts as one replicate more, so that it is never 0 (Davison & Hinkley, "Bootstrap Methods and their
    Application", 1997, sec. 4.2). A replicate of 0 counts to both sides. NaN where any replicate is. Raises
    ValueError without replicates.
    """
    if not len(differences):
        raise ValueError("there are no replicates")
    least = 1 + np.minimum((differences <= _NO_DIFFERENCE).sum(axis=0), (differences >= -_NO_DIFFERENCE).sum(axis=0))
    p = np.minimum(2 * least / (1 + len(differences)), 1.0)
    return np.where(np.isnan(differences).any(axis=0), np.nan, p)


@dataclass(frozen=True)
class Randomised:
    """Two-sided p values of no difference. `p`: the share of replicates; `at_floor`: it is as small as so many allow.
    `tail`: by the normal of the replicates' spread, to which they tend as examples become many."""

    p: float
    at_floor: bool
    tail: float


def approximate_randomisation(
    labels: IntArray,
    first: IntArray,
    second: IntArray,
    figure: str,
    classes: int,
    *,
    replicates: int,
    rng: np.random.Generator,
) -> Randomised:
    """Test of no difference in a `figure` of `quality_from_margins` ("accuracy", "f1", …) between two
    models' predictions (n,).

    If the models are alike, either may have given each of the two answers to an example: they are exchanged by fair
    coins, and p is the share of `replicates` whose difference is as large, the data themselves counted as one more
    (Noreen, "Computer Intensive Methods for Testing Hypotheses", 1989; Yeh, "More Accurate Tests for the Statistical
    Significance of Result Differences", 2000). Raises ValueError as `confusion_counts` does, and for a figure that is
    not defined for so many classes.
    """
    confusion = confusion_counts(labels, np.stack([first, second]), classes)
    figures = quality_from_confusion(confusion)
    if figure not in figures:
        raise ValueError(f"{figure} is not a figure of {classes} classes: choose of {', '.join(figures)}")
    observed = abs(figures[figure][0] - figures[figure][1])
    differ = np.flatnonzero(first != second)
    extreme, squares, rows = 0, 0.0, max(1, _BLOCK_ELEMENTS // max(1, differ.size))
    for start in range(0, replicates, rows):
        exchanged = rng.random((min(rows, replicates - start), differ.size), dtype=np.float32) < 0.5
        gains = exchanged.astype(np.float32) @ _gains(labels[differ], first[differ], second[differ], classes)
        differences = _difference(confusion, gains.astype(np.float64), figure)
        extreme += int((np.abs(differences) >= observed - _NO_DIFFERENCE).sum())
        squares += float((differences**2).sum())
    spread = math.sqrt(squares / replicates)  # around 0: either of two answers is as likely
    tail = float(2 * normal_cdf(-observed / spread)) if spread else 1.0
    return Randomised((1 + extreme) / (1 + replicates), extreme == 0, tail)


def _gains(labels: IntArray, first: IntArray, second: IntArray, classes: int) -> npt.NDArray[np.float32]:
    """(d, 2 K): how many right answers, then predictions, of each class the first model gains, and the second loses, if
    they exchange their answers to an example (d,)."""
    codes = np.arange(classes)
    told = (second[:, None] == codes).astype(np.float32) - (first[:, None] == codes)
    return np.concatenate([told * (labels[:, None] == codes), told], axis=1)


def _difference(confusion: IntArray, gains: FloatArray, figure: str) -> FloatArray:
    """(R,): first minus second, of the confusion matrices (2, K, K) after gains (R, 2 K) of the first."""
    right, told = np.split(gains, 2, axis=1)
    actual = np.broadcast_to(confusion[0].sum(axis=1), right.shape).astype(np.float64)
    values = [
        quality_from_margins(np.diagonal(table) + sign * right, table.sum(axis=0) + sign * told, actual)[figure]
        for table, sign in zip(confusion, (1, -1), strict=True)
    ]
    return values[0] - values[1]
