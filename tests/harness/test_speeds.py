import math
from typing import Any

import pytest

from harness.board import NoiseFloor, to_builtins
from harness.composite import RankOptions
from harness.entries import CellRecord
from harness.ranking import rank_cells
from runner.contract import Summary
from tests.harness.ranked import by_model, cell, five_windows, provenance, score, window, without_predictions

T4 = 2.77645  # Student's of four degrees of freedom, 95 %


def figure_of(name: str, *records: CellRecord) -> tuple[float | None, float | None, float | None]:
    figure = by_model(rank_cells(records, RankOptions(replicates=50)))[records[0].model].metrics[name]
    assert (figure.reason is None) == (figure.low is not None)
    return figure.value, figure.low, figure.high


def test_windows_give_one_seed_an_interval() -> None:
    record = cell("a", windows=five_windows(), summary=Summary(
        model_name="a", latency_median_ms=5.0, ttft_mean_ms=6.0, throughput_samples_per_sec=200.0,
        throughput_tokens_per_sec=1800.0,
    ))  # fmt: skip
    share = T4 * 0.02 * math.sqrt(2.5 / 5)
    for name, value, base in (
        ("latency_median_ms", 5.0, 5.0),
        ("ttft_mean_ms", 6.0, 5.0),  # a millisecond above the median in every window
        ("throughput_samples_per_sec", 200.0, 200.0),
        ("throughput_tokens_per_sec", 1800.0, 1800.0),
    ):
        expected = (value, value - share * base, value + share * base)
        assert figure_of(name, record) == pytest.approx(expected, rel=1e-4), name


def test_only_windows_that_count_do() -> None:
    disturbed = window(6, 500.0, 1.0, counted=False)
    assert figure_of("latency_median_ms", cell("a", windows=(*five_windows(), disturbed))) == figure_of(
        "latency_median_ms", cell("a", windows=five_windows())
    )


def test_with_several_seeds_their_spread_gives_the_interval() -> None:
    seeds = [cell("a", seed=s, ms=ms, windows=five_windows(ms)) for s, ms in ((1, 4.0), (2, 5.0), (3, 6.0))]
    half = 4.30265 / math.sqrt(3)
    assert figure_of("latency_median_ms", *seeds) == pytest.approx((5.0, 5 - half, 5 + half), rel=1e-4)
    seeds[0] = cell("a", seed=1, ms=4.0)  # without windows of every seed, the figures of the seeds give it
    assert figure_of("latency_median_ms", *seeds) == pytest.approx((5.0, 5 - half, 5 + half), rel=1e-4)


def test_a_figure_without_windows_gets_its_interval_from_the_seeds() -> None:
    seeds = [
        cell("a", seed=s, summary=Summary(model_name="a", memory_allocated_mb=mb))
        for s, mb in ((1, 400.0), (2, 500.0), (3, 600.0))
    ]
    half = 4.30265 * 100 / math.sqrt(3)
    assert figure_of("memory_allocated_mb", *seeds) == pytest.approx((500.0, 500 - half, 500 + half), rel=1e-4)


def test_an_interval_of_speed_is_never_negative() -> None:
    record = cell("a", windows=(window(1, 1.0), window(2, 9.0)))
    value, low, high = figure_of("latency_median_ms", record)
    assert (value, low) == (5.0, 0.0)
    assert high is not None and high > 30


@pytest.mark.parametrize(
    ("name", "count", "reason"),
    [
        ("latency_median_ms", 0, "no interval: measured with one seed"),
        ("latency_median_ms", 1, "no interval: measured with one seed, in one window"),
        ("latency_p95_ms", 5, "no interval: measured with one seed"),
    ],
)
def test_without_an_interval_a_speed_says_why(name: str, count: int, reason: str) -> None:
    figure = rank_cells([cell("a", windows=five_windows()[:count])]).rows[0].metrics[name]
    assert (figure.low, figure.high, figure.reason) == (None, None, reason)


def test_the_score_knows_how_much_windows_vary() -> None:
    def width(spread: float) -> float:
        pair = [
            cell(m, ms=ms, per_s=200, windows=five_windows(ms, spread=spread)) for m, ms in (("a", 5.0), ("b", 5.1))
        ]
        board = rank_cells([*pair, cell("c", ms=6.0)], RankOptions(weights={"latency_median_ms": -1.0}))
        figure = by_model(board)["b"].metrics["score"]
        assert figure.low is not None and figure.high is not None
        return figure.high - figure.low

    assert width(0.0) == 0
    assert 0 < width(0.01) < width(0.05)


