import math
from typing import Any

import msgspec
import numpy as np
import pytest

from harness import group_ranking
from harness.board import FLAG_MEANINGS, Normaliser, from_json, to_builtins
from harness.composite import COMPOSITE_WEIGHTS, RankOptions, composite, scales_of
from harness.entries import CellRecord
from harness.metrics import METRICS
from harness.ranking import Ranking, rank_cells
from harness.report.words import across_text
from harness.statistics import competition_ranks
from runner.contract import Choice, Limits, Summary
from tests.harness.ranked import LABELS, by_model, cell, predictions, provenance, score, without_predictions

# --- the composite ----------------------------------------------------------------------------


def test_composite_by_hand() -> None:
    columns = {
        "accuracy": np.array([0.9, 0.8, 0.7]),
        "f1": np.array([0.9, 0.7, 0.8]),
        "throughput_samples_per_sec": np.array([100.0, 300.0, 500.0]),
        "latency_median_ms": np.array([10.0, 6.0, 2.0]),
    }
    expected = [0.3 + 0.3 + 0 - 0.2, 0.15 + 0 + 0.1 - 0.1, 0 + 0.15 + 0.2 - 0]
    assert composite(columns, scales_of(columns, COMPOSITE_WEIGHTS, "minmax")) == pytest.approx(np.array(expected))


NAN = math.nan


NAN = math.nan


def scored(values: list[float], how: Normaliser, weight: float = 1.0) -> list[float]:
    columns = {"x": np.array(values)}
    return composite(columns, scales_of(columns, {"x": weight}, how)).tolist()


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("minmax", [0, 0.25, 1]),
        ("zscore", [(x - 5 / 3) / np.std([0, 1, 4]) for x in (0, 1, 4)]),
        ("robust", [-0.5, 0, 1.5]),  # median 1, quartiles 0.5 and 2.5
        ("none", [0, 1, 4]),
    ],
)
def test_normalisers_by_hand(how: Normaliser, expected: list[float]) -> None:
    assert scored([0.0, 1.0, 4.0], how) == pytest.approx(expected)
    assert scored([0.0, 1.0, 4.0], how, -2.0) == pytest.approx([-2 * x for x in expected])


@pytest.mark.parametrize("how", ["minmax", "zscore", "robust"])
@pytest.mark.parametrize("values", [[4.0, 4.0, 4.0], [0.1 + 0.2, 0.3, 0.3], [7.0]])
def test_a_constant_column_contributes_nothing(how: Normaliser, values: list[float]) -> None:
    assert not any(scored(values, how)), "rounding is no difference"
    assert scored(values, "none") == values


def test_one_model_far_off_squeezes_the_robust_scale_less() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 1000.0]
    gaps = {how: float(np.ptp(scored(values, how)[:4])) for how in ("minmax", "robust")}
    assert gaps["minmax"] < 0.01
    assert gaps["robust"] > 1
    assert np.ptp(scored([5.0, 5.0, 5.0, 5.0, 6.0], "robust")) == 1


@pytest.mark.parametrize("how", ["minmax", "zscore", "robust", "none"])
@pytest.mark.parametrize("weight", [1.0, -1.0])
def test_a_missing_value_counts_as_the_worst(how: Normaliser, weight: float) -> None:
    *known, last = scored([3.0, 1.0, 2.0, NAN], how, weight)
    assert known == scored([3.0, 1.0, 2.0], how, weight)
    assert last == min(known)


def test_replicates_are_on_the_scale_of_the_values() -> None:
    """One made anew in each replicate would make 0 and 1 of any difference."""
    scales = scales_of({"x": np.array([0.5, 0.6])}, {"x": 1.0}, "minmax")
    assert composite({"x": np.array([[0.55, 0.56], [0.6, 0.5]])}, scales) == pytest.approx(
        np.array([[0.5, 0.6], [1, 0]])
    )


def test_a_column_that_nobody_has_is_left_out() -> None:
    assert scales_of({"x": np.array([NAN, NAN])}, {"x": 1.0}, "minmax") == {}
    row = rank_cells([cell("a"), cell("b")], RankOptions(weights={"training_time_hours": -1.0})).rows[0]
    assert (row.rank, row.p_best, row.metrics["score"].value) == (None, None, None)
    assert "measured" in (row.metrics["score"].reason or "")


