import numpy as np
import pytest
from sklearn import metrics as sk

from harness import statistics as st
from harness.statistics import resampling


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


# --- the joint bootstrap ----------------------------------------------------------------------


def test_counts_are_draws_with_replacement() -> None:
    counts = st.example_counts(40, 5000, np.random.default_rng(1))
    assert counts.shape == (5000, 40)
    assert (counts.sum(axis=1) == 40).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(40), abs=0.08)
    assert counts.var() == pytest.approx(1 - 1 / 40, abs=0.03)


def test_nothing_to_resample_is_refused() -> None:
    with pytest.raises(ValueError, match="no test example"):
        st.example_counts(0, 5, np.random.default_rng(0))


def replicates(
    labels: st.IntArray, predicted: st.IntArray, classes: int, number: int = 200, seed: int = 0
) -> dict[str, st.FloatArray]:
    counts = st.example_counts(labels.size, number, np.random.default_rng(seed))
    return st.resampled_quality(labels, predicted, classes, counts)


@pytest.mark.parametrize("classes", [1, 2, 3, 28])
def test_replicates_are_the_figures_of_the_repeated_rows(classes: int) -> None:
    labels, _ = random_case(classes, 50, 1.0, seed=1)
    predicted = np.stack([random_case(classes, 50, skill, seed=1)[1] for skill in (0.5, 0.9)])
    counts = st.example_counts(50, 20, np.random.default_rng(0))
    samples = st.resampled_quality(labels, predicted, classes, counts)
    for replicate, drawn in enumerate(counts):
        confusion = st.confusion_counts(np.repeat(labels, drawn), np.repeat(predicted, drawn, axis=1), classes)
        expected = st.quality_from_confusion(confusion)
        assert set(expected) == set(samples)
        for name, values in expected.items():
            assert samples[name][replicate] == pytest.approx(values, abs=1e-12), name


