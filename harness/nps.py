"""Net Promoter Score: what reviewers' ratings say, and what a classifier makes of their texts.

NPS = per cent promoters - per cent detractors (Reichheld, "The One Number You Need to Grow", 2003). Of five stars, 5
make a promoter, 4 a passive, 3 and fewer a detractor. A classifier of two classes knows no stars: its negative answers
count as detractors, its positive ones as promoters where it is sure, else as passives.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from harness.board import FEW_TEST_ROWS, Base, Figure
from harness.entries import CellRecord, Entry, entries_of
from harness.errors import InputError
from harness.evidence import Evidence
from harness.examples import probabilities, test_examples
from harness.reviews import GOOD_RATING, RATING_COLUMN, NotRatedError, Reviews, positive_class, reviews_of
from harness.statistics import (
    BoolArray,
    Counts,
    FloatArray,
    IntArray,
    Interval,
    example_counts,
    mean_over_seeds,
    percentile_interval,
    seed_deviations,
    seed_draws,
    steps_interval,
    wilson_interval,
)
from runner.contract import ContractError

SCHEMA_VERSION = 1
OVERALL = ""  # the branch of a line over all branches
SAMPLE, SAMPLE_SEED = 1_000, 42
CONFIDENCE, REPLICATES = 0.95, 2_000
LEAST_REVIEWS = 10  # fewer give no interval: it would hold about half of all that is possible
MOST_BRANCHES = 20
_DIGITS = 9  # after the point; further ones depend on the order of a sum

NPS_FLAGS = {
    "biased": "The interval of the error leaves out 0: the model's NPS is too high, or too low.",
    "few_reviews": f"Fewer than {FEW_TEST_ROWS} reviews: the intervals are rough.",
    "one_seed": "A single seed: the intervals leave out how much training varies.",
}


class NpsLine(Base, frozen=True, kw_only=True):
    """One line: the actual ratings (`model` None) or a model, of one branch or overall. `nps`: -100 to 100. Shares sum
    to 1. `error`: model minus actual on the same reviews; `accuracy`: against rating >= 4; both null for the actual.
    `flags`: of `NPS_FLAGS`."""

    model: str | None
    method: str | None
    device: str | None
    seeds: tuple[int, ...]
    branch: str
    reviews: int
    nps: Figure
    promoters: float
    passives: float
    detractors: float
    error: Figure | None
    accuracy: Figure | None
    flags: tuple[str, ...] = ()


class Nps(Base, frozen=True, kw_only=True):
    """Of one dataset version. `sample`: at most so many reviews of each branch and overall, drawn with `seed` from the
    `rated` ones. `positive`: the class that good ratings have. `notes`: sentences on what was found on the way."""

    schema_version: int = SCHEMA_VERSION
    dataset: str
    fingerprint: str
    threshold: float
    sample: int
    seed: int
    confidence: float
    replicates: int
    rated: int = 0
    positive: str = ""
    notes: tuple[str, ...] = ()
    lines: tuple[NpsLine, ...]


@dataclass(frozen=True, eq=False)
class Answers:
    """What the seeds of a model make of n reviews, (S, n) each: whether they call it `positive`, and `categories` as of
    `categories_of_answers`."""

    entry: Entry
    seeds: tuple[int, ...]
    positive: BoolArray
    categories: npt.NDArray[np.int8]

    def of(self, places: IntArray) -> Answers:
        return Answers(self.entry, self.seeds, self.positive[:, places], self.categories[:, places])


def nps_of(
    evidence: Evidence,
    threshold: float = 0.8,
    *,
    rating_column: str = RATING_COLUMN,
    branch_column: str | None = None,
) -> tuple[Nps, ...]:
    """One for each dataset of two classes with ratings from 1 to 5; columns as of `reviews_of`. Raises InputError where
    there is none, or for a threshold outside 0..1."""
    if not 0 <= threshold <= 1:
        raise InputError(f"a threshold of {threshold:g} is no probability", "give one from 0 to 1, such as 0.8")
    versions: dict[tuple[str, str], list[CellRecord]] = defaultdict(list)
    for record in evidence.records:
        if record.predicted is not None:
            versions[record.dataset, record.fingerprint].append(record)
    found: list[Nps] = []
    refused: list[InputError] = []
    for _, records in sorted(versions.items()):
        try:
            found.append(_nps_of_version(records, threshold, rating_column, branch_column))
        except InputError as error:
            refused.append(error)
    if not found:
        raise _none_of(evidence.name, refused)
    lost = [f"Left out: {error.message}." for error in refused if not isinstance(error, NotRatedError)]
    return tuple(msgspec.structs.replace(one, notes=(*one.notes, *lost)) for one in found)


# --- arithmetic ---------------------------------------------------------------------------------


def categories_of_ratings(ratings: IntArray) -> npt.NDArray[np.int8]:
    """(n,) of ratings from 1 to 5: 1 promoter, 0 passive, -1 detractor. 100 times their mean is the NPS."""
    return np.where(ratings == 5, 1, np.where(ratings == 4, 0, -1)).astype(np.int8)


def categories_of_answers(positive: BoolArray, probability: FloatArray, threshold: float) -> npt.NDArray[np.int8]:
    """As above, from whether the answer is positive and that class's probability. They are compared as the float32 that
    the runner writes: one of exactly the threshold has reached it."""
    sure = probability.astype(np.float32) >= np.float32(threshold)
    return np.where(positive, np.where(sure, 1, 0), -1).astype(np.int8)


@dataclass(frozen=True)
class Scale:
    """How the mean of whole numbers becomes a figure, within what it lies, and its score interval: the bounds (S,) of
    the means of numbers (S, m)."""

    factor: float
    least: float
    most: float
    score: Callable[[npt.NDArray[np.int8]], Interval]


NPS = Scale(100, -100, 100, lambda numbers: steps_interval(numbers, 1, CONFIDENCE))
ERROR = Scale(100, -200, 200, lambda numbers: steps_interval(numbers, 2, CONFIDENCE))
ACCURACY = Scale(1, 0, 1, lambda right: wilson_interval(right.sum(axis=1), right.shape[1], CONFIDENCE))


@dataclass(frozen=True, eq=False)
class Measured:
    """Whole numbers (S, m), of seeds and reviews, whose mean is to be known."""

    values: npt.NDArray[np.int8]
    scale: Scale


@dataclass(frozen=True, eq=False)
class Resampling:
    """The same draws for all lines of a branch, so that errors are paired: `counts` (B, m) of reviews, `draws` as of
    `seed_draws`."""

    counts: Counts
    draws: FloatArray

    def figures(self, measured: Sequence[Measured]) -> Iterator[Figure]:
        """Of each the mean over seeds and reviews, with the interval over both, widened by `_unseen`, kept within the
        scale."""
        columns = np.concatenate([one.values for one in measured]).T
        sums = self.counts.astype(np.float32) @ columns.astype(np.float32)  # whole numbers below 2**24: exact
        ends = np.cumsum([len(one.values) for one in measured])[:-1]
        for one, samples in zip(measured, np.split(sums.astype(np.float64), ends, axis=1), strict=True):
            yield self._figure(one, one.scale.factor * samples / len(columns))

    def _figure(self, one: Measured, samples: FloatArray) -> Figure:
        seeds, reviews = one.values.shape
        means = one.scale.factor * one.values.mean(axis=1, dtype=np.float64)
        value = round(float(means.mean()), _DIGITS)
        if reviews < LEAST_REVIEWS:
            reason = f"fewer than {LEAST_REVIEWS} reviews do not tell how they vary"
            return Figure(value=value, low=None, high=None, reason=reason)
        over_seeds = mean_over_seeds(means, samples, seed_deviations(self.draws, seeds))
        drawn, unseen = percentile_interval(over_seeds, CONFIDENCE), _unseen(one, samples)
        low, high = np.clip([drawn.low - unseen.low, drawn.high + unseen.high], one.scale.least, one.scale.most)
        return Figure(value=value, low=round(float(low), _DIGITS), high=round(float(high), _DIGITS))


def _unseen(one: Measured, samples: FloatArray) -> Interval:
    """How far, at least 0 to either side, score intervals reach beyond those of the replicates (B, S) over reviews:
    the mean over seeds. Resampling cannot draw a kind of review of which there is none, and few of a kind too narrowly:
    of 20 reviews, 19 by promoters, its interval covers 62 % instead of 95 %. Dies out as reviews become many."""
    drawn, score = percentile_interval(samples, CONFIDENCE), one.scale.score(one.values)
    low = np.maximum(drawn.low - one.scale.factor * score.low, 0.0).mean()
    high = np.maximum(one.scale.factor * score.high - drawn.high, 0.0).mean()
    return Interval(low, high)


def lines_of(branch: str, ratings: IntArray, answers: Sequence[Answers], resampling: Resampling) -> Iterator[NpsLine]:
    """The actual line of reviews (m,), then each model's."""
    actual = categories_of_ratings(ratings)
    measured = [Measured(actual[None, :], NPS)]
    for one in answers:
        right = one.positive == (ratings >= GOOD_RATING)
        measured += [
            Measured(one.categories, NPS),
            Measured(one.categories - actual, ERROR),
            Measured(right.astype(np.int8), ACCURACY),
        ]
    figures = resampling.figures(measured)
    yield NpsLine(
        model=None,
        method=None,
        device=None,
        seeds=(),
        branch=branch,
        reviews=len(ratings),
        nps=next(figures),
        promoters=float((actual == 1).mean()),
        passives=float((actual == 0).mean()),
        detractors=float((actual == -1).mean()),
        error=None,
        accuracy=None,
        flags=_flags(len(ratings)),
    )
    for one in answers:
        nps, error, accuracy = next(figures), next(figures), next(figures)
        yield NpsLine(
            model=one.entry.model,
            method=one.entry.method,
            device=one.entry.device,
            seeds=one.seeds,
            branch=branch,
            reviews=len(ratings),
            nps=nps,
            promoters=float((one.categories == 1).mean()),
            passives=float((one.categories == 0).mean()),
            detractors=float((one.categories == -1).mean()),
            error=error,
            accuracy=accuracy,
            flags=_flags(len(ratings), one.seeds, error),
        )