def test_equal_scores_share_the_lower_rank() -> None:
    assert competition_ranks(np.array([0.5, 0.7, 0.7, 0.1, math.nan])) == [3, 1, 1, 4, 5]


def test_board_scores_by_hand() -> None:
    board = rank_cells([cell("good", accuracy=0.9, ms=10, per_s=100), cell("fast", accuracy=0.7, ms=2, per_s=500)])
    rows = by_model(board)
    assert score(rows["good"]) == pytest.approx(0.3 + 0.3 - 0.2)
    assert score(rows["fast"]) == pytest.approx(0.2)
    assert [(row.model, row.rank) for row in board.rows] == [("good", 1), ("fast", 2)]


def test_being_better_in_anything_never_lowers_the_score() -> None:
    others = [cell("a", accuracy=0.9, ms=3, per_s=300), cell("b", accuracy=0.6, ms=9, per_s=100)]
    base: dict[str, float] = {"accuracy": 0.7, "ms": 6, "per_s": 200}

    def of(**changes: float) -> float:
        options: dict[str, Any] = base | changes
        return score(by_model(rank_cells([*others, cell("me", **options)], RankOptions(replicates=10)))["me"])

    assert of(accuracy=0.8) > of()
    assert of(ms=5) > of()
    assert of(per_s=250) > of()


def test_weights_are_an_option() -> None:
    cells = [cell("good", accuracy=0.9, ms=10), cell("fast", accuracy=0.7, ms=2)]
    board = rank_cells(cells, RankOptions(weights={"latency_median_ms": -1.0}))
    assert [row.model for row in board.rows] == ["fast", "good"]
    assert board.weights == {"latency_median_ms": -1.0}


# --- values and intervals ---------------------------------------------------------------------


def test_values_are_means_over_seeds_inside_their_intervals() -> None:
    cells = [cell("m", accuracy=a, seed=s, ms=ms) for s, a, ms in [(1, 0.7, 4.0), (2, 0.8, 5.0), (3, 0.9, 9.0)]]
    row = by_model(rank_cells([*cells, cell("n")]))["m"]
    assert row.seeds == (1, 2, 3)
    for name, mean in (("accuracy", 0.8), ("latency_median_ms", 6.0)):
        figure = row.metrics[name]
        assert figure.value == pytest.approx(mean)
        assert figure.low is not None and figure.high is not None
        assert figure.low < mean < figure.high


def test_identical_models_tie_in_value_interval_and_rank() -> None:
    def seeds(model: str) -> list[CellRecord]:
        return [cell(model, accuracy=0.8 + seed / 100, seed=seed, ms=5.0 + seed) for seed in (1, 2, 3)]

    board = rank_cells([*seeds("one"), *seeds("two"), cell("worse", accuracy=0.6, ms=20)])
    rows = by_model(board)
    for name, one in rows["one"].metrics.items():
        two = rows["two"].metrics[name]
        assert one.value == two.value
        if one.low is not None:  # what the test split cannot show, and speeds measured apart, vary apart
            assert (two.low, two.high) == pytest.approx((one.low, one.high), abs=0.05 * abs(one.value or 1))
    assert [row.rank for row in board.rows] == [1, 1, 3]
    assert [(row.rank_low, row.rank_high, row.tie) for row in board.rows] == [(1, 2, 1), (1, 2, 1), (3, 3, 2)]


def test_the_same_input_gives_the_same_board_in_any_order() -> None:
    cells = [cell(model, seed=seed, accuracy=0.7 + seed / 50) for model in "abc" for seed in (1, 2)]
    assert rank_cells(cells) == rank_cells(cells[::-1])


def test_another_model_leaves_quality_intervals_alone() -> None:
    cells = [cell("a", accuracy=0.9), cell("b", accuracy=0.7)]
    before, after = (by_model(rank_cells(c))["a"].metrics for c in (cells, [*cells, cell("c", accuracy=0.5)]))
    assert before["accuracy"] == after["accuracy"]


