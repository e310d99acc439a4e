"""The quality of one model beside another's, on the same test examples."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from harness.comparison import Test
from harness.entries import Entry, common_labels, stacked_predictions
from harness.statistics import (
    FloatArray,
    IntArray,
    confusion_counts,
    example_counts,
    mean_over_seeds,
    percentile_interval,
    quality_from_confusion,
    resampled_quality,
    seed_deviations,
    seed_draws,
    student_t,
)
from harness.statistics.distributions import critical_z
from harness.statistics.paired import approximate_randomisation, mcnemar_exact, paired_bootstrap
from harness.statistics.power import examples_needed, minimum_detectable_difference, seeds_needed
from harness.statistics.proportions import unseen_disagreement
from harness.statistics.seeds import pooled_freedom, two_part_p

CONFIDENCE = 0.95
REPLICATES = 10_000
ALPHA, POWER = 0.05, 0.8

Z_POWER = critical_z(2 * POWER - 1)
_TURNED = 0.01  # share of answers that turn, for the slope of a metric
_MOST_COUNTS = 50_000_000  # bytes of the counts of examples that are held at a time


@dataclass(frozen=True)
class Difference:
    """Of one quality figure, second minus first, means over seeds, with its 95 % interval. `examples_error`: the
    standard error that the test examples give it, alike for all seeds; `seed_sd`: how much it varies from seed to seed,
    0 with one seed; `unseen`: how much of the interval is for disagreements that the examples hold none of.
    `discordant`: how many of the `rows` test examples one of the two alone has right, a mean over seeds. `freedom`:
    degrees of freedom of what seeds give its error."""

    first: float
    second: float
    low: float
    high: float
    examples_error: float
    seed_sd: float
    seeds: int
    unseen: float
    rows: int
    discordant: float
    freedom: int

    @property
    def value(self) -> float:
        return self.second - self.first


@dataclass(frozen=True)
class Tested:
    p: float
    test: Test


@dataclass(frozen=True)
class Needed:
    """What it takes in all to be sure, with 80 % power; both None: no number can be given."""

    examples: int | None = None
    seeds: int | None = None

    @property
    def words(self) -> str:
        parts = [f"{self.examples:,} test examples"] if self.examples is not None else []
        parts += [f"{self.seeds:,} seeds"] if self.seeds is not None else []
        return f"about {' and '.join(parts)} would tell" if parts else ""


@dataclass(frozen=True)
class _Joint:
    """Replicates of a figure's mean: `samples` (B,), and `examples` (B,), without what the seeds bring about."""

    samples: FloatArray
    examples: FloatArray
    seed_sd: float
    seeds: int
    freedom: int


