"""The difference of two proportions that are counted on the same examples, and means of a few whole numbers, which are
such differences."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.statistics.arrays import FloatArray, Interval
from harness.statistics.distributions import critical_z

_HALVINGS = 60  # of a range of 2: to the last bit


def paired_score_interval(b: npt.ArrayLike, c: npt.ArrayLike, n: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """Bounds (...) of the difference of two proportions, first minus second, where the first alone has b of n examples
    right, and the second alone c.

    The score interval (Tango, "Equivalence Test and Confidence Interval for the Difference in Proportions for the
    Paired-Sample Design", 1998). It has a width where all examples agree, too: b = c = 0 gives ± z² / (n + z²). Counts
    may be fractions: means over seeds. Raises ValueError for a confidence outside 0..1.
    """
    ahead, behind, rows = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (b, c, n)))
    z = critical_z(confidence)
    return Interval(-_upper(behind, ahead, rows, z), _upper(ahead, behind, rows, z))


def unseen_disagreement(b: npt.ArrayLike, c: npt.ArrayLike, n: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """How far, (...) of at least 0 to either side, the score interval reaches beyond the normal one, with b, c and n as
    in `paired_score_interval`: what an interval from resampling leaves out. Resampling cannot draw a disagreement of
    which the test split holds none; where it holds few, such an interval is too narrow. Dies out as they become many.
    """
    score = paired_score_interval(b, c, n, confidence)
    ahead, behind, rows = (np.asarray(x, dtype=np.float64) for x in (b, c, n))
    difference = (ahead - behind) / rows
    reach = critical_z(confidence) * np.sqrt(np.maximum((ahead + behind) / rows - difference**2, 0.0) / rows)
    return Interval(np.maximum(difference - reach - score.low, 0.0), np.maximum(score.high - difference - reach, 0.0))


def steps_interval(values: npt.ArrayLike, steps: int, confidence: float = 0.95) -> Interval:
    """Bounds (S,) of the means of whole numbers (S, n) from -steps to steps.

    A number is a sum of steps up or down, and the mean of each step a difference of two shares, with its score interval
    (`paired_score_interval`). Their sum has the bounds of MOVER: distances from the means add up as standard errors do,
    with the correlation of the steps (Zou, "On the Estimation of Additive Interaction by Use of the Four-by-two Table
    and Beyond", 2008). So it has a width where all numbers agree. Raises ValueError for a confidence outside 0..1.
    """
    numbers = np.asarray(values, dtype=np.int64)
    levels = np.arange(1, steps + 1)[:, None, None]
    up, down = numbers >= levels, numbers <= -levels  # (steps, S, n)
    each = paired_score_interval(up.sum(axis=-1), down.sum(axis=-1), numbers.shape[-1], confidence)
    means = (up.astype(np.float64) - down).mean(axis=-1)
    correlations = _correlations((up.astype(np.float64) - down) - means[..., None])
    low, high = (
        np.sqrt(np.maximum(np.einsum("is,ijs,js->s", reach, correlations, reach), 0.0))
        for reach in (means - each.low, each.high - means)
    )
    return Interval(means.sum(axis=0) - low, means.sum(axis=0) + high)


def _correlations(deviations: FloatArray) -> FloatArray:
    """(k, k, S) of k variables' deviations from their means (k, S, n); 0 between two where one does not vary."""
    products: FloatArray = np.einsum("isn,jsn->ijs", deviations, deviations)
    sizes = np.sqrt(np.einsum("iis->is", products))
    scale = sizes[:, None] * sizes
    correlations: FloatArray = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    np.einsum("iis->is", correlations)[...] = 1.0
    return correlations


def _upper(b: FloatArray, c: FloatArray, n: FloatArray, z: float) -> FloatArray:
    """The largest difference that the score test does not reject. What it rejects lies above, so halving finds it."""
    low, high = (b - c) / n, np.ones(b.shape)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        rejected = n * middle - (b - c) > z * np.sqrt(n * _variance(b, c, n, middle))
        low, high = np.where(rejected, low, middle), np.where(rejected, middle, high)
    return high


def _variance(b: FloatArray, c: FloatArray, n: FloatArray, difference: FloatArray) -> FloatArray:
    """Of one example's difference, most likely among those of this mean (Tango 1998, eq. 9)."""
    linear = (2 * n - b + c) * difference - b - c
    constant = c * difference * (1 - difference)
    behind = (np.sqrt(linear**2 + 8 * n * constant) - linear) / (4 * n)
    return np.maximum(2 * behind + difference * (1 - difference), 0.0)
