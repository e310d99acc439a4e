"""The baselines."""

from __future__ import annotations

import numpy as np
import pytest

from runner.errors import RunnerError
from runner.models.baselines import NAMES, baseline
from tests.runner.models.small_models import TEXTS

LABELS = [1, 0, 1, 0, 1, 0] * 4


@pytest.mark.parametrize("name", NAMES)
def test_columns_are_labels_even_without_rows(name: str) -> None:
    model = baseline(name, seed=1)
    model.fit(TEXTS, [label * 2 for label in LABELS], 4)  # labels 1 and 3 have no row
    for size in (1, 5, 100):
        found = model.predict(TEXTS[:7], size)
        assert found.shape == (7, 4)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found.sum(1), 1)
        assert not found[:, [1, 3]].any()
    assert model.parameters > 0


def test_majority_is_the_most_frequent_class() -> None:
    model = baseline("majority", seed=1)
    model.fit(["a", "b", "c"], [0, 1, 1], 2)
    np.testing.assert_allclose(model.predict(["d"], 8), [[1 / 3, 2 / 3]])


@pytest.mark.parametrize("classes", [2, 3])
def test_tfidf_learns_and_repeats(classes: int) -> None:
    labels = [index % classes for index in range(len(TEXTS))]
    first, second = baseline("tfidf-logreg", seed=1), baseline("tfidf-logreg", seed=1)
    for model in (first, second):
        model.fit(TEXTS, labels, classes)
    found = first.predict(TEXTS, 8)
    assert (found.argmax(1) == labels).mean() > 0.9
    np.testing.assert_array_equal(found, second.predict(TEXTS, 24))


@pytest.mark.parametrize(
    ("texts", "labels", "words"),
    [([], [], "empty"), (["a b", "c d"], [1, 1], "one class"), (["!", "?"], [0, 1], "no words")],
)
def test_nothing_to_learn(texts: list[str], labels: list[int], words: str) -> None:
    with pytest.raises(RunnerError, match=words) as caught:
        baseline("tfidf-logreg", seed=1).fit(texts, labels, 2)
    assert caught.value.kind == "data"


def test_predict_before_fit() -> None:
    with pytest.raises(ValueError, match="fit comes before predict"):
        baseline("tfidf-logreg", seed=1).predict(["a"], 1)


def test_unknown_baseline() -> None:
    with pytest.raises(RunnerError, match="no baseline 'bayes'"):
        baseline("bayes", seed=1)