def test_score_intervals_reflect_uncertain_order() -> None:
    close = by_model(rank_cells([cell("a", accuracy=0.80), cell("b", accuracy=0.79)]))
    clear = by_model(rank_cells([cell("a", accuracy=0.95), cell("b", accuracy=0.55)]))
    for rows, apart in ((close, False), (clear, True)):
        better, worse = rows["a"].metrics["score"], rows["b"].metrics["score"]
        assert (better.value, worse.value) == pytest.approx((0.6, 0))
        assert better.low is not None and worse.high is not None
        assert (better.low > worse.high) == apart
        assert (rows["a"].tie == rows["b"].tie) != apart


def true_ranks_covered(models: int, trials: int, rng: np.random.Generator) -> float:
    """Of models that are equal but for chance: any rank is the true one."""
    covered = 0
    for _ in range(trials):
        cells = [
            cell(f"m{i}", predicted=np.where(rng.random(LABELS.size) < 0.8, LABELS, 1 - LABELS), ms=None, per_s=None)
            for i in range(models)
        ]
        rows = rank_cells(cells, RankOptions(weights={"accuracy": 1.0}, replicates=400)).rows
        covered += sum((row.rank_low, row.rank_high) == (1, models) for row in rows)
    return covered / (models * trials)


@pytest.mark.parametrize(("models", "trials"), [(2, 150), (5, 100)])
def test_rank_intervals_cover_the_true_rank_of_equal_models(models: int, trials: int) -> None:
    assert true_ranks_covered(models, trials, np.random.default_rng(5)) >= 0.935


@pytest.mark.parametrize(("worse", "apart"), [(1, False), (4, False), (12, True)])
def test_a_few_examples_do_not_part_two_models(worse: int, apart: bool) -> None:
    """McNemar gives 1, 0.125 and 0.0005."""
    base = predictions(0.8)
    other = base.copy()
    other[np.flatnonzero(base == LABELS)[:worse]] ^= 1
    for seed in range(5):
        options = RankOptions(weights={"accuracy": 1.0}, seed=seed)
        row = rank_cells([cell("a", predicted=base), cell("b", predicted=other)], options).rows[0]
        assert (row.rank_high == 1) == apart


@pytest.mark.parametrize("rows", [100, 1000])
def test_without_an_error_the_interval_still_has_a_width(rows: int) -> None:
    labels = np.resize([0, 1], rows)
    figure = rank_cells([cell("a", labels=labels, predicted=labels)]).rows[0].metrics["accuracy"]
    assert figure.high == 1
    assert figure.low is not None
    assert 1 - 8 / rows < figure.low < 1 - 3 / rows  # the rule of three, and Wilson's 3.8 / n


def test_high_accuracy_is_covered() -> None:
    """One seed; resampling alone covers 86 %."""
    rng, labels, covered = np.random.default_rng(2), np.resize([0, 1], 100), 0
    for _ in range(200):
        predicted = np.where(rng.random(100) < 0.98, labels, 1 - labels)
        board = rank_cells([cell("a", labels=labels, predicted=predicted)], RankOptions(replicates=400))
        figure = board.rows[0].metrics["accuracy"]
        assert figure.low is not None and figure.high is not None
        covered += figure.low <= 0.98 <= figure.high
    assert covered / 200 >= 0.935


def test_one_seed_gives_speed_no_interval() -> None:
    row = rank_cells([cell("a"), cell("b", accuracy=0.7)]).rows[0]
    figure = row.metrics["latency_median_ms"]
    assert (figure.value, figure.low, figure.high) == (5.0, None, None)
    assert figure.reason == "no interval: measured with one seed"
    assert row.metrics["accuracy"].low is not None


def test_probability_metrics_have_a_value_and_no_interval() -> None:
    figure = rank_cells([cell("a", seed=1), cell("a", seed=2)]).rows[0].metrics["roc_auc"]
    assert (figure.value, figure.low, figure.high) == (0.9, None, None)
    assert figure.reason is not None


def test_a_null_figure_says_why() -> None:
    metrics = rank_cells([cell("a", p95=None, reasons={"latency_p95_ms": "needs 130 requests"})]).rows[0].metrics
    assert metrics["latency_p95_ms"].reason == "needs 130 requests"
    assert metrics["ece"].reason == "not measured"
    assert set(metrics) == set(METRICS)


