"""The normal, binomial, chi-squared, F and studentised range distributions, as far as intervals and tests need them."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from harness.statistics.arrays import FloatArray, IntArray

_erfc = np.frompyfunc(math.erfc, 1, 1)
_inverse = np.frompyfunc(NormalDist().inv_cdf, 1, 1)


def normal_cdf(x: npt.ArrayLike) -> FloatArray:
    """P(Z <= x) of the standard normal, (...); exact in both tails."""
    below: FloatArray = 0.5 * np.asarray(_erfc(-np.asarray(x, dtype=np.float64) / math.sqrt(2)), dtype=np.float64)
    return below


def normal_quantile(p: npt.ArrayLike) -> FloatArray:
    """What a standard normal stays below with probability p, (...): -inf for 0, inf for 1, NaN outside 0..1.

    The standard library's, which is Wichura, "Algorithm AS 241", 1988.
    """
    given = np.asarray(p, dtype=np.float64)
    inside = (given > 0) & (given < 1)
    ends = np.select([given == 0, given == 1], [-np.inf, np.inf], np.nan)
    return np.where(inside, np.asarray(_inverse(np.where(inside, given, 0.5)), dtype=np.float64), ends)


def critical_z(confidence: float) -> float:
    """What |Z| stays below with this probability: 1.96 for 95 %. Raises ValueError outside 0..1."""
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence of {confidence:g} does not lie between 0 and 1")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def log_factorials(n: int) -> FloatArray:
    """log k! for k = 0..n, (n + 1,)."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def binomial_cdf(n: int, p: float) -> FloatArray:
    """P(X <= k) for k = 0..n of n trials with chance p in 0..1 (both excluded), (n + 1,)."""
    k = np.arange(n + 1)
    logs = log_factorials(n)
    mass = np.exp(logs[n] - logs - logs[::-1] + k * math.log(p) + (n - k) * math.log1p(-p))
    below: FloatArray = np.minimum(np.cumsum(mass), 1.0)
    return below


def half_binomial_cdf(k: IntArray, n: IntArray) -> FloatArray:
    """P(X <= k) of n fair coins for k <= n / 2, elementwise, (...).

    The mass at k from the factorials' logarithms, times 1 + k/(n-k+1) + k(k-1)/((n-k+1)(n-k+2)) + …, each term the
    ratio to the mass one lower: a few standard deviations' worth of terms, and relative precision far into the tail.
    """
    logs = log_factorials(int(n.max(initial=0)))
    mass = np.exp(logs[n] - logs[k] - logs[n - k] - n * math.log(2))
    total, term, step = np.ones(mass.shape), np.ones(mass.shape), 0
    while (term > 1e-17 * total).any():
        term *= np.maximum(k - step, 0) / (n - k + step + 1)
        total += term
        step += 1
    below: FloatArray = np.minimum(mass * total, 1.0)
    return below


def chi_squared_tail(x: float, df: int) -> float:
    """P(X > x) of chi-squared with `df` degrees of freedom (Abramowitz & Stegun 1964, 26.4.4 and 26.4.5)."""
    if x <= 0:
        return 1.0
    odd = df % 2
    tail = math.erfc(math.sqrt(x / 2)) if odd else math.exp(-x / 2)
    log_term = -x / 2 + (0.5 * math.log(2 * x / math.pi) if odd else math.log(x / 2))
    for power in range(3 if odd else 4, df + 1, 2):
        tail += math.exp(log_term)
        log_term += math.log(x / power)
    return min(tail, 1.0)


def f_tail(x: float, df1: int, df2: int) -> float:
    """P(X > x) of Fisher's F: the incomplete beta function of df2 / (df2 + df1 x) (Abramowitz & Stegun, 26.6.2)."""
    if x <= 0:
        return 1.0
    return 0.0 if math.isinf(x) else _incomplete_beta(df2 / 2, df1 / 2, df2 / (df2 + df1 * x))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised, by its continued fraction (Press et al., "Numerical Recipes", 3rd ed. 2007, sec. 6.4)."""
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    if x <= 0:
        return 0.0
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    fraction = 1.0
    for m in range(_terms(a, b), 0, -1):  # from the inside out
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        fraction = 1 + odd / (1 + even / fraction)
    return math.exp(front) / (a * fraction)


def _terms(a: float, b: float) -> int:
    """Enough of the continued fraction: it takes some square root of the larger parameter."""
    return 60 + int(6 * math.sqrt(max(a, b)))
