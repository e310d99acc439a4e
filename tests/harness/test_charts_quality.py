"""What the charts of ranks, quality and differences show: the figures they were given, with their uncertainty."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import msgspec
import numpy as np
import pytest

from harness.board import Contrast, Figure, SpeedKey
from harness.report.charts.answers import MOST_CELLS
from harness.report.material import Chart, Material, ReportRow
from harness.statistics import wilson_interval
from runner.contract import SliceFigures

from .drawn import changed, data, drawn, layout, rows_of, with_confusion, with_figures, with_results, with_row
from .report_cells import RATED
from .report_material import MODELS, figure, many_models, material


@pytest.fixture(scope="module")
def shown() -> Material:
    return material()


@pytest.fixture(scope="module")
def charts(shown: Material) -> Mapping[str, Chart]:
    return drawn(shown)


# --- ranks ----------------------------------------------------------------------------------------


def test_ranks_with_intervals_ties_and_chances(shown: Material, charts: Mapping[str, Chart]) -> None:
    rows = [one.row for one in rows_of(shown, "sst2")]
    scores, ranks, chances = data(charts["rank-sst2"])
    assert ranks["x"] == [1, 2, 3, 4, 5, 6]
    assert ranks["error_x"]["arrayminus"] == [row.rank - row.rank_low for row in rows]
    assert ranks["error_x"]["array"] == [row.rank_high - row.rank for row in rows]
    assert scores["x"] == pytest.approx([row.metrics["score"].value for row in rows], rel=1e-4)
    assert scores["error_x"]["array"] == pytest.approx([0.03] * 6, rel=1e-4)
    assert chances["x"][:3] == [70, 30, 0]
    assert chances["text"][:2] == ["70 %", "30 %"]
    between = {shape["y0"] for shape in layout(charts["rank-sst2"])["shapes"] if shape["xref"] == "x domain"}
    assert between == {1.5, 3.5}  # after each pair of the three tie groups
    assert "Rank 2 (between 1 and 3)" in ranks["hovertext"][1]


def test_the_overall_ranks_are_in_their_own_order(shown: Material, charts: Mapping[str, Chart]) -> None:
    names = layout(charts["rank-overall"])["yaxis"]["ticktext"]
    assert names[0] == "Qwen3-0.6B lora"
    assert len(names) == len(shown.board.overall)
    assert "rank-overall" not in drawn(material(datasets=("sst2",)))


# --- accuracy against latency -----------------------------------------------------------------------


def test_the_front_steps_from_the_fastest_to_the_most_accurate() -> None:
    at = {"a": (2.0, 0.7), "b": (4.0, 0.6), "c": (8.0, 0.9), "d": (9.0, 0.9), "e": (1.0, 0.5)}
    models = [dataclasses.replace(MODELS[2], name=name) for name in at]

    def moved(one: ReportRow) -> ReportRow:
        latency, accuracy = at[one.row.model]
        return with_figures(one, latency_p95_ms=figure(latency, 0.1), accuracy=figure(accuracy, 0.02))

    chart = drawn(changed(material(models, ("sst2",)), moved))["accuracy-latency-sst2"]
    front, points = data(chart)[:2]
    assert front["x"][:-1] == [1, 2, 8]
    assert front["y"] == [0.5, 0.7, 0.9, 0.9]
    assert front["line"]["shape"] == "hv"
    assert front["x"][-1] > 9  # to the right edge: the best there is stays the best
    assert dict(zip(points["x"], points["y"], strict=True)) == dict(at.values())
    assert points["error_y"]["array"] == pytest.approx([0.02] * 5)
    assert points["error_x"]["array"] == pytest.approx([0.1] * 5)
    assert layout(chart)["xaxis"]["type"] == "log"
    assert "p95" in layout(chart)["xaxis"]["title"]["text"]


def test_areas_grow_with_memory() -> None:
    needed = {"small": 100.0, "large": 400.0}
    models = [dataclasses.replace(MODELS[2], name=name) for name in needed]
    chart = drawn(
        changed(
            material(models, ("sst2",)),
            lambda one: with_figures(one, memory_allocated_mb=figure(needed[one.row.model], 1.0)),
        )
    )["accuracy-latency-sst2"]
    points = data(chart)[1]
    names = [text.split("<br>")[0] for text in points["hovertext"]]
    sizes = dict(zip(names, points["marker"]["size"], strict=True))
    assert sizes["<b>large lora</b>"] == 2 * sizes["<b>small lora</b>"]
    assert "from 100 to 400 MB" in chart.note


def test_without_a_p95_of_all_the_medians_are_compared() -> None:
    withheld = Figure(value=None, low=None, high=None, reason="too few requests")
    only_one = changed(
        material(datasets=("sst2",)),
        lambda one: with_figures(one, latency_p95_ms=withheld) if one.label == "DistilBERT lora" else one,
    )
    chart = drawn(only_one)["accuracy-latency-sst2"]
    assert "p50" in layout(chart)["xaxis"]["title"]["text"]
    assert "The latency is the median" in chart.note


def test_speeds_of_different_places_share_no_chart() -> None:
    """Nor a front."""
    keys = {"Qwen3-0.6B": "gpu", "DistilBERT": "gpu", "tfidf-logreg": None}
    mixed = changed(material(datasets=("sst2",)), lambda one: with_row(one, speed_key=keys.get(one.row.model, "k1")))
    gpu = SpeedKey(
        device="cuda", cpu_model="A", threads=2, gpu_model="NVIDIA T4", executor="docker", image_digest="d", cpus=None
    )
    board = msgspec.structs.replace(mixed.board, speed_keys={**mixed.board.speed_keys, "gpu": gpu})
    charts = drawn(dataclasses.replace(mixed, board=board))
    for kind in ("accuracy-latency", "latency", "throughput"):
        first, second = charts[f"{kind}-sst2"], charts[f"{kind}-sst2-place-2"]
        assert "NVIDIA T4, 2 threads, docker" in first.title and "AMD EPYC" in second.title
        assert "1 row is left out: timed at several places" in first.note
        named = [str(chart.figure["data"]) for chart in (first, second)]
        assert "DistilBERT" in named[0] and "SmolLM2" not in named[0]
        assert "DistilBERT" not in named[1] and "SmolLM2" in named[1]
        assert not any("tfidf" in text for text in named)


# --- quality --------------------------------------------------------------------------------------


def test_f1_by_dataset_has_a_column_each(shown: Material, charts: Mapping[str, Chart]) -> None:
    chart = charts["f1-by-dataset"]
    titles = [note["text"] for note in layout(chart)["annotations"]]
    assert titles == [RATED, "sst2"]
    names = layout(chart)["yaxis"]["ticktext"]
    for title, trace in zip(titles, data(chart), strict=True):
        expected = {one.label: one.row.metrics["f1"].value for one in rows_of(shown, title)}
        assert dict(zip(names, trace["x"], strict=True)) == pytest.approx(expected, rel=1e-4)
        assert trace["error_x"]["arrayminus"] == pytest.approx([0.02] * len(names), rel=1e-3)


def test_a_model_missing_on_a_dataset_leaves_a_gap(shown: Material) -> None:
    first, second = shown.sections
    fewer = dataclasses.replace(shown, sections=(first, dataclasses.replace(second, rows=second.rows[1:])))
    charts = drawn(fewer)
    assert data(charts["f1-by-dataset"])[1]["x"].count(None) == 1
    assert [line[1] for line in data(charts["f1-heatmap"])[0]["z"]].count(None) == 1


def test_the_heatmap_ends_with_the_mean(shown: Material, charts: Mapping[str, Chart]) -> None:
    chart = charts["f1-heatmap"]
    assert layout(chart)["xaxis"]["ticktext"] == [RATED, "sst2", "mean"]
    means = [line[2] for line in data(chart)[0]["z"]]
    assert means == pytest.approx([row.metrics["f1"].value for row in shown.board.overall], rel=1e-4)


def test_classes_are_means_over_seeds(shown: Material, charts: Mapping[str, Chart]) -> None:
    one = rows_of(shown, "sst2")[0]
    seeds = [cell.result.quality.per_class for cell in one.cells if cell.result.quality]
    z = data(charts["classes-sst2"])[0]["z"][0]
    assert z == pytest.approx([np.mean([seed[k].f1 for seed in seeds]) for k in range(2)], rel=1e-4)
    support = seeds[0][0].support
    assert layout(charts["classes-sst2"])["xaxis"]["ticktext"][0] == f"negative ({support})"


def test_slices_have_wilson_intervals(shown: Material, charts: Mapping[str, Chart]) -> None:
    one = rows_of(shown, RATED)[0]
    seeds = [cell.result.quality.per_slice[0] for cell in one.cells if cell.result.quality]
    accuracy = float(np.mean([seed.accuracy for seed in seeds]))
    bounds = wilson_interval(accuracy * seeds[0].rows, seeds[0].rows)
    trace = data(charts[f"slices-{RATED}"])[0]
    assert trace["x"][0] == pytest.approx(accuracy, rel=1e-4)
    assert trace["error_x"]["array"][0] == pytest.approx(float(bounds.high) - accuracy, rel=1e-3)
    assert trace["error_x"]["arrayminus"][0] == pytest.approx(accuracy - float(bounds.low), rel=1e-3)


def test_of_many_slices_the_largest_are_shown() -> None:
    many = tuple(
        SliceFigures(column="country", value=f"c{n:02d}", rows=10 * (n + 1), accuracy=0.8, f1=0.8) for n in range(20)
    )

    def sliced(one: ReportRow) -> ReportRow:
        quality = one.cells[0].result.quality
        assert quality is not None
        return with_results(one, quality=msgspec.structs.replace(quality, per_slice=many))

    chart = drawn(changed(material(datasets=("sst2",)), sliced))["slices-sst2"]
    titles = [note["text"] for note in layout(chart)["annotations"]]
    assert titles[0] == "c19 (200)" and len(titles) == 8
    assert "The 8 largest of 20 slices are shown." in chart.note


# --- answers --------------------------------------------------------------------------------------


def test_confusions_are_shares_of_the_true_class() -> None:
    shown = changed(material(datasets=("sst2",)), lambda one: with_confusion(one, ((8, 2), (9, 1))))
    trace = data(drawn(shown)["confusion-sst2"])[0]
    assert trace["z"] == [[80, 20], [90, 10]]
    assert trace["text"] == [[16, 4], [18, 2]]  # of two seeds


def test_many_classes_show_the_best_rows_only() -> None:
    classes = 80
    counts = tuple(tuple(int(a == b) for b in range(classes)) for a in range(classes))

    shown = changed(material(datasets=("sst2",)), lambda one: with_confusion(one, counts))
    names = tuple(f"class {n}" for n in range(classes))
    section = dataclasses.replace(shown.sections[0], label_names=names)
    chart = drawn(dataclasses.replace(shown, sections=(section,)))["confusion-sst2"]
    assert len(data(chart)) == MOST_CELLS // classes**2
    assert "only the best 2 of 6 rows are shown" in chart.note


def test_the_menu_turns_the_pages() -> None:
    chart = drawn(material(many_models(8), ("sst2",)))["calibration-sst2"]
    (menu,) = layout(chart)["updatemenus"]
    assert [button["label"] for button in menu["buttons"]] == ["1 to 6", "7 to 8"]
    assert [trace["visible"] for trace in data(chart)] == menu["buttons"][0]["args"][0]["visible"]
    shown, relayout = menu["buttons"][1]["args"]
    assert shown["visible"] == [False] * 12 + [True] * 4
    assert [note["text"].split(" ·")[0] for note in relayout["annotations"]] == ["model-01 lora", "model-00 lora"]
    assert relayout["xaxis2.visible"] and not relayout["xaxis3.visible"]
    assert data(chart)[12]["xaxis"] == "x" and data(chart)[14]["xaxis"] == "x2"


def test_a_slice_without_a_value_has_a_name() -> None:
    def emptied(one: ReportRow) -> ReportRow:
        quality = one.cells[0].result.quality
        assert quality is not None
        slices = tuple(msgspec.structs.replace(k, value="") for k in quality.per_slice[:1])
        return with_results(one, quality=msgspec.structs.replace(quality, per_slice=slices))

    [note] = layout(drawn(changed(material(), emptied))[f"slices-{RATED}"])["annotations"]
    assert note["text"].startswith("(empty) (")


def test_multiples_are_labelled_at_the_left_and_below() -> None:
    axes = layout(drawn(material(many_models(8), ("sst2",)))["confusion-sst2"])
    named = {name for name, axis in axes.items() if "axis" in name and axis.get("showticklabels", True)}
    titled = {name for name, axis in axes.items() if "axis" in name and axis["title"]}
    assert named == titled == {"yaxis", "yaxis4", "xaxis4", "xaxis5", "xaxis6"}
    _, relayout = axes["updatemenus"][0]["buttons"][1]["args"]  # two are left, in the upper line
    assert relayout["xaxis.showticklabels"] and relayout["xaxis2.title.text"] == "predicted class"
    assert not relayout["xaxis4.visible"]


def test_calibration_leaves_empty_bins_out(shown: Material, charts: Mapping[str, Chart]) -> None:
    one = rows_of(shown, "sst2")[0]
    assert one.reliability is not None
    bars, line = data(charts["calibration-sst2"])[:2]
    filled = one.reliability.share > 0
    assert len(bars["x"]) == 15
    assert line["x"] == pytest.approx(one.reliability.confidence[filled], rel=1e-3)
    assert line["y"] == pytest.approx(one.reliability.accuracy[filled], rel=1e-3)
    rows = one.reliability.share[filled] * one.row.test_rows
    bounds = wilson_interval(one.reliability.accuracy[filled] * rows, rows)
    assert line["error_y"]["array"] == pytest.approx(bounds.high - one.reliability.accuracy[filled], rel=1e-2)


# --- differences ------------------------------------------------------------------------------------


def test_pairs_with_stars_and_what_could_be_detected(charts: Mapping[str, Chart]) -> None:
    chart = charts["significance-sst2"]
    (trace,) = data(chart)
    z = np.array(trace["z"], dtype=np.float64)
    assert np.isnan(np.diagonal(z)).all()
    assert np.nan_to_num(z) == pytest.approx(-np.nan_to_num(z.T))
    assert trace["text"][0][0] == ""
    assert trace["text"][0][5] == f"+{z[0, 5]:.1f}**" and trace["text"][5][0] == f"−{z[0, 5]:.1f}**"
    assert trace["text"][0][1] == f"+{z[0, 1]:.1f}"
    assert "(Holm)" in trace["hovertext"][0][1]
    assert "a true difference below 4.1 points" in chart.note and "all 15 pairs" in chart.note


def test_contrasts_of_shares_are_differences_and_of_speeds_ratios(shown: Material) -> None:
    faster = Contrast(
        kind="method", dataset="sst2", fingerprint="sst2-fingerprint", first="lora", second="frozen",
        metric="latency_p95_ms", pairs=1, difference=Figure(value=1.1, low=0.9, high=1.3),
    )  # fmt: skip
    board = msgspec.structs.replace(shown.board, contrasts=(*shown.board.contrasts, faster))
    chart = drawn(dataclasses.replace(shown, board=board))["contrasts"]
    titles = [note["text"] for note in layout(chart)["annotations"]]
    assert titles == ["Accuracy, difference", "F1 macro, difference", "Latency p95, ratio"]
    accuracy, _, latency = data(chart)
    assert accuracy["x"][0] == pytest.approx(6) and accuracy["error_x"]["array"][0] == pytest.approx(2)  # in points
    assert layout(chart)["xaxis3"]["type"] == "log"
    assert [x for x in latency["x"] if x is not None] == [1.1]
    zeros = {shape["xref"]: shape["x0"] for shape in layout(chart)["shapes"]}
    assert zeros == {"x": 0, "x2": 0, "x3": 1}
    assert "decoders − encoders · sst2 (2)" in layout(chart)["yaxis"]["ticktext"]


def test_the_fit_is_the_boards(shown: Material, charts: Mapping[str, Chart]) -> None:
    traces = [trace for trace in data(charts["size-scaling"]) if trace["mode"] == "lines"]
    assert len(traces) == 2
    assert traces[0]["x"] == [22_700_000, 596_000_000]
    assert traces[0]["y"] == pytest.approx([0.66 + 0.03 * math.log10(x) for x in traces[0]["x"]], rel=1e-4)
    assert "+3.0 percentage points (95 % interval +2.0 to +4.0)" in traces[0]["hovertext"][0]


def test_a_baseline_has_no_size(shown: Material) -> None:
    counted = changed(shown, lambda one: with_row(one, parameters=5) if one.row.method == "none" else one)
    chart = drawn(counted)["size-scaling"]
    assert not any("tfidf" in str(trace) for trace in data(chart))
    assert layout(chart)["xaxis"]["range"][0] > 7
