"""The rated reviews of a test split: their stars, their branches, samples of them, and which of two classes is the good
one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.entries import CellRecord
from harness.errors import InputError
from harness.examples import example_columns, test_examples
from harness.statistics import BoolArray, IntArray
from runner.contract import ContractError

RATING_COLUMN, BRANCH_COLUMN = "Rating", "Branch"
GOOD_RATING = 4  # the lowest whose reviews a classifier should call positive
_STARS = {"": 0} | {form: stars for stars in range(1, 6) for form in (f"{stars}", f"{stars}.0")}


class NotRatedError(InputError):
    """The dataset is none of ratings: there is nothing to put right unless it should be one."""

    def __init__(self, message: str, rating_column: str = RATING_COLUMN) -> None:
        super().__init__(
            message,
            f"in the dataset's entry, keep the ratings (`keep_columns: [{rating_column}, {BRANCH_COLUMN}]`) and make "
            "two classes of them (`label_rule: {'>= 4': positive, '<= 3': negative}`), then run again",
        )


@dataclass(frozen=True, eq=False)
class Reviews:
    """Those with a rating, (n,) each. `rows`: their places in the test split, ascending. `branches`: "" if unknown."""

    rows: IntArray
    ids: Sequence[str]
    ratings: IntArray
    branches: Sequence[str]

    @property
    def good(self) -> BoolArray:
        return self.ratings >= GOOD_RATING

    def largest_branches(self) -> list[str]:
        """By number of reviews, then name."""
        counts = Counter(branch for branch in self.branches if branch)
        return sorted(counts, key=lambda branch: (-counts[branch], branch))

    def sample(self, branch: str | None, size: int, seed: int) -> IntArray:
        """Places (m,) among these reviews, ascending, of at most `size` of a branch; None: of all.

        Taken are those whose ids, hashed with the seed, are the smallest. So whether a review is in depends on the ids
        of its branch alone: on no order, no model, no machine.
        """
        here = [place for place, one in enumerate(self.branches) if branch in (None, one)]
        if len(here) > size:
            here = sorted(here, key=lambda place: hashlib.sha256(f"{seed}\0{self.ids[place]}".encode()).digest())[:size]
        return np.array(sorted(here), dtype=np.int64)


def reviews_of(records: Sequence[CellRecord], rating_column: str, branch_column: str | None) -> Reviews:
    """Of one dataset version; columns may differ in case from the names given. `branch_column` None: `Branch`, if there
    is one. Raises NotRatedError, or InputError where no cell's reviews can be had."""
    problem: InputError | None = None
    for record in records:  # any of them will do: they saw the same reviews
        try:
            return _reviews_of(record, rating_column, branch_column)
        except NotRatedError:
            raise
        except InputError as error:
            problem = error
        except ContractError as error:
            problem = InputError(str(error), "run that cell again")
    raise problem or ValueError("there is no cell")


def positive_class(dataset: str, labels: IntArray, reviews: Reviews) -> int:
    """The class, 0 or 1, that most good reviews have and most others have not: what it is called says less. `labels`
    (n,): of the reviews. Raises NotRatedError where the classes do not go by the ratings so."""
    good = reviews.good
    for code in (1, 0):
        called = labels == code
        most_good = not good.any() or called[good].mean() > 0.5
        few_others = good.all() or called[~good].mean() < 0.5
        if most_good and few_others:
            return code
    raise NotRatedError(
        f"the two classes of '{dataset}' do not divide its reviews into ratings from {GOOD_RATING} on and below"
    )


def _reviews_of(record: CellRecord, rating_column: str, branch_column: str | None) -> Reviews:
    """Raises InputError, ContractError."""
    known = example_columns(record)
    rating, branch = _column(known, rating_column), _column(known, branch_column or BRANCH_COLUMN)
    if rating is None or (branch is None and branch_column is not None):
        absent = rating_column if rating is None else branch_column
        raise NotRatedError(f"'{record.dataset}' has no column '{absent}' ({', '.join(known[:20])})", rating_column)
    found = test_examples(record, [name for name in ("id", rating, branch) if name is not None])
    ratings = _ratings(found[rating], f"'{rating}' of '{record.dataset}'")
    rows = np.flatnonzero(ratings)
    if not rows.size:
        raise NotRatedError(f"no test review of '{record.dataset}' has a rating in '{rating}'")
    branches = found[branch] if branch is not None else [""] * len(ratings)
    return Reviews(rows, [found["id"][row] for row in rows], ratings[rows], [branches[row] for row in rows])


def _column(known: Sequence[str], asked: str) -> str | None:
    """The column of that name, or of that name in another case."""
    return asked if asked in known else next((name for name in known if name.lower() == asked.lower()), None)


def _ratings(texts: Sequence[str], column: str) -> IntArray:
    """(n,): 1 to 5, or 0 where there is none. Raises NotRatedError for anything else."""
    strange = next((text for text in texts if text.strip() not in _STARS), None)
    if strange is not None:
        raise NotRatedError(f"{column} holds '{strange[:40]}', where ratings from 1 to 5 are asked for")
    return np.array([_STARS[text.strip()] for text in texts], dtype=np.int8)
