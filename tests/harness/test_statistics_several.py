"""Tests across datasets and corrections, against scipy, statsmodels, enumeration and published examples."""

from itertools import product

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from harness import statistics as st

# Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", 2006, table 6: AUC of C4.5, with m, cf and
# both. Of the two that round to 0.975 he ranks cf before both.
DEMSAR = np.array([
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
    [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
    [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
    [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.9751, 0.9749], [0.957, 0.978, 0.946, 0.970],
])  # fmt: skip

# Benjamini & Hochberg 1995, sec. 3.2.
NEUHAUS = np.array(
    [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1.0,
    ]
)


def differences_of(n: int, seed: int, *, ties: bool = False) -> st.FloatArray:
    values = np.random.default_rng(seed).normal(0.4, 1, n)
    return np.round(values, 0 if ties else 8)


# --- Wilcoxon's signed-rank test --------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5, 14, 25])
def test_signed_rank_is_exact(n: int) -> None:
    differences = differences_of(n, seed=n)
    found = st.wilcoxon_signed_rank(differences)
    expected = scipy.stats.wilcoxon(differences, method="exact")
    assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue))


@pytest.mark.parametrize("seed", range(5))
def test_signed_rank_is_exact_with_ties(seed: int) -> None:
    differences = differences_of(11, seed, ties=True)
    found = st.wilcoxon_signed_rank(differences)
    ranks = scipy.stats.rankdata(np.abs(differences[differences != 0]))
    sums = np.array([ranks @ signs for signs in product([0, 1], repeat=ranks.size)])
    assert found.p == pytest.approx(min(1.0, 2 * np.mean(sums <= found.statistic + 1e-9)))
    assert found.used == ranks.size < 11
    assert len(set(ranks)) < ranks.size


@pytest.mark.parametrize("ties", [False, True])
def test_signed_rank_of_many_is_normal(ties: bool) -> None:
    differences = differences_of(80, 3, ties=ties)
    found = st.wilcoxon_signed_rank(differences)
    expected = scipy.stats.wilcoxon(differences[differences != 0], correction=True, method="asymptotic")
    assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue))


def test_the_exact_test_meets_the_normal_one() -> None:
    exact, normal = (st.wilcoxon_signed_rank(differences_of(26, 8)[:n]) for n in (25, 26))
    assert exact.p == pytest.approx(normal.p, rel=0.3)


def test_signed_rank_of_demsars_table() -> None:
    """With the two differences of 0 shared between the signs Demšar has 12; without them, as here, each of the three
    negative sums is two ranks lower, and half the zeros' ranks is gone."""
    found = st.wilcoxon_signed_rank(np.round(DEMSAR[:, 1] - DEMSAR[:, 0], 6))
    assert found.used == 12
    assert found.statistic == 12 - 1.5 - 2 * 2
    assert found.p < 0.05


def test_signed_rank_at_the_ends() -> None:
    assert st.wilcoxon_signed_rank(np.zeros(4)) == st.SignedRank(0.0, 1.0, 0)
    assert st.wilcoxon_signed_rank(np.arange(1.0, 6)).p == 2 / 32
    assert np.isnan(st.wilcoxon_signed_rank(np.array([1.0, np.nan])).p)


# --- Friedman and Nemenyi ---------------------------------------------------------------------


def test_friedman_of_demsars_table() -> None:
    """Mean ranks, and from them chi-squared 9.28 and F 3.69, which Demšar does not correct for ties."""
    found = st.friedman(DEMSAR)
    assert found.ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    plain = 12 * 14 / (4 * 5) * ((found.ranks**2).sum() - 4 * 5**2 / 4)
    assert plain == pytest.approx(9.28, abs=0.01)
    assert 13 * plain / (14 * 3 - plain) == pytest.approx(3.69, abs=0.01)
    assert found.chi_squared > plain
    assert found.f > 3.69
    assert found.p < 0.05


@pytest.mark.parametrize("decimals", [8, 0])
def test_friedman_is_scipys(decimals: int) -> None:
    scores = np.round(np.random.default_rng(decimals).normal(size=(9, 6)), decimals)
    found = st.friedman(scores)
    expected = scipy.stats.friedmanchisquare(*scores.T)
    assert (found.chi_squared, found.p_chi_squared) == pytest.approx((expected.statistic, expected.pvalue))
    assert found.f == pytest.approx(8 * found.chi_squared / (9 * 5 - found.chi_squared))
    assert found.p == pytest.approx(scipy.stats.f.sf(found.f, 5, 40))


