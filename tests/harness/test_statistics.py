import numpy as np
import pytest
from sklearn import metrics as sk

from harness import statistics as st


def random_case(classes: int, n: int, skill: float, seed: int) -> tuple[st.IntArray, st.IntArray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return labels, np.where(rng.random(n) < skill, labels, rng.integers(0, classes, n))


def sklearn_figures(labels: st.IntArray, predicted: st.IntArray, classes: int) -> dict[str, float]:
    options = {"labels": range(classes), "average": "macro", "zero_division": 0}
    return {
        "accuracy": sk.accuracy_score(labels, predicted),
        "f1": sk.f1_score(labels, predicted, **options),
        "f1_weighted": sk.f1_score(labels, predicted, **(options | {"average": "weighted"})),
        "precision": sk.precision_score(labels, predicted, **options),
        "recall": sk.recall_score(labels, predicted, **options),
        "mcc": sk.matthews_corrcoef(labels, predicted),
    }


@pytest.mark.parametrize("classes", [2, 3, 28])
@pytest.mark.parametrize("skill", [0.0, 0.6, 1.0])
def test_figures_are_scikit_learns(classes: int, skill: float) -> None:
    labels, predicted = random_case(classes, 300, skill, seed=classes)
    confusion = st.confusion_counts(labels, predicted, classes)
    figures = st.quality_from_confusion(confusion)
    assert np.array_equal(confusion, sk.confusion_matrix(labels, predicted, labels=range(classes)))
    for name, expected in sklearn_figures(labels, predicted, classes).items():
        assert figures[name] == pytest.approx(expected, abs=1e-12), name
    if classes == 2:
        assert figures["f1_binary"] == pytest.approx(sk.f1_score(labels, predicted))
    else:
        assert "f1_binary" not in figures


@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")  # scikit-learn's, about MCC
@pytest.mark.parametrize(
    ("labels", "predicted"),
    [([0, 0, 1, 1], [0, 0, 0, 0]), ([0, 0, 0], [0, 0, 0]), ([0, 1, 0, 1], [1, 1, 0, 0]), ([2, 2], [0, 1])],
)
def test_absent_classes_count_as_zero(labels: list[int], predicted: list[int]) -> None:
    truth, answer = np.array(labels), np.array(predicted)
    figures = st.quality_from_confusion(st.confusion_counts(truth, answer, 3))
    for name, expected in sklearn_figures(truth, answer, 3).items():
        assert figures[name] == pytest.approx(expected, abs=1e-12), name


def test_leading_axes_are_kept() -> None:
    labels = np.array([0, 1, 1])
    predicted = np.array([[[0, 1, 1], [1, 0, 0]], [[0, 0, 0], [1, 1, 1]]])
    confusion = st.confusion_counts(labels, predicted, 2)
    assert confusion.shape == (2, 2, 2, 2)
    assert st.quality_from_confusion(confusion)["accuracy"] == pytest.approx(np.array([[1, 0], [1 / 3, 2 / 3]]))


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        ([0, 1], [0, 2], "a prediction lies outside 0..1"),
        ([0, -1], [0, 1], "a label lies outside 0..1"),
        ([0, 1], [0], "1 predictions for 2 labels"),
    ],
)
def test_impossible_input_is_refused(labels: list[int], predicted: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        st.confusion_counts(np.array(labels), np.array(predicted), 2)


def test_multinomial_weights_are_draws_with_replacement() -> None:
    weights = st.multinomial_weights(40, 5000, np.random.default_rng(1))
    assert weights.shape == (5000, 40)
    assert weights.dtype == np.float32
    assert (weights.sum(axis=1) == 40).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(40), abs=0.08)
    assert weights.var() == pytest.approx(1 - 1 / 40, abs=0.03)


