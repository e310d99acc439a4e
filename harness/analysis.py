"""What a leaderboard tells beyond single rows: size against accuracy, encoders against decoders, method against method.

Each of these is a weighted sum of the rows' figures (a mean of differences, the slope of a line), so its replicates are
the same sum of the rows' joint replicates, and its interval is as paired as they are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from harness.board import Contrast, Figure, Row, Scaling
from harness.statistics import FloatArray, percentile_interval
from runner.contract import METHODS

BASELINE = "none"
FEWEST_SIZES = 3
"""A line through two points says nothing of how well it fits."""

CONTRASTED = ("accuracy", "f1")
ENCODER, DECODER = "encoder-only", "decoder-only"

Columns = Sequence[int]  # of the rows of one model on its devices, in the group's arrays


@dataclass(frozen=True)
class RankedGroup:
    """One dataset version as ranked. `rows`: (M,) in the order of the arrays' columns. `samples`: accuracy and f1 ->
    joint bootstrap replicates (B, M); NaN for a row without predictions."""

    dataset: str
    fingerprint: str
    rows: tuple[Row, ...]
    samples: Mapping[str, npt.NDArray[np.floating[Any]]]
    confidence: float


def scaling_of(group: RankedGroup) -> tuple[Scaling, ...]:
    """A fit for each method with models of at least three different, known sizes, baselines left out. A model that was
    measured on several devices is one point, their mean."""
    fits = (_fit(group, method, models) for method, models in _by_method(group).items())
    return tuple(fit for fit in fits if fit is not None)


def contrasts_of(group: RankedGroup) -> tuple[Contrast, ...]:
    """Each pair of methods that share models (same device), and encoders against decoders, in accuracy and F1; the
    interval is that of the mean difference over the pairs, over examples and seeds."""
    by_method = _by_method(group)
    found: list[Contrast] = []
    for first, second in combinations(by_method, 2):
        found += _method_contrasts(group, first, second)
    for method, models in by_method.items():
        found += _architecture_contrasts(group, method, models)
    return tuple(found)


def _fit(group: RankedGroup, method: str, models: Mapping[str, Columns]) -> Scaling | None:
    """Least squares of accuracy on log10(parameters); its slope and intercept are sums over the models' accuracies."""
    sizes = {model: size for model, columns in models.items() if (size := group.rows[columns[0]].parameters)}
    if len(set(sizes.values())) < FEWEST_SIZES:
        return None
    fitted = [models[model] for model in sizes]
    x = np.log10(np.array(list(sizes.values()), dtype=np.float64))
    centred = x - x.mean()
    slope = _sum_of(group, "accuracy", _spread_over(fitted, centred / (centred @ centred)))
    assert slope.value is not None
    y = np.array([_mean([_value(group.rows[column], "accuracy") for column in columns]) for columns in fitted])
    intercept = float(y.mean() - slope.value * x.mean())
    rest = y - (intercept + slope.value * x)
    return Scaling(
        dataset=group.dataset,
        fingerprint=group.fingerprint,
        method=method,
        models=len(fitted),
        slope=slope,
        intercept=intercept,
        residual=float(np.sqrt(np.mean(rest**2))),
    )


def _method_contrasts(group: RankedGroup, first: str, second: str) -> list[Contrast]:
    columns = {(row.model, row.device, row.method): column for column, row in _scored_rows(group)}
    pairs = [
        (column, columns[model, device, second])
        for (model, device, method), column in columns.items()
        if method == first and (model, device, second) in columns
    ]
    if not pairs:
        return []
    weights: dict[int, float] = {}
    for ours, theirs in pairs:
        weights |= {ours: 1 / len(pairs), theirs: -1 / len(pairs)}
    return _contrasts(group, "method", first, second, len(pairs), weights)


def _contrasts(
    group: RankedGroup,
    kind: Literal["method", "architecture"],
    first: str,
    second: str,
    pairs: int,
    weights: Mapping[int, float],
    method: str | None = None,
) -> list[Contrast]:
    return [
        Contrast(
            kind=kind,
            dataset=group.dataset,
            fingerprint=group.fingerprint,
            first=first,
            second=second,
            method=method,
            metric=metric,
            pairs=pairs,
            difference=_sum_of(group, metric, weights),
        )
        for metric in CONTRASTED
    ]


def _architecture_contrasts(group: RankedGroup, method: str, models: Mapping[str, Columns]) -> list[Contrast]:
    kinds: dict[str | None, list[Columns]] = defaultdict(list)
    for columns in models.values():
        kinds[group.rows[columns[0]].architecture].append(columns)
    encoders, decoders = kinds[ENCODER], kinds[DECODER]
    if not encoders or not decoders:
        return []
    weights = _spread_over(encoders, np.full(len(encoders), 1 / len(encoders)))
    weights |= _spread_over(decoders, np.full(len(decoders), -1 / len(decoders)))
    pairs = min(len(encoders), len(decoders))
    return _contrasts(group, "architecture", ENCODER, DECODER, pairs, weights, method)


def _by_method(group: RankedGroup) -> dict[str, dict[str, list[int]]]:
    """Method -> model -> columns of its scored rows, one a device; baselines left out."""
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for column, row in _scored_rows(group):
        if row.method != BASELINE:
            found[row.method][row.model].append(column)
    return {method: found[method] for method in METHODS if method in found}


def _scored_rows(group: RankedGroup) -> list[tuple[int, Row]]:
    """Column and row of those that have every figure, and so its replicates."""
    return [
        (column, row)
        for column, row in enumerate(group.rows)
        if not any(math.isnan(_value(row, metric)) for metric in CONTRASTED)
    ]


def _spread_over(models: Sequence[Columns], weights: FloatArray) -> dict[int, float]:
    """Column -> weight, where a model's weight is shared by its devices."""
    shares = zip(models, weights, strict=True)
    return {column: float(weight) / len(columns) for columns, weight in shares for column in columns}


def _sum_of(group: RankedGroup, metric: str, weights: Mapping[int, float]) -> Figure:
    """The weighted sum of a metric over columns, with its interval."""
    columns, factors = list(weights), np.array(list(weights.values()))
    value = math.fsum(_value(group.rows[column], metric) * weight for column, weight in weights.items())
    low, high = percentile_interval(group.samples[metric][:, columns] @ factors, group.confidence)
    return Figure(value=value, low=float(low), high=float(high))


def _value(row: Row, metric: str) -> float:
    figure = row.metrics.get(metric)
    return math.nan if figure is None or figure.value is None else figure.value


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
