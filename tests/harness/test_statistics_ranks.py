"""Ranks, how sure they are, tie groups, the Pareto front."""

import numpy as np
import pytest

from harness import statistics as st

NAN = np.nan


@pytest.mark.parametrize(
    ("scores", "ranks"),
    [
        ([0.5, 0.9, 0.7], [3, 1, 2]),
        ([0.9, 0.9, 0.5], [1, 1, 3]),
        ([0.1 + 0.2, 0.3, 0.2], [1, 1, 3]),  # a sum in another order is the same score
        ([NAN, 0.2, NAN], [2, 1, 2]),
        ([0.4], [1]),
        ([], []),
    ],
)
def test_competition_ranks(scores: list[float], ranks: list[int]) -> None:
    assert st.competition_ranks(np.array(scores)) == ranks


def scores_of(values: list[float], spread: float, shared: float = 0.0, replicates: int = 4000) -> st.FloatArray:
    """Replicates (B, M): what all models share, and noise of their own."""
    rng = np.random.default_rng(0)
    common = shared * rng.standard_normal((replicates, 1))
    return np.array(values) + common + spread * rng.standard_normal((replicates, len(values)))


def test_separated_is_the_definition() -> None:
    values = np.array([0.3, 0.5, 0.62, 0.9])
    samples = scores_of([0.3, 0.5, 0.62, 0.9], 0.06, shared=0.5)
    expected = np.zeros((4, 4), dtype=bool)
    for j in range(4):
        others = [k for k in range(4) if k != j]
        shifts = (samples[:, others] - samples[:, [j]]) - (values[others] - values[j])
        spread = shifts.std(axis=0, ddof=1)
        critical = np.quantile(np.abs(shifts / spread).max(axis=1), 0.95)
        expected[j, others] = np.abs(values[others] - values[j]) > critical * spread
    apart = st.separated(values, samples)
    assert np.array_equal(apart, expected)
    assert expected.any()
    assert not expected.all()


def test_what_models_share_does_not_hide_their_difference() -> None:
    """Intervals of the scores that overlap by far, of models that are told apart: the replicates are paired."""
    values = [0.80, 0.82]
    assert st.separated(np.array(values), scores_of(values, 0.002, shared=0.2))[0, 1]
    alone = np.array(values) + 0.2 * np.random.default_rng(1).standard_normal((4000, 2))
    assert not st.separated(np.array(values), alone)[0, 1]


def test_equal_models_are_never_separated() -> None:
    samples = np.repeat(scores_of([0.5], 0.1), 3, axis=1)
    samples[:, 2] += 1e-13  # sums in another order
    assert not st.separated(np.array([0.5, 0.5, 0.5 + 1e-13]), samples).any()


def test_scores_that_no_resample_moves_are_separated_by_any_difference() -> None:
    samples = np.repeat([[0.0, 0.0, 1.0]], 50, axis=0)
    apart = st.separated(np.array([0.0, 0.0, 1.0]), samples)
    assert apart.tolist() == [[False, False, True], [False, False, True], [True, True, False]]


def test_one_model_is_separated_from_none() -> None:
    assert st.separated(np.array([0.5]), scores_of([0.5], 0.1)).tolist() == [[False]]


def test_rank_bounds_by_hand() -> None:
    values = np.array([0.9, 0.8, 0.5, 0.5])
    apart = np.array([[0, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=bool)
    assert st.rank_bounds(values, apart) == ([1, 1, 3, 2], [2, 3, 4, 4])


def true_rank_is_covered(true: st.FloatArray, errors: st.FloatArray, samples: st.FloatArray) -> list[bool]:
    """Of each model: do its rank bounds hold all ranks that its true score has, with ties broken either way?"""
    values = true + errors
    low, high = st.rank_bounds(values, st.separated(values, values + samples))
    best = [1 + int((true > one).sum()) for one in true]
    worst = [int((true >= one).sum()) for one in true]
    return [bottom <= first and last <= top for bottom, top, first, last in zip(low, high, best, worst, strict=True)]


@pytest.mark.parametrize(
    "true", [np.zeros(8), np.linspace(0, 0.07, 8), np.array([0, 0, 0, 0.03, 0.03, 0.06, 0.06, 0.09])]
)
def test_rank_intervals_cover_the_true_rank(true: st.FloatArray) -> None:
    """Models whose errors are correlated at 0.5, as those of models on the same examples are; the standard error of a
    difference is 0.02. What is promised is promised of each of them."""
    rng = np.random.default_rng(11)

    def noise(number: int) -> st.FloatArray:
        return 0.02 * (
            np.sqrt(0.5) * rng.standard_normal((number, 1)) + np.sqrt(0.5) * rng.standard_normal((number, 8))
        )

    covered = np.array([true_rank_is_covered(true, noise(1)[0], noise(500)) for _ in range(2000)])
    assert covered.mean(axis=0).min() >= 0.935


def test_rank_intervals_are_as_wide_as_they_must_be() -> None:
    """A test of coverage alone would pass a tool that says 1 to M of every model."""
    true = np.linspace(0, 1.4, 8)
    values = true + 0.02 * np.random.default_rng(2).standard_normal(8)
    apart = st.separated(values, values + 0.02 * np.random.default_rng(3).standard_normal((500, 8)))
    assert st.rank_bounds(values, apart) == (list(range(8, 0, -1)), list(range(8, 0, -1)))


def test_probability_best() -> None:
    samples = np.array([[0.9, 0.1, 0.1], [0.2, 0.4, 0.4 + 1e-15], [0.9, 0.9, 0.9], [0.1, 0.2, 0.3]])
    assert st.probability_best(samples) == pytest.approx(np.array([1 + 1 / 3, 0.5 + 1 / 3, 1.5 + 1 / 3]) / 4)


def test_tie_groups_do_not_chain() -> None:
    """Each model is like its neighbours, but the first and the third differ: two groups, not one."""
    values = np.array([0.7, 0.9, 0.8, 0.6])
    apart = np.abs(values[:, None] - values) > 0.15
    assert st.tie_groups(values, apart) == [2, 1, 1, 2]
    assert st.tie_groups(np.array([0.5]), np.array([[False]])) == [1]


def test_a_group_is_held_to_its_best() -> None:
    """Separation is not symmetric: the best of a group decides."""
    apart = np.array([[False, False], [True, False]])
    assert st.tie_groups(np.array([0.9, 0.8]), apart) == [1, 1]
    assert st.tie_groups(np.array([0.8, 0.9]), apart) == [2, 1]


@pytest.mark.parametrize(
    ("columns", "front"),
    [
        ([[1, 1], [2, 0], [0, 2], [0, 0]], [True, True, True, False]),
        ([[1, 1], [1, 1]], [True, True]),  # equal in all: neither beats the other
        ([[1, 1], [1, 0]], [True, False]),
        ([[1, NAN], [0, 0], [0, -1]], [False, True, False]),  # what is not known beats nothing
        ([[3, 3]], [True]),
    ],
)
def test_pareto_front(columns: list[list[float]], front: list[bool]) -> None:
    assert st.pareto_front(np.array(columns, dtype=float)).tolist() == front


def test_the_front_is_what_nothing_dominates() -> None:
    columns = np.random.default_rng(4).integers(0, 5, (60, 3)).astype(float)
    front = st.pareto_front(columns)
    for one, on_it in zip(columns, front, strict=True):
        beaten = any((other >= one).all() and (other > one).any() for other in columns)
        assert on_it is np.bool_(not beaten)
    assert 0 < front.sum() < 60