@pytest.mark.parametrize("classes", [2, 3])
def test_blocks_do_not_change_the_outcome(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, _ = random_case(classes, 60, 1.0, seed=1)
    predicted = np.stack([random_case(classes, 60, 0.7, seed=seed)[1] for seed in range(9)])
    whole = replicates(labels, predicted, classes)
    monkeypatch.setattr(resampling, "_BLOCK_ELEMENTS", 700)
    for name, values in replicates(labels, predicted, classes).items():
        assert np.array_equal(values, whole[name]), name


def test_all_cells_see_the_same_examples() -> None:
    """Two models that are right and wrong on the same examples do not differ, however the split is drawn; and one that
    is right where the other is wrong is the other's mirror image."""
    labels, first = random_case(2, 80, 0.8, seed=1)
    samples = replicates(labels, np.stack([first, first.copy(), 1 - first]), 2)
    for name, values in samples.items():
        assert np.array_equal(values[:, 0], values[:, 1]), name
    assert samples["accuracy"][:, 0] + samples["accuracy"][:, 2] == pytest.approx(np.ones(200))
    assert samples["accuracy"][:, 0].std() > 0.03


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seeds_vary_by_students_t(seeds: int) -> None:
    figures = np.random.default_rng(1).normal(0.8, 0.05, seeds)
    draws = st.seed_draws(seeds, 200_000, np.random.default_rng(2))
    deviations = st.seed_deviations(draws, seeds)
    assert deviations.sum(axis=1) == pytest.approx(np.zeros(200_000), abs=1e-9)
    studentised = deviations @ figures / (figures.std(ddof=1) / np.sqrt(seeds))
    levels = np.array([0.8, 0.9, 0.95, 0.98])
    expected = [st.student_t(seeds - 1, level) for level in levels]
    assert np.quantile(np.abs(studentised), levels) == pytest.approx(expected, rel=0.03)


def test_one_seed_tells_nothing_of_its_spread() -> None:
    draws = st.seed_draws(3, 10, np.random.default_rng(0))
    assert st.seed_deviations(draws, 1).tolist() == [[0.0]] * 10
    samples = np.random.default_rng(1).normal(size=(10, 4, 1))
    assert np.array_equal(st.mean_over_seeds(np.zeros((4, 1)), samples, np.zeros((10, 1))), samples[..., 0])


def test_a_further_seed_keeps_the_draws_before_it() -> None:
    two, five = (st.seed_draws(seeds, 50, np.random.default_rng(3)) for seeds in (2, 5))
    assert np.array_equal(five[:2], two)


def test_the_mean_over_seeds_varies_as_examples_and_seeds_do() -> None:
    """Replicates of three seeds made to measure: what they share has variance 4, what each has alone 9, and their
    figures differ by a variance of 0.5."""
    rng = np.random.default_rng(4)
    shared, alone = rng.standard_normal((100_000, 1)), rng.standard_normal((100_000, 3))
    figures = np.sqrt(0.5) * np.array([-1.0, 0.0, 1.0])
    samples = 7 + 2 * shared + 3 * alone
    still = st.mean_over_seeds(figures, samples, np.zeros((100_000, 3)))
    assert still.mean() == pytest.approx(7, abs=0.02)
    assert still.var() == pytest.approx(4, rel=0.02)  # not 4 + 9 / 3: that part is in how the seeds differ
    deviations = st.seed_deviations(st.seed_draws(3, 100_000, rng), 3)
    moved = st.mean_over_seeds(figures, samples, deviations) - still
    assert moved == pytest.approx(deviations @ figures, abs=1e-12)
    assert np.quantile(np.abs(moved), 0.95) == pytest.approx(st.student_t(2) * np.sqrt(0.5 / 3), rel=0.03)


def test_equal_models_stay_equal_over_their_seeds() -> None:
    rng = np.random.default_rng(5)
    figures, samples = rng.random((1, 3)), rng.random((300, 1, 3))
    twice = st.mean_over_seeds(
        np.repeat(figures, 2, axis=0), np.repeat(samples, 2, axis=1), st.seed_deviations(st.seed_draws(3, 300, rng), 3)
    )
    assert np.array_equal(twice[:, 0], twice[:, 1])
    assert twice[:, 0].std() > 0.1


def test_seeds_that_are_all_right_do_not_vary() -> None:
    figures, samples = np.ones((1, 2)), np.ones((50, 1, 2))
    deviations = st.seed_deviations(st.seed_draws(2, 50, np.random.default_rng(0)), 2)
    assert st.mean_over_seeds(figures, samples, deviations) == pytest.approx(np.ones((50, 1)))


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


@pytest.mark.parametrize(("seeds", "windows"), [(1, 5), (3, 5), (4, 1)])
def test_speed_varies_by_students_t(seeds: int, windows: int) -> None:
    """So that the percentiles of replicates are the interval."""
    measured = simulated("normal", (1, seeds, windows), 0.3)[0]
    error, freedom = (float(part) for part in st.spread_of_mean(measured))
    samples = st.speed_samples(measured.mean(), error, freedom, 200_000, np.random.default_rng(3))
    assert np.quantile(np.abs(samples - measured.mean()), 0.95) == pytest.approx(st.half_width(measured), rel=0.03)


def test_a_speed_of_unknown_spread_does_not_vary() -> None:
    alone = st.spread_of_mean(np.array([[4.0, np.nan]]))
    assert np.isnan(alone.error)
    assert alone.freedom == 0
    assert st.speed_samples(4.0, np.nan, 0.0, 3, np.random.default_rng(0)).tolist() == [4.0, 4.0, 4.0]


def test_the_heavy_tails_of_two_seeds_stay_within_reason() -> None:
    samples = st.speed_samples(10.0, 2.0, 1.0, 10_000, np.random.default_rng(0))
    assert (samples.min(), samples.max()) == (0.0, 20.0)


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