def test_seed_weights_are_shares_of_draws() -> None:
    uniforms = np.array([[0.0, 0.4, 0.99], [0.5, 0.5, 0.5]])
    assert st.seed_weights(uniforms, 3) == pytest.approx(np.array([[1 / 3, 1 / 3, 1 / 3], [0, 1, 0]]))
    assert st.seed_weights(uniforms, 2).tolist() == [[1, 0], [0, 1]]
    assert st.seed_weights(uniforms, 1).tolist() == [[1], [1]]


def test_a_further_seed_keeps_the_draws_before_it() -> None:
    two = st.seed_uniforms(2, 50, np.random.default_rng(3))
    five = st.seed_uniforms(5, 50, np.random.default_rng(3))
    assert two.shape == (50, 2)
    assert np.array_equal(five[:, :2], two)


def bootstrap(
    labels: st.IntArray, predicted: list[st.IntArray], classes: int, replicates: int = 200, seed: int = 0
) -> dict[str, st.FloatArray]:
    rng = np.random.default_rng(seed)
    uniforms = st.seed_uniforms(max(map(len, predicted)), replicates, rng)
    return st.bootstrap_quality(labels, predicted, classes, uniforms=uniforms, rng=rng)


def test_replicates_are_the_figures_of_the_resampled_examples() -> None:
    labels, first = random_case(3, 50, 0.5, seed=1)
    _, second = random_case(3, 50, 0.9, seed=2)
    samples = bootstrap(labels, [first[None], second[None]], 3, replicates=20)
    rng = np.random.default_rng(0)
    st.seed_uniforms(1, 20, rng)
    weights = st.multinomial_weights(50, 20, rng).astype(int)
    for replicate, drawn in enumerate(weights):
        for model, predicted in enumerate((first, second)):
            expected = sklearn_figures(np.repeat(labels, drawn), np.repeat(predicted, drawn), 3)
            for name, value in expected.items():
                assert samples[name][replicate, model] == pytest.approx(value, abs=1e-12), name


def test_blocks_do_not_change_the_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, _ = random_case(3, 60, 1.0, seed=1)
    predicted = [np.stack([random_case(3, 60, 0.7, seed=10 * m + s)[1] for s in range(1 + m)]) for m in range(4)]
    whole = bootstrap(labels, predicted, 3)
    monkeypatch.setattr(st, "_BLOCK_ELEMENTS", 700)
    for name, values in bootstrap(labels, predicted, 3).items():
        assert np.array_equal(values, whole[name]), name


def test_identical_models_tie_in_every_replicate() -> None:
    labels, _ = random_case(2, 80, 1.0, seed=1)
    seeds = np.stack([random_case(2, 80, 0.8, seed=seed)[1] for seed in range(3)])
    samples = bootstrap(labels, [seeds, seeds[:1], seeds.copy()], 2)
    for values in samples.values():
        assert np.array_equal(values[:, 0], values[:, 2])
    assert not np.array_equal(samples["f1"][:, 0], samples["f1"][:, 1])


def test_seeds_add_to_the_spread() -> None:
    labels, good = random_case(2, 400, 0.95, seed=1)
    _, bad = random_case(2, 400, 0.2, seed=2)
    samples = bootstrap(labels, [np.stack([good, good]), np.stack([good, bad])], 2)["accuracy"]
    assert samples[:, 1].std() > 3 * samples[:, 0].std()


def test_nothing_to_resample_is_refused() -> None:
    empty = np.array([], dtype=np.int64)
    with pytest.raises(ValueError, match="no test example"):
        bootstrap(empty, [empty[None]], 2)


def test_percentile_interval() -> None:
    samples = np.stack([np.arange(101.0), np.arange(101.0) * 2], axis=1)
    interval = st.percentile_interval(samples, 0.9)
    assert interval.low.tolist() == pytest.approx([5, 10])
    assert interval.high.tolist() == pytest.approx([95, 190])


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    truth, trials, n = 0.8, 300, 250
    rng = np.random.default_rng(7)
    labels = np.zeros(n, dtype=np.int64)
    covered = 0
    for _ in range(trials):
        predicted = (rng.random((1, n)) >= truth).astype(np.int64)
        samples = st.bootstrap_quality(labels, [predicted], 2, uniforms=np.zeros((400, 1)), rng=rng)
        interval = st.percentile_interval(samples["accuracy"][:, 0])
        covered += bool(interval.low <= truth <= interval.high)
    assert 0.90 <= covered / trials <= 0.985


