"""Types of the arrays. Letters for shapes: n test examples, K classes, C cells, M models, S seeds, W windows of timing,
B bootstrap replicates, P pairs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.integer[Any]]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.uint8]


class Interval(NamedTuple):
    """Lower and upper bounds, of equal shape."""

    low: FloatArray
    high: FloatArray