def _flags(reviews: int, seeds: tuple[int, ...] = (), error: Figure | None = None) -> tuple[str, ...]:
    low, high = (error.low, error.high) if error is not None else (None, None)
    holds = {
        "biased": low is not None and high is not None and (low > 0 or high < 0),
        "few_reviews": reviews < FEW_TEST_ROWS,
        "one_seed": len(seeds) == 1,
    }
    return tuple(flag for flag, true in holds.items() if true)


# --- one dataset --------------------------------------------------------------------------------


def _nps_of_version(
    records: Sequence[CellRecord], threshold: float, rating_column: str, branch_column: str | None
) -> Nps:
    first, labels = records[0], _labels(records[0])
    names = first.result.label_names
    if len(names) != 2:
        raise NotRatedError(f"'{first.dataset}' has {len(names)} classes, not two", rating_column)
    reviews = reviews_of(records, rating_column, branch_column)
    positive = positive_class(first.dataset, labels[reviews.rows], reviews)
    answers, lost = _answers(records, reviews, positive, threshold)
    return Nps(
        dataset=first.dataset,
        fingerprint=first.fingerprint,
        threshold=threshold,
        sample=SAMPLE,
        seed=SAMPLE_SEED,
        confidence=CONFIDENCE,
        replicates=REPLICATES,
        rated=len(reviews.rows),
        positive=names[positive],
        notes=(*_notes(reviews, labels, names[positive], positive), *lost),
        lines=tuple(_all_lines(reviews, answers)),
    )