# --- speed: seeds, and windows within ---------------------------------------------------------

FIVE = np.array([[10.0, 10.2, 9.8, 10.1, 9.9]])  # one seed; its standard deviation is sqrt(0.025)


@pytest.mark.parametrize(
    ("df", "t"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (40, 2.02108)]
)
def test_student_t_is_the_tables(df: int, t: float) -> None:
    assert st.student_t(df) == pytest.approx(t, rel=1e-5)
    assert st.student_t(df, 0.5) < st.student_t(df, 0.9) < t


def test_student_t_without_freedom() -> None:
    with pytest.raises(ValueError, match="degree of freedom"):
        st.student_t(0)


def test_half_width_of_one_seed_by_hand() -> None:
    assert st.half_width(FIVE) == pytest.approx(2.77645 * np.sqrt(0.025 / 5), rel=1e-5)


def test_half_width_of_three_seeds_by_hand() -> None:
    seeds = np.array([[9.0, 11.0], [11.0, 11.0], [12.0, 12.0]])  # means 10, 11, 12: the standard deviation is 1
    assert st.half_width(seeds) == pytest.approx(4.30265 / np.sqrt(3), rel=1e-5)


def test_missing_windows_are_left_out() -> None:
    nan = np.nan
    assert st.half_width(np.array([[*FIVE[0], nan]])) == pytest.approx(st.half_width(FIVE))
    uneven = np.array([[9.0, 11.0, nan], [11.0, nan, nan], [11.0, 12.0, 13.0]])
    assert st.half_width(uneven) == pytest.approx(4.30265 / np.sqrt(3), rel=1e-5)
    alone = np.array([[nan, nan], [9.0, 11.0]])
    assert st.half_width(alone) == pytest.approx(st.half_width(alone[1:]))


def test_a_single_value_has_no_width() -> None:
    widths = st.half_width(np.array([[[5.0, np.nan]], [[5.0, 6.0]], [[np.nan, np.nan]]]))
    assert np.isnan(widths).tolist() == [True, False, True]


def simulated(noise: str, size: tuple[int, int, int], seeds_sd: float) -> st.FloatArray:
    """Windows (runs, S, W) of mean 10: seeds that differ by `seeds_sd`, and windows within them."""
    rng = np.random.default_rng(7)
    windows = {
        "normal": lambda: rng.normal(0, 0.3, size),
        "skewed": lambda: rng.lognormal(0, 0.2, size) - np.exp(0.2**2 / 2),  # skewness 0.6
        "exponential": lambda: rng.exponential(0.3, size) - 0.3,  # skewness 2
    }[noise]()
    return 10 + rng.normal(0, seeds_sd, (*size[:2], 1)) + windows


@pytest.mark.parametrize("noise", ["normal", "skewed"])
@pytest.mark.parametrize(("seeds", "seeds_sd"), [(1, 0.0), (2, 0.3), (3, 0.0), (3, 0.1), (3, 1.0)])
def test_intervals_cover_the_mean(noise: str, seeds: int, seeds_sd: float) -> None:
    windows = simulated(noise, (8000, seeds, 5), seeds_sd)
    covered = np.abs(windows.mean(axis=(1, 2)) - 10) <= st.half_width(windows)
    assert covered.mean() == pytest.approx(0.95, abs=0.015)


def test_strong_skewness_costs_coverage() -> None:
    """The limit that the docstring names."""
    windows = simulated("exponential", (8000, 1, 5), 0.0)
    assert (np.abs(windows.mean(axis=(1, 2)) - 10) <= st.half_width(windows)).mean() == pytest.approx(0.88, abs=0.01)


