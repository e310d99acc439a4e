"""The difference of two shares counted on the same examples, and the test that takes seeds into account."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from harness.statistics.proportions import paired_score_interval, steps_interval, unseen_disagreement
from harness.statistics.seeds import pooled_freedom, student_upper_tail, two_part_p


def test_airway_responsiveness_before_and_after_transplantation() -> None:
    """Bentur et al. 2009, as in Fagerland, Lydersen & Laake, "Recommended Tests and Confidence Intervals for Paired
    Binomial Proportions", 2014: one of 21 children only before, seven only after."""
    low, high = paired_score_interval(1, 7, 21)
    assert (round(float(low), 3), round(float(high), 3)) == (-0.517, -0.026)


def score(b: int, c: int, n: int, difference: float) -> float:
    """The score statistic, its variance from a likelihood maximised by search."""

    def minus_log_likelihood(behind: float) -> float:
        ahead = behind + difference
        agree = 1 - ahead - behind
        return -(b * np.log(ahead) + c * np.log(behind) + (n - b - c) * np.log(agree))

    room = (max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12)
    behind = optimize.minimize_scalar(minus_log_likelihood, bounds=room, method="bounded", options={"xatol": 1e-12}).x
    variance = 2 * behind + difference - difference**2
    return float((b - c - n * difference) / np.sqrt(n * variance))


@pytest.mark.parametrize(("b", "c", "n"), [(40, 20, 160), (9, 3, 50), (150, 86, 1600)])
def test_the_bounds_are_where_the_score_test_just_rejects(b: int, c: int, n: int) -> None:
    low, high = paired_score_interval(b, c, n)
    z = stats.norm.ppf(0.975)
    assert score(b, c, n, float(low)) == pytest.approx(z, abs=1e-3)
    assert score(b, c, n, float(high)) == pytest.approx(-z, abs=1e-3)


def test_agreement_on_every_example_leaves_a_width() -> None:
    z2 = stats.norm.ppf(0.975) ** 2
    low, high = paired_score_interval(0, 0, np.array([50, 5000]))
    assert high == pytest.approx(z2 / (np.array([50, 5000]) + z2))
    assert low == pytest.approx(-high)


def test_all_examples_one_way() -> None:
    low, high = paired_score_interval([10, 0], [0, 10], 10)
    assert high[0] == 1 and low[1] == -1
    assert 0 < low[0] < 1 and high[1] == pytest.approx(-low[0])


def test_what_resampling_cannot_see_dies_out() -> None:
    low, high = unseen_disagreement([0, 5, 50, 500], [0, 5, 50, 500], 10_000)
    assert high == pytest.approx(low)
    assert (np.diff(high) < 0).all() and high[-1] < high[0] / 40
    assert high[0] == pytest.approx(3.84 / 10_000, rel=0.01)
    assert unseen_disagreement(30, 0, 10_000).low == 0, "where the normal interval reaches further, it stays"


def test_an_impossible_confidence_is_refused() -> None:
    with pytest.raises(ValueError, match="confidence"):
        paired_score_interval(1, 2, 10, confidence=1.0)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 9, 30])
def test_students_tail(df: int) -> None:
    x = np.array([-4.0, 0.0, 0.7, 2.0, 12.0])
    assert student_upper_tail(x, df) == pytest.approx(stats.t.sf(x, df), rel=1e-6)


@pytest.mark.parametrize(("normal", "student", "df"), [(1.0, 1.0, 2), (1.0, 0.1, 4), (0.1, 1.0, 1)])
def test_two_parts_of_an_error_add(normal: float, student: float, df: int) -> None:
    rng = np.random.default_rng(1)
    draws = normal * rng.standard_normal(1_000_000) + student * rng.standard_t(df, 1_000_000)
    for x in (0.5, 2.0, 4.0):
        assert two_part_p(x, normal, student, df) == pytest.approx((np.abs(draws) >= x).mean(), abs=0.002)
    assert two_part_p(-2.0, normal, student, df) == two_part_p(2.0, normal, student, df)


def test_one_part_alone_is_the_normal_or_students_test() -> None:
    assert two_part_p(1.5, 0.5, 0.0, 1) == pytest.approx(2 * stats.norm.sf(3))
    assert two_part_p(1.5, 0.0, 0.5, 3) == pytest.approx(2 * stats.t.sf(3, 3))
    assert two_part_p(8.0, 1.0, 1e-9, 2) == pytest.approx(2 * stats.norm.sf(8), rel=0.2), "far out in the tail, too"
    assert two_part_p(0.0, 0.0, 0.0, 1) == 1.0


def test_freedom_of_two_samples() -> None:
    first, second = np.array([1.0, 3.0, 2.5, 4.0]), np.array([2.0, 9.0, 5.0])
    errors = [sample.std(ddof=1) / np.sqrt(sample.size) for sample in (first, second)]
    expected = stats.ttest_ind(first, second, equal_var=False).df
    assert pooled_freedom(errors[0], 4, errors[1], 3) == int(expected)
    assert pooled_freedom(1.0, 4, 0.0, 1) == 3
    assert pooled_freedom(0.0, 1, 0.0, 1) == 1


def test_a_mean_of_single_steps_has_the_score_interval() -> None:
    numbers = np.array([[1] * 7 + [0] * 10 + [-1] * 4, [1] * 21])
    low, high = steps_interval(numbers, 1)
    expected = paired_score_interval([7, 21], [4, 0], 21)
    np.testing.assert_allclose((low, high), (expected.low, expected.high), atol=1e-12)


def test_steps_that_always_come_together_add_up() -> None:
    """Numbers of -2, 0 and 2 are twice those of -1, 0 and 1, and where none differ, the steps are uncorrelated."""
    ones = np.array([[1] * 7 + [0] * 10 + [-1] * 4])
    np.testing.assert_allclose(steps_interval(2 * ones, 2), 2 * np.array(steps_interval(ones, 1)), atol=1e-12)
    none = np.zeros((1, 50), dtype=int)
    assert steps_interval(none, 2).high[0] == pytest.approx(np.sqrt(2) * steps_interval(none, 1).high[0])


def test_many_numbers_of_several_steps_have_the_normal_interval() -> None:
    numbers = np.random.default_rng(2).choice([-2, -1, 0, 1, 2], (1, 100_000), p=[0.1, 0.2, 0.2, 0.3, 0.2])
    low, high = steps_interval(numbers, 2)
    reach = 1.959964 * numbers.std() / np.sqrt(100_000)
    np.testing.assert_allclose([low[0], high[0]], [numbers.mean() - reach, numbers.mean() + reach], atol=reach / 50)
