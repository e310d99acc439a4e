"""Which model: ranks with their uncertainty, and accuracy against latency."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from harness.board import Figure, Row
from harness.report.charts.figures import (
    Json,
    Panel,
    axis,
    bars_between,
    chart,
    dots,
    error_bars,
    legend_below,
    level,
    log_axis,
    method_legend,
    number,
    numbers,
    side_by_side,
    span_of,
    values_of,
)
from harness.report.charts.palette import FAINT
from harness.report.charts.placing import Point, label_positions
from harness.report.charts.scene import RANKING, AnyRow, Scene, SpeedGroup, metric, speed_groups
from harness.report.charts.words import (
    QUALITY_FLAGS,
    SPEED_FLAGS,
    figure_line,
    flags_line,
    hover,
    percent,
    rank_line,
    seeds_line,
    short,
    with_cautions,
)
from harness.report.labels import RowKey, row_key
from harness.report.material import Chart
from harness.report.words import across_text
from harness.statistics import pareto_front

_LABEL_CHARS = 26
_SMALLEST_PX, _LARGEST_PX = 9, 32

_RANK_NOTE = (
    "Bars are {} intervals. Rows between two dotted lines are a tie: the data do not tell them apart from the first of "
    "them. The chance is the share of resamples, of test examples and seeds, in which a row comes first."
)


def ranks(scene: Scene) -> Iterator[Chart]:
    """Over all datasets, and of each."""
    sentence = _RANK_NOTE.format(percent(scene.confidence))
    overall = [row for row in scene.board.overall if row.rank is not None and row_key(row) in scene.looks]
    if overall:
        figure = _rank_figure(scene, sorted(overall, key=_rank))
        note = f"Means over datasets. {sentence} {across_text(scene.board)}".rstrip()
        yield chart("rank-overall", "Ranks over all datasets", RANKING, note, figure)
    for part in scene.parts:
        rows = sorted((one.row for one in part.rows if one.row.rank is not None), key=_rank)
        if rows:
            note = with_cautions(sentence, rows, QUALITY_FLAGS)
            yield chart(f"rank-{part.slug}", f"Ranks · {part.title}", RANKING, note, _rank_figure(scene, rows))


def _rank(row: AnyRow) -> int:
    return row.rank or 0


def _rank_figure(scene: Scene, rows: Sequence[AnyRow]) -> Json:
    looks = [scene.look(row) for row in rows]
    hovers = [_rank_hover(scene, row) for row in rows]
    scores = [metric(row, "score") for row in rows]
    below = [row.rank - row.rank_low if row.rank and row.rank_low else None for row in rows]
    above = [row.rank_high - row.rank if row.rank and row.rank_high else None for row in rows]
    between_ties = [level(place - 0.5) for place, (a, b) in enumerate(pairwise(rows), 1) if a.tie != b.tie]
    score_dots = dots(looks, values_of(scores), hovers, error_x=error_bars(scores))
    rank_dots = dots(looks, [row.rank for row in rows], hovers, error_x=bars_between(below, above))
    chances = [None if row.p_best is None else 100 * row.p_best for row in rows]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": numbers(chances, 3),
        "y": list(range(len(rows))),
        "marker": {"color": [look.colour for look in looks]},
        "text": ["" if row.p_best is None else percent(row.p_best) for row in rows],
        "textposition": "outside",
        "hovertext": hovers,
        "hoverinfo": "text",
    }
    rank_axis = {"range": [0.5, len(rows) + 0.5], "tick0": 1, "dtick": -(-len(rows) // 8)}
    panels = (
        Panel("Score", [score_dots], axis("score (no unit)"), between_ties),
        Panel("Rank", [rank_dots], axis("rank (1 is best)", **rank_axis), between_ties),
        Panel(
            "Chance of being the best",
            [bars],
            axis("share of resamples (%)", range=[0, 120], tickvals=[0, 25, 50, 75, 100]),
            between_ties,
        ),
    )
    return side_by_side([scene.label(row) for row in rows], panels)


def _rank_hover(scene: Scene, row: AnyRow) -> str:
    return hover(
        scene.label(row),
        rank_line(row),
        f"Tie group {row.tie}" if row.tie is not None else "",
        f"Chance of being the best: {percent(row.p_best)}" if row.p_best is not None else "",
        figure_line("score", row.metrics.get("score"), scene.confidence),
    )


# --- accuracy against latency -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Point:
    """`x`: latency in ms, `y`: accuracy, `size`: diameter in px."""

    row: Row
    x: float
    y: float
    size: float
    on_front: bool


def accuracy_against_latency(scene: Scene) -> Iterator[Chart]:
    """For each dataset, and for each place where speeds were measured."""
    for part in scene.parts:
        for group in speed_groups(scene, part):
            name = _latency_name(group)
            if points := _points_of(group, name):
                rows = [point.row for point in points]
                title = f"Accuracy against latency · {group.title}"
                note = group.note(with_cautions(_front_note(rows, name), rows, SPEED_FLAGS))
                figure = _front_figure(scene, points, name)
                yield chart(f"accuracy-latency-{group.id_suffix}", title, RANKING, note, figure)


def _latency_name(group: SpeedGroup) -> str:
    """The p95, if every row has one: a p50 beside a p95 would look faster than it is."""
    has_tail = all(metric(one.row, "latency_p95_ms") for one in group.rows if metric(one.row, "latency_median_ms"))
    return "latency_p95_ms" if has_tail else "latency_median_ms"


def _points_of(group: SpeedGroup, name: str) -> list[_Point]:
    rows = [
        one.row for one in group.rows if _value(one.row, "accuracy") is not None and (_value(one.row, name) or 0) > 0
    ]
    figures = [(_value(row, name) or 0.0, _value(row, "accuracy") or 0.0) for row in rows]
    if not rows:
        return []
    on_front = pareto_front(np.array([(-latency, accuracy) for latency, accuracy in figures]))
    return [
        _Point(row, latency, accuracy, size, bool(on))
        for row, (latency, accuracy), size, on in zip(rows, figures, _sizes(rows), on_front, strict=True)
    ]


def _value(row: Row, name: str) -> float | None:
    figure = metric(row, name)
    return number(figure.value) if figure else None


def _sizes(rows: Sequence[Row]) -> list[float]:
    """Diameters in px; the area grows with peak memory."""
    needed = [_value(row, "memory_allocated_mb") or 0.0 for row in rows]
    most = max(needed) or 1.0
    return [round(max(_SMALLEST_PX, _LARGEST_PX * (value / most) ** 0.5), 1) for value in needed]


def _front_note(rows: Sequence[Row], name: str) -> str:
    sentence = (
        "Up and to the left is better: the line is the best accuracy to be had within a latency, and what lies below "
        "it is beaten in both."
    )
    if sizes := [size for row in rows if (size := _value(row, "memory_allocated_mb"))]:
        sentence += f" Areas grow with peak memory, from {min(sizes):,.0f} to {max(sizes):,.0f} MB."
    if name == "latency_median_ms":
        sentence += " The latency is the median, as not every row has enough requests for a p95."
    return sentence


def _front_figure(scene: Scene, points: Sequence[_Point], name: str) -> Json:
    latencies = [metric(point.row, name) for point in points]
    accuracies = [metric(point.row, "accuracy") for point in points]
    percentile = "p95" if name == "latency_p95_ms" else "p50"
    x = log_axis(f"latency {percentile} of single requests (ms)", _ends(latencies))
    y = axis("accuracy (share of test examples)", range=span_of(_ends(accuracies), 0.02))
    places = _label_places(scene, points, x["range"], y["range"])
    methods = list(dict.fromkeys(point.row.method for point in points))
    traces = [_method_points(scene, method, points, places, name) for method in methods]
    front = sorted((point.x, point.y) for point in points if point.on_front)
    return {
        "data": [_front_line(front, 10 ** x["range"][1]), *traces, *method_legend(methods)],
        "layout": {
            "height": 520,
            "margin": {"t": 60, "r": 20},
            "xaxis": x,
            "yaxis": y,
            "hovermode": "closest",
            "legend": legend_below(),
        },
    }


def _ends(figures: Sequence[Figure | None]) -> list[float | None]:
    """The values and the ends of their intervals."""
    return [end for figure in figures if figure for end in (figure.value, figure.low, figure.high)]


def _label_places(
    scene: Scene, points: Sequence[_Point], x_range: Sequence[float], y_range: Sequence[float]
) -> dict[RowKey, str]:
    """`textposition` of those labels that have room. The front chooses first, then the more accurate."""
    ordered = sorted(points, key=lambda point: (not point.on_front, -point.y))
    width, height = x_range[1] - x_range[0], y_range[1] - y_range[0]
    placed = [
        Point(
            x=(math.log10(point.x) - x_range[0]) / width,
            y=(point.y - y_range[0]) / height,
            size=point.size,
            label=short(scene.label(point.row), _LABEL_CHARS),
        )
        for point in ordered
    ]
    found = zip(ordered, label_positions(placed), strict=True)
    return {row_key(point.row): place for point, place in found if place is not None}


def _front_line(front: Sequence[tuple[float, float]], end: float) -> Json:
    """Steps: between two models of the front, the slower one's accuracy is not yet to be had."""
    x, y = [point[0] for point in front], [point[1] for point in front]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, number(end)],
        "y": [*y, y[-1]],
        "line": {"shape": "hv", "color": FAINT, "width": 4},
        "name": "Pareto front",
        "hoverinfo": "skip",
    }