def test_three_classes_have_no_binary_f1() -> None:
    labels = np.array([0, 1, 2] * 100)
    record = cell("a", labels=labels, predicted=labels, label_names=("x", "y", "z"))
    metrics = rank_cells([record]).rows[0].metrics
    assert metrics["f1_binary"].reason == "defined for two classes only"
    assert metrics["f1"].value == 1


def test_cells_that_disagree_about_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="disagree about the labels of sst2"):
        rank_cells([cell("a"), cell("b", labels=1 - LABELS)])
    with pytest.raises(ValueError, match="one prediction for each label"):
        rank_cells([cell("a", predicted=LABELS[:-1])])


def test_no_cells_give_an_empty_board() -> None:
    assert rank_cells([]).rows == ()


# --- flags and groups -------------------------------------------------------------------------


def flags(record: CellRecord, *others: CellRecord) -> set[str]:
    return set(by_model(rank_cells([record, *others], RankOptions(replicates=500)))[record.model].flags)


def test_a_clean_row_has_no_flags() -> None:
    pair = [cell(model, seed=seed) for model in "ab" for seed in (1, 2)]
    assert flags(*pair) == set()


@pytest.mark.parametrize(
    ("flag", "options"),
    [
        ("contaminated", {"contaminated": True}),
        ("few_requests", {"p95": None}),
        ("at_chance", {"accuracy": 0.5}),
        ("at_chance", {"accuracy": 0.2}),
        ("no_timing", {"ms": None}),
        ("no_timing", {"per_s": None}),
        ("seeds_differ", {"seed": 7}),
        (
            "reduced_batch",
            {
                "requested": {"batch_size": 16, "evaluation_batch_size": 32},
                "effective": {
                    "batch_size": Choice(value=16, reason="as configured"),
                    "evaluation_batch_size": Choice(value=8, reason="memory"),
                },
            },
        ),
        (
            "reduced_batch",
            {"requested": {"batch_size": 16}, "effective": {"batch_size": Choice(value=8, reason="memory")}},
        ),
    ],
)
def test_flags_of_a_row(flag: str, options: dict[str, Any]) -> None:
    usual = {"one_seed"}
    assert flags(cell("a", **options), cell("b"), cell("c")) == {flag, *usual}
    assert flags(cell("b"), cell("a", **options), cell("c")) == usual


def test_a_batch_as_requested_is_no_flag() -> None:
    as_asked = {"requested": {"batch_size": 8}, "effective": {"batch_size": Choice(value=8, reason="fits")}}
    assert flags(cell("a", **as_asked), cell("b")) == {"one_seed"}


def test_few_test_rows() -> None:
    labels = np.array([0, 1] * 50)
    assert "few_test_rows" in flags(cell("a", labels=labels), cell("b", labels=labels))


def test_a_model_alone_scores_zero_and_says_so() -> None:
    row = rank_cells([cell("a")]).rows[0]
    figure = row.metrics["score"]
    assert (row.rank, figure.value, figure.low, figure.high) == (1, 0, 0, 0)
    assert set(row.flags) == {"one_seed", "only_model"}


def test_missing_timing_counts_as_the_slowest() -> None:
    rows = by_model(rank_cells([cell("a", accuracy=0.9, ms=None, per_s=None), cell("b", ms=2), cell("c", ms=4)]))
    assert score(rows["a"]) == pytest.approx(0.6 - 0.2)
    assert score(rows["c"]) == pytest.approx(-0.2)
    assert "no_timing" in rows["a"].flags


def test_a_model_without_predictions_has_no_rank_and_moves_nobody() -> None:
    cells = [cell("a", accuracy=0.9, ms=4), cell("b", ms=2)]
    board = rank_cells([*cells, without_predictions(cell("c", ms=100))])
    rows = by_model(board)
    assert rows["c"].rank is None
    assert "no_predictions" in rows["c"].flags
    assert rows["c"].metrics["latency_median_ms"].value == 100
    assert rows["c"].metrics["score"].reason == "no predictions on the test split"
    assert score(rows["a"]) == score(by_model(rank_cells(cells))["a"])
    assert board.rows[-1].model == "c"
    assert rank_cells([without_predictions(cell("c"))]).rows[0].rank is None


