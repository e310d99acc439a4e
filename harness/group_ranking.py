"""The ranking of one dataset version. What belongs to one entry is computed when one of its cells arrives; what depends
on all of them (score, ranks, ties) whenever the rows are asked for."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from harness.analysis import RankedGroup
from harness.board import Figure, NoiseFloor, Place, Row, SpeedKey
from harness.composite import RankOptions, composite, scales_of
from harness.entries import (
    CellRecord,
    Entry,
    common_labels,
    common_seeds,
    count_test_rows,
    entries_of,
    flags_of,
    parameters_of,
    reason_for,
    speed_keys,
    speed_keys_of,
    stacked_predictions,
)
from harness.figures import NO_QUALITY, Quality, figure_of
from harness.metrics import METRICS, PROBABILITY_METRICS, SPEED_METRICS
from harness.speeds import SHOWN_LEVEL, Measured, applies, level, measured, shared_levels
from harness.statistics import (
    Counts,
    FloatArray,
    IntArray,
    Interval,
    competition_ranks,
    confusion_counts,
    cost_of_an_error,
    example_counts,
    mean_over_seeds,
    pareto_front,
    probability_best,
    quality_from_confusion,
    rank_bounds,
    resampled_quality,
    seed_deviations,
    seed_draws,
    separated,
    speed_samples,
    spread_of_mean,
    tie_groups,
    unseen_errors,
)
from harness.statistics.intervals import percentile_interval

Key = tuple[str, str, str]  # model, method, device
CELLS_AT_ONCE = 48  # whose replicates are held together
LEAST = {"mcc": -1.0}  # of a quality figure; others are shares
ALWAYS_KEPT = ("accuracy", "f1")  # replicates that the overall rows and the analysis need
PARETO = {"f1": 1.0, "latency_p95_ms": -1.0, "memory_allocated_mb": -1.0}
NO_PLACE = Place(rank=None, rank_low=None, rank_high=None, p_best=None, tie=None)


@dataclass(frozen=True, eq=False)
class _Known:
    """What is computed of an entry alone. `samples`: replicates (B,) of the weighted metrics that were measured.
    `figures`: all but the score, without levels."""

    entry: Entry
    quality: Quality
    samples: Mapping[str, npt.NDArray[np.float32]]
    figures: Mapping[str, Figure]

    @property
    def key(self) -> Key:
        return (self.entry.model, self.entry.method, self.entry.device)


@dataclass(frozen=True, eq=False)
class _Score:
    """(M,) and (B, M); NaN for a model without predictions, or where nothing of what is weighted was measured."""

    values: FloatArray
    samples: FloatArray
    intervals: Interval


@dataclass(frozen=True, eq=False)
class RankedRows:
    """Rows in the order of the entries, with the joint replicates (B, M) of score, accuracy and F1; NaN: no score."""

    rows: tuple[Row, ...]
    samples: Mapping[str, npt.NDArray[np.float32]]
    group: RankedGroup

    @property
    def places(self) -> dict[Key, int]:
        """Where in the columns those with a score are."""
        return {(row.model, row.method, row.device): i for i, row in enumerate(self.rows) if row.rank is not None}


class GroupRanking:
    """All cells of one dataset version."""

    def __init__(self, dataset: str, fingerprint: str, options: RankOptions, floor: NoiseFloor | None) -> None:
        self.dataset = dataset
        self.fingerprint = fingerprint
        self._options = options
        self._floor = floor
        # Streams depend on the dataset alone: another model leaves the intervals of the others' quality as they were,
        # and datasets of equal size are not resampled alike.
        self._stream = int.from_bytes(hashlib.sha256(f"{dataset}\0{fingerprint}".encode()).digest()[:8])
        self._records: dict[str, CellRecord] = {}
        self._known: dict[Key, _Known] = {}
        self._classes = 0
        self._counts: Counts | None = None
        self._ranked: RankedRows | None = None

    @property
    def finished(self) -> float:
        return max(record.result.provenance.finished for record in self._records.values())

    @property
    def entries(self) -> int:
        return len({(record.model, record.method, record.device) for record in self._records.values()})

    def add(self, record: CellRecord) -> None:
        self._records[record.cell] = record
        self._ranked = None

    def rank(self) -> RankedRows:
        """Raises ValueError when cells disagree about the labels."""
        if self._ranked is None:
            self._ranked = self._rank(self._up_to_date())
        return self._ranked

    # --- of one entry ---

    def _up_to_date(self) -> list[_Known]:
        entries = entries_of(list(self._records.values()))
        classes = max(len(record.result.label_names) for record in self._records.values())
        if classes != self._classes:
            self._known, self._classes = {}, classes
        stale = [entry for entry in entries if not _same(self._known.get(_key(entry)), entry)]
        for known in self._computed(stale):
            self._known[known.key] = known
        return [self._known[_key(entry)] for entry in entries]

    def _computed(self, entries: Sequence[Entry]) -> Iterable[_Known]:
        qualities = self._qualities([entry for entry in entries if entry.scored])
        for entry in entries:
            found = {name: one for name in (*PROBABILITY_METRICS, *SPEED_METRICS) if (one := measured(name, entry))}
            weighted = {name: one for name, one in found.items() if name in self._options.weights}
            samples = {name: self._speed_samples(entry, name, one).astype(np.float32) for name, one in weighted.items()}
            quality = qualities.get(_key(entry), NO_QUALITY)
            names = [name for name in METRICS if name != "score"]
            figures = {name: figure_of(name, entry, quality, found, self._options.confidence) for name in names}
            yield _Known(entry, quality, samples, figures)

    def _qualities(self, entries: Sequence[Entry]) -> dict[Key, Quality]:
        """Entries with equally many seeds are computed together."""
        if not entries:
            return {}
        labels = common_labels([r for r in self._records.values() if r.predicted is not None])
        if self._counts is None:
            self._counts = example_counts(labels.size, self._options.replicates, self._rng("examples"))
        groups: dict[int, list[Entry]] = defaultdict(list)
        for entry in entries:
            groups[len(entry.scored)].append(entry)
        found: dict[Key, Quality] = {}
        for seeds, alike in groups.items():
            draws = seed_draws(seeds, self._options.replicates, self._rng("seeds"))
            deviations = seed_deviations(draws, seeds)
            size = max(1, CELLS_AT_ONCE // seeds)
            for start in range(0, len(alike), size):
                found |= self._by_entry(alike[start : start + size], labels, self._counts, deviations)
        return found

    def _by_entry(
        self, entries: Sequence[Entry], labels: IntArray, counts: Counts, deviations: FloatArray
    ) -> dict[Key, Quality]:
        predicted = np.concatenate([stacked_predictions(entry) for entry in entries])
        point = quality_from_confusion(confusion_counts(labels, predicted, self._classes))
        samples = resampled_quality(labels, predicted, self._classes, counts)
        columns = {name: _column(point[name], samples[name], deviations) for name in point}
        unseen = np.stack([self._unseen(entry) for entry in entries], axis=1) / (labels.size * deviations.shape[1])
        costs = cost_of_an_error({name: one.samples for name, one in columns.items()})
        kept = {*ALWAYS_KEPT, *self._options.weights} & columns.keys()
        beyond = unseen_errors(columns["accuracy"].values, labels.size, self._options.confidence)
        values, replicates, intervals = {}, {}, {}
        for name, one in columns.items():
            values[name] = one.values
            replicates[name] = np.clip(one.samples + costs[name] * unseen, LEAST.get(name, 0.0), 1.0)
            low, high = percentile_interval(replicates[name], self._options.confidence)
            low, high = low - costs[name] * beyond.low, high + costs[name] * beyond.high
            intervals[name] = np.clip([low, high], LEAST.get(name, 0.0), 1.0)
        return {
            _key(entry): Quality(
                values={name: float(column[i]) for name, column in values.items()},
                intervals={name: (float(ends[0, i]), float(ends[1, i])) for name, ends in intervals.items()},
                samples={name: replicates[name][:, i].astype(np.float32) for name in kept},
            )
            for i, entry in enumerate(entries)
        }

    def _unseen(self, entry: Entry) -> FloatArray:
        """(B,): examples by which a model may differ from another without the test split showing it: half of one in
        each direction, as Agresti and Min add to paired counts ("Simple Improved Confidence Intervals for Comparing
        Matched Proportions", 2005). Without it one example would part two models for certain."""
        return self._rng("unseen", *_key(entry)).normal(0.0, math.sqrt(0.5), self._options.replicates)

    def _speed_samples(self, entry: Entry, name: str, found: Measured) -> FloatArray:
        spread = spread_of_mean(found.windows if found.in_windows else found.figures[:, None])
        rng = self._rng("speed", *_key(entry), name)
        mean, replicates = float(found.figures.mean()), self._options.replicates
        return speed_samples(mean, float(spread.error), float(spread.freedom), replicates, rng)

    def _rng(self, *names: str) -> np.random.Generator:
        """A stream of its own for each purpose."""
        digest = hashlib.sha256("\0".join(names).encode()).digest()
        return np.random.default_rng([self._options.seed, self._stream, int.from_bytes(digest[:8])])

    # --- of all of them ---

    def _rank(self, known: Sequence[_Known]) -> RankedRows:
        entries = [one.entry for one in known]
        comparable = len(speed_keys(entries)) <= 1
        floor = self._floor if comparable and self._floor and applies(self._floor, entries) else None
        score = self._score(known, floor, comparable)
        places = _places(score, self._options.confidence)
        fronts = _pareto(known)
        levels = {name: shared_levels(name, self._scored_values(known, name, score), floor) for name in SPEED_METRICS}
        usual = common_seeds(entries)
        rows = []
        for i, one in enumerate(known):
            figures = self._figures(one, score, i, {name: float(column[i]) for name, column in levels.items()})
            group_flags = {
                "speed_not_comparable": not comparable,
                "only_model": len(known) == 1,
                "seeds_differ": one.entry.seeds != usual,
                "speed_tied": any(figures[name].level is not None for name in SHOWN_LEVEL),
            }
            rows.append(self._row(one.entry, places[i], fronts[i], figures, group_flags))
        return self._with_samples(known, score, tuple(rows))

    def _with_samples(self, known: Sequence[_Known], score: _Score, rows: tuple[Row, ...]) -> RankedRows:
        samples = {name: self._replicates(known, name).astype(np.float32) for name in ALWAYS_KEPT}
        group = RankedGroup(self.dataset, self.fingerprint, rows, samples, self._options.confidence)
        return RankedRows(rows, {"score": score.samples.astype(np.float32), **samples}, group)

    def _scored_values(self, known: Sequence[_Known], name: str, score: _Score) -> FloatArray:
        """(M,): of a measured metric; NaN without a score, so that such a model shares a level with none."""
        return np.where(np.isnan(score.values), np.nan, [_value(one, name) for one in known])

    def _score(self, known: Sequence[_Known], floor: NoiseFloor | None, comparable: bool) -> _Score:
        """Models without predictions have no score, and do not stretch the others' columns."""
        replicates, models = self._options.replicates, len(known)
        values, samples = np.full(models, np.nan), np.full((replicates, models), np.nan)
        weights = {
            name: weight for name, weight in self._options.weights.items() if comparable or name not in SPEED_METRICS
        }
        at = [i for i, one in enumerate(known) if one.quality.values]
        scored = [known[i] for i in at]
        points = {name: level(name, np.array([_value(one, name) for one in scored]), floor) for name in weights}
        scales = scales_of(points, weights, self._options.normalise)
        if scales:
            columns = {name: level(name, self._replicates(scored, name), floor) for name in scales}
            values[at], samples[:, at] = composite(points, scales), composite(columns, scales)
        return _Score(values, samples, percentile_interval(samples, self._options.confidence))

    def _replicates(self, known: Sequence[_Known], name: str) -> FloatArray:
        """(B, M); NaN where there is none."""
        columns = np.full((self._options.replicates, len(known)), np.nan)
        for i, one in enumerate(known):
            if name in one.quality.samples:
                columns[:, i] = one.quality.samples[name]
            elif name in one.samples:
                columns[:, i] = one.samples[name]
        return columns

    # --- a row ---

    def _row(
        self, entry: Entry, place: Place, pareto: bool | None, figures: dict[str, Figure], group_flags: dict[str, bool]
    ) -> Row:
        keys = speed_keys_of(entry)
        return Row(
            **msgspec.structs.asdict(place),
            model=entry.model,
            dataset=self.dataset,
            fingerprint=self.fingerprint,
            method=entry.method,
            device=entry.device,
            seeds=entry.seeds,
            test_rows=count_test_rows(entry),
            architecture=entry.records[-1].architecture,
            parameters=parameters_of(entry),
            pareto=pareto,
            speed_key=key_id(next(iter(keys))) if len(keys) == 1 else None,
            flags=flags_of(entry, figures, group_flags),
            metrics=figures,
        )

    def _figures(self, known: _Known, score: _Score, i: int, levels: Mapping[str, float]) -> dict[str, Figure]:
        figures = {"score": _score_figure(known, score, i), **known.figures}
        for name, common in levels.items():
            if not np.isnan(common):
                figures[name] = msgspec.structs.replace(figures[name], level=common)
        return figures


@dataclass(frozen=True, eq=False)
class _Column:
    """(M,) and (B, M)."""

    values: FloatArray
    samples: FloatArray


def _column(figures: FloatArray, samples: FloatArray, deviations: FloatArray) -> _Column:
    """Means over seeds, from cells side by side: figures (M * S,), replicates (B, M * S)."""
    seeds = deviations.shape[1]
    by_seed = figures.reshape(-1, seeds)
    # One by one: sums of several at a time differ in the last bits with how many there are.
    parts = [np.ascontiguousarray(samples[:, i * seeds : (i + 1) * seeds]) for i in range(len(by_seed))]
    means = [mean_over_seeds(one, part, deviations) for one, part in zip(by_seed, parts, strict=True)]
    return _Column(by_seed.mean(axis=1), np.stack(means, axis=1))


def _key(entry: Entry) -> Key:
    return (entry.model, entry.method, entry.device)


def _same(known: _Known | None, entry: Entry) -> bool:
    if known is None or known.entry.superseded != entry.superseded:
        return False
    old = known.entry.records
    return len(old) == len(entry.records) and all(a is b for a, b in zip(old, entry.records, strict=True))


def _value(known: _Known, name: str) -> float:
    value = known.figures[name].value
    return np.nan if value is None else value


def _places(score: _Score, confidence: float) -> list[Place]:
    places = [NO_PLACE] * len(score.values)
    at = np.flatnonzero(~np.isnan(score.values))
    if not at.size:
        return places
    values, samples = score.values[at], score.samples[:, at]
    apart = separated(values, samples, confidence)
    ranks, (low, high) = competition_ranks(values), rank_bounds(values, apart)
    best, ties = probability_best(samples), tie_groups(values, apart)
    for j, i in enumerate(at):
        places[i] = Place(rank=ranks[j], rank_low=low[j], rank_high=high[j], p_best=float(best[j]), tie=ties[j])
    return places


def _pareto(known: Sequence[_Known]) -> list[bool | None]:
    """Among those whose speed was measured at the same place."""
    fronts: list[bool | None] = [None] * len(known)
    places: dict[SpeedKey, list[int]] = defaultdict(list)
    for i, one in enumerate(known):
        keys = speed_keys_of(one.entry)
        if len(keys) == 1 and not any(np.isnan(_value(one, name)) for name in PARETO):
            places[next(iter(keys))].append(i)
    for at in places.values():
        columns = np.array([[sign * _value(known[i], name) for name, sign in PARETO.items()] for i in at])
        for i, on in zip(at, pareto_front(columns), strict=True):
            fronts[i] = bool(on)
    return fronts


def _score_figure(known: _Known, score: _Score, i: int) -> Figure:
    if np.isnan(score.values[i]):
        nothing = "nothing that it is made of was measured, or the speeds are not comparable"
        reason = nothing if known.quality.values else reason_for("score", known.entry)
        return Figure(value=None, low=None, high=None, reason=reason)
    low, high = float(score.intervals.low[i]), float(score.intervals.high[i])
    return Figure(value=float(score.values[i]), low=low, high=high)


def key_id(key: SpeedKey) -> str:
    """Short, and the same in every run."""
    return hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:8]