def _labels(record: CellRecord) -> IntArray:
    assert record.labels is not None  # of records with predictions only
    return record.labels


def _answers(
    records: Sequence[CellRecord], reviews: Reviews, positive: int, threshold: float
) -> tuple[list[Answers], list[str]]:
    """Of each model, and sentences on the cells whose answers cannot be read. Raises InputError without any."""
    found: list[Answers] = []
    lost: list[str] = []
    for entry in entries_of(records):
        read: dict[int, tuple[BoolArray, FloatArray]] = {}
        for record in entry.scored:
            try:
                test_examples(record, ())  # of no column: that its answers are to these reviews
                shares = probabilities(record)
            except (InputError, ContractError) as error:
                lost.append(f"Left out: {record.cell}, as {error}.")
                continue
            assert record.predicted is not None
            read[record.seed] = ((record.predicted == positive)[reviews.rows], shares[reviews.rows, positive])
        if read:
            says = np.stack([said for said, _ in read.values()])
            shares = np.stack([share for _, share in read.values()])
            found.append(Answers(entry, tuple(read), says, categories_of_answers(says, shares, threshold)))
    if not found:
        raise InputError(f"no answers to the reviews of '{records[0].dataset}' can be read ({lost[0]})", "run it again")
    return found, lost


def _all_lines(reviews: Reviews, answers: Sequence[Answers]) -> Iterator[NpsLine]:
    """Overall, then the branches by name."""
    draws = seed_draws(max(len(one.seeds) for one in answers), REPLICATES, _rng(["seeds"]))
    for branch in (OVERALL, *sorted(reviews.largest_branches()[:MOST_BRANCHES])):
        places = reviews.sample(branch or None, SAMPLE, SAMPLE_SEED)
        rng = _rng([reviews.ids[place] for place in places])
        resampling = Resampling(example_counts(len(places), REPLICATES, rng), draws)
        yield from lines_of(branch, reviews.ratings[places], [one.of(places) for one in answers], resampling)


