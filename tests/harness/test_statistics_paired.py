"""Tests of two models on the same examples, against statsmodels, enumeration and published examples."""

from itertools import product

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar

from harness import statistics as st


def two_models(n: int, classes: int, skills: tuple[float, float], seed: int) -> tuple[st.IntArray, st.IntArray]:
    """Labels (n,) and predictions (2, n)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    wrong = rng.random((2, n)) >= np.array(skills)[:, None]
    return labels, np.where(wrong, rng.integers(0, classes, (2, n)), labels)


def test_discordant_counts_by_hand() -> None:
    labels = np.array([0, 1, 1, 0])
    predicted = np.array([[0, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 1]])
    assert st.discordant_counts(labels, predicted).tolist() == [[0, 2, 3], [1, 0, 2], [0, 0, 0]]
    with pytest.raises(ValueError, match="3 predictions for 4 labels"):
        st.discordant_counts(labels, predicted[:, :3])


def test_mcnemar_of_the_approval_ratings() -> None:
    """Agresti, "Categorical Data Analysis", table 10.1: of 1,600 voters 150 changed from approval to disapproval and 86
    back; z² is 17.36, p < 0.0001."""
    p = float(st.mcnemar_exact(150, 86))
    assert p == pytest.approx(mcnemar([[794, 150], [86, 570]], exact=True).pvalue, rel=1e-10)
    assert p == pytest.approx(3.1e-5, rel=0.25)  # the normal tail of sqrt(17.36); the exact one is a little larger


def test_mcnemar_is_statsmodels() -> None:
    rng = np.random.default_rng(0)
    b, c = rng.integers(0, [[30], [900]], (2, 2, 40))
    expected = [mcnemar([[0, one], [other, 0]], exact=True).pvalue for one, other in zip(b.flat, c.flat, strict=True)]
    assert st.mcnemar_exact(b, c).ravel() == pytest.approx(np.minimum(expected, 1), rel=1e-9)


def test_mcnemar_at_the_ends() -> None:
    p = st.mcnemar_exact([0, 5, 0, 7, 0], [0, 0, 6, 7, 3000])
    assert p.tolist() == pytest.approx([1, 2 / 32, 2 / 64, 1, 0])
    table = np.array([[0, 8], [0, 0]])
    assert st.mcnemar_exact(table, table.T) == pytest.approx(np.array([[1, 2 / 256], [2 / 256, 1]]))
    with pytest.raises(ValueError, match="fewer than 0"):
        st.mcnemar_exact(-1, 3)


def test_paired_bootstrap_by_hand() -> None:
    differences = np.stack([np.arange(-2, 97) + 0.5, np.ones(99), np.zeros(99), -np.ones(99)], axis=1)
    assert st.paired_bootstrap(differences).tolist() == pytest.approx([2 * 3 / 100, 0.02, 1, 0.02])
    differences[3, 1] = np.nan
    assert np.isnan(st.paired_bootstrap(differences)).tolist() == [False, True, False, False]
    with pytest.raises(ValueError, match="no replicates"):
        st.paired_bootstrap(differences[:0])


def test_rounding_is_no_difference() -> None:
    assert float(st.paired_bootstrap(np.full(99, 1e-16))) == 1


def test_paired_bootstrap_says_what_its_interval_says() -> None:
    rng = np.random.default_rng(1)
    samples = rng.normal(rng.normal(0, 2, 400), 1, (1999, 400))
    interval = st.percentile_interval(samples)
    outside = (interval.low > 0) | (interval.high < 0)
    p = st.paired_bootstrap(samples)
    clear = np.abs(p - 0.05) > 2 / 2000  # on the edge a single replicate decides
    assert np.array_equal((p < 0.05)[clear], outside[clear])
    assert 100 < outside[clear].sum() < 300


def test_paired_bootstrap_errs_as_often_as_it_says() -> None:
    """Two models of equal accuracy, 300 examples: of 2,000 such pairs 5 % below 0.05, and the p values agree with
    McNemar's where that is not at its coarsest."""
    rng = np.random.default_rng(2)
    right = rng.random((2, 2000, 300)) < rng.choice([0.6, 0.95], (2000, 300))
    counts = st.example_counts(300, 1000, rng).astype(np.float32)
    differences = counts @ (right[0].astype(np.float32) - right[1]).T / 300
    assert (st.paired_bootstrap(differences.astype(float)) < 0.05).mean() == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("figure", ["accuracy", "f1"])
def test_randomisation_is_enumeration(figure: str) -> None:
    """Over all exchanges of the answers to the ten examples on which two models differ."""
    labels, (first, second) = two_models(16, 3, (0.8, 0.3), seed=5)
    differ = np.flatnonzero(first != second)
    differences = []
    for exchanged in product([False, True], repeat=differ.size):
        one, other = first.copy(), second.copy()
        chosen = differ[list(exchanged)]
        one[chosen], other[chosen] = second[chosen], first[chosen]
        figures = st.quality_from_confusion(st.confusion_counts(labels, np.stack([one, other]), 3))[figure]
        differences.append(figures[0] - figures[1])
    expected = np.mean(np.abs(differences) >= abs(differences[0]) - 1e-12)
    found = st.approximate_randomisation(
        labels, first, second, figure, 3, replicates=40_000, rng=np.random.default_rng(0)
    )  # fmt: skip
    assert differ.size >= 8
    assert 0.01 < expected < 0.9
    assert found.p == pytest.approx(expected, abs=0.01)


def test_randomisation_of_accuracy_is_mcnemar() -> None:
    labels, predicted = two_models(400, 4, (0.80, 0.73), seed=1)
    counts = st.discordant_counts(labels, predicted)
    found = st.approximate_randomisation(
        labels, *predicted, "accuracy", 4, replicates=40_000, rng=np.random.default_rng(0)
    )  # fmt: skip
    exact = float(st.mcnemar_exact(counts[0, 1], counts[1, 0]))
    assert found.p == pytest.approx(exact, abs=0.01)
    assert found.tail == pytest.approx(exact, rel=0.3) and not found.at_floor


def test_equal_models_do_not_differ() -> None:
    labels, (first, _) = two_models(50, 2, (0.8, 0.8), seed=0)
    rng = np.random.default_rng(0)
    assert st.approximate_randomisation(labels, first, first, "f1", 2, replicates=100, rng=rng).p == 1


@pytest.mark.parametrize(("differing", "expected"), [(1, 1.0), (60, 1 / 102)])
def test_blocks_hold_all_replicates(differing: int, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """More replicates than fit a block, and a rest. An exchange of one example leaves the difference as large; of 60,
    all to the advantage of one model, no exchange that 101 replicates find does."""
    monkeypatch.setattr("harness.statistics.paired._BLOCK_ELEMENTS", 7 * differing)
    labels = np.zeros(60, dtype=np.int64)
    second = (np.arange(60) < differing).astype(np.int64)
    rng = np.random.default_rng(0)
    found = st.approximate_randomisation(labels, labels, second, "accuracy", 2, replicates=101, rng=rng)
    assert found.p == pytest.approx(expected)
    assert found.at_floor == (differing == 60)


def test_what_cannot_be_randomised_is_refused() -> None:
    labels = np.array([0, 1, 2])
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="f1_binary is not a figure of 3 classes: choose of accuracy, f1"):
        st.approximate_randomisation(labels, labels, labels, "f1_binary", 3, replicates=10, rng=rng)
    with pytest.raises(ValueError, match="a label lies outside"):
        st.approximate_randomisation(labels, labels, labels, "f1", 2, replicates=10, rng=rng)
