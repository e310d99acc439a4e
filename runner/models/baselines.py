"""Baselines without a network: what a model must beat to be worth its cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from runner.errors import RunnerError

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

MAX_ITERATIONS = 2_000  # lbfgs stops when it has converged; 100, the library's default, is not enough here


class Baseline(Protocol):
    """Fitted once, then asked for probabilities."""

    parameters: int  # learnt numbers; 0 before `fit`

    def fit(self, texts: Sequence[str], labels: Sequence[int], num_labels: int) -> None:
        """`labels`: indices below `num_labels`. Raises RunnerError("data") where nothing can be learnt."""

    def predict(self, texts: Sequence[str], batch_size: int) -> npt.NDArray[np.float64]:
        """Probabilities (len(texts), num_labels); column i is label i."""


class Majority:
    """Always the class frequencies of the training split: the most frequent class wins, the first one on a tie."""

    def __init__(self) -> None:
        self.parameters = 0
        self._shares: npt.NDArray[np.float64] = np.zeros(0)

    def fit(self, texts: Sequence[str], labels: Sequence[int], num_labels: int) -> None:
        _check_rows(texts)
        counts = np.bincount(np.asarray(labels, dtype=np.int64), minlength=num_labels)
        self._shares = counts / counts.sum()
        self.parameters = num_labels

    def predict(self, texts: Sequence[str], batch_size: int) -> npt.NDArray[np.float64]:
        return np.tile(self._shares, (len(texts), 1))


class TfidfLogReg:
    """Word 1- and 2-grams, sublinear TF-IDF, logistic regression with C = 4."""

    def __init__(self, seed: int) -> None:
        self.parameters = 0
        self._seed = seed
        self._num_labels = 0
        self._pipeline: Pipeline | None = None

    def fit(self, texts: Sequence[str], labels: Sequence[int], num_labels: int) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import Pipeline

        _check_rows(texts)
        if len(set(labels)) < 2:
            raise RunnerError(
                "data", "the training split has one class only", "use more rows or correct the label column"
            )
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        if not any(map(vectorizer.build_analyzer(), texts)):
            raise RunnerError("data", "the training texts hold no words", "correct the text column")
        regression = LogisticRegression(C=4.0, max_iter=MAX_ITERATIONS, random_state=self._seed)
        self._pipeline = Pipeline([("tfidf", vectorizer), ("regression", regression)])
        self._pipeline.fit(list(texts), np.asarray(labels, dtype=np.int64))
        self._num_labels = num_labels
        self.parameters = int(regression.coef_.size + regression.intercept_.size)

    def predict(self, texts: Sequence[str], batch_size: int) -> npt.NDArray[np.float64]:
        if self._pipeline is None:
            raise ValueError("fit comes before predict")
        result = np.zeros((len(texts), self._num_labels))
        seen: Any = self._pipeline.classes_  # a class without a training row keeps probability 0
        for start in range(0, len(texts), batch_size):
            rows = slice(start, start + batch_size)
            result[rows, seen] = self._pipeline.predict_proba(list(texts[rows]))
        return result


NAMES = ("majority", "tfidf-logreg")


def baseline(name: str, *, seed: int) -> Baseline:
    """The baseline of that name. Raises RunnerError("configuration") for another name."""
    if name == "majority":
        return Majority()
    if name == "tfidf-logreg":
        return TfidfLogReg(seed)
    raise RunnerError("configuration", f"there is no baseline '{name}'", f"use one of: {', '.join(NAMES)}")


def _check_rows(texts: Sequence[str]) -> None:
    if len(texts) == 0:
        raise RunnerError("data", "the training split is empty", "use more rows")