def _method_points(
    scene: Scene, method: str, points: Sequence[_Point], places: Mapping[RowKey, str], name: str
) -> Json:
    """Of one method, which its entry in the legend shows and hides."""
    here = [point for point in points if point.row.method == method]
    keys = [row_key(point.row) for point in here]
    trace = dots(
        [scene.look(point.row) for point in here],
        [point.x for point in here],
        [_point_hover(scene, point.row, point.on_front, name) for point in here],
        y=[point.y for point in here],
        error_x=error_bars([metric(point.row, name) for point in here]),
        error_y=error_bars([metric(point.row, "accuracy") for point in here]),
        mode="markers+text",
        text=[short(scene.labels[key], _LABEL_CHARS) if key in places else "" for key in keys],
        textposition=[places.get(key, "top left") for key in keys],
        cliponaxis=False,
        legendgroup=method,
        showlegend=False,
    )
    trace["marker"] |= {"size": [point.size for point in here], "opacity": 0.85}
    return trace


def _point_hover(scene: Scene, row: Row, front: bool, latency: str) -> str:
    names = ("accuracy", latency, "memory_allocated_mb", "throughput_samples_per_sec")
    return hover(
        scene.label(row),
        *(figure_line(name, row.metrics.get(name), scene.confidence) for name in names),
        "On the front of accuracy and latency" if front else "",
        "Not beaten in F1, p95 latency and memory together" if row.pareto else "",
        seeds_line(row),
        flags_line(row),
    )
