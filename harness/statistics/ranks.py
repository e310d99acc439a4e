"""Ranks of models and how sure they are, from joint bootstrap replicates of their scores."""

from __future__ import annotations

import numpy as np

from harness.statistics.arrays import BoolArray, FloatArray


def competition_ranks(scores: FloatArray) -> list[int]:
    """1 for the highest; equal scores share the lower rank (1, 1, 3); NaN comes last."""
    rounded = np.round(np.where(np.isnan(scores), -np.inf, scores), 12)
    ascending = np.sort(rounded)
    return [int(rank) for rank in 1 + rounded.size - np.searchsorted(ascending, rounded, side="right")]


def separated(values: FloatArray, samples: FloatArray, confidence: float = 0.95) -> BoolArray:
    """(M, M): [j, k] is true where the scores of j and k differ, by intervals of the differences between j and every
    other model that cover all of them together with `confidence`. Values (M,), replicates (B, M), no NaN.

    Studentised by the spread over replicates, the largest deviation of any difference giving one critical value a row
    (Mogstad, Romano, Shaikh & Wilhelm, "Inference for Ranks with Applications to Mobility across Neighborhoods and
    Academic Achievement across Countries", 2024, sec. 3). Not symmetric: each row is a family of its own.
    """
    models = len(values)
    deviations = (samples - values).T  # (M, B)
    covariance = np.atleast_2d(np.cov(deviations))
    variance = np.diagonal(covariance)
    spread = np.sqrt(np.maximum(variance[:, None] + variance - 2 * covariance, 0.0))
    scale = 1e-9 + 1e-6 * np.abs(values).max()  # below it, sums in another order decide
    sure = spread <= scale
    weights = np.divide(1.0, spread, out=np.zeros_like(spread), where=~sure).astype(np.float32)
    narrow = deviations.astype(np.float32)
    critical = np.zeros(models)
    for j in range(models):
        shifts = narrow - narrow[j]
        shifts *= weights[j][:, None]
        largest = np.maximum(shifts.max(axis=0), -shifts.min(axis=0))
        critical[j] = np.quantile(largest, confidence)
    gaps = np.abs(values[None, :] - values[:, None])
    apart: BoolArray = gaps > np.where(sure, scale, critical[:, None] * spread)
    return apart


def rank_bounds(values: FloatArray, apart: BoolArray) -> tuple[list[int], list[int]]:
    """Lowest and highest rank of each model: 1 + how many are surely better, M - how many are surely worse. Such an
    interval covers the model's true rank with the confidence of `separated` (Mogstad et al. 2024, theorem 3.1)."""
    gaps = values[None, :] - values[:, None]
    better, worse = (apart & (gaps > 0)).sum(axis=1), (apart & (gaps < 0)).sum(axis=1)
    return [int(n) + 1 for n in better], [len(values) - int(n) for n in worse]


def probability_best(samples: FloatArray) -> FloatArray:
    """(M,): share of the replicates (B, M) in which a model's score is the highest; equal ones share it."""
    rounded = np.round(samples, 12)
    top = rounded == rounded.max(axis=1, keepdims=True)
    share: FloatArray = (top / top.sum(axis=1, keepdims=True)).mean(axis=0)
    return share


def tie_groups(values: FloatArray, apart: BoolArray) -> list[int]:
    """Number of the group of each model, 1 the best. A group is its best model and those that follow it in rank, until
    one is separated from that best one and begins the next. Groups do not chain: each is held to its first."""
    groups = np.zeros(len(values), dtype=np.int64)
    number, first = 0, -1
    for index in np.argsort(-values, kind="stable"):
        if first < 0 or apart[first, index]:
            number, first = number + 1, int(index)
        groups[index] = number
    return [int(group) for group in groups]


def pareto_front(columns: FloatArray) -> BoolArray:
    """(M,): models that no other beats or equals in every column (M, D) while beating it in one; higher is better.
    A model with a NaN is not on it and beats none."""
    known: BoolArray = np.all(~np.isnan(columns), axis=1)
    at_least = (columns[None, :, :] >= columns[:, None, :]).all(axis=-1)
    better = (columns[None, :, :] > columns[:, None, :]).any(axis=-1)
    beaten = np.any(at_least & better, axis=1)  # a NaN is at least nothing
    front: BoolArray = np.logical_and(known, ~beaten)
    return front
