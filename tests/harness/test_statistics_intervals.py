"""Intervals against scipy, statsmodels and published examples. Coverage is in `test_statistics_coverage`."""

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.proportion import proportion_confint

from harness import statistics as st
from harness.statistics.distributions import binomial_cdf, chi_squared_tail, f_tail, half_binomial_cdf

NAN = np.nan

# Efron & Tibshirani, "An Introduction to the Bootstrap", 1993: table 3.1 (15 law schools) and table 14.1 (test A of 26
# children).
LSAT = [576, 635, 558, 578, 666, 580, 555, 661, 651, 605, 653, 575, 545, 572, 594]
GPA = [3.39, 3.30, 2.81, 3.03, 3.44, 3.07, 3.00, 3.43, 3.36, 3.13, 3.12, 2.74, 2.76, 2.88, 2.96]
SPATIAL = [48, 36, 20, 29, 42, 42, 20, 42, 22, 41, 45, 14, 6, 0, 33, 28, 34, 4, 32, 24, 47, 41, 24, 26, 30, 41]


# --- distributions ----------------------------------------------------------------------------


def test_the_normal_distribution_is_scipys() -> None:
    x = np.linspace(-38, 9, 200).reshape(2, 100)
    assert st.normal_cdf(x) == pytest.approx(scipy.stats.norm.cdf(x), rel=1e-11)
    p = np.array([1e-300, 1e-9, 0.025, 0.5, 0.975, 1 - 1e-12])
    assert st.normal_quantile(p) == pytest.approx(scipy.stats.norm.ppf(p), rel=1e-12)
    assert st.normal_quantile([0, 1]).tolist() == [-np.inf, np.inf]
    assert np.isnan(st.normal_quantile([-0.1, 1.1, NAN])).all()
    assert float(st.normal_quantile(st.normal_cdf(1.2345))) == pytest.approx(1.2345)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 10, 51])
def test_the_tail_of_chi_squared_is_scipys(df: int) -> None:
    for x in (0.0, 0.001, 0.5, 3.0, 20.0, 200.0):
        assert chi_squared_tail(x, df) == pytest.approx(scipy.stats.chi2.sf(x, df), rel=1e-9)


@pytest.mark.parametrize("df1", [1, 2, 3, 9, 40, 300])
@pytest.mark.parametrize("df2", [1, 2, 5, 30, 100, 5000])
def test_the_tail_of_f_is_scipys(df1: int, df2: int) -> None:
    for x in (0.0, 0.001, 0.1, 0.5, 0.9, 1.0, 1.1, 2.0, 5.0, 20.0, 500.0, np.inf):
        assert f_tail(x, df1, df2) == pytest.approx(scipy.stats.f.sf(x, df1, df2), rel=1e-7, abs=1e-13)


def test_binomials_are_scipys() -> None:
    for n, p in ((1, 0.5), (20, 0.05), (662, 0.99), (5000, 0.3)):
        assert binomial_cdf(n, p) == pytest.approx(scipy.stats.binom.cdf(np.arange(n + 1), n, p), rel=1e-9)
    n = np.array([0, 1, 7, 300, 9000, 9000])
    k = np.array([0, 0, 3, 100, 4500, 4300])
    assert half_binomial_cdf(k, n) == pytest.approx(scipy.stats.binom.cdf(k, n, 0.5), rel=1e-9)


# --- from replicates --------------------------------------------------------------------------


def test_percentile_interval_by_hand() -> None:
    samples = np.stack([np.arange(101.0), np.arange(101.0) * 2], axis=1)[::-1]
    interval = st.percentile_interval(samples, 0.9)
    assert interval.low.tolist() == pytest.approx([5, 10])
    assert interval.high.tolist() == pytest.approx([95, 190])


def test_percentile_interval_is_numpys_quantiles() -> None:
    samples = np.random.default_rng(0).normal(size=(333, 2, 3))
    low, high = np.quantile(samples, [0.025, 0.975], axis=0)
    interval = st.percentile_interval(samples)
    assert interval.low == pytest.approx(low)
    assert interval.high == pytest.approx(high)
    one = st.percentile_interval(samples[:, 0, 0])
    assert (float(one.low), float(one.high)) == pytest.approx((low[0, 0], high[0, 0]))


def test_an_interval_of_what_is_not_known_is_not_known() -> None:
    samples = np.random.default_rng(0).normal(size=(50, 2))
    samples[7, 1] = NAN
    for interval in (st.percentile_interval(samples), st.bca_interval(samples, [0.0, 0.0], samples)):
        assert np.isnan([interval.low, interval.high]).tolist() == [[False, True], [False, True]]


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_impossible_confidence_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        st.percentile_interval(np.zeros((5, 1)), confidence)
    with pytest.raises(ValueError, match="between 0 and 1"):
        st.wilson_interval(1, 2, confidence)
    with pytest.raises(ValueError, match="between 0 and 1"):
        st.order_statistic_interval(np.arange(100.0), 50, confidence)


