"""Training: loss and validation curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from harness.report.charts.figures import (
    MENU,
    Json,
    axis,
    chart,
    height_with_legend,
    legend_below,
    numbers,
    span_of,
)
from harness.report.charts.scene import TRAINING, Part, Scene
from harness.report.charts.words import short
from harness.report.material import Chart, ReportRow
from runner.contract import CurvePoint, TrainingReport

MOST_POINTS = 120  # of one seed's curve
_F1_TITLE = "F1 macro on validation data (0 to 1)"
_LEAST_SPAN = 0.04  # of an axis
_ISOLATE = "A double click on a name in the legend shows its lines alone."


@dataclass(frozen=True)
class _Curve:
    """Of one seed. `y`: None where the figure was not known."""

    seed: int
    x: Sequence[float]
    y: Sequence[float | None]


def losses(scene: Scene) -> Iterator[Chart]:
    for part in scene.parts:
        traces = [
            _line(scene, one, curves, "loss")
            for one in part.rows
            if (curves := [_averaged(seed, points) for seed, points in _loss_points(one)])
        ]
        if traces:
            note = (
                "One thin line a seed; of long curves each point is the mean of its stretch. A line that still falls "
                f"at its end could have been trained longer. {_ISOLATE}"
            )
            figure = _figure(traces, "training loss (cross-entropy)")
            yield chart(f"loss-{part.slug}", f"Training loss · {part.title}", TRAINING, note, figure)


def validations(scene: Scene) -> Iterator[Chart]:
    """F1, with the loss one choice away."""
    for part in scene.parts:
        f1 = _validation_lines(scene, part, "f1")
        loss = _validation_lines(scene, part, "loss")
        if not f1:
            continue
        note = (
            "The ring is the step whose weights were kept. Behind it a falling F1, or a rising loss, is overfitting. "
            + _ISOLATE
        )
        figure = _figure([*f1, *loss], _F1_TITLE)
        figure["layout"]["yaxis"]["range"] = _span(f1)
        if loss:
            figure["layout"]["updatemenus"] = [_choice(f1, loss)]
            figure["data"] = [*f1, *({**trace, "visible": False} for trace in loss)]
        yield chart(f"validation-{part.slug}", f"Validation curves · {part.title}", TRAINING, note, figure)


def _loss_points(one: ReportRow) -> Iterator[tuple[int, Sequence[CurvePoint]]]:
    for seed, training in _trainings(one):
        points = [point for point in training.loss_curve if point.values.get("loss") is not None]
        if points:
            yield seed, points


def _trainings(one: ReportRow) -> Iterator[tuple[int, TrainingReport]]:
    for cell in one.cells:
        if cell.result.training:
            yield cell.record.seed, cell.result.training


def _averaged(seed: int, points: Sequence[CurvePoint]) -> _Curve:
    """Means of equal stretches, each at the middle of its steps."""
    steps = np.array([point.step for point in points], dtype=np.float64)
    values = np.array([point.values["loss"] for point in points], dtype=np.float64)
    starts = np.unique(np.linspace(0, len(points), min(MOST_POINTS, len(points)), endpoint=False).astype(int))
    sizes = np.diff([*starts, len(points)])
    x, y = (np.add.reduceat(column, starts) / sizes for column in (steps, values))
    return _Curve(seed, [float(step) for step in x], [float(value) for value in y])


def _validation_lines(scene: Scene, part: Part, name: str) -> list[Json]:
    lines = []
    for one in part.rows:
        curves, rings = [], []
        for seed, training in _trainings(one):
            points = [point for point in training.validation_curve if point.values.get(name) is not None]
            kept = [point for point in points if point.step == training.best_step]
            every = -(-len(points) // MOST_POINTS) or 1
            thinned = [point for place, point in enumerate(points) if place % every == 0 or point in kept]
            curves.append(_Curve(seed, [point.step for point in thinned], [point.values[name] for point in thinned]))
            rings += [point.step == training.best_step for point in thinned] + [False]
        if any(curve.x for curve in curves):
            lines.append(_ringed(_line(scene, one, curves, name), rings))
    return lines


def _ringed(line: Json, rings: Sequence[bool]) -> Json:
    marker = {
        "color": line["line"]["color"],
        "symbol": ["circle-open" if ring else "circle" for ring in rings],
        "size": [10 if ring else 4 for ring in rings],
        "line": {"width": [2 if ring else 0 for ring in rings]},
    }
    return {**line, "mode": "lines+markers", "marker": marker}


def _line(scene: Scene, one: ReportRow, curves: Sequence[_Curve], name: str) -> Json:
    """One trace a row, its seeds parted by gaps: a trace a seed would be three times as many."""
    look = scene.look(one.row)
    x: list[float | None] = []
    y: list[float | None] = []
    seeds: list[int] = []
    for curve in curves:
        x += [*numbers(curve.x, 4), None]
        y += [*numbers(curve.y, 4), None]
        seeds += [curve.seed] * (len(curve.x) + 1)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": short(one.label),
        "x": x,
        "y": y,
        "customdata": seeds,
        "line": {"color": look.colour, "dash": look.dash, "width": 1.4},
        "opacity": 0.85,
        "hovertemplate": "<b>%{fullData.name}</b><br>step %{x:,.0f}, seed %{customdata}<br>"
        + f"{'F1' if name == 'f1' else name} %{{y:.4g}}<extra></extra>",
    }


def _figure(traces: Sequence[Json], y_title: str) -> Json:
    return {
        "data": list(traces),
        "layout": {
            "height": height_with_legend(460, len({trace["name"] for trace in traces})),
            "margin": {"t": 60, "r": 20},
            "xaxis": axis("optimiser step"),
            "yaxis": axis(y_title),
            "hovermode": "closest",
            "showlegend": True,
            "legend": legend_below(itemwidth=44),
        },
    }


def _choice(f1: Sequence[Json], losses: Sequence[Json]) -> Json:
    def button(label: str, title: str, shown: Sequence[Json]) -> Json:
        visible = [shown is f1] * len(f1) + [shown is losses] * len(losses)
        return {
            "label": label,
            "method": "update",
            "args": [{"visible": visible}, {"yaxis.title.text": title, "yaxis.range": _span(shown)}],
        }

    buttons = [button("F1", _F1_TITLE, f1), button("Loss", "loss on validation data (cross-entropy)", losses)]
    return {**MENU, "buttons": buttons}


def _span(traces: Sequence[Json]) -> list[float | None]:
    return span_of((value for trace in traces for value in trace["y"]), _LEAST_SPAN)
