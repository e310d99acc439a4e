"""The figures of one entry, each with its interval or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.board import Figure
from harness.entries import Entry, parameters_of, reason_for
from harness.metrics import PROBABILITY_METRICS
from harness.speeds import Measured, interval_of
from harness.statistics import Interval


@dataclass(frozen=True, eq=False)
class Quality:
    """Of one scored entry: values with their intervals, and the replicates (B,) that are needed again."""

    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    samples: Mapping[str, npt.NDArray[np.float32]]


NO_QUALITY = Quality({}, {}, {})


def figure_of(name: str, entry: Entry, quality: Quality, measured: Mapping[str, Measured], confidence: float) -> Figure:
    if name in quality.values:
        low, high = quality.intervals[name]
        return Figure(value=quality.values[name], low=low, high=high)
    if name == "accuracy_per_million_parameters":
        return _per_million(entry, quality)
    found = measured.get(name)
    if found is None:
        return Figure(value=None, low=None, high=None, reason=reason_for(name, entry))
    value = float(found.figures.mean())
    if name in PROBABILITY_METRICS:
        interval: Interval | str = "no interval: taken from the results, where test examples cannot be resampled"
    else:
        interval = interval_of(name, entry, found, value, confidence)
    if isinstance(interval, str):
        return Figure(value=value, low=None, high=None, reason=interval)
    return Figure(value=value, low=float(interval.low), high=float(interval.high))


def _per_million(entry: Entry, quality: Quality) -> Figure:
    parameters = parameters_of(entry)
    if "accuracy" not in quality.values:
        return Figure(value=None, low=None, high=None, reason=reason_for("accuracy", entry))
    if not parameters:
        return Figure(value=None, low=None, high=None, reason="it has no parameters, or does not tell how many")
    low, high = quality.intervals["accuracy"]
    value, low, high = (x / parameters * 1e6 for x in (quality.values["accuracy"], low, high))
    return Figure(value=value, low=low, high=high)