def test_no_replicates_are_refused() -> None:
    with pytest.raises(ValueError, match="no replicates"):
        st.percentile_interval(np.zeros((0, 3)))


def leave_one_out(values: st.FloatArray) -> st.FloatArray:
    return np.stack([np.delete(values, i, axis=-1) for i in range(values.shape[-1])])


def test_bca_of_the_law_schools_is_scipys() -> None:
    pairs = np.array([LSAT, GPA])

    def correlation(x: st.FloatArray, y: st.FloatArray, axis: int = -1) -> st.FloatArray:
        from_mean = [values - values.mean(axis=axis, keepdims=True) for values in (x, y)]
        return np.vecdot(*from_mean, axis=axis) / np.sqrt(
            np.prod([np.vecdot(v, v, axis=axis) for v in from_mean], axis=0)
        )

    theirs = scipy.stats.bootstrap(pairs, correlation, paired=True, n_resamples=5000, method="bca", rng=1)
    value, without = correlation(*pairs), correlation(*np.moveaxis(leave_one_out(pairs), 1, 0))
    assert float(value) == pytest.approx(0.776, abs=5e-4)  # as in the book
    ours = st.bca_interval(theirs.bootstrap_distribution, value, without)
    assert (float(ours.low), float(ours.high)) == pytest.approx(theirs.confidence_interval, abs=2e-4)
    assert ours.low < st.percentile_interval(theirs.bootstrap_distribution).low


def test_bca_of_the_spatial_test_is_the_books() -> None:
    """The variance of test A: 171.5; 90 % by percentiles (100.8, 233.9), by BCa (115.8, 259.6): table 14.2."""
    data = np.array(SPATIAL, dtype=float)
    samples = data[np.random.default_rng(2).integers(0, 26, (40_000, 26))].var(axis=1)
    assert data.var() == pytest.approx(171.5, abs=0.05)
    percentile = st.percentile_interval(samples, 0.9)
    assert (float(percentile.low), float(percentile.high)) == pytest.approx((100.8, 233.9), abs=4)
    bca = st.bca_interval(samples, data.var(), leave_one_out(data).var(axis=1), 0.9)
    assert (float(bca.low), float(bca.high)) == pytest.approx((115.8, 259.6), abs=4)


def test_bca_without_spread_or_bias() -> None:
    constant = st.bca_interval(np.ones((50, 1)), [1.0], np.ones((9, 1)))
    assert (constant.low[0], constant.high[0]) == (1.0, 1.0)
    even = np.linspace(-1, 1, 1001)
    plain, corrected = st.percentile_interval(even), st.bca_interval(even, 0.0, even)
    assert (float(corrected.low), float(corrected.high)) == pytest.approx((float(plain.low), float(plain.high)))


def test_bca_is_not_known_where_the_value_lies_outside_its_replicates() -> None:
    interval = st.bca_interval(np.linspace(0, 1, 100), 2.0, np.linspace(0, 1, 9))
    assert np.isnan([interval.low, interval.high]).all()


def test_a_sum_in_another_order_is_no_bias() -> None:
    samples = np.array([0.3, 0.1 + 0.2, 0.3, 0.1 + 0.2])
    interval = st.bca_interval(samples, 0.3, np.array([0.2, 0.4]))
    assert (float(interval.low), float(interval.high)) == pytest.approx((0.3, 0.3))


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_jackknife_is_recomputation(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 40)
    predicted = np.where(rng.random((3, 40)) < 0.6, labels, rng.integers(0, classes, (3, 40)))
    figures = st.jackknife_quality(labels, predicted, classes)
    for i in range(40):
        confusion = st.confusion_counts(np.delete(labels, i), np.delete(predicted, i, axis=1), classes)
        expected = st.quality_from_confusion(confusion)
        assert set(figures) == set(expected)
        for name, values in expected.items():
            assert figures[name][i] == pytest.approx(values, abs=1e-12), name


def test_jackknife_needs_two_examples() -> None:
    with pytest.raises(ValueError, match="takes two"):
        st.jackknife_quality(np.array([0]), np.array([[0]]), 2)


# --- shares, percentiles, ratios --------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_newcombes(successes: int, n: int, low: float, high: float) -> None:
    """Newcombe, "Two-sided Confidence Intervals for the Single Proportion", 1998, table I, method 3."""
    interval = st.wilson_interval(successes, n)
    assert (float(interval.low), float(interval.high)) == pytest.approx((low, high), abs=5.1e-5)


