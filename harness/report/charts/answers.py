"""Which errors a model makes, and whether its confidence can be believed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from harness.report.charts.figures import Json, axis, bars_between, chart, numbers, places_axis
from harness.report.charts.pages import PAGE, Small, paged
from harness.report.charts.palette import FAINT, ON_SCALE, SHARE_SCALE
from harness.report.charts.scene import ANSWERS, Scene
from harness.report.charts.words import hover, percent, short
from harness.report.material import Chart, Reliability, ReportRow
from harness.statistics import IntArray, wilson_interval

MOST_CELLS = 15_000  # of all confusion matrices of one dataset: 77 classes have 5,929 each
_NAMED_CLASSES = 12
_WRITTEN_CLASSES = 6
_TURN = " The menu turns to the rows of lower rank."


# --- confusion --------------------------------------------------------------------------------------


def confusions(scene: Scene) -> Iterator[Chart]:
    for part in scene.parts:
        found = [(one, counts) for one in part.rows if (counts := _confusion(one)).size]
        if not found:
            continue
        names = part.section.label_names
        shown = found[: max(1, MOST_CELLS // len(names) ** 2)]
        panels = [
            Small(short(one.label, 30), [_matrix(one, counts, names, place % PAGE == 0)])
            for place, (one, counts) in enumerate(shown)
        ]
        note = "Each line sums to 100 %: what became of the texts of a class. Numbers are texts, summed over seeds."
        if len(shown) < len(found):
            note += f" With {len(names)} classes only the best {len(shown)} of {len(found)} rows are shown."
        if len(shown) > PAGE:
            note += _TURN
        title = f"Confusion matrices · {part.title}"
        yield chart(f"confusion-{part.slug}", title, ANSWERS, note, _matrices_figure(panels, names))


def _matrices_figure(panels: Sequence[Small], names: Sequence[str]) -> Json:
    if len(names) <= _NAMED_CLASSES:
        x, y = places_axis(names, chars=12), places_axis(names, reverse=True, chars=12)
    else:
        x, y = (
            {"showticklabels": False, "range": span} for span in ([-0.5, len(names) - 0.5], [len(names) - 0.5, -0.5])
        )
    x |= {"title": {"text": "predicted class", "standoff": 4}, "showgrid": False}
    y |= {"title": {"text": "true class", "standoff": 4}, "showgrid": False}
    return paged(panels, x, y)


def _confusion(one: ReportRow) -> IntArray:
    """Counts (K, K), [true, predicted], summed over seeds; empty where none was scored."""
    found = [
        cell.result.quality.confusion for cell in one.cells if cell.result.quality and cell.result.quality.confusion
    ]
    return np.sum(found, axis=0, dtype=np.int64) if found else np.zeros((0, 0), dtype=np.int64)


def _matrix(one: ReportRow, counts: IntArray, names: Sequence[str], with_scale: bool) -> Json:
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(100.0 * counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    trace: Json = {
        "type": "heatmap",
        "z": [numbers(line, 3) for line in shares],
        "zmin": 0,
        "zmax": 100,
        "colorscale": [list(stop) for stop in SHARE_SCALE],
        "showscale": with_scale,
        "colorbar": {"title": {"text": "share of the true class (%)", "side": "right"}, "thickness": 12},
        "text": counts.tolist(),
        "xgap": 1,
        "ygap": 1,
        "name": short(one.label),
        "hovertemplate": "<b>%{fullData.name}</b><br>true %{y}, predicted %{x}<br>"
        "%{text:,} texts, %{z:.3g} % of the true class<extra></extra>",
    }
    if len(names) <= _WRITTEN_CLASSES:
        trace |= {"texttemplate": "%{text:,}", "textfont": {"color": ON_SCALE}}
    return trace


# --- calibration ------------------------------------------------------------------------------------


def calibrations(scene: Scene) -> Iterator[Chart]:
    for part in scene.parts:
        found = [(one, one.reliability) for one in part.rows if one.reliability is not None]
        if not found:
            continue
        panels = [
            Small(f"{short(one.label, 24)} · ECE {reliability.ece:.3f}", _reliability_traces(scene, one, reliability))
            for one, reliability in found
        ]
        note = (
            "On the diagonal, confidence is what it says; below it a model is too sure of itself. Grey bars are the "
            f"share of test examples at each confidence; the dots have "
            f"{percent(scene.confidence)} Wilson intervals."
        )
        figure = _reliability_figure(panels)
        title = f"Calibration · {part.title}"
        yield chart(f"calibration-{part.slug}", title, ANSWERS, note + (_TURN if len(found) > PAGE else ""), figure)


def _reliability_figure(panels: Sequence[Small]) -> Json:
    x = axis("confidence of the answer", range=[0, 1.02], tickvals=[0, 0.5, 1])
    y = axis("accuracy; share of examples", range=[0, 1.04], tickvals=[0, 0.5, 1])
    return paged(panels, x, y, diagonal=True, barmode="overlay", bargap=0.05)


def _reliability_traces(scene: Scene, one: ReportRow, reliability: Reliability) -> list[Json]:
    bins = len(reliability.share)
    middles = (np.arange(bins) + 0.5) / bins
    filled = np.flatnonzero(reliability.share > 0)
    share, confidence, accuracy = (
        column[filled] for column in (reliability.share, reliability.confidence, reliability.accuracy)
    )
    rows = share * one.row.test_rows  # of a single seed: seeds share their examples
    bounds = wilson_interval(accuracy * rows, rows, scene.confidence)
    look = scene.look(one.row)
    hovers = [
        hover(
            one.label,
            f"Confidence {mean:.3f}, accuracy {right:.3f}",
            f"{percent(scene.confidence)} interval {low:.3f}–{high:.3f}",
            f"{percent(part)} of the test examples",
        )
        for mean, right, low, high, part in zip(confidence, accuracy, *bounds, share, strict=True)
    ]
    bars: Json = {
        "type": "bar",
        "x": numbers(middles, 4),
        "y": numbers(reliability.share, 3),
        "width": round(0.92 / bins, 4),
        "marker": {"color": FAINT},
        "hoverinfo": "skip",
    }
    line: Json = {
        "type": "scatter",
        "mode": "lines+markers",
        "x": numbers(confidence, 4),
        "y": numbers(accuracy, 4),
        "error_y": bars_between(numbers(accuracy - bounds.low, 3), numbers(bounds.high - accuracy, 3)),
        "line": {"color": look.colour, "dash": look.dash, "width": 1.5},
        "marker": {"color": look.colour, "symbol": look.symbol, "size": 7},
        "hovertext": hovers,
        "hoverinfo": "text",
    }
    return [bars, line]
