"""Two models, or two runs, on the same test examples."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from harness.board import Figure
from harness.comparison import Comparison, LeftOut, OverDatasets, Pair, QualityDifference, Side, SpeedRatio
from harness.entries import Entry, common_labels, stacked_predictions
from harness.errors import InputError
from harness.metrics import CONFUSION_METRICS, METRICS, SPEED_METRICS
from harness.pairs import (
    ALPHA,
    CONFIDENCE,
    POWER,
    REPLICATES,
    Z_POWER,
    Difference,
    SharedExamples,
    detectable,
    half_width,
    needed,
    scored_seeds,
    seed_notes,
)
from harness.ratios import Ratio, speed_ratio
from harness.selection import Match, Selection, label_of, matching
from harness.statistics import BoolArray, FloatArray, IntArray
from harness.statistics.paired import discordant_counts, mcnemar_exact
from harness.statistics.power import minimum_detectable_difference
from harness.statistics.seeds import pooled_freedom, two_part_p
from harness.statistics.several import FEWEST_DATASETS, holm, wilcoxon_signed_rank

DEFAULT_METRICS = (
    "accuracy",
    "f1",
    "latency_median_ms",
    "latency_p95_ms",
    "throughput_samples_per_sec",
    "memory_allocated_mb",
)
"""What is compared unless asked for otherwise."""


@dataclass(frozen=True)
class Significance:
    """All pairs of the models of one dataset, in the order given. `difference` (M, M): accuracy of the row's model
    minus that of the column's. `p` (M, M): two-sided, Holm-corrected over all pairs; NaN on the diagonal. `detectable`:
    the smallest difference that data like these show with 80 % power at the level that Holm holds the first of so many
    pairs to, median over pairs; NaN for a single model, and where most pairs would show none."""

    difference: FloatArray
    p: FloatArray
    detectable: float


# --- two selections -----------------------------------------------------------------------------


def compare(first: Selection, second: Selection, metrics: Sequence[str] = DEFAULT_METRICS) -> Comparison:
    """Every pair that the two selections have in common, in `metrics` (names of the registry).

    Raises InputError for a metric that cannot be compared, and with the reasons where nothing is left to compare.
    """
    _check_metrics(metrics)
    first, second = _narrowed(first, second)
    found = matching(first, second)
    matches = [match for match in found.matches if not _same(match, first, second)]
    if found.matches and not matches:
        raise InputError(f"{first.given} and {second.given} are the same", "give two models, or two runs")
    tally = _Tally(list(found.left_out))
    pairs = _pairs(matches, first, second, metrics, tally)
    if not any(one.quality or any(ratio.ratio.value is not None for ratio in one.speed) for one in pairs):
        reasons = [f"{one.what}: {one.reason}" for one in tally.left_out]
        reasons += [f"{one.dataset}: {ratio.ratio.reason}" for one in pairs for ratio in one.speed]
        shown = "; ".join(dict.fromkeys(reasons)) or "neither has a finished cell"
        raise InputError(f"nothing can be compared: {shown}", "compare runs of the same data, on the same machine")
    corrected = _corrected(pairs, tally.differences)
    return Comparison(
        first=first.given,
        second=second.given,
        confidence=CONFIDENCE,
        replicates=REPLICATES,
        family=len(tally.differences),
        pairs=corrected,
        over_datasets=_over_datasets(corrected),
        left_out=tuple(tally.left_out),
    )


@dataclass
class _Tally:
    """What comes up on the way: `differences` are those of all pairs' quality, in order."""

    left_out: list[LeftOut]
    differences: list[Difference] = field(default_factory=list)


def _same(match: Match, first: Selection, second: Selection) -> bool:
    one, other = first.evidence.folder, second.evidence.folder
    if one is None or other is None or one.folder.resolve() != other.folder.resolve():
        return False
    return label_of(match.first) == label_of(match.second) and match.first.device == match.second.device


def _check_metrics(metrics: Sequence[str]) -> None:
    for name in metrics:
        if name not in CONFUSION_METRICS and name not in SPEED_METRICS:
            raise InputError(
                f"{METRICS[name].title} cannot be compared: predictions alone do not give it an interval",
                f"compare {', '.join(CONFUSION_METRICS)} or a speed",
            )


def _narrowed(first: Selection, second: Selection) -> tuple[Selection, Selection]:
    """Where one side names a model, it is that of both."""
    if first.model is None:
        return replace(first, model=second.model, method=second.method), second
    if second.model is None:
        return first, replace(second, model=first.model, method=first.method)
    return first, second


