from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.entries import CellRecord
from harness.errors import InputError
from harness.reviews import NotRatedError, Reviews, positive_class, reviews_of
from tests.harness.answered import answered, prepare

LABELS = [1, 1, 0, 0, 1]


def record_of(folder: Path, kept: dict[str, list[Any]], labels: list[int] = LABELS) -> CellRecord:
    return answered(folder / "run", prepare(folder / "prepared", labels, kept), [[0.5, 0.5]] * len(labels))


def reviews(ratings: list[int], branches: list[str] | None = None) -> Reviews:
    count = len(ratings)
    ids = [f"all-{i}" for i in range(count)]
    return Reviews(np.arange(count), ids, np.array(ratings), branches or [""] * count)


@pytest.mark.parametrize("given", [[5, 4, 3, None, 1], [5.0, 4.0, 3.0, None, 1.0], ["5", " 4", "3.0", "", "1"]])
def test_ratings_are_read_however_the_source_wrote_them(tmp_path: Path, given: list[Any]) -> None:
    record = record_of(tmp_path, {"rating": given, "BRANCH": ["a", "b", None, "b", "b"]})
    found = reviews_of([record], "Rating", None)
    assert found.rows.tolist() == [0, 1, 2, 4], "without a rating: no review"
    assert found.ratings.tolist() == [5, 4, 3, 1]
    assert list(found.ids) == ["all-0", "all-1", "all-2", "all-4"]
    assert list(found.branches) == ["a", "b", "", "b"]
    assert found.largest_branches() == ["b", "a"]


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        ({"Stars": [5, 4, 3, 2, 1]}, "has no column 'Rating'"),
        ({"Rating": [10, 4, 3, 2, 1]}, "holds '10'"),
        ({"Rating": [0, 4, 3, 2, 1]}, "holds '0'"),
        ({"Rating": [4.5, 4, 3, 2, 1]}, "holds '4.5'"),
        ({"Rating": ["good", "4", "3", "2", "1"]}, "holds 'good'"),
        ({"Rating": [None, None, None, None, ""]}, "no test review"),
    ],
)
def test_what_is_no_rating_is_refused(tmp_path: Path, kept: dict[str, list[Any]], says: str) -> None:
    with pytest.raises(NotRatedError, match=says) as refused:
        reviews_of([record_of(tmp_path, kept)], "Rating", None)
    assert "keep_columns: [Rating, Branch]" in refused.value.hint


def test_a_branch_column_is_asked_for_only_by_name(tmp_path: Path) -> None:
    record = record_of(tmp_path, {"Rating": [5, 4, 3, 2, 1], "Park": ["x"] * 5})
    assert set(reviews_of([record], "Rating", None).branches) == {""}
    assert set(reviews_of([record], "rating", "park").branches) == {"x"}
    with pytest.raises(NotRatedError, match="has no column 'Ort'"):
        reviews_of([record], "Rating", "Ort")


def test_one_sound_cell_is_enough(tmp_path: Path) -> None:
    dataset = prepare(tmp_path / "prepared", LABELS, {"Rating": [5, 4, 3, 2, 1]})
    broken, sound = (answered(tmp_path / name, dataset, [[0.5, 0.5]] * 5) for name in ("broken", "sound"))
    assert broken.attempt is not None
    broken.attempt.spec.write_text("{}")
    assert len(reviews_of([broken, sound], "Rating", None).rows) == 5
    with pytest.raises(InputError, match=r"spec\.json"):
        reviews_of([broken], "Rating", None)


@pytest.mark.parametrize(
    ("labels", "ratings", "expected"),
    [
        ([1, 1, 0, 0], [5, 4, 3, 1], 1),
        ([0, 0, 1, 1], [5, 4, 3, 1], 0),
        ([1, 1, 0, 0, 0, 0, 1], [5, 4, 4, 3, 2, 1, 1], 1),  # mostly
        ([1, 1], [5, 4], 1),  # no others
        ([1, 1], [1, 3], 0),  # none good
    ],
)
def test_the_positive_class_goes_by_the_ratings(labels: list[int], ratings: list[int], expected: int) -> None:
    assert positive_class("park", np.array(labels), reviews(ratings)) == expected


@pytest.mark.parametrize(
    ("labels", "ratings"),
    [
        ([1, 1, 1, 1, 0], [5, 4, 3, 3, 1]),  # "positive" from 3 on
        ([1, 0, 1, 0], [5, 4, 3, 1]),  # nothing to do with it
        ([1, 1, 1, 1], [5, 4, 3, 1]),
    ],
)
def test_classes_of_something_else_are_refused(labels: list[int], ratings: list[int]) -> None:
    with pytest.raises(NotRatedError, match="do not divide"):
        positive_class("park", np.array(labels), reviews(ratings))


def test_a_sample_depends_on_the_ids_alone() -> None:
    branches = ["a", "b", "b", "b"] * 500
    found = reviews([5] * 2000, branches)
    taken = found.sample(None, 1000, 42)
    assert len(taken) == 1000 and (np.diff(taken) > 0).all()
    shuffled = np.random.default_rng(1).permutation(2000)
    again = Reviews(shuffled, [found.ids[i] for i in shuffled], found.ratings, [branches[i] for i in shuffled])
    assert {again.ids[place] for place in again.sample(None, 1000, 42)} == {found.ids[place] for place in taken}
    assert found.sample(None, 1000, 43).tolist() != taken.tolist()
    assert found.sample("b", 1000, 42).size == 1000 and {branches[i] for i in found.sample("b", 1000, 42)} == {"b"}
    assert found.sample("a", 1000, 42).tolist() == list(range(0, 2000, 4)), "fewer: all"


def test_a_sample_is_as_the_whole() -> None:
    """Of ids in the order of the source, as many from each quarter as chance gives."""
    taken = reviews([5] * 40_000).sample(None, 10_000, 42)
    parts = np.bincount(taken // 10_000, minlength=4)
    assert (np.abs(parts - 2500) < 4 * np.sqrt(10_000 * 0.25 * 0.75)).all()
