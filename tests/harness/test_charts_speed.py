"""What the charts of speed, memory, training and NPS show, and the axes of all."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import numpy as np
import pytest

from harness.report.charts.figures import log_axis
from harness.report.charts.training import MOST_POINTS
from harness.report.material import Chart, Material, ReportRow
from harness.statistics import half_width
from runner.contract import CurvePoint

from .drawn import changed, data, drawn, layout, rows_of, with_results, with_row
from .report_cells import RATED
from .report_material import MODELS, material


@pytest.fixture(scope="module")
def shown() -> Material:
    return material()


@pytest.fixture(scope="module")
def charts(shown: Material) -> Mapping[str, Chart]:
    return drawn(shown)


# --- speed ----------------------------------------------------------------------------------------


def test_latencies_are_histograms_not_raw_samples(shown: Material) -> None:
    charts = drawn(material(requests=1000))
    chart = charts["latency-sst2"]
    outlines = [trace for trace in data(chart) if trace.get("fill") == "toself"]
    assert len(outlines) == len(MODELS)
    assert {len(trace["x"]) for trace in outlines} == {2 * (25 + 2)}  # 25 bins for 2,000 requests
    names = layout(chart)["yaxis"]["ticktext"]
    assert names[0] == "tfidf-logreg" and names[-1] == "Qwen3-0.6B lora"  # the fastest on top
    p50, p95, p99 = (trace for trace in data(chart) if trace["mode"] == "markers")
    assert [trace["name"] for trace in (p50, p95, p99)] == ["p50", "p95", "p99"]
    assert all(a < b < c for a, b, c in zip(p50["x"], p95["x"], p99["x"], strict=True))
    assert all(p50["error_x"]["array"])
    few = drawn(material(requests=200))["latency-sst2"]
    assert "p99" not in [trace.get("name") for trace in data(few)]


def test_throughput_has_the_interval_of_the_ranking(shown: Material, charts: Mapping[str, Chart]) -> None:
    one = rows_of(shown, "sst2")[0]
    trace = next(trace for trace in data(charts["throughput-sst2"]) if trace["name"] == one.label)
    timings = [cell.result.timing for cell in one.cells if cell.result.timing]
    windows = [[window.throughput[2].samples_per_s for window in timing.windows] for timing in timings]
    assert trace["x"] == [1, 4, 8, 16, 32]
    mean = np.mean([timing.throughput[2].samples_per_s for timing in timings])
    assert trace["y"][2] == pytest.approx(mean, rel=1e-4)
    assert trace["error_y"]["array"][2] == pytest.approx(float(half_width(np.array(windows))), rel=1e-3)


def test_an_interval_down_to_zero_has_no_lower_bar() -> None:
    def unsteady(one: ReportRow) -> ReportRow:
        timing = one.cells[0].result.timing
        assert timing is not None
        first, *others = timing.windows
        fast = tuple(msgspec.structs.replace(rate, samples_per_s=50 * rate.samples_per_s) for rate in first.throughput)
        windows = (msgspec.structs.replace(first, throughput=fast), *others)
        return with_results(one, timing=msgspec.structs.replace(timing, windows=windows))

    steady = material(datasets=("sst2",), seeds=(1,))
    chart = drawn(changed(steady, unsteady))["throughput-sst2"]
    bars = data(chart)[0]["error_y"]
    assert all(bars["array"]) and bars["arrayminus"] == [None] * 5
    assert "its lower half is not drawn" in chart.note
    assert "not drawn" not in drawn(steady)["throughput-sst2"].note


def test_a_window_that_does_not_count_adds_nothing_to_the_interval() -> None:
    def disturbed(one: ReportRow) -> ReportRow:
        timing = one.cells[0].result.timing
        assert timing is not None
        slow = tuple(msgspec.structs.replace(rate, samples_per_s=0.001) for rate in timing.throughput)
        window = msgspec.structs.replace(timing.windows[0], throughput=slow, counted=False)
        return with_results(one, timing=msgspec.structs.replace(timing, windows=(*timing.windows, window)))

    before = material(datasets=("sst2",), seeds=(1,))
    bars = [data(drawn(one)["throughput-sst2"])[0]["error_y"]["array"] for one in (before, changed(before, disturbed))]
    assert bars[0] == bars[1] and all(bars[0])


def test_memory_of_each_stage(shown: Material, charts: Mapping[str, Chart]) -> None:
    chart = charts["memory"]
    names = layout(chart)["yaxis"]["ticktext"]
    loaded, inference, training = data(chart)[:3]
    place = names.index("DistilBERT lora")
    memory = next(one for one in rows_of(shown, RATED) if one.label == "DistilBERT lora").cells[0].result.memory
    expected = (memory.rss_after_load_mb, memory.rss_peak_inference_mb, memory.rss_peak_training_mb)
    assert [trace["x"][place] for trace in (loaded, inference, training)] == pytest.approx(expected, rel=1e-4)
    assert len(training["y"]) == len(names) - 1  # a baseline is not trained
    legend = [trace["name"] for trace in data(chart) if trace.get("showlegend")]
    assert legend == ["after loading", "peak in inference", "peak in training"]


def test_a_gpu_shows_its_own_memory(shown: Material) -> None:
    def moved(one: ReportRow) -> ReportRow:
        memory = msgspec.structs.replace(one.cells[0].result.memory, device_peak_inference_mb=777.0)
        return with_row(with_results(one, memory=memory), device="cuda")

    trace = data(drawn(changed(material(MODELS[:1], ("sst2",)), moved))["memory"])[1]
    assert trace["x"] == [777]
    assert "Memory of the cuda" in trace["hovertext"][0]


# --- training ---------------------------------------------------------------------------------------


def test_a_long_loss_curve_is_averaged_and_seeds_are_parted() -> None:
    chart = drawn(material(MODELS[:1], ("sst2",), (1, 2), points=1000))["loss-sst2"]
    (trace,) = data(chart)
    assert [trace["x"][place] for place in (MOST_POINTS, 2 * MOST_POINTS + 1)] == [None, None]
    assert set(trace["customdata"][:MOST_POINTS]) == {1} and trace["customdata"][-1] == 2
    assert trace["x"][MOST_POINTS - 1] > 990
    short = drawn(material(MODELS[:1], ("sst2",), (1,), points=40))["loss-sst2"]
    assert data(short)[0]["x"] == [*range(1, 41), None]


def test_each_point_is_the_mean_of_its_stretch() -> None:
    points = tuple(CurvePoint(step=n + 1, values={"loss": float(n % 2)}) for n in range(2 * MOST_POINTS))

    def trained(one: ReportRow) -> ReportRow:
        training = one.cells[0].result.training
        assert training is not None
        return with_results(one, training=msgspec.structs.replace(training, loss_curve=points))

    chart = drawn(changed(material(MODELS[:1], ("sst2",), (1,)), trained))["loss-sst2"]
    assert data(chart)[0]["y"] == [0.5] * MOST_POINTS + [None]
    assert data(chart)[0]["x"][:2] == [1.5, 3.5]


def test_the_ring_is_the_step_that_was_kept() -> None:
    points = tuple(CurvePoint(step=n, values={"f1": 0.5, "loss": 1.0}) for n in range(1, 501))

    def trained(one: ReportRow) -> ReportRow:
        training = one.cells[0].result.training
        assert training is not None
        changes = {"validation_curve": points, "best_step": 243}
        return with_results(one, training=msgspec.structs.replace(training, **changes))

    chart = drawn(changed(material(MODELS[:1], ("sst2",), (1,)), trained))["validation-sst2"]
    f1, loss = data(chart)
    ringed = [x for x, symbol in zip(f1["x"], f1["marker"]["symbol"], strict=True) if symbol == "circle-open"]
    assert ringed == [243]
    assert len(f1["x"]) <= MOST_POINTS + 2
    assert loss["visible"] is False
    buttons = layout(chart)["updatemenus"][0]["buttons"]
    assert [button["args"][0]["visible"] for button in buttons] == [[True, False], [False, True]]
    low, high = layout(chart)["yaxis"]["range"]
    assert 0.4 < low < 0.5 < high < 0.6  # equal values are not magnified


# --- NPS ------------------------------------------------------------------------------------------


def test_nps_beside_the_actual(shown: Material, charts: Mapping[str, Chart]) -> None:
    chart = charts[f"nps-{RATED}"]
    assert layout(chart)["yaxis"]["ticktext"][0] == "actual ratings"
    titles = [note["text"] for note in layout(chart)["annotations"]]
    assert titles == [f"{name} (1,000)" for name in ("all branches", "California", "Hong Kong", "Paris")]
    overall, california = data(chart)[:2]
    assert overall["x"][0] == 40 and california["x"][0] == 45
    references = {shape["xref"]: shape["x0"] for shape in layout(chart)["shapes"]}
    assert references["x"] == 40 and references["x2"] == 45
    assert overall["error_x"]["array"] == pytest.approx([4.0] * 7)


def test_categories_are_whole_and_errors_are_of_models_only(charts: Mapping[str, Chart]) -> None:
    shares = data(charts[f"nps-shares-{RATED}"])
    detractors, passives, promoters = shares[:3]
    assert [trace["marker"]["color"] for trace in shares[:3]] == ["#ef4444", "#eab308", "#22c55e"]
    totals = [sum(parts) for parts in zip(detractors["x"], passives["x"], promoters["x"], strict=True)]
    assert totals == pytest.approx([100] * 7, abs=0.05)
    assert sum(trace["showlegend"] for trace in shares) == 3
    errors = charts[f"nps-error-{RATED}"]
    assert "actual ratings" not in layout(errors)["yaxis"]["ticktext"]
    assert data(errors)[0]["x"][0] == -4
    assert "−4.0" in data(errors)[0]["hovertext"][0]


# --- axes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "most", "expected"),
    [
        ([1.5, 90.0], 12, ["2", "5", "10", "20", "50", "100"]),
        ([1.5, 90.0], 4, ["3", "10", "30", "100"]),
        ([1e-3, 1e5], 5, ["0.001", "0.1", "10", "1,000", "100,000"]),
        ([12.0, 14.0], 12, ["11", "12", "13", "14", "15", "16"]),
        ([5e6, 6e8], 5, ["10M", "30M", "100M", "300M"]),
        ([], 12, ["1", "2", "5", "10"]),
        ([20.0, 80.0], 12, ["20", "50"]),  # no power of ten between the ends
        ([13.0, 80.0], 12, ["20", "50"]),
        ([12.0, 60.0], 12, ["20", "50"]),
    ],
)
def test_ticks_of_a_logarithmic_axis(values: list[float], most: int, expected: list[str]) -> None:
    axis = log_axis("x", values, most_ticks=most)
    assert axis["ticktext"] == expected
    low, high = axis["range"]
    assert all(low <= math.log10(tick) <= high for tick in axis["tickvals"])
