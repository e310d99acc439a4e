"""From the cells of a run to a leaderboard: composite score, intervals, ranks and flags.

Cells are grouped by dataset version (name and fingerprint); a group is ranked by itself. Within a group the seeds of
one model, method and device form an *entry*, which becomes a row.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.board import Figure, Leaderboard, NoiseFloor, OverallRow, Row
from harness.entries import (
    CellRecord,
    Entry,
    common_labels,
    common_seeds,
    count_test_rows,
    entries_of,
    flags_of,
    reason_for,
    speed_keys,
    stacked_predictions,
)
from harness.metrics import CONFUSION_METRICS, METRICS, OVERALL_METRICS, PROBABILITY_METRICS, SPEED_METRICS
from harness.speeds import SHOWN_LEVEL, Measured, applies, interval_of, level, measured, shared_levels
from harness.statistics import (
    BoolArray,
    FloatArray,
    Interval,
    bootstrap_quality,
    confusion_counts,
    percentile_interval,
    quality_from_confusion,
    resampled_means,
    seed_uniforms,
    window_uniforms,
)

__all__ = ["COMPOSITE_WEIGHTS", "CellRecord", "competition_ranks", "composite", "min_max", "rank_cells"]

COMPOSITE_WEIGHTS: Mapping[str, float] = {
    "accuracy": 0.30,
    "f1": 0.30,
    "throughput_samples_per_sec": 0.20,
    "latency_median_ms": -0.20,
}

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class _Column:
    """One metric of a group: values (M,) and bootstrap replicates (B, M). NaN: there is none."""

    value: FloatArray
    samples: FloatArray


@dataclass(frozen=True)
class _Group:
    """All entries of one dataset version."""

    dataset: str
    fingerprint: str
    entries: tuple[Entry, ...]
    columns: dict[str, _Column]
    ranks: list[int | None]
    without_width: BoolArray  # (M,): of the score's interval
    measured: dict[str, list[Measured | None]]  # metric -> of each entry what its seeds measured
    levels: dict[str, FloatArray]  # metric -> (M,): the value shared with others, NaN where there is none

    @property
    def finished(self) -> float:
        return max(record.result.provenance.finished for entry in self.entries for record in entry.records)


def rank_cells(
    records: Iterable[CellRecord],
    *,
    replicates: int = 1000,
    seed: int = 0,
    weights: Mapping[str, float] = COMPOSITE_WEIGHTS,
    noise_floor: NoiseFloor | None = None,
) -> Leaderboard:
    """Rank finished cells. The same cells, `replicates` and `seed` give the same board.

    A value is the mean over seeds; an interval is the 95 % percentile interval of a bootstrap that resamples test
    examples and seeds for all models of a dataset jointly. The interval of a speed comes from its windows of timing,
    where they are known (`half_width`). In the score, speeds that `noise_floor` does not part count as equal. Raises
    ValueError when cells of one dataset version disagree about the labels.
    """
    versions: dict[tuple[str, str], list[CellRecord]] = defaultdict(list)
    for record in records:
        versions[record.dataset, record.fingerprint].append(record)
    groups = [_group(versions[key], replicates, seed, weights, noise_floor) for key in sorted(versions)]
    main = _main_versions(groups)
    ordered = sorted(groups, key=lambda group: (group.dataset, main[group.dataset] is not group))
    return Leaderboard(
        confidence=_CONFIDENCE,
        replicates=replicates,
        weights=dict(weights),
        noise_floor=noise_floor,
        rows=tuple(row for group in ordered for row in _rows(group, main[group.dataset] is group)),
        overall=_overall(list(main.values())),
    )


def composite(columns: Mapping[str, FloatArray], weights: Mapping[str, float]) -> FloatArray:
    """Weighted sum (..., M) of min-max normalised columns (..., M); the sign of a weight gives the direction.

    The score is relative to the models it is computed with: the weights' positive sum for the best in everything, 0
    for a model alone. A constant column and a missing (NaN) value contribute nothing.
    """
    terms = [weight * min_max(columns[name]) for name, weight in weights.items()]
    total: FloatArray = np.sum(terms, axis=0, dtype=np.float64)
    return total


def min_max(values: FloatArray) -> FloatArray:
    """Values (..., M) scaled to 0..1 over the last axis; NaN and constant columns give 0."""
    missing = np.isnan(values)
    low = np.where(missing, np.inf, values).min(axis=-1, keepdims=True)
    high = np.where(missing, -np.inf, values).max(axis=-1, keepdims=True)
    span = high - low
    # Means over seeds taken in another order differ in the last bits; that must not become a whole unit.
    varies = span > 1e-12 * np.maximum(np.abs(high), np.abs(low))
    scaled = np.zeros_like(values)
    np.divide(values - low, span, out=scaled, where=varies & ~missing)
    return scaled


def competition_ranks(scores: FloatArray) -> list[int]:
    """1 for the highest; equal scores share the lower rank (1, 1, 3); NaN comes last."""
    rounded = np.round(np.where(np.isnan(scores), -np.inf, scores), 12)
    return [1 + int(np.sum(rounded > score)) for score in rounded]


# --- one dataset version ----------------------------------------------------------------------


def _group(
    records: Sequence[CellRecord],
    replicates: int,
    seed: int,
    weights: Mapping[str, float],
    noise_floor: NoiseFloor | None,
) -> _Group:
    entries = entries_of(records)
    dataset, fingerprint = records[0].dataset, records[0].fingerprint
    # Streams depend on the dataset alone: another model leaves the intervals of the others' quality as they were,
    # and datasets of equal size are not resampled alike.
    digest = int.from_bytes(hashlib.sha256(f"{dataset}\0{fingerprint}".encode()).digest()[:8])
    example_rng, seed_rng, window_rng = (np.random.default_rng([seed, digest, stream]) for stream in range(3))
    uniforms = seed_uniforms(max(len(entry.records) for entry in entries), replicates, seed_rng)
    columns = _quality_columns(entries, uniforms, example_rng)
    found = {name: [measured(name, entry) for entry in entries] for name in (*PROBABILITY_METRICS, *SPEED_METRICS)}
    width = max((one.windows.shape[1] for column in found.values() for one in column if one), default=1)
    draws = window_uniforms(uniforms.shape[1], width, replicates, window_rng)
    columns |= {name: _measured_column(column, uniforms, draws) for name, column in found.items()}
    if len(speed_keys(entries)) > 1:
        weights = {name: weight for name, weight in weights.items() if name not in SPEED_METRICS}
        noise_floor = None
    floor = noise_floor if noise_floor and applies(noise_floor, entries) else None
    parts = _scored_columns(columns, weights, floor)
    columns["score"] = _score_column(parts, weights)
    scores = columns["score"].value
    ranks = [None if np.isnan(score) else rank for score, rank in zip(scores, competition_ranks(scores), strict=True)]
    scored = ~np.isnan(scores)
    return _Group(
        dataset=dataset,
        fingerprint=fingerprint,
        entries=entries,
        columns=columns,
        ranks=ranks,
        without_width=_without_width(parts, columns["score"], weights),
        measured=found,
        levels={name: shared_levels(name, np.where(scored, columns[name].value, np.nan), floor) for name in METRICS},
    )


def _quality_columns(entries: Sequence[Entry], uniforms: FloatArray, rng: np.random.Generator) -> dict[str, _Column]:
    shape = (len(uniforms), len(entries))
    columns = {name: _Column(np.full(shape[1], np.nan), np.full(shape, np.nan)) for name in CONFUSION_METRICS}
    at = [index for index, entry in enumerate(entries) if entry.scored]
    if not at:
        return columns
    labels = common_labels([record for entry in entries for record in entry.scored])
    classes = max(len(record.result.label_names) for entry in entries for record in entry.records)
    predicted = [stacked_predictions(entries[index]) for index in at]
    samples = bootstrap_quality(labels, predicted, classes, uniforms=uniforms, rng=rng)
    for index, predictions in zip(at, predicted, strict=True):
        for name, values in quality_from_confusion(confusion_counts(labels, predictions, classes)).items():
            columns[name].value[index] = values.mean()
    for name, values in samples.items():
        columns[name].samples[:, at] = values
    return columns


def _measured_column(found: Sequence[Measured | None], uniforms: FloatArray, draws: FloatArray) -> _Column:
    """A figure measured once a seed, seeds without it left out; resampled by seeds, and by windows where there are."""
    values = np.full(len(found), np.nan)
    samples = np.full((len(uniforms), len(found)), np.nan)
    for index, one in enumerate(found):
        if one is not None:
            values[index] = one.figures.mean()
            samples[:, index] = resampled_means(one.figures, one.windows, uniforms, draws)
    return _Column(values, samples)


def _scored_columns(
    columns: Mapping[str, _Column], weights: Mapping[str, float], floor: NoiseFloor | None
) -> dict[str, _Column]:
    """The columns of the score, speeds levelled. Models without predictions have none, and their speed does not stretch
    the columns of the others."""
    unscored = np.isnan(columns["accuracy"].value)
    return {
        name: _Column(
            level(name, np.where(unscored, np.nan, columns[name].value), floor),
            level(name, np.where(unscored, np.nan, columns[name].samples), floor),
        )
        for name in ("accuracy", *weights)
    }


def _score_column(parts: Mapping[str, _Column], weights: Mapping[str, float]) -> _Column:
    """The score, normalised anew in every replicate, so that its interval covers the normalisation as well.

    A model that is at the same end of every column in every replicate has an interval without width: its place is
    certain, its figures are not (`_without_width`).
    """
    unscored = np.isnan(parts["accuracy"].value)
    value = composite({name: parts[name].value for name in weights}, weights)
    samples = composite({name: parts[name].samples for name in weights}, weights)
    return _Column(np.where(unscored, np.nan, value), np.where(unscored, np.nan, samples))


def _without_width(parts: Mapping[str, _Column], score: _Column, weights: Mapping[str, float]) -> BoolArray:
    """(M,): models whose score has an interval without width, where some column tells models apart."""
    low, high = percentile_interval(score.samples, _CONFIDENCE)
    varies = any(min_max(parts[name].samples).any() for name in weights)
    fixed: BoolArray = np.isclose(low, high) & varies  # NaN, of a model without a score, is close to nothing
    return fixed


# --- rows -------------------------------------------------------------------------------------


def _main_versions(groups: Sequence[_Group]) -> dict[str, _Group]:
    """The version of each dataset with most rows; of equals the one that finished last."""
    main: dict[str, _Group] = {}
    for group in sorted(groups, key=lambda group: (group.dataset, len(group.entries), group.finished)):
        main[group.dataset] = group
    return main


def _rows(group: _Group, is_main: bool) -> list[Row]:
    intervals = {name: percentile_interval(column.samples, _CONFIDENCE) for name, column in group.columns.items()}
    usual_seeds = common_seeds(group.entries)
    group_flags = {
        "other_data_version": not is_main,
        "speed_not_comparable": len(speed_keys(group.entries)) > 1,
        "only_model": len(group.entries) == 1,
    }
    rows = []
    for index, entry in enumerate(group.entries):
        figures = {name: _figure(name, group, index, _at(intervals[name], index)) for name in METRICS}
        row = Row(
            model=entry.model,
            dataset=group.dataset,
            fingerprint=group.fingerprint,
            method=entry.method,
            device=entry.device,
            seeds=entry.seeds,
            test_rows=count_test_rows(entry),
            rank=group.ranks[index],
            flags=flags_of(
                entry,
                figures,
                group_flags
                | {
                    "seeds_differ": entry.seeds != usual_seeds,
                    "score_without_width": bool(group.without_width[index]),
                    "speed_tied": any(figures[name].level is not None for name in SHOWN_LEVEL),
                },
            ),
            metrics=figures,
        )
        rows.append(row)
    return sorted(rows, key=lambda row: (row.rank is None, row.rank, row.model, row.method, row.device))


def _figure(name: str, group: _Group, index: int, resampled: Interval) -> Figure:
    value = float(group.columns[name].value[index])
    if np.isnan(value):
        return Figure(value=None, low=None, high=None, reason=reason_for(name, group.entries[index]))
    interval: Interval | str = resampled
    if name in PROBABILITY_METRICS:
        interval = "no interval: taken from the results, where test examples cannot be resampled"
    elif name in SPEED_METRICS and (found := group.measured[name][index]):
        interval = interval_of(found, value, _CONFIDENCE)
    shared = group.levels[name][index]
    common = None if np.isnan(shared) else float(shared)
    if isinstance(interval, str):
        return Figure(value=value, low=None, high=None, reason=interval, level=common)
    return Figure(value=value, low=float(interval.low), high=float(interval.high), level=common)


def _at(interval: Interval, index: int) -> Interval:
    return Interval(interval.low[index], interval.high[index])


# --- over datasets ----------------------------------------------------------------------------


def _overall(groups: Sequence[_Group]) -> tuple[OverallRow, ...]:
    """Means over datasets of the models that have a score in all of them; empty for a single dataset.

    Datasets are resampled independently. Each dataset's score was normalised among all of that dataset's models.
    """
    places = [_scored_places(group) for group in groups]
    keys = [key for key in places[0] if all(key in place for place in places)] if len(groups) > 1 else []
    if not keys:
        return ()
    indices = [[place[key] for key in keys] for place in places]
    means = {name: _mean_column([group.columns[name] for group in groups], indices) for name in OVERALL_METRICS}
    intervals = {name: percentile_interval(column.samples, _CONFIDENCE) for name, column in means.items()}
    rows = []
    for index, (key, rank) in enumerate(zip(keys, competition_ranks(means["score"].value), strict=True)):
        figures = {
            name: Figure(
                value=float(means[name].value[index]),
                low=float(intervals[name].low[index]),
                high=float(intervals[name].high[index]),
            )
            for name in OVERALL_METRICS
        }
        model, method, device = key
        rows.append(OverallRow(model=model, method=method, device=device, rank=rank, metrics=figures))
    return tuple(sorted(rows, key=lambda row: (row.rank, row.model, row.method, row.device)))


def _scored_places(group: _Group) -> dict[tuple[str, str, str], int]:
    """(model, method, device) -> its place in the group's columns, of those with a score."""
    return {
        (entry.model, entry.method, entry.device): index
        for index, (entry, rank) in enumerate(zip(group.entries, group.ranks, strict=True))
        if rank is not None
    }


def _mean_column(columns: Sequence[_Column], indices: Sequence[list[int]]) -> _Column:
    pairs = list(zip(columns, indices, strict=True))
    return _Column(
        np.mean([column.value[index] for column, index in pairs], axis=0),
        np.mean([column.samples[:, index] for column, index in pairs], axis=0),
    )