def _rng(names: Sequence[str]) -> np.random.Generator:
    """One stream for the same reviews: another model or branch leaves a line as it was."""
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    return np.random.default_rng([SAMPLE_SEED, int.from_bytes(digest[:8])])


# --- words --------------------------------------------------------------------------------------


def _notes(reviews: Reviews, labels: IntArray, name: str, positive: int) -> Iterator[str]:
    agree = float(((labels[reviews.rows] == positive) == reviews.good).mean())
    yield (
        f"The positive class is '{name}': {100 * agree:.4g} % of the rated test reviews have it with a rating from "
        f"{GOOD_RATING} on, or the other one with a lower rating."
    )
    if np.ptp(np.bincount(labels, minlength=2)) == 0:
        yield (
            "The test split holds as many reviews of one class as of the other. Where the source does not, as with "
            "`balanced: true`, the actual NPS is that of the split, not that of all reviews."
        )
    if unrated := len(labels) - len(reviews.rows):
        yield f"Without a rating, and left out: {unrated:,} reviews."
    if len(reviews.rows) > SAMPLE:
        yield (
            f"Overall and of each branch, at most {SAMPLE:,} reviews are used: of more, a sample drawn with seed "
            f"{SAMPLE_SEED}."
        )
    branches = len(reviews.largest_branches())
    if branches > MOST_BRANCHES:
        yield f"Of {branches:,} branches, the {MOST_BRANCHES} with most reviews have lines of their own."


def _none_of(run: str, refused: Sequence[InputError]) -> InputError:
    if not refused:
        return InputError(f"run '{run}' has no finished cell with predictions", "finish it first")
    reasons = "; ".join(error.message for error in refused[:5]) + ("; and so on" if len(refused) > 5 else "")
    by_weight = sorted(refused, key=lambda error: isinstance(error, NotRatedError))  # what can be put right comes first
    return InputError(f"run '{run}' has no dataset to tell an NPS of: {reasons}", by_weight[0].hint)