@pytest.mark.parametrize(
    "changes",
    [
        {"cpu_model": "B"},
        {"threads": 4},
        {"gpu_model": "H"},
        {"image_digest": "sha256:1"},
        {"executor": "docker"},
        {"limits": Limits(cpus=1.5)},
    ],
)
def test_speed_is_not_ranked_across_comparability_keys(changes: dict[str, Any]) -> None:
    board = rank_cells([cell("a", accuracy=0.9, ms=90), cell("b", ms=1, where=provenance(**changes))])
    assert [score(row) for row in board.rows] == pytest.approx([0.6, 0.0])
    assert all("speed_not_comparable" in row.flags for row in board.rows)


def test_memory_and_time_limits_do_not_part_speeds() -> None:
    limited = provenance(limits=Limits(memory_mb=1000, pids=512, seconds=60))
    board = rank_cells([cell("a"), cell("b", where=limited)])
    assert not any("speed_not_comparable" in row.flags for row in board.rows)


def test_devices_are_rows_and_keys_of_their_own() -> None:
    board = rank_cells([cell("a"), cell("a", device="cuda")])
    assert [(row.model, row.device) for row in board.rows] == [("a", "cpu"), ("a", "cuda")]
    assert all("speed_not_comparable" in row.flags for row in board.rows)


def test_a_cell_without_timing_breaks_no_comparison() -> None:
    board = rank_cells([cell("a"), cell("b"), cell("c", ms=None, where=provenance(cpu_model="B"))])
    assert not any("speed_not_comparable" in row.flags for row in board.rows)


def test_data_versions_are_ranked_apart() -> None:
    old = cell("a", fingerprint="old", labels=1 - LABELS)
    board = rank_cells([old, cell("b", accuracy=0.9), cell("c")])
    assert [(row.model, row.rank) for row in board.rows] == [("b", 1), ("c", 2), ("a", 1)]
    assert [row.model for row in board.rows if "other_data_version" in row.flags] == ["a"]


def test_the_newest_of_two_cells_with_one_seed_counts() -> None:
    old = cell("a", cell="old", accuracy=0.6, where=provenance(finished=1.0))
    new = cell("a", accuracy=0.9, where=provenance(finished=2.0))
    row = rank_cells([new, old]).rows[0]
    assert row.metrics["accuracy"].value == pytest.approx(0.9)
    assert "superseded" in row.flags


def test_every_flag_has_a_meaning() -> None:
    cells = [cell("a", accuracy=0.5, ms=None), cell("b", p95=None), without_predictions(cell("c", seed=1))]
    board = rank_cells([*cells, cell("a", fingerprint="other")])
    assert {flag for row in board.rows for flag in row.flags} <= set(FLAG_MEANINGS)


# --- over datasets ----------------------------------------------------------------------------


def test_overall_is_the_mean_over_datasets_of_models_in_all() -> None:
    cells = [cell("a", accuracy=0.9, ms=4), cell("b", accuracy=0.6, ms=2)]
    cells += [cell("a", accuracy=0.7, dataset="imdb", ms=4), cell("b", accuracy=0.8, dataset="imdb", ms=2)]
    board = rank_cells([*cells, cell("c", dataset="imdb", ms=3)])
    overall = {row.model: row for row in board.overall}
    assert set(overall) == {"a", "b"}
    for model, row in overall.items():
        for name in ("score", "accuracy", "f1"):
            parts = [r.metrics[name].value for r in board.rows if r.model == model]
            figure = row.metrics[name]
            assert figure.value == pytest.approx(np.mean([part for part in parts if part is not None]))
            assert figure.low is not None and figure.value is not None and figure.high is not None
            assert figure.low <= figure.value <= figure.high
    assert [row.rank for row in board.overall] == [1, 2]


def test_overall_is_empty_for_one_dataset_or_no_common_model() -> None:
    assert rank_cells([cell("a"), cell("b")]).overall == ()
    assert rank_cells([cell("a"), cell("b", dataset="imdb")]).overall == ()


