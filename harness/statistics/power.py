"""How much data it takes to tell two models apart."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from harness.statistics.arrays import FloatArray
from harness.statistics.distributions import critical_z, normal_quantile
from harness.statistics.speed import student_t

_MOST_SEEDS = 1_000_000
_NORMAL_FROM = 1000  # degrees of freedom: Student's t is within 0.1 % of it


def minimum_detectable_difference(
    discordant_share: npt.ArrayLike, n: npt.ArrayLike, alpha: float = 0.05, power: float = 0.8
) -> FloatArray:
    """The smallest difference (...) in accuracy that McNemar's test at level `alpha` finds with this `power`, on n
    examples of which this share is right by one model alone.

    Connor, "Sample Size for Testing Differences in Proportions for the Paired-Sample Design", 1987, solved for the
    difference. It cannot exceed the share itself: where so few examples differ that even all of them one way would not
    do, it is the difference whose examples, all one way, just do. NaN for n so small that nothing would. Raises
    ValueError for an alpha or power outside 0..1.
    """
    share, examples = np.asarray(discordant_share, dtype=np.float64), np.asarray(n, dtype=np.float64)
    z, z_power = _critical(alpha, power)
    room = examples + z_power**2 - z**2
    found = (np.sqrt(examples) * z + z_power * np.sqrt(np.maximum(room, 0.0))) / (examples + z_power**2)
    difference = found * np.maximum(np.sqrt(share), found)
    return np.where((room >= 0) & (difference <= 1), difference, np.nan)


def examples_needed(difference: float, discordant_share: float, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """How many examples McNemar's test at level `alpha` takes to find this difference in accuracy with this `power`, if
    one model alone is right in this share of them (at least in as many as make up the difference); None for a
    difference of 0. Connor 1987, eq. 5; raises ValueError as `minimum_detectable_difference` does."""
    z, z_power = _critical(alpha, power)
    if difference == 0:
        return None
    share = max(discordant_share, abs(difference))
    return math.ceil(((z * math.sqrt(share) + z_power * math.sqrt(share - difference**2)) / difference) ** 2)


def seeds_needed(
    difference: float, between_seed_sd: float, examples_error: float, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """How many seeds it takes to find a difference between two models with this `power`; None where no number does, as
    the error of the test examples alone hides it, or none up to a million.

    `between_seed_sd`: how much the difference itself varies from seed to seed. `examples_error`: the standard error
    that the examples give its mean, which more seeds do not lessen. The difference must exceed half the width of its
    interval (Student's t of the seeds and the normal of the examples, squared and added) by the normal quantile of the
    power times its standard error. Two seeds or more, or one where seeds do not vary. Raises ValueError as
    `minimum_detectable_difference` does.
    """
    z, z_power = _critical(alpha, power)

    def suffices(seeds: int) -> bool:
        error = between_seed_sd / math.sqrt(seeds)
        width = math.hypot(z * examples_error, _critical_t(seeds - 1, alpha) * error if error else 0.0)
        return width + z_power * math.hypot(examples_error, error) <= abs(difference)

    if abs(difference) <= (z + z_power) * examples_error:
        return None
    if between_seed_sd == 0:
        return 1
    enough = 2
    while not suffices(enough):
        enough *= 2
        if enough > _MOST_SEEDS:
            return None
    short = enough // 2  # too few, or fewer than two
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (short, middle) if suffices(middle) else (middle, enough)
    return enough


def _critical(alpha: float, power: float) -> tuple[float, float]:
    """Normal quantiles of a two-sided level and of a power."""
    if not 0 < power < 1:
        raise ValueError(f"a power of {power:g} does not lie between 0 and 1")
    return critical_z(1 - alpha), float(normal_quantile(power))


def _critical_t(freedom: int, alpha: float) -> float:
    return student_t(freedom, 1 - alpha) if freedom < _NORMAL_FROM else critical_z(1 - alpha)