class SharedExamples:
    """The predictions of entries of one dataset version, with joint replicates of their quality: in one replicate all
    of them meet the same examples. Raises ValueError where they disagree about the labels, or none is scored."""

    def __init__(self, entries: Sequence[Entry], *, replicates: int = REPLICATES, seed: int = 0) -> None:
        self._labels = common_labels([record for entry in entries for record in entry.scored])
        self._classes = max(len(record.result.label_names) for entry in entries for record in entry.records)
        self._at: dict[Entry, slice] = {}
        stacks: list[IntArray] = []
        for entry in dict.fromkeys(entry for entry in entries if entry.scored):
            start = sum(map(len, stacks))
            stacks.append(stacked_predictions(entry))
            self._at[entry] = slice(start, start + len(stacks[-1]))
        self._predicted = np.concatenate(stacks)
        self._confusion = confusion_counts(self._labels, self._predicted, self._classes)
        self._figures = quality_from_confusion(self._confusion)
        examples, *sides = (np.random.default_rng([seed, stream]) for stream in range(3))
        self._samples = self._resampled(replicates, examples)
        most = max(map(len, stacks))
        self._draws = [seed_draws(most, replicates, rng) for rng in sides]
        self._seed = seed

    @property
    def rows(self) -> int:
        return int(self._labels.size)

    @property
    def metrics(self) -> tuple[str, ...]:
        """That have a difference: the binary F1 exists for two classes only."""
        return tuple(self._figures)

    def difference(self, first: Entry, second: Entry, metric: str) -> Difference:
        """With its interval: percentiles of the joint replicates, each end further out by what resampling cannot see
        (`unseen_disagreement`), in accuracy, times what a wrong answer costs in this metric.

        Entries with the same seeds are paired in these, too; otherwise the seeds of each are drawn by themselves.
        """
        joint = self._joint(first, second, metric)
        behind, ahead = self._discordant(first, second)
        unseen = unseen_disagreement(ahead, behind, self.rows, CONFIDENCE)
        cost = self._cost_of_error(first, metric)
        low, high = percentile_interval(joint.samples, CONFIDENCE)
        most = most_apart(metric)
        return Difference(
            first=self._mean(first, metric),
            second=self._mean(second, metric),
            low=max(float(low - cost * unseen.low), -most),
            high=min(float(high + cost * unseen.high), most),
            examples_error=float(joint.examples.std()),
            seed_sd=joint.seed_sd,
            seeds=joint.seeds,
            unseen=cost * float(max(unseen.low, unseen.high)),
            rows=self.rows,
            discordant=ahead + behind,
            freedom=joint.freedom,
        )

    def test(self, first: Entry, second: Entry, metric: str) -> Tested:
        """Two-sided, of no difference: McNemar's for the accuracy of one seed each, approximate randomisation for what
        else one seed has, the bootstrap for several.

        Of B replicates none gives a p below 1 / B, and a correction over many tests would leave nothing to be told
        apart: where all of them lie on one side, p is by the distribution that they tend to, as in `significance`.
        """
        if len(first.scored) > 1 or len(second.scored) > 1:
            return self._bootstrapped(first, second, metric)
        if metric == "accuracy":
            return Tested(float(mcnemar_exact(*self._discordant(first, second))), "mcnemar")
        one, other = (self._predicted[self._at[entry]][0] for entry in (first, second))
        rng = np.random.default_rng([self._seed, 3, _stream(first, second, metric)])
        found = approximate_randomisation(
            self._labels, one, other, metric, self._classes, replicates=REPLICATES, rng=rng
        )
        if found.at_floor and found.tail < found.p:
            return Tested(found.tail, "randomisation_limit")
        return Tested(found.p, "randomisation")

    def _bootstrapped(self, first: Entry, second: Entry, metric: str) -> Tested:
        joint = self._joint(first, second, metric)
        p = float(paired_bootstrap(joint.samples))
        if p <= 2 / (1 + len(joint.samples)):
            error = joint.seed_sd / math.sqrt(joint.seeds)
            gap = self._mean(second, metric) - self._mean(first, metric)
            limit = two_part_p(gap, float(joint.examples.std()), error, joint.freedom)
            if limit < p:
                return Tested(limit, "bootstrap_limit")
        return Tested(p, "bootstrap")

    def _resampled(self, replicates: int, rng: np.random.Generator) -> dict[str, FloatArray]:
        """Quality figures (B, C), of so many replicates at a time that their counts stay small."""
        step = max(1, _MOST_COUNTS // self.rows)
        parts = [
            resampled_quality(
                self._labels,
                self._predicted,
                self._classes,
                example_counts(self.rows, min(step, replicates - start), rng),
            )
            for start in range(0, replicates, step)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _mean(self, entry: Entry, metric: str) -> float:
        return float(self._figures[metric][self._at[entry]].mean())

    def _joint(self, first: Entry, second: Entry, metric: str) -> _Joint:
        (a, of_a), (b, of_b) = (
            (self._figures[metric][self._at[entry]], self._samples[metric][:, self._at[entry]])
            for entry in (first, second)
        )
        if scored_seeds(first) == scored_seeds(second):
            return self._over_seeds(b - a, of_b - of_a, self._draws[0])
        one, other = self._over_seeds(a, of_a, self._draws[0]), self._over_seeds(b, of_b, self._draws[1])
        fewer = min(one.seeds, other.seeds)
        # The variance of either mean, as if both had the smaller number of seeds.
        sd = math.sqrt(fewer * (one.seed_sd**2 / one.seeds + other.seed_sd**2 / other.seeds))
        errors = [(part.seed_sd / math.sqrt(part.seeds), part.seeds) for part in (one, other)]
        freedom = pooled_freedom(*errors[0], *errors[1])
        return _Joint(other.samples - one.samples, other.examples - one.examples, sd, fewer, freedom)

    @staticmethod
    def _over_seeds(figures: FloatArray, samples: FloatArray, draws: FloatArray) -> _Joint:
        """Of figures (S,) and their replicates (B, S)."""
        deviations = seed_deviations(draws, figures.size)
        joint = mean_over_seeds(figures, samples, deviations)
        sd = float(figures.std(ddof=1)) if figures.size > 1 else 0.0
        return _Joint(joint, joint - deviations @ figures, sd, figures.size, max(1, figures.size - 1))

    def _discordant(self, first: Entry, second: Entry) -> tuple[float, float]:
        """How many examples the first alone has right, and the second alone: counts, or means over seeds."""
        one, other = ((self._predicted[self._at[entry]] == self._labels).mean(axis=0) for entry in (first, second))
        gap = other - one
        return float(-gap[gap < 0].sum()), float(gap[gap > 0].sum())

    def _cost_of_error(self, entry: Entry, metric: str) -> float:
        """What the metric changes by for each unit that accuracy does, when right answers turn wrong evenly, or wrong
        ones right, whichever is more: 1 for accuracy, about 1 for F1 with even classes, and more where one is rare."""
        counts = self._confusion[self._at[entry]].sum(axis=0).astype(np.float64)
        right = np.diag(np.diagonal(counts))
        others = (1 - np.eye(self._classes)) / max(1, self._classes - 1)
        worse = counts + _TURNED * (right @ others - right)
        better = counts + _TURNED * (np.diag((counts - right).sum(axis=1)) - (counts - right))
        before = quality_from_confusion(counts)
        costs = [1.0] if metric == "accuracy" else []
        for after in (quality_from_confusion(worse), quality_from_confusion(better)):
            change = abs(float(after["accuracy"] - before["accuracy"]))
            costs += [abs(float(after[metric] - before[metric])) / change] if change else []
        return max(costs, default=1.0)


def most_apart(metric: str) -> float:
    """The largest difference that two models can have."""
    return 2.0 if metric == "mcc" else 1.0


def detectable(difference: Difference, metric: str, alpha: float = ALPHA) -> float:
    """The smallest difference that data like these show at this level with 80 % power: by McNemar's test for the
    accuracy of one seed each, else half the width of an interval of this level and what the power takes. NaN where no
    difference would."""
    if metric == "accuracy" and difference.seeds == 1:
        share = difference.discordant / difference.rows
        return float(minimum_detectable_difference(share, difference.rows, alpha, POWER))
    examples, seeds = difference.examples_error, difference.seed_sd / math.sqrt(difference.seeds)
    wider = half_width(examples, seeds, difference.freedom, alpha) - half_width(
        examples, seeds, difference.freedom, ALPHA
    )
    least = (difference.high - difference.low) / 2 + wider + Z_POWER * math.hypot(examples, seeds)
    return least if least <= most_apart(metric) else math.nan


def half_width(examples: float, seeds: float, freedom: int, alpha: float) -> float:
    """Of an interval of level 1 - alpha, from the standard errors of examples and of seeds, squared and added."""
    return math.hypot(critical_z(1 - alpha) * examples, _critical_t(freedom, alpha) * seeds)


@lru_cache(maxsize=1024)
def _critical_t(freedom: int, alpha: float) -> float:
    return student_t(freedom, 1 - alpha)


def _stream(first: Entry, second: Entry, metric: str) -> int:
    """Of random numbers, for one metric of one pair, in whatever order they are asked for."""
    names = [(entry.model, entry.method, entry.device) for entry in (first, second)]
    return zlib.crc32(repr((names, metric)).encode())


def needed(difference: Difference, distance: float, alpha: float = ALPHA) -> Needed:
    """To tell the difference from one that lies `distance` away, if it is as large as it seems, at this level."""
    if distance == 0:
        return Needed()
    # What is for unseen disagreements shrinks as examples are added, the rest as their square root.
    unseen = difference.rows * difference.unseen / distance
    variance = difference.rows * difference.examples_error**2  # of one example
    if difference.seed_sd == 0:
        seen = examples_needed(distance, variance + distance**2, alpha, POWER) if variance else None
        return Needed(examples=math.ceil((seen or 0) + unseen))
    seeds = seeds_needed(distance, difference.seed_sd, difference.examples_error, alpha, POWER)
    if seeds is not None:
        return Needed(seeds=seeds)
    allowed = distance / (critical_z(1 - alpha) + Z_POWER) / math.sqrt(2)  # half of the variance to the seeds
    seeds = seeds_needed(distance, difference.seed_sd, allowed, alpha, POWER)
    return Needed(examples=math.ceil(variance / allowed**2 + unseen), seeds=seeds)


def scored_seeds(entry: Entry) -> tuple[int, ...]:
    return tuple(record.seed for record in entry.scored)


def seed_notes(one: Entry, other: Entry) -> list[str]:
    """What the intervals of these two leave out."""
    notes = []
    if 1 in (len(one.seeds), len(other.seeds)):
        notes.append("one seed: the intervals leave out how much training varies")
    if one.seeds != other.seeds:
        notes.append("not the same seeds: they are not paired")
    return notes
