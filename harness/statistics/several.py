"""Models across several datasets, and corrections for several tests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from harness.statistics.arrays import FloatArray
from harness.statistics.distributions import chi_squared_tail, f_tail, normal_cdf

FEWEST_DATASETS = 5
"""For a comparison across datasets."""

_EXACT_UP_TO = 25  # differences, in the signed-rank test


@dataclass(frozen=True)
class SignedRank:
    """`statistic`: the smaller sum of ranks of one sign. `used`: differences that are not 0."""

    statistic: float
    p: float
    used: int


@dataclass(frozen=True)
class Friedman:
    """`ranks` (M,): mean rank of each model over N datasets, 1 the best. `chi_squared` has M - 1 degrees of freedom,
    `f` M - 1 and (M - 1)(N - 1); it is infinite where all datasets agree. `p` is that of `f`."""

    ranks: FloatArray
    chi_squared: float
    p_chi_squared: float
    f: float
    p: float


@dataclass(frozen=True)
class Nemenyi:
    """`critical_difference`: of two mean ranks, above which they differ. `p` (M, M): two-sided, corrected for all
    pairs; 1 on the diagonal."""

    ranks: FloatArray
    critical_difference: float
    p: FloatArray


def wilcoxon_signed_rank(differences: FloatArray) -> SignedRank:
    """Two-sided test that paired differences (n,) lie evenly about 0 (Wilcoxon, "Individual Comparisons by Ranking
    Methods", 1945). Differences of 0 are left out, as there; equal sizes share their mean rank.

    Up to 25 differences p is exact, ties included: over all 2^n signs of the ranks at hand (Lehmann, "Nonparametrics",
    1975, sec. 3.2). Beyond, normal with corrections for ties and continuity. Five differences never give less than
    0.0625. p is 1 without any, and NaN where one is.
    """
    if np.isnan(differences).any():
        return SignedRank(math.nan, math.nan, 0)
    given = differences[differences != 0]
    doubled = 2 * _mean_ranks(np.abs(given)[None])[0]  # whole numbers
    positive, total = float(doubled[given > 0].sum()), float(doubled.sum())
    least = min(positive, total - positive)
    if given.size <= _EXACT_UP_TO:
        p = 2 * float(_signed_sums(doubled.astype(np.int64))[: int(least) + 1].sum())
    else:
        variance = float((doubled**2).sum()) / 4
        p = 2 * float(normal_cdf((least + 1 - total / 2) / math.sqrt(variance)))
    return SignedRank(least / 2, min(p, 1.0), given.size)


def _signed_sums(ranks: npt.NDArray[np.int64]) -> FloatArray:
    """Probability of each sum 0.. of the ranks whose sign, a fair coin, is positive."""
    chances = np.zeros(int(ranks.sum()) + 1)
    chances[0] = 1.0
    for rank in ranks:
        chances[rank:] += chances[: chances.size - rank].copy()
        chances /= 2
    return chances


def friedman(scores: FloatArray) -> Friedman:
    """Test that M models have equal mean ranks over N >= 5 datasets, from scores (N, M); higher is better.

    With mean ranks for ties (Conover, "Practical Nonparametric Statistics", 3rd ed. 1999, sec. 5.8). `p` is that of F,
    since chi-squared errs to the safe side with few datasets (Iman & Davenport, "Approximations of the Critical Region
    of the Friedman Statistic", 1980; Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", 2006).
    Raises ValueError below 5 datasets or 2 models, and where a score is missing.
    """
    _check_table(scores)
    datasets, models = scores.shape
    ranks = _mean_ranks(-scores)
    sums, middle = ranks.sum(axis=0), (models + 1) / 2
    spread = float(((ranks - middle) ** 2).sum())
    chi = (models - 1) * float(((sums - datasets * middle) ** 2).sum()) / spread if spread else 0.0
    freedom, rest = models - 1, datasets * (models - 1) - chi
    f = (datasets - 1) * chi / rest if rest > 1e-9 * chi else math.inf
    return Friedman(
        ranks=ranks.mean(axis=0),
        chi_squared=chi,
        p_chi_squared=chi_squared_tail(chi, freedom),
        f=f,
        p=f_tail(f, freedom, freedom * (datasets - 1)),
    )


def friedman_by_permutation(scores: FloatArray, permutations: int = 2_000, seed: int = 0) -> float:
    """p of `friedman`, scores (N, M), by how often its statistic is as large when each dataset's scores are dealt to
    the models at random. With few datasets and models F is far off: two models of which one wins on all of five
    datasets have a p of 1/16, and F gives 0. Raises ValueError as `friedman` does."""
    _check_table(scores)
    ranks = _mean_ranks(-scores)
    rng, found = np.random.default_rng(seed), ranks.mean(axis=0).var()
    dealt = (rng.permuted(ranks, axis=-1).mean(axis=0).var() for _ in range(permutations))  # one at a time: it is small
    return (1 + sum(bool(spread >= found - 1e-12) for spread in dealt)) / (1 + permutations)


def nemenyi(scores: FloatArray, alpha: float = 0.05) -> Nemenyi:
    """All pairs of M models over N >= 5 datasets, from scores (N, M), higher is better, once `friedman` says that they
    differ: by the studentised range of M mean ranks (Nemenyi, "Distribution-free Multiple Comparisons", 1963; Demšar
    2006, sec. 3.2.2). Raises ValueError as `friedman` does.
    """
    _check_table(scores)
    datasets, models = scores.shape
    ranks = _mean_ranks(-scores).mean(axis=0)
    error = math.sqrt(models * (models + 1) / (12 * datasets))  # of one mean rank, as the range wants
    gaps, where = np.unique(np.abs(ranks[:, None] - ranks), return_inverse=True)
    p = 1 - _range_cdf(gaps / error, models)
    critical = _range_quantile(1 - alpha, models) * error
    return Nemenyi(ranks, critical, np.clip(p, 0.0, 1.0)[where].reshape(models, models))


def holm(p: FloatArray) -> FloatArray:
    """Corrected p values (...) of one family: below a level, the chance of any false discovery is (Holm, "A Simple
    Sequentially Rejective Multiple Test Procedure", 1979). NaN is not of the family and stays. Give each test once: a
    symmetric table of pairs holds every test twice."""
    return _corrected(p, lambda ordered: np.maximum.accumulate(ordered * np.arange(ordered.size, 0, -1)))


def benjamini_hochberg(p: FloatArray) -> FloatArray:
    """Corrected p values (...) of one family: below a level, the expected share of false ones among the discoveries is
    (Benjamini & Hochberg, "Controlling the False Discovery Rate", 1995), for tests that are independent or depend
    positively. NaN and families as in `holm`."""

    def step(ordered: FloatArray) -> FloatArray:
        shares = ordered * ordered.size / np.arange(1, ordered.size + 1)
        return np.minimum.accumulate(shares[::-1])[::-1]

    return _corrected(p, step)


def _corrected(p: FloatArray, step: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """`step` applied to those p values that are known, in ascending order, each back in its place and at most 1."""
    known = ~np.isnan(p)
    values = p[known]
    if ((values < 0) | (values > 1)).any():
        raise ValueError("a p value lies outside 0..1")
    order = np.argsort(values, kind="stable")
    values[order] = np.minimum(step(values[order]), 1.0)
    corrected = np.full(p.shape, np.nan)
    corrected[known] = values
    return corrected


def _check_table(scores: FloatArray) -> None:
    datasets, models = scores.shape
    if datasets < FEWEST_DATASETS:
        raise ValueError(f"to compare across datasets takes {FEWEST_DATASETS} or more, not {datasets}")
    if models < 2:
        raise ValueError("there is nothing to compare: fewer than two models")
    if np.isnan(scores).any():
        raise ValueError("a model has no score on one of the datasets")


def _mean_ranks(table: FloatArray) -> FloatArray:
    """(N, M): within each row, 1 the lowest; equal values share their mean rank."""
    return np.stack([_mean_ranks_of(row) for row in np.round(table, 12)])


def _mean_ranks_of(values: FloatArray) -> FloatArray:
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: FloatArray = (np.cumsum(counts) - (counts - 1) / 2)[where]
    return ranks


def _range_cdf(q: FloatArray, samples: int) -> FloatArray:
    """P(range <= q), (Q,), of so many standard normal values: the highest is z, the others lie between z - q and z
    (Tukey's studentised range at infinite degrees of freedom). The trapezoid rule is exact to 1e-12 for so smooth a
    curve that ends at 0."""
    z = np.linspace(-9.0, 9.0, 289)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    inside = (normal_cdf(z) - normal_cdf(z - q[:, None])) ** (samples - 1)
    cdf: FloatArray = samples * (inside * density).sum(axis=1) * (z[1] - z[0])
    return cdf


@lru_cache(maxsize=256)
def _range_quantile(p: float, samples: int) -> float:
    low, high = 0.0, 40.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _range_cdf(np.array([middle]), samples)[0] < p else (low, middle)
    return low