def _pairs(
    matches: Sequence[Match], first: Selection, second: Selection, metrics: Sequence[str], tally: _Tally
) -> list[Pair]:
    by_version: dict[tuple[str, str], list[Match]] = defaultdict(list)
    for match in matches:
        by_version[match.dataset, match.fingerprint].append(match)
    pairs = []
    for (dataset, _), group in by_version.items():
        shared = _shared(dataset, group, tally)
        for match in group:
            pairs.append(_pair(match, shared, first, second, metrics, tally))
            if shared is not None and not (match.first.scored and match.second.scored):
                silent = match.second if match.first.scored else match.first
                reason = "there are no predictions on the test split"
                tally.left_out.append(LeftOut(what=f"{dataset}: quality of {label_of(silent)}", reason=reason))
    return pairs


def _shared(dataset: str, group: Sequence[Match], tally: _Tally) -> SharedExamples | None:
    entries = [entry for match in group for entry in (match.first, match.second)]
    try:
        return SharedExamples(entries)
    except ValueError as error:
        tally.left_out.append(LeftOut(what=f"{dataset}: quality", reason=str(error)))
        return None


def _pair(
    match: Match,
    shared: SharedExamples | None,
    first: Selection,
    second: Selection,
    metrics: Sequence[str],
    tally: _Tally,
) -> Pair:
    one, other = match.first, match.second
    floors = (first.evidence.noise_floor, second.evidence.noise_floor)
    quality: list[QualityDifference] = []
    if shared is not None and one.scored and other.scored:
        for metric in (name for name in metrics if name in shared.metrics):
            tally.differences.append(shared.difference(one, other, metric))
            quality.append(_quality(shared, one, other, metric, tally.differences[-1]))
    speeds = [name for name in metrics if name in SPEED_METRICS]
    return Pair(
        dataset=match.dataset,
        fingerprint=match.fingerprint,
        test_rows=shared.rows if shared else 0,
        first=_side(first, one),
        second=_side(second, other),
        quality=tuple(quality),
        speed=tuple(_speed(name, speed_ratio(name, one, other, floors)) for name in speeds),
        notes=tuple(seed_notes(one, other)),
    )


def _side(selection: Selection, entry: Entry) -> Side:
    return Side(
        run=selection.evidence.name, model=entry.model, method=entry.method, device=entry.device, seeds=entry.seeds
    )


def _quality(shared: SharedExamples, one: Entry, other: Entry, metric: str, found: Difference) -> QualityDifference:
    """As if it were the only test; `_corrected` says what all of them make of it."""
    tested = shared.test(one, other, metric)
    return QualityDifference(
        metric=metric,
        first=found.first,
        second=found.second,
        difference=Figure(value=found.value, low=found.low, high=found.high),
        p=tested.p,
        p_corrected=tested.p,
        test=tested.test,
        detectable=None,
        needed=None,
    )


def _speed(metric: str, ratio: Ratio) -> SpeedRatio:
    return SpeedRatio(metric=metric, first=ratio.first, second=ratio.second, ratio=ratio.ratio, notes=ratio.notes)


def _corrected(pairs: Sequence[Pair], differences: Sequence[Difference]) -> tuple[Pair, ...]:
    """By Holm over all of them; with what could be told apart, and what is needed where nothing is, at the level that
    the first of such a family is held to."""
    alpha = ALPHA / max(1, len(differences))
    p = iter(holm(np.array([one.p for pair in pairs for one in pair.quality])).tolist())
    found = iter(differences)
    replaced = []
    for pair in pairs:
        quality = []
        for one, corrected, difference in zip(pair.quality, p, found, strict=False):
            words = needed(difference, abs(difference.value), alpha).words
            least = detectable(difference, one.metric, alpha)
            needs = words if words and corrected >= ALPHA else None
            shown = None if math.isnan(least) else least
            quality.append(msgspec.structs.replace(one, p_corrected=corrected, detectable=shown, needed=needs))
        replaced.append(msgspec.structs.replace(pair, quality=tuple(quality)))
    return tuple(replaced)


def _over_datasets(pairs: Sequence[Pair]) -> tuple[OverDatasets, ...]:
    """Those of one model against another that five datasets or more have (Demšar, "Statistical Comparisons of
    Classifiers over Multiple Data Sets", 2006, sec. 3.1.3)."""
    found: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for pair in pairs:
        for one in pair.quality:
            names = tuple(f"{side.run}: {side.model} {side.method}" for side in (pair.first, pair.second))
            found[names[0], names[1], one.metric][pair.dataset] = one.second - one.first
    several = {key: list(by.values()) for key, by in found.items() if len(by) >= FEWEST_DATASETS}
    p = [wilcoxon_signed_rank(np.array(differences)).p for differences in several.values()]
    return tuple(
        OverDatasets(
            first=first,
            second=second,
            metric=metric,
            datasets=len(differences),
            difference=float(np.mean(differences)),
            p=raw,
            p_corrected=corrected,
        )
        for ((first, second, metric), differences), raw, corrected in zip(
            several.items(), p, holm(np.array(p)).tolist(), strict=True
        )
    )


