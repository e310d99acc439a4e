"""Single-label classification: loss, decoding of logits, and quality on a test split.

Shapes: N examples, K classes. Probabilities are float64 (N, K) and rows sum to 1. Averages over classes count every
class of the dataset, a class without predictions scoring 0 (scikit-learn's `zero_division=0`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from runner.contract import ClassFigures, Quality, SliceFigures

if TYPE_CHECKING:
    import torch

Labels = NDArray[np.int64]
Probabilities = NDArray[np.float64]


def loss_sum(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy summed over a batch: the caller divides by the examples of the whole optimiser step."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits.float(), labels, reduction="sum")


def decode(logits: torch.Tensor) -> Probabilities:
    """Logits (N, K) to probabilities (N, K)."""
    return logits.double().softmax(dim=-1).cpu().numpy()


def macro_f1(labels: Labels, predicted: Labels, classes: int) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predicted, labels=range(classes), average="macro", zero_division=0))


def evaluate(
    labels: Labels,
    probabilities: Probabilities,
    label_names: Sequence[str],
    slices: Mapping[str, Sequence[object]] | None = None,
    bins: int = 15,
) -> tuple[Quality, dict[str, str]]:
    """All figures of one split, and for each that is null the reason."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    classes = range(len(label_names))
    predicted = probabilities.argmax(axis=1).astype(np.int64)
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    metrics, reasons = _metrics(labels, predicted, probabilities, bins)
    quality = Quality(
        rows=len(labels),
        metrics=metrics,
        per_class=tuple(
            ClassFigures(
                label=name,
                precision=float(precision[i]),
                recall=float(recall[i]),
                f1=float(f1[i]),
                support=int(support[i]),
            )
            for i, name in enumerate(label_names)
        ),
        per_slice=tuple(_per_slice(labels, predicted, slices or {})),
        confusion=tuple(
            tuple(int(n) for n in row) for row in confusion_matrix(labels, predicted, labels=list(classes))
        ),
    )
    return quality, reasons


def _metrics(
    labels: Labels, predicted: Labels, probabilities: Probabilities, bins: int
) -> tuple[dict[str, float | None], dict[str, str]]:
    from sklearn import metrics as sk

    k = probabilities.shape[1]
    reasons: dict[str, str] = {}

    def averaged(score: str, average: str) -> float:
        return float(getattr(sk, score)(labels, predicted, labels=range(k), average=average, zero_division=0))

    values: dict[str, float | None] = {
        "accuracy": float((labels == predicted).mean()),
        "f1": averaged("f1_score", "macro"),
        "f1_weighted": averaged("f1_score", "weighted"),
        "f1_binary": None,
        "precision": averaged("precision_score", "macro"),
        "recall": averaged("recall_score", "macro"),
        "precision_weighted": averaged("precision_score", "weighted"),
        "recall_weighted": averaged("recall_score", "weighted"),
        "mcc": _mcc(labels, predicted),
        "roc_auc": _roc_auc(labels, probabilities),
        "brier": float(((probabilities - np.eye(k)[labels]) ** 2).sum(axis=1).mean()),
        "ece": expected_calibration_error(labels, probabilities, bins),
    }
    if k == 2:
        values["f1_binary"] = float(sk.f1_score(labels, predicted, pos_label=1, zero_division=0))
    else:
        reasons["f1_binary"] = f"defined for two classes, this dataset has {k}"
    if values["roc_auc"] is None:
        reasons["roc_auc"] = "the test split lacks a class"
    return values, reasons


def _mcc(labels: Labels, predicted: Labels) -> float:
    from sklearn.metrics import matthews_corrcoef

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one class only: 0 by convention, which is what it returns
        return float(matthews_corrcoef(labels, predicted))


def _roc_auc(labels: Labels, probabilities: Probabilities) -> float | None:
    """Binary: of class 1. Several classes: one against the rest, macro average."""
    from sklearn.metrics import roc_auc_score

    k = probabilities.shape[1]
    if len(np.unique(labels)) < k:
        return None
    if k == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    return float(roc_auc_score(labels, probabilities, multi_class="ovr", labels=range(k)))


def expected_calibration_error(labels: Labels, probabilities: Probabilities, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal-width bins (Guo et al. 2017, eq. 3)."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(which, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def _per_slice(labels: Labels, predicted: Labels, slices: Mapping[str, Sequence[object]]) -> list[SliceFigures]:
    from sklearn.metrics import f1_score

    figures = []
    for column, values in slices.items():
        texts = np.array(["" if v is None else str(v) for v in values])
        for value in np.unique(texts):
            here = texts == value
            present = np.unique(np.concatenate([labels[here], predicted[here]]))
            figures.append(
                SliceFigures(
                    column=column,
                    value=str(value),
                    rows=int(here.sum()),
                    accuracy=float((labels[here] == predicted[here]).mean()),
                    f1=float(f1_score(labels[here], predicted[here], labels=present, average="macro", zero_division=0)),
                )
            )
    return figures
