"""From finished cells to a leaderboard: composite score, intervals, rank intervals, ties, flags.

Cells are grouped by dataset version (name and fingerprint); a group is ranked by itself (`group_ranking`). Within a
group the seeds of one model, method and device form an *entry*, which becomes a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from harness.analysis import contrasts_of, scaling_of
from harness.board import AcrossDatasets, Figure, Leaderboard, NoiseFloor, OverallRow, Row, SpeedKey
from harness.composite import RankOptions
from harness.entries import CellRecord, speed_key
from harness.group_ranking import GroupRanking, RankedRows, key_id
from harness.metrics import OVERALL_METRICS
from harness.statistics import (
    FEWEST_DATASETS,
    FloatArray,
    competition_ranks,
    friedman_by_permutation,
    nemenyi,
    probability_best,
    rank_bounds,
    separated,
    tie_groups,
)
from harness.statistics.intervals import percentile_interval

__all__ = ["RankOptions", "Ranking", "rank_cells"]


def rank_cells(
    records: Iterable[CellRecord], options: RankOptions | None = None, noise_floor: NoiseFloor | None = None
) -> Leaderboard:
    """Rank finished cells. The same cells and options give the same board, in whatever order they come.

    A value is the mean over seeds; its interval resamples test examples and seeds for all models of a dataset jointly.
    The interval of a speed comes from its windows of timing, where they are known (`half_width`). In the score, speeds
    that `noise_floor` does not part count as equal. Raises ValueError when cells of one dataset version disagree about
    the labels.
    """
    ranking = Ranking(options, noise_floor)
    for record in records:
        ranking.add(record)
    return ranking.board()


class Ranking:
    """A leaderboard of cells that arrive one by one: only what a new cell changes is computed again."""

    def __init__(self, options: RankOptions | None = None, noise_floor: NoiseFloor | None = None) -> None:
        self._options = options or RankOptions()
        self._noise_floor = noise_floor
        self._groups: dict[tuple[str, str], GroupRanking] = {}
        self._speed_keys: dict[str, SpeedKey] = {}

    def add(self, record: CellRecord) -> None:
        key = (record.dataset, record.fingerprint)
        if key not in self._groups:
            self._groups[key] = GroupRanking(*key, self._options, self._noise_floor)
        self._groups[key].add(record)
        if record.result.timing:
            measured_at = speed_key(record.result.provenance, record.device)
            self._speed_keys[key_id(measured_at)] = measured_at

    def board(self) -> Leaderboard:
        """Raises ValueError when cells of one dataset version disagree about the labels."""
        main = _main_versions(self._groups.values())
        ordered = sorted(self._groups.values(), key=lambda group: (group.dataset, main[group.dataset] is not group))
        ranked = [group.rank() for group in ordered]
        mains = [rows for group, rows in zip(ordered, ranked, strict=True) if main[group.dataset] is group]
        overall = _overall(mains, self._options.confidence)
        return Leaderboard(
            confidence=self._options.confidence,
            replicates=self._options.replicates,
            weights=dict(self._options.weights),
            normalise=self._options.normalise,
            noise_floor=self._noise_floor,
            rows=tuple(row for rows in ranked for row in _ordered(rows, is_main=rows in mains)),
            overall=overall,
            across=_across(mains, overall),
            speed_keys=dict(sorted(self._speed_keys.items())),
            scaling=tuple(fit for rows in ranked for fit in scaling_of(rows.group)),
            contrasts=tuple(contrast for rows in ranked for contrast in contrasts_of(rows.group)),
        )


def _main_versions(groups: Iterable[GroupRanking]) -> dict[str, GroupRanking]:
    """The version of each dataset with most rows; of equals the one that finished last."""
    main: dict[str, GroupRanking] = {}
    for group in sorted(groups, key=lambda group: (group.dataset, group.entries, group.finished)):
        main[group.dataset] = group
    return main


def _ordered(ranked: RankedRows, is_main: bool) -> list[Row]:
    rows = ranked.rows if is_main else [_flagged(row, "other_data_version") for row in ranked.rows]
    return sorted(rows, key=lambda row: (row.rank is None, row.rank, row.model, row.method, row.device))


def _flagged(row: Row, flag: str) -> Row:
    return msgspec.structs.replace(row, flags=tuple(sorted({*row.flags, flag})))


# --- over datasets ----------------------------------------------------------------------------


def _overall(groups: Sequence[RankedRows], confidence: float) -> tuple[OverallRow, ...]:
    """Means over datasets of the models that have a score in all of them; empty for a single dataset.

    Datasets are resampled independently. Each dataset's score was normalised among all of that dataset's models.
    """
    places = [group.places for group in groups]
    keys = [key for key in places[0] if all(key in place for place in places)] if len(groups) > 1 else []
    if not keys:
        return ()
    at = [(group, [place[key] for key in keys]) for group, place in zip(groups, places, strict=True)]
    columns = {name: _mean_samples(at, name) for name in OVERALL_METRICS}
    values = {name: np.mean([_values(group, i, name) for group, i in at], axis=0) for name in OVERALL_METRICS}
    apart = separated(values["score"], columns["score"], confidence)
    low, high = rank_bounds(values["score"], apart)
    best, ties = probability_best(columns["score"]), tie_groups(values["score"], apart)
    intervals = {name: percentile_interval(samples, confidence) for name, samples in columns.items()}
    rows = []
    for i, (key, rank) in enumerate(zip(keys, competition_ranks(values["score"]), strict=True)):
        figures = {
            name: Figure(value=float(values[name][i]), low=float(one.low[i]), high=float(one.high[i]))
            for name, one in intervals.items()
        }
        model, method, device = key
        rows.append(
            OverallRow(
                model=model, method=method, device=device, metrics=figures,
                rank=rank, rank_low=low[i], rank_high=high[i], p_best=float(best[i]), tie=ties[i],
            )
        )  # fmt: skip
    return tuple(sorted(rows, key=lambda row: (row.rank, row.model, row.method, row.device)))


def _mean_samples(at: Sequence[tuple[RankedRows, list[int]]], name: str) -> FloatArray:
    """(B, models)."""
    means: FloatArray = np.mean([group.samples[name][:, i] for group, i in at], axis=0, dtype=np.float64)
    return means


def _across(groups: Sequence[RankedRows], overall: Sequence[OverallRow]) -> AcrossDatasets | None:
    if len(groups) < FEWEST_DATASETS or len(overall) < 2:
        return None
    keys = [(row.model, row.method, row.device) for row in overall]
    scores = np.stack([_values(group, [group.places[key] for key in keys], "f1") for group in groups])
    pairs = nemenyi(scores)
    return AcrossDatasets(
        metric="f1",
        datasets=len(groups),
        p=friedman_by_permutation(scores),
        critical_difference=pairs.critical_difference,
        mean_ranks=tuple(float(rank) for rank in pairs.ranks),
    )


def _values(group: RankedRows, indices: Sequence[int], name: str) -> FloatArray:
    return np.array([group.rows[i].metrics[name].value for i in indices], dtype=np.float64)
