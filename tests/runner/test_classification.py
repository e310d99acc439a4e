"""Quality figures, against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from runner.contract import Quality, encode
from runner.tasks.classification import decode, evaluate, expected_calibration_error, loss_sum, macro_f1

# Four true negatives, one of them taken for positive; four positives, two of them missed.
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
POSITIVE = np.array([0.1, 0.2, 0.3, 0.9, 0.8, 0.7, 0.4, 0.2])
BINARY = np.column_stack([1 - POSITIVE, POSITIVE])
NAMES = ("negative", "positive")


def one_hot(predicted: list[int], classes: int) -> np.ndarray:
    return np.eye(classes)[predicted]


def figures(labels: Any, probabilities: Any, names: Any = NAMES, **more: Any) -> tuple[Quality, dict[str, str]]:
    return evaluate(np.asarray(labels), np.asarray(probabilities, dtype=np.float64), names, **more)


def test_binary_by_hand() -> None:
    quality, reasons = figures(LABELS, BINARY)
    m = quality.metrics
    # negative: precision 3/5, recall 3/4, F1 2/3; positive: precision 2/3, recall 1/2, F1 4/7
    assert quality.rows == 8
    assert quality.confusion == ((3, 1), (2, 2))
    assert m["accuracy"] == 5 / 8
    assert m["precision"] == pytest.approx((3 / 5 + 2 / 3) / 2)
    assert m["recall"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert m["f1"] == pytest.approx((2 / 3 + 4 / 7) / 2)
    assert m["f1_binary"] == pytest.approx(4 / 7)
    assert m["mcc"] == pytest.approx((3 * 2 - 1 * 2) / math.sqrt(5 * 3 * 4 * 4))
    # pairs (negative, positive) in the right order: 4 + 4 of .1, 3.5 of .2, 3 of .3, 0 of .9
    assert m["roc_auc"] == pytest.approx((4 + 3.5 + 3 + 0) / 16)
    assert m["brier"] == pytest.approx(2 * np.mean((POSITIVE - LABELS) ** 2))
    assert reasons == {}
    positive = quality.per_class[1]
    assert (positive.label, positive.support) == ("positive", 4)
    assert (positive.precision, positive.recall, positive.f1) == pytest.approx((2 / 3, 1 / 2, 4 / 7))


def test_weighted_averages_follow_the_support() -> None:
    quality, _ = figures([0, 0, 0, 1], one_hot([0, 0, 1, 1], 2))
    # negative (3): precision 1, recall 2/3, F1 4/5; positive (1): precision 1/2, recall 1, F1 2/3
    assert quality.metrics["f1_weighted"] == pytest.approx((3 * 4 / 5 + 2 / 3) / 4)
    assert quality.metrics["precision_weighted"] == pytest.approx((3 * 1 + 1 / 2) / 4)
    assert quality.metrics["recall_weighted"] == pytest.approx((3 * 2 / 3 + 1) / 4)
    assert quality.metrics["f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)


def test_three_classes_by_hand() -> None:
    labels, predicted = [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0]
    quality, reasons = figures(labels, one_hot(predicted, 3) * 0.7 + 0.1, ("a", "b", "c"))
    assert quality.confusion == ((1, 1, 0), (0, 2, 0), (1, 0, 1))
    assert [figure.f1 for figure in quality.per_class] == pytest.approx([1 / 2, 4 / 5, 2 / 3])
    assert quality.metrics["f1"] == pytest.approx((1 / 2 + 4 / 5 + 2 / 3) / 3)
    assert quality.metrics["f1_binary"] is None
    assert set(reasons) == {"f1_binary"}
    # one against the rest, with ties counted half: a (1/2 + 3/4) / 2, b 7/8, c (1 + 1/2) / 2
    assert quality.metrics["roc_auc"] == pytest.approx((5 / 8 + 7 / 8 + 6 / 8) / 3)
    # right: 0.2, 0.1, 0.1 off; wrong: 0.8 off at the picked class, 0.9 at the true one, 0.1 at the third
    right, wrong = 0.2**2 + 2 * 0.1**2, 0.8**2 + 0.9**2 + 0.1**2
    assert quality.metrics["brier"] == pytest.approx((4 * right + 2 * wrong) / 6)


def test_brier_adds_up_over_the_classes() -> None:
    quality, _ = figures([0, 2], [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], ("a", "b", "c"))
    expected = ((0.5**2 + 0.3**2 + 0.2**2) + (0.1**2 + 0.1**2 + 0.2**2)) / 2
    assert quality.metrics["brier"] == pytest.approx(expected)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_against_scikit_learn(classes: int) -> None:
    from sklearn import metrics as sk

    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 200)
    probabilities = rng.dirichlet(np.ones(classes), 200)
    predicted = probabilities.argmax(1)
    found = figures(labels, probabilities, tuple("abcdef")[:classes])[0].metrics
    scores = probabilities[:, 1] if classes == 2 else probabilities
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "mcc": sk.matthews_corrcoef(labels, predicted),
        "roc_auc": sk.roc_auc_score(labels, scores, multi_class="ovr"),
    }
    for suffix, average in (("", "macro"), ("_weighted", "weighted")):
        p, r, f, _ = sk.precision_recall_fscore_support(labels, predicted, average=average)
        expected |= {f"precision{suffix}": p, f"recall{suffix}": r, f"f1{suffix}": f}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert macro_f1(labels, predicted, classes) == pytest.approx(expected["f1"])


# --- calibration ------------------------------------------------------------------------------


def test_calibration_error_by_hand() -> None:
    # ten bins; (0.6, 0.7]: 0.65 and 0.7, one right; (0.9, 1]: 0.95 and 1.0, both right; 0.6 stands in (0.5, 0.6]
    confidence = np.array([0.65, 0.7, 0.95, 1.0, 0.6])
    probabilities = np.column_stack([confidence, 1 - confidence])
    labels = np.array([0, 1, 0, 0, 0])
    gaps = [abs(1 - 1.35) / 5, abs(2 - 1.95) / 5, abs(1 - 0.6) / 5]
    assert expected_calibration_error(labels, probabilities, 10) == pytest.approx(sum(gaps))
    # in one bin over- and underconfidence cancel: 4 right of 5, mean confidence 0.78
    assert expected_calibration_error(labels, probabilities, 1) == pytest.approx(0.8 - 0.78)


@pytest.mark.parametrize("bins", [1, 2, 15])
def test_a_sure_and_right_model_is_calibrated_and_a_sure_and_wrong_one_is_not(bins: int) -> None:
    labels = np.array([0, 1, 1])
    assert expected_calibration_error(labels, one_hot([0, 1, 1], 2), bins) == 0
    assert expected_calibration_error(labels, one_hot([1, 0, 0], 2), bins) == 1


def test_the_number_of_bins_arrives() -> None:
    few, many = (figures(LABELS, BINARY, bins=bins)[0].metrics["ece"] for bins in (1, 15))
    assert few == pytest.approx(abs(BINARY.max(1).mean() - 5 / 8))
    assert many == pytest.approx(expected_calibration_error(LABELS, BINARY, 15))
    assert few != many


# --- classes that are not there ---------------------------------------------------------------


def test_a_class_that_is_never_predicted_counts_as_nothing() -> None:
    quality, reasons = figures([0, 1, 2], one_hot([0, 1, 1], 3), ("a", "b", "c"))
    assert quality.metrics["f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert (quality.per_class[2].precision, quality.per_class[2].f1) == (0, 0)
    assert "roc_auc" not in reasons


def test_a_class_without_test_rows_still_counts_and_has_no_auc() -> None:
    quality, reasons = figures([0, 0, 1], one_hot([0, 0, 1], 3), ("a", "b", "c"))
    assert quality.metrics["f1"] == pytest.approx(2 / 3)
    assert quality.per_class[2].support == 0
    assert quality.confusion[2] == (0, 0, 0)
    assert quality.metrics["roc_auc"] is None
    assert "lacks a class" in reasons["roc_auc"]


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_only(only: int) -> None:
    quality, reasons = figures([only] * 3, one_hot([only] * 3, 2))
    assert quality.metrics["accuracy"] == 1.0
    assert quality.metrics["mcc"] == 0.0
    assert quality.metrics["f1"] == 0.5
    assert quality.metrics["f1_binary"] == only
    assert quality.metrics["roc_auc"] is None
    assert {name for name, value in quality.metrics.items() if value is None} == set(reasons)


@pytest.mark.parametrize("classes", [2, 4])
def test_every_null_has_a_reason(classes: int) -> None:
    quality, reasons = figures([0, 1, 1], one_hot([0, 1, 0], classes), "abcd"[:classes])
    assert {name for name, value in quality.metrics.items() if value is None} == set(reasons)
    assert b"NaN" not in encode(quality)


# --- slices -----------------------------------------------------------------------------------


def test_slices() -> None:
    slices = {"branch": ["a", "b", "a", None, "b", None, "a", "b"], "year": [1, 2, 1, 2, 1, 2, 1, 2]}
    quality, _ = figures(LABELS, BINARY, slices=slices)
    found = {(s.column, s.value): (s.rows, s.accuracy, s.f1) for s in quality.per_slice}
    assert found == {
        ("branch", ""): (2, 0.5, pytest.approx(1 / 3)),  # labels 0 1, predicted 1 1
        ("branch", "a"): (3, pytest.approx(2 / 3), pytest.approx(0.4)),  # labels 0 0 1, predicted 0 0 0
        ("branch", "b"): (3, pytest.approx(2 / 3), pytest.approx(2 / 3)),  # labels 0 1 1, predicted 0 1 0
        ("year", "1"): (4, 0.75, pytest.approx((4 / 5 + 2 / 3) / 2)),
        ("year", "2"): (4, 0.5, 0.5),
    }


def test_a_slice_counts_the_classes_it_has() -> None:
    quality, _ = figures([0, 0, 1, 2], one_hot([0, 0, 1, 1], 3), ("a", "b", "c"), slices={"s": ["x", "x", "y", "y"]})
    assert [s.f1 for s in quality.per_slice] == [1.0, pytest.approx((2 / 3 + 0) / 2)]


# --- logits -----------------------------------------------------------------------------------


def test_decode_is_a_softmax_in_double_precision() -> None:
    found = decode(torch.tensor([[0.0, math.log(3)], [1000.0, -1000.0]], dtype=torch.bfloat16))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [[0.25, 0.75], [1, 0]], atol=2e-3)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-12)


def test_the_loss_is_a_sum_over_examples_in_single_precision() -> None:
    logits = torch.log(torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    found = loss_sum(logits, torch.tensor([0, 1]))
    assert float(found) == pytest.approx(math.log(4) + math.log(2))
    assert loss_sum(logits.half(), torch.tensor([0, 1])).dtype == torch.float32