# --- the noise floor --------------------------------------------------------------------------


def floor(share: float = 0.03, **changes: Any) -> NoiseFloor:
    fields: dict[str, Any] = {"cpu_model": "A", "executor": "native", "threads": 2}
    return NoiseFloor(latency_p50=share, latency_p99=share, throughput=share, **(fields | changes))


def three(**fields: Any) -> list[CellRecord]:
    """The latency of `a` and `b` differs by 2 %, nothing else of them."""
    return [cell("a", ms=5.0, **fields), cell("b", ms=5.1, **fields), cell("c", ms=9.0, per_s=100, **fields)]


def test_speeds_within_the_floor_are_equal_in_the_score() -> None:
    apart, level = (by_model(rank_cells(three(), noise_floor=f)) for f in (floor(0.01), floor(0.03)))
    assert score(apart["a"]) > score(apart["b"])
    assert score(level["a"]) == score(level["b"])
    assert [row.rank for row in level.values()] == [1, 1, 3]
    assert level["a"].metrics["score"] == level["b"].metrics["score"]


def test_level_rows_say_so_and_keep_their_values() -> None:
    records = [*three(), cell("d", ms=7.0, per_s=150)]
    board = rank_cells(records, noise_floor=floor())
    rows = by_model(board)
    assert board.noise_floor == floor()
    figures = {model: row.metrics["latency_median_ms"] for model, row in rows.items()}
    assert [(f.value, f.level) for f in figures.values()] == [
        (5.0, pytest.approx(5.05)), (5.1, pytest.approx(5.05)), (7.0, None), (9.0, None),
    ]  # fmt: skip
    assert {model for model, row in rows.items() if "speed_tied" in row.flags} == {"a", "b"}
    plain = {row["model"]: row["latency_median_ms"] for row in to_builtins(board)["rows"]}
    assert plain["a"]["value"] == 5.0 and plain["a"]["level"] == pytest.approx(5.05)
    assert "level" not in plain["c"]


def test_a_level_throughput_is_enough_for_the_flag() -> None:
    board = rank_cells([cell("a", ms=1.0, per_s=200), cell("b", ms=9.0, per_s=201)], noise_floor=floor())
    assert all("speed_tied" in row.flags for row in board.rows)
    assert board.rows[0].metrics["latency_median_ms"].level is None


@pytest.mark.parametrize("changes", [{"cpu_model": "B"}, {"executor": "docker"}, {"threads": 1}])
def test_the_floor_of_other_conditions_levels_nothing(changes: dict[str, Any]) -> None:
    board = rank_cells(three(), noise_floor=floor(**changes))
    assert not any("speed_tied" in row.flags for row in board.rows)
    assert board.rows == rank_cells(three()).rows


def test_the_floor_of_a_cpu_levels_no_gpu() -> None:
    rows = rank_cells(three(device="cuda"), noise_floor=floor()).rows
    assert not any("speed_tied" in row.flags for row in rows)


def test_speeds_that_cannot_be_compared_are_not_level() -> None:
    records = [cell("a"), cell("b", where=provenance(image_digest="sha256:1"))]
    assert not any("speed_tied" in row.flags for row in rank_cells(records, noise_floor=floor()).rows)


def test_a_model_without_a_score_levels_nobody() -> None:
    board = rank_cells(
        [cell("a", ms=5.0, per_s=1), without_predictions(cell("b", ms=5.0, per_s=1))], noise_floor=floor()
    )
    assert not any("speed_tied" in row.flags for row in board.rows)


def test_quality_and_memory_have_no_floor() -> None:
    def of(model: str, accuracy: float) -> CellRecord:
        return cell(model, accuracy=accuracy, summary=Summary(model_name=model, memory_allocated_mb=100.0))

    rows = rank_cells([of("a", 0.80), of("b", 0.81)], noise_floor=floor(0.5)).rows
    for name in ("accuracy", "memory_allocated_mb"):
        assert [row.metrics[name].level for row in rows] == [None, None]