def test_wilson_is_statsmodels() -> None:
    successes, n = np.array([[0, 3], [40, 977]]), np.array([12, 1000])
    low, high = proportion_confint(successes, np.broadcast_to(n, (2, 2)).clip(successes), 0.1, "wilson")
    interval = st.wilson_interval(successes, np.maximum(n, successes), 0.9)
    assert interval.low == pytest.approx(low, abs=1e-14)
    assert interval.high == pytest.approx(high, abs=1e-14)


def test_wilson_at_the_ends() -> None:
    interval = st.wilson_interval([0, 7, 0], [7, 7, 0])
    assert interval.low.tolist() == pytest.approx([0, 1 - 0.35433, NAN], abs=1e-5, nan_ok=True)
    assert interval.high.tolist() == pytest.approx([0.35433, 1, NAN], abs=1e-5, nan_ok=True)
    n = np.arange(1, 2000)
    assert (st.wilson_interval(0, n).low >= 0).all()  # rounding, that is
    assert (st.wilson_interval(n, n).high <= 1).all()
    with pytest.raises(ValueError, match=r"outside 0\.\.n"):
        st.wilson_interval(8, 7)


@pytest.mark.parametrize(("p", "needs"), [(50, 11), (90, 64), (95, 130), (99, 662), (10, 64), (1, 662)])
def test_a_percentile_without_samples_enough_has_no_interval(p: float, needs: int) -> None:
    samples = np.random.default_rng(0).exponential(size=needs)
    assert st.order_statistic_interval(samples[:-1], p) is None
    interval = st.order_statistic_interval(samples, p)
    assert interval is not None
    assert interval.low < np.percentile(samples, p) < interval.high
    assert {float(interval.low), float(interval.high)} < set(samples)


def test_order_statistics_of_the_median_of_twenty() -> None:
    """Of 20 samples between 6 and 14 lie below the median with 95.86 %, between 6 and 13 with 92.1 %."""
    interval = st.order_statistic_interval(np.arange(20, 0.0, -1), 50)
    assert interval is not None
    assert (interval.low, interval.high) == (6, 15)


@pytest.mark.parametrize(("n", "p"), [(11, 50), (64, 90), (130, 95), (200, 95), (662, 99), (1000, 99)])
def test_no_closer_pair_of_samples_would_do(n: int, p: float) -> None:
    below = scipy.stats.binom(n, p / 100)
    interval = st.order_statistic_interval(np.arange(1.0, n + 1), p)
    assert interval is not None
    lower, upper = int(interval.low), int(interval.high)
    assert below.cdf(upper - 1) - below.cdf(lower - 1) >= 0.95
    closer = [below.cdf(first + upper - lower - 2) - below.cdf(first - 1) for first in range(1, n)]
    assert max(closer) < 0.95


def test_no_pair_of_samples_may_be_far_enough_apart() -> None:
    assert st.order_statistic_interval(np.arange(11.0), 50, 0.9999) is None


@pytest.mark.parametrize("p", [0, 100, -5])
def test_a_percentile_outside_its_range_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="no percentile"):
        st.order_statistic_interval(np.arange(100.0), p)


def test_ratio_interval_by_hand() -> None:
    """Both known to a factor of 2 to either side: the ratio to a factor of 2 to the power of sqrt(2)."""
    interval = st.ratio_interval(2, 1, 4, [1, 4], [0.5, 2], [2, 8])
    factor = 2 ** np.sqrt(2)
    assert interval.low == pytest.approx(np.array([2, 0.5]) / factor)
    assert interval.high == pytest.approx(np.array([2, 0.5]) * factor)


def test_a_ratio_to_a_known_value_has_the_other_ones_interval() -> None:
    interval = st.ratio_interval(6, 5, 8, 2, 2, 2)
    assert (float(interval.low), float(interval.high)) == pytest.approx((2.5, 4))


@pytest.mark.filterwarnings("error")
def test_ratio_bounds_of_nothing() -> None:
    interval = st.ratio_interval([2, 2, 2, -1, NAN], [0, -3, 1, 1, 1], 4, [1, 1, 1, 1, 1], [0.5, 0.5, 0, 0.5, 0.5], 2)
    assert np.isnan(interval.low).tolist() == np.isnan(interval.high).tolist() == [False] * 3 + [True] * 2
    assert interval.low[:2].tolist() == [0, 0]
    assert interval.low[2] > 0
    assert np.isinf(interval.high[2])
    assert np.isfinite(interval.high[:2]).all()
