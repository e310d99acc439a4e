"""The test of a difference whose error has two parts: of the test examples, which are many, and of a few seeds."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from harness.statistics.arrays import FloatArray
from harness.statistics.distributions import normal_cdf

_NODES = np.linspace(-9.0, 9.0, 1_001)
_WEIGHTS = np.exp(-(_NODES**2) / 2) / np.exp(-(_NODES**2) / 2).sum()


def student_upper_tail(x: npt.ArrayLike, df: int) -> FloatArray:
    """P(T > x), (...), of a whole number of degrees of freedom, by the finite series in the angle whose tangent is
    x / sqrt(df) (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = np.arctan(np.asarray(x, dtype=np.float64) / math.sqrt(df))
    cosine, term, total = np.cos(angle), np.ones(angle.shape), np.zeros(angle.shape)
    if df % 2:
        term = cosine
    for power in range(1 + df % 2, df, 2):
        total = total + term
        term = term * power / (power + 1) * cosine**2
    within = 2 / math.pi * (angle + np.sin(angle) * total) if df % 2 else np.sin(angle) * total
    tail: FloatArray = (1 - within) / 2
    return tail


def two_part_p(difference: float, normal_error: float, student_error: float, freedom: int) -> float:
    """Two-sided p value of no difference, where its error is a normal and an independent Student's t of so many degrees
    of freedom added, with these standard errors (Behrens, 1929, and Fisher, 1935, with one of two variances known).

    The trapezoid rule over the normal; 1 where neither has a width.
    """
    size = abs(difference)
    if not student_error:
        return float(2 * normal_cdf(-size / normal_error)) if normal_error else 1.0
    tails = student_upper_tail((size - normal_error * _NODES) / student_error, freedom)
    return min(1.0, 2 * float(_WEIGHTS @ tails))


def pooled_freedom(first_error: float, first_seeds: int, second_error: float, second_seeds: int) -> int:
    """Degrees of freedom, rounded down, of the error of a difference between two means over seeds, from their standard
    errors (Welch, "The Generalization of 'Student's' Problem when Several Different Population Variances Are Involved",
    1947); 1 or more."""
    parts = [
        error**4 / (seeds - 1) for error, seeds in ((first_error, first_seeds), (second_error, second_seeds)) if error
    ]
    return max(1, math.floor((first_error**2 + second_error**2) ** 2 / sum(parts) + 1e-9)) if parts else 1