@pytest.mark.parametrize(("seeds", "seeds_sd"), [(1, 0.0), (3, 0.0), (3, 0.3)])
def test_replicates_vary_as_much_as_seeds_and_windows_do(seeds: int, seeds_sd: float) -> None:
    rng = np.random.default_rng(3)
    draws = st.seed_uniforms(seeds, 400, rng), st.window_uniforms(seeds, 5, 400, rng)
    variances = [
        st.resampled_means(w.mean(axis=1), w, *draws).var() for w in simulated("normal", (600, seeds, 5), seeds_sd)
    ]
    expected = (seeds - 1) / seeds * seeds_sd**2 / seeds + 0.3**2 / 5 / seeds
    assert np.mean(variances) == pytest.approx(expected, rel=0.1)


def test_figures_without_windows_are_resampled_by_seeds_alone() -> None:
    rng = np.random.default_rng(0)
    seeds, windows = st.seed_uniforms(3, 50, rng), st.window_uniforms(3, 2, 50, rng)
    figures = np.array([4.0, 5.0, 9.0])
    without, single = np.full((3, 2), np.nan), np.array([[4.0, np.nan], [5.0, np.nan], [9.0, np.nan]])
    expected = st.seed_weights(seeds, 3) @ figures
    for given in (without, single):
        assert st.resampled_means(figures, given, seeds, windows) == pytest.approx(expected)


def test_missing_windows_are_never_drawn() -> None:
    rng = np.random.default_rng(0)
    seeds, windows = st.seed_uniforms(1, 200, rng), st.window_uniforms(1, 4, 200, rng)
    gaps = np.array([[np.nan, 9.0, np.nan, 11.0]])
    samples = st.resampled_means(np.array([10.0]), gaps, seeds, windows)
    assert set(np.round(samples, 6)) == set(np.round([10 - np.sqrt(2), 10, 10 + np.sqrt(2)], 6))


def test_more_seeds_and_windows_leave_the_draws_before_them() -> None:
    few, many = (st.window_uniforms(s, w, 20, np.random.default_rng(5)) for s, w in ((2, 3), (4, 6)))
    assert np.array_equal(many[:, :2, :3], few)


def test_levelled_by_hand() -> None:
    values = np.array([10.0, 10.2, 10.4, 12.0])
    assert st.levelled(values, 0.03, higher_is_better=False).tolist() == pytest.approx([10.1, 10.1, 10.4, 12.0])
    assert st.levelled(values, 0.03, higher_is_better=True).tolist() == pytest.approx([10.0, 10.3, 10.3, 12.0])
    assert st.levelled(values, 0.0, higher_is_better=True).tolist() == values.tolist()


def test_a_chain_of_small_steps_is_not_one_group() -> None:
    chain = 10 * 1.02 ** np.arange(10)
    common = st.levelled(chain, 0.03, higher_is_better=False)
    assert len(set(common)) == 5
    assert np.all(np.abs(common / chain - 1) < 0.03)


def test_levelling_keeps_the_order_and_what_is_missing() -> None:
    values = np.random.default_rng(0).uniform(1, 2, (50, 8))
    values[:, 3] = np.nan
    for higher in (True, False):
        common = st.levelled(values, 0.1, higher_is_better=higher)
        assert np.isnan(common[:, 3]).all()
        for row, level in zip(values, common, strict=True):
            assert np.all(np.diff(level[np.argsort(row)][:7]) >= 0)
            assert np.nansum(level) == pytest.approx(np.nansum(row))
            assert st.levelled(row, 0.1, higher_is_better=higher) == pytest.approx(level, nan_ok=True)


def test_a_better_value_is_never_levelled_to_a_worse_one() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        values = rng.uniform(10, 11, 5)
        better = values.copy()
        better[0] -= rng.uniform(0, 0.5)
        before, after = (st.levelled(v, 0.03, higher_is_better=False)[0] for v in (values, better))
        assert after <= before + 1e-12