def test_json_has_metrics_at_the_top_level_of_a_row() -> None:
    cells = [cell("a"), cell("b"), cell("a", dataset="imdb"), cell("b", dataset="imdb")]
    plain = to_builtins(rank_cells(cells))
    row = plain["rows"][0]
    assert plain["schema_version"] == 3
    assert plain["noise_floor"] is None
    assert row["seeds"] == [42]
    assert row["flags"] == ["one_seed"]
    assert set(row["accuracy"]) == {"value", "low", "high"}
    assert set(row["ece"]) == {"value", "low", "high", "reason"}
    assert row["ece"]["value"] is None
    assert set(METRICS) < set(row)
    assert "metrics" not in row
    places = {"rank", "rank_low", "rank_high", "p_best", "tie"}
    assert set(plain["overall"][0]) == {"model", "method", "device", "score", "accuracy", "f1"} | places


def test_five_datasets_tell_whether_ranks_differ() -> None:
    rng = np.random.default_rng(3)
    names = ("best", "middle", "worst")
    cells = [
        cell(model, accuracy=0.9 - 0.08 * place + rng.normal(0, 0.01), dataset=f"d{number}")
        for number in range(6)
        for place, model in enumerate(names)
    ]
    board = rank_cells(cells)
    assert board.across is not None
    assert (board.across.metric, board.across.datasets) == ("f1", 6)
    assert dict(zip([row.model for row in board.overall], board.across.mean_ranks, strict=True)) == {
        "best": 1.0, "middle": 2.0, "worst": 3.0,
    }  # fmt: skip
    assert board.across.p < 0.001
    assert board.across.critical_difference == pytest.approx(
        2.343 * math.sqrt(3 * 4 / (6 * 6)), abs=1e-3
    )  # Demšar 2006
    assert "Friedman" in across_text(board)
    assert from_json(msgspec.json.encode(to_builtins(board))) == board
    few = rank_cells([one for one in cells if one.dataset < "d4"])
    assert (few.across, across_text(few)) == (None, "")


# --- places, Pareto front, normalisers ----------------------------------------------------------


def test_places_of_models_that_are_close_and_of_one_that_is_not() -> None:
    flips = np.random.default_rng(1).permutation(LABELS.size)
    close = [np.where(np.isin(np.arange(LABELS.size), flips[a : a + 45]), 1 - LABELS, LABELS) for a in (0, 40, 80)]
    cells = [cell(model, predicted=predicted) for model, predicted in zip("abc", close, strict=True)]
    board = rank_cells([*cells, cell("worse", accuracy=0.5)])
    rows = by_model(board)
    for model in "abc":
        assert (rows[model].rank_low, rows[model].rank_high, rows[model].tie) == (1, 3, 1)
    assert (rows["worse"].rank, rows["worse"].rank_low, rows["worse"].rank_high, rows["worse"].tie) == (4, 4, 4, 2)
    chances = [row.p_best for row in board.rows]
    assert sum(chance for chance in chances if chance is not None) == pytest.approx(1)
    assert rows["worse"].p_best == 0
    assert all((rows[model].p_best or 0) > 0.2 for model in "abc")


def test_a_model_without_a_score_has_no_place() -> None:
    row = by_model(rank_cells([cell("a"), without_predictions(cell("b"))]))["b"]
    assert (row.rank, row.rank_low, row.rank_high, row.p_best, row.tie) == (None, None, None, None, None)


def memory(mb: float) -> dict[str, Summary]:
    return {"summary": Summary(model_name="m", latency_median_ms=5.0, memory_allocated_mb=mb)}


def test_the_pareto_front_is_of_quality_tail_latency_and_memory() -> None:
    board = rank_cells(
        [
            cell("best", accuracy=0.9, p95=9.0, **memory(900)),
            cell("fast", accuracy=0.8, p95=2.0, **memory(900)),
            cell("small", accuracy=0.7, p95=9.0, **memory(100)),
            cell("beaten", accuracy=0.7, p95=9.0, **memory(900)),
            cell("untold", accuracy=0.95, p95=None, **memory(900)),
        ]
    )
    told = {row.model: row.pareto for row in board.rows}
    assert told == {"best": True, "fast": True, "small": True, "beaten": False, "untold": None}


def test_a_front_holds_speeds_of_one_place_alone() -> None:
    elsewhere = provenance(cpu_model="B")
    board = rank_cells([cell("a", p95=9.0, **memory(9)), cell("b", p95=1.0, where=elsewhere, **memory(1))])
    rows = by_model(board)
    assert (rows["a"].pareto, rows["b"].pareto) == (True, True), "neither beats the other where it was not measured"
    keys = [rows[model].speed_key for model in "ab"]
    assert len(set(keys)) == 2
    assert {board.speed_keys[key or ""].cpu_model for key in keys} == {"A", "B"}