def test_friedman_where_all_datasets_agree_or_none_speaks() -> None:
    agreed = st.friedman(np.tile([0.1, 0.2, 0.3], (5, 1)))
    assert agreed.ranks.tolist() == [3, 2, 1]
    assert (agreed.f, agreed.p) == (np.inf, 0)
    tied = st.friedman(np.full((5, 3), 0.5))
    assert (tied.chi_squared, tied.p_chi_squared, tied.p) == (0, 1, 1)


def test_nemenyi_of_demsars_table() -> None:
    """CD 1.25 at 0.05 and 1.12 at 0.10: not even the best and the worst differ at 0.05, and they do at 0.10."""
    found = st.nemenyi(DEMSAR)
    assert found.critical_difference == pytest.approx(1.25, abs=0.005)
    assert st.nemenyi(DEMSAR, 0.10).critical_difference == pytest.approx(1.12, abs=0.005)
    assert 0.05 < found.p[0, 3] < 0.10


@pytest.mark.parametrize(
    ("models", "q05", "q10"),
    [(2, 1.960, 1.645), (3, 2.343, 2.052), (4, 2.569, 2.291), (5, 2.728, 2.459), (6, 2.850, 2.589), (7, 2.949, 2.693),
     (8, 3.031, 2.780), (9, 3.102, 2.855), (10, 3.164, 2.920)],
)  # fmt: skip
def test_critical_differences_are_demsars(models: int, q05: float, q10: float) -> None:
    """Table 5a."""
    scores = np.random.default_rng(0).random((10, models))
    unit = np.sqrt(models * (models + 1) / 60)
    for alpha, q in ((0.05, q05), (0.10, q10)):
        assert st.nemenyi(scores, alpha).critical_difference / unit == pytest.approx(q, abs=1.1e-3)


@pytest.mark.parametrize("models", [2, 6, 40])
def test_nemenyi_is_scipys_studentized_range(models: int) -> None:
    scores = np.random.default_rng(models).random((12, models)) + np.linspace(0, 0.5, models)
    found = st.nemenyi(scores)
    unit = np.sqrt(models * (models + 1) / (12 * 12))
    gaps = np.abs(found.ranks[0] - found.ranks) / unit
    expected = [scipy.stats.studentized_range.sf(gap, models, np.inf) for gap in gaps]
    assert found.p[0] == pytest.approx(expected, abs=1e-9)
    assert np.array_equal(found.p, found.p.T)
    beyond = np.abs(found.ranks[:, None] - found.ranks) > found.critical_difference
    assert np.array_equal(found.p < 0.05, beyond)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((4, 3)), "takes 5 or more, not 4"),
        (np.zeros((5, 1)), "fewer than two models"),
        (np.full((5, 2), np.nan), "no score on one of the datasets"),
    ],
)
def test_what_cannot_be_compared_is_refused(scores: st.FloatArray, message: str) -> None:
    for test in (st.friedman, st.nemenyi):
        with pytest.raises(ValueError, match=message):
            test(scores)


# --- corrections ------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    """Times 4, 3, 2, 1 in ascending order, none below the one before."""
    assert st.holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_the_example_of_benjamini_and_hochberg() -> None:
    """At 0.05 their procedure rejects four of 15, one more than those that control the chance of any error."""
    assert (st.benjamini_hochberg(NEUHAUS) <= 0.05).sum() == 4
    assert (st.holm(NEUHAUS) <= 0.05).sum() == 3


@pytest.mark.parametrize("size", [1, 2, 30])
def test_corrections_are_statsmodels(size: int) -> None:
    p = np.random.default_rng(size).random(size) ** 3
    p[size // 2 :] = p[-1]  # ties
    for ours, method in ((st.holm, "holm"), (st.benjamini_hochberg, "fdr_bh")):
        assert ours(p) == pytest.approx(multipletests(p, method=method)[1], abs=1e-15)


@pytest.mark.parametrize("correct", [st.holm, st.benjamini_hochberg])
def test_what_is_not_known_is_not_of_the_family(correct: object) -> None:
    assert callable(correct)
    table = np.array([[np.nan, 0.01, 0.2], [0.04, np.nan, np.nan]])
    corrected = correct(table)
    assert corrected.shape == table.shape
    assert np.array_equal(np.isnan(corrected), np.isnan(table))
    assert corrected[~np.isnan(table)] == pytest.approx(correct(np.array([0.01, 0.2, 0.04])))
    assert table[0, 1] == 0.01  # as it was
    assert correct(np.array([])).size == 0
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        correct(np.array([0.5, 1.2]))