# --- all models of a dataset --------------------------------------------------------------------


def significance(entries: Sequence[Entry]) -> Significance:
    """Of the scored entries of one dataset version. With one seed each: exact McNemar. With several: examples and seeds
    as the bootstrap of `SharedExamples` has them, but by the distribution that its replicates tend to, so that p can be
    as small as a correction over all pairs takes; between models of other seeds by Welch's degrees of freedom, with
    which p is smaller than by two heavy tails. Raises ValueError without a scored entry."""
    scored = [entry for entry in entries if entry.scored]
    labels = common_labels([record for entry in scored for record in entry.scored])
    right = [stacked_predictions(entry) == labels for entry in scored]
    accuracy = np.array([rows.mean() for rows in right])
    if all(len(rows) == 1 for rows in right):
        p, least = _by_mcnemar(labels, np.concatenate([stacked_predictions(entry) for entry in scored]))
    else:
        p, least = _by_seeds(scored, right)
    at = np.triu_indices(len(scored), 1)
    corrected = np.full((len(scored), len(scored)), np.nan)
    corrected[at] = corrected.T[at] = holm(p)
    median = float(np.median(np.where(np.isnan(least), np.inf, least))) if least.size else math.inf
    return Significance(accuracy[:, None] - accuracy, corrected, median if math.isfinite(median) else math.nan)


def _by_mcnemar(labels: IntArray, predicted: IntArray) -> tuple[FloatArray, FloatArray]:
    """p and detectable difference of each pair (P,), from predictions (M, n)."""
    counts = discordant_counts(labels, predicted)
    at = np.triu_indices(len(predicted), 1)
    b, c = counts[at], counts.T[at]
    least = minimum_detectable_difference((b + c) / labels.size, labels.size, ALPHA / max(1, b.size), POWER)
    return mcnemar_exact(b, c), least


def _by_seeds(entries: Sequence[Entry], right: Sequence[BoolArray]) -> tuple[FloatArray, FloatArray]:
    """As `_by_mcnemar`, from which answers of each model were right, (S, n)."""
    found = []
    for j, k in combinations(range(len(right)), 2):
        same = scored_seeds(entries[j]) == scored_seeds(entries[k])
        found.append(_paired_error(right[j], right[k]) if same else _unpaired_error(right[j], right[k]))
    gaps = [right[k].mean() - right[j].mean() for j, k in combinations(range(len(right)), 2)]
    p = [two_part_p(gap, one.examples, one.seeds, one.freedom) for gap, one in zip(gaps, found, strict=True)]
    return np.array(p), np.array([one.detectable(ALPHA / len(found)) for one in found])


@dataclass(frozen=True)
class _Error:
    """Of a difference in accuracy: standard errors of examples and seeds, and degrees of freedom of the latter."""

    examples: float
    seeds: float
    freedom: int

    def detectable(self, alpha: float) -> float:
        """At this level; NaN where no difference would be."""
        width = half_width(self.examples, self.seeds, self.freedom, alpha)
        least = width + Z_POWER * math.hypot(self.examples, self.seeds)
        return least if least <= 1 else math.nan


def _paired_error(one: BoolArray, other: BoolArray) -> _Error:
    """Of answers (S, n) with the same seeds."""
    gaps = other.astype(np.float64) - one
    mean = gaps.mean(axis=0)
    error = _seed_error(gaps)
    return _Error(_root(mean.var() / mean.size - error.met), error.seeds, max(1, len(gaps) - 1))


def _unpaired_error(one: BoolArray, other: BoolArray) -> _Error:
    """Of answers (S, n) and (T, n)."""
    mean = other.mean(axis=0) - one.mean(axis=0)
    first, second = _seed_error(one), _seed_error(other)
    freedom = pooled_freedom(first.seeds, len(one), second.seeds, len(other))
    examples = _root(mean.var() / mean.size - first.met - second.met)
    return _Error(examples, math.hypot(first.seeds, second.seeds), freedom)


@dataclass(frozen=True)
class _SeedError:
    """Standard error that seeds give a mean, and `met`, the variance over examples that is in it already: each seed
    meets the examples in its own way."""

    seeds: float
    met: float


def _seed_error(rows: npt.NDArray[Any]) -> _SeedError:
    """Of the mean of rows (S, n): as `mean_over_seeds` has it, with the variance over examples itself in place of that
    of replicates."""
    seeds, n = rows.shape
    if seeds == 1:
        return _SeedError(0.0, 0.0)
    met = float((rows - rows.mean(axis=0)).var(axis=1).mean()) / n / (seeds - 1)
    return _SeedError(float(rows.mean(axis=1).std(ddof=1)) / math.sqrt(seeds), met)


def _root(variance: float) -> float:
    """Of an estimate that may come out below 0."""
    return math.sqrt(max(variance, 0.0))