def test_seeds_of_several_places_have_no_speed_key() -> None:
    row = rank_cells([cell("a", seed=1), cell("a", seed=2, where=provenance(cpu_model="B"))]).rows[0]
    assert row.speed_key is None


def test_weights_of_speed_alone_rank_nothing_that_is_not_comparable() -> None:
    cells = [cell("a"), cell("b", where=provenance(cpu_model="B"))]
    row = rank_cells(cells, RankOptions(weights={"latency_median_ms": -1.0})).rows[0]
    assert (row.rank, row.metrics["score"].value) == (None, None)
    assert "not comparable" in (row.metrics["score"].reason or "")
    assert row.metrics["accuracy"].value is not None


def test_accuracy_per_parameter() -> None:
    board = rank_cells([cell("a", parameters_total=4_000_000), cell("b", parameters_total=None)])
    rows = by_model(board)
    name = "accuracy_per_million_parameters"
    accuracy, figure = rows["a"].metrics["accuracy"], rows["a"].metrics[name]
    for part in ("value", "low", "high"):
        assert getattr(figure, part) == pytest.approx(getattr(accuracy, part) / 4)
    assert (rows["b"].metrics[name].value, rows["a"].parameters) == (None, 4_000_000)


@pytest.mark.parametrize("how", ["minmax", "zscore", "robust", "none"])
def test_every_normaliser_ranks(how: Normaliser) -> None:
    cells = [cell("good", accuracy=0.9, ms=2, per_s=500), cell("poor", accuracy=0.6, ms=9, per_s=100)]
    board = rank_cells(cells, RankOptions(normalise=how))
    assert board.normalise == how
    assert [row.model for row in board.rows] == ["good", "poor"]


def test_the_order_of_arrival_does_not_matter() -> None:
    """One at a time, with the board asked for after each, ends where all at once do."""
    cells = [
        cell(m, seed=seed, accuracy=0.7 + seed / 50 + ord(m) / 1e4, ms=5.0 + seed) for m in "abc" for seed in (1, 2, 3)
    ]
    ranking = Ranking()
    for record in cells[::-1]:
        ranking.add(record)
        ranking.board()
    assert ranking.board() == rank_cells(cells)


def test_only_what_changed_is_resampled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    resampled: list[int] = []
    real = group_ranking.resampled_quality

    def noting(labels: np.ndarray, predicted: np.ndarray, *rest: Any) -> dict[str, np.ndarray]:
        resampled.append(len(predicted))
        return real(labels, predicted, *rest)

    monkeypatch.setattr(group_ranking, "resampled_quality", noting)
    ranking = Ranking()
    for model in "abc":
        ranking.add(cell(model))
    ranking.board()
    ranking.add(cell("d"))
    ranking.board()
    ranking.board()
    ranking.add(cell("a", seed=7))
    ranking.board()
    assert resampled == [3, 1, 2]


def test_a_new_attempt_takes_the_place_of_the_old_one() -> None:
    ranking = Ranking()
    ranking.add(cell("a", accuracy=0.6))
    ranking.board()
    ranking.add(cell("a", accuracy=0.9))
    row = ranking.board().rows[0]
    assert row.metrics["accuracy"].value == pytest.approx(0.9)
    assert "superseded" not in row.flags


def test_more_classes_than_before_change_the_macro_mean() -> None:
    ranking = Ranking()
    ranking.add(cell("a"))
    before = ranking.board().rows[0].metrics["f1"].value
    ranking.add(cell("b", label_names=("no", "yes", "perhaps")))
    after = by_model(ranking.board())["a"].metrics["f1"].value
    assert before is not None and after == pytest.approx(before * 2 / 3)


def test_a_share_has_no_interval_beyond_1() -> None:
    cells = [cell("a", seed=seed, accuracy=accuracy) for seed, accuracy in ((1, 1.0), (2, 0.8))]
    figure = rank_cells(cells).rows[0].metrics["accuracy"]
    assert (figure.low, figure.high) == (pytest.approx(0, abs=0.5), 1.0)
