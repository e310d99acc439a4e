"""Quality figures from labels and predictions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from harness.statistics.arrays import FloatArray, IntArray


def confusion_counts(labels: IntArray, predicted: IntArray, classes: int) -> IntArray:
    """Counts [..., true, predicted] of shape (..., K, K) from labels (n,) and predictions (..., n).

    Raises ValueError when shapes differ or a label lies outside 0..K-1.
    """
    check_codes(labels, predicted, classes)
    flat = predicted.reshape(-1, labels.size)
    cells = labels.astype(np.int64) * classes + flat + np.arange(len(flat))[:, None] * classes**2
    counts = np.bincount(cells.ravel(), minlength=len(flat) * classes**2)
    return counts.reshape(*predicted.shape[:-1], classes, classes).astype(np.int64)


def quality_from_confusion(confusion: npt.ArrayLike) -> dict[str, FloatArray]:
    """Quality figures of shape (...) from confusion matrices (..., K, K), [true, predicted]; weights may be fractions.

    As `quality_from_margins`.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    return quality_from_margins(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-2), counts.sum(axis=-1))


def quality_from_margins(hits: FloatArray, predicted: FloatArray, actual: FloatArray) -> dict[str, FloatArray]:
    """Quality figures of shape (...) from three counts per class (..., K): right, predicted, true.

    These margins hold all that accuracy, macro precision, recall and F1, weighted F1 and MCC need. A division by zero
    gives 0 and every one of the K classes counts in a macro mean, as in scikit-learn with `labels=range(K)` and
    `zero_division=0`. `f1_binary` (of class 1) exists for K = 2 only. MCC for K classes: Gorodkin, "Comparing two
    K-category assignments by a K-category correlation coefficient", 2004, eq. 8.
    """
    classes = hits.shape[-1]
    hits, predicted, actual = (_classes_first(margins) for margins in (hits, predicted, actual))
    f1 = _ratio(2 * hits, predicted + actual)
    total = actual.sum(axis=0)
    correct = hits.sum(axis=0)
    spread = (total**2 - (predicted**2).sum(axis=0)) * (total**2 - (actual**2).sum(axis=0))
    covariance = correct * total - (predicted * actual).sum(axis=0)
    figures = {
        "accuracy": _ratio(correct, total),
        "f1": f1.mean(axis=0),
        "f1_weighted": _ratio((f1 * actual).sum(axis=0), total),
        "precision": _ratio(hits, predicted).mean(axis=0),
        "recall": _ratio(hits, actual).mean(axis=0),
        "mcc": _ratio(covariance, np.sqrt(np.maximum(spread, 0))),
    }
    if classes == 2:
        figures["f1_binary"] = f1[1]
    return figures


def _classes_first(margins: FloatArray) -> FloatArray:
    """(..., K) -> (K, ...), where sums over the few classes are sums of whole arrays."""
    return np.ascontiguousarray(np.moveaxis(margins, -1, 0))


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    ratio = np.zeros(np.broadcast_shapes(numerator.shape, denominator.shape))
    return np.divide(numerator, denominator, out=ratio, where=denominator != 0)


def check_codes(labels: IntArray, predicted: IntArray, classes: int) -> None:
    if predicted.shape[-1] != labels.size:
        raise ValueError(f"{predicted.shape[-1]} predictions for {labels.size} labels")
    for name, values in (("label", labels), ("prediction", predicted)):
        if values.size and not (values.min() >= 0 and values.max() < classes):
            raise ValueError(f"a {name} lies outside 0..{classes - 1}")
