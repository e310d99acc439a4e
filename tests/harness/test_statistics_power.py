"""Sizes of data against simulation: at the size said, the test finds the difference as often as said."""

import math

import numpy as np
import pytest

from harness import statistics as st


@pytest.mark.parametrize(("share", "n"), [(0.1, 500), (0.05, 2000), (0.3, 100), (0.2, 5000)])
@pytest.mark.parametrize("power", [0.8, 0.95])
def test_difference_and_examples_are_inverse(share: float, n: int, power: float) -> None:
    difference = float(st.minimum_detectable_difference(share, n, power=power))
    assert st.examples_needed(difference, share, power=power) in (n, n + 1)  # rounded up
    assert st.examples_needed(-difference, share, power=power) in (n, n + 1)


def test_connor_by_hand() -> None:
    """0.05 in 0.15 of examples at 90 %: ((1.95996 sqrt(0.15) + 1.28155 sqrt(0.1475)) / 0.05)² = 626.3."""
    assert st.examples_needed(0.05, 0.15, power=0.9) == 627


@pytest.mark.parametrize(("share", "n"), [(0.1, 500), (0.1, 2000), (0.3, 1000)])
def test_the_detectable_difference_is_detected(share: float, n: int) -> None:
    """By the exact test, which is a little harder to convince, in four of five samples less a few percent."""
    difference = float(st.minimum_detectable_difference(share, n))
    rng = np.random.default_rng(1)
    b, c, _ = rng.multinomial(n, [(share + difference) / 2, (share - difference) / 2, 1 - share], size=20_000).T
    found = (st.mcnemar_exact(b, c) < 0.05).mean()
    assert 0.75 < found < 0.82


def test_where_hardly_an_example_differs_they_must_all_go_one_way() -> None:
    """The share seen cannot hold a difference that is found; the smallest that could be is the same, however small it
    is."""
    least = float(st.minimum_detectable_difference(0.0, 500))
    assert float(st.minimum_detectable_difference(0.01, 500)) == least == pytest.approx(0.0156, abs=1e-4)
    assert st.examples_needed(least, 0.0) in (500, 501)
    shares = st.minimum_detectable_difference(np.linspace(0, 0.2, 50), 500)
    assert (np.diff(shares) >= 0).all()


def test_sizes_broadcast_and_too_few_examples_find_nothing() -> None:
    found = st.minimum_detectable_difference([[0.1], [0.2]], [1, 100, 10_000])
    assert np.isnan(found).tolist() == [[True, False, False]] * 2
    assert (found[:, 1] > found[:, 2]).all()
    assert (found[1, 1:] > found[0, 1:]).all()


def test_no_examples_find_no_difference() -> None:
    assert st.examples_needed(0.0, 0.1) is None


def seeds_find(seeds: int, difference: float, seed_sd: float, examples_error: float) -> float:
    """Share of 20,000 experiments whose interval leaves out 0."""
    rng = np.random.default_rng(3)
    figures = difference + seed_sd * rng.standard_normal((20_000, seeds))
    means = figures.mean(axis=1) + examples_error * rng.standard_normal(20_000)
    width = np.hypot(1.95996 * examples_error, st.student_t(seeds - 1) * figures.std(axis=1, ddof=1) / math.sqrt(seeds))
    return float((np.abs(means) > width).mean())


@pytest.mark.parametrize(("difference", "seed_sd", "examples_error"), [(0.02, 0.02, 0.004), (0.02, 0.01, 0.006)])
def test_the_seeds_needed_suffice_and_no_fewer_do(difference: float, seed_sd: float, examples_error: float) -> None:
    needed = st.seeds_needed(difference, seed_sd, examples_error)
    assert needed is not None
    assert needed > 3
    assert seeds_find(needed, difference, seed_sd, examples_error) == pytest.approx(0.8, abs=0.05)
    assert seeds_find(needed // 2, difference, seed_sd, examples_error) < 0.7


def test_few_seeds_pay_for_not_knowing_how_they_vary() -> None:
    """Five: (2.776 + 0.842) 0.01 / sqrt(5) is 0.0162; four: (3.182 + 0.842) 0.01 / sqrt(4) is 0.0201, and too much."""
    assert st.seeds_needed(0.02, 0.01, 0.0) == 5


def test_seeds_at_the_ends() -> None:
    assert st.seeds_needed(0.02, 0.02, 0.02 / 2.8) is None  # z of 0.975 and of 0.8 are 2.802 together
    assert st.seeds_needed(0.02, 0.02, 0.02 / 2.81) is not None
    assert st.seeds_needed(0.0, 0.0, 0.0) is None
    assert st.seeds_needed(0.02, 0.0, 0.005) == 1  # seeds that do not vary
    assert st.seeds_needed(0.5, 0.01, 0.005) == 2
    needed = [st.seeds_needed(0.02, sd, 0.005) for sd in (0.001, 0.01, 0.02, 0.1, 1.0)]
    assert needed == sorted(needed)
    assert st.seeds_needed(-0.02, 0.01, 0.005) == st.seeds_needed(0.02, 0.01, 0.005)


def test_each_number_of_seeds_is_the_first_that_suffices() -> None:
    """As seeds vary more, the number grows by one at a time: the search skips none."""
    needed = [found for sd in np.linspace(0.0005, 0.03, 300) if (found := st.seeds_needed(0.02, sd, 0.004))]
    assert len(needed) == 300
    assert set(needed) == set(range(2, needed[-1] + 1))


@pytest.mark.parametrize(("alpha", "power"), [(0.0, 0.8), (1.0, 0.8), (0.05, 0.0), (0.05, 1.0)])
def test_impossible_levels_are_refused(alpha: float, power: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        st.minimum_detectable_difference(0.1, 100, alpha, power)
    with pytest.raises(ValueError, match="between 0 and 1"):
        st.examples_needed(0.1, 0.1, alpha, power)
    with pytest.raises(ValueError, match="between 0 and 1"):
        st.seeds_needed(0.1, 0.1, 0.1, alpha, power)
