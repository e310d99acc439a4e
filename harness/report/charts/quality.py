"""Quality: F1 by dataset, the heatmap of models and datasets, classes and slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from harness.board import Figure
from harness.report.charts.figures import (
    ROW_PX,
    Json,
    Panel,
    axis,
    bars_between,
    chart,
    dots,
    error_bars,
    number,
    numbers,
    places_axis,
    side_by_side,
    values_of,
)
from harness.report.charts.palette import ON_SCALE, SHARE_SCALE
from harness.report.charts.scene import QUALITY, Part, Scene, metric
from harness.report.charts.words import (
    QUALITY_FLAGS,
    escaped,
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
from harness.report.material import Chart, ReportRow
from harness.statistics import wilson_interval
from runner.contract import ClassFigures, SliceFigures

MOST_SLICES = 8  # of one column, the largest
MOST_CLASSES = 40
_WRITTEN_CLASSES = 12  # up to so many, the cells of a heatmap carry their numbers


def f1_by_dataset(scene: Scene) -> Iterator[Chart]:
    panels = []
    scored = [part for part in scene.parts if any(metric(one.row, "f1") for one in part.rows)]
    order = [key for key in scene.order if any(key in part.by_key for part in scored)]
    for part in scored:
        rows = [part.by_key.get(key) for key in order]
        figures = [metric(one.row, "f1") if one else None for one in rows]
        hovers = [_f1_hover(scene, part, one) if one else "" for one in rows]
        looks = [scene.looks[key] for key in order]
        trace = dots(looks, values_of(figures), hovers, error_x=error_bars(figures))
        panels.append(Panel(short(part.title, 24), [trace], axis("F1 macro (0 to 1)")))
    if panels:
        ranks = "the overall ranks, those without one last" if scene.board.overall else "their ranks"
        note = (
            f"Bars are {percent(scene.confidence)} intervals over test examples and seeds. Each dataset has an axis of "
            f"its own; rows are in the order of {ranks}."
        )
        note = with_cautions(note, [one.row for part in scored for one in part.rows], QUALITY_FLAGS)
        figure = side_by_side([scene.labels[key] for key in order], panels)
        yield chart("f1-by-dataset", "F1 by dataset", QUALITY, note, figure)


def _f1_hover(scene: Scene, part: Part, one: ReportRow) -> str:
    row = one.row
    figures = (figure_line(name, row.metrics.get(name), scene.confidence) for name in ("f1", "accuracy"))
    dataset = f"{escaped(part.title)}, {row.test_rows:,} test examples"
    return hover(one.label, dataset, *figures, rank_line(row), seeds_line(row), flags_line(row))


# --- model by dataset -------------------------------------------------------------------------------


def heatmap(scene: Scene) -> Iterator[Chart]:
    """Of several datasets; the last column is the mean, for rows that have them all."""
    if len(scene.parts) < 2:
        return
    means = {row_key(row): metric(row, "f1") for row in scene.board.overall}
    columns: list[list[Figure | None]] = [
        [metric(one.row, "f1") if (one := part.by_key.get(key)) else None for key in scene.order]
        for part in scene.parts
    ]
    names = [part.title for part in scene.parts]
    if means:
        columns.append([means.get(key) for key in scene.order])
        names.append("mean")
    if not any(figure for column in columns for figure in column):
        return
    by_row = list(zip(*columns, strict=True))
    hovers = [
        [
            hover(scene.labels[key], escaped(name), figure_line("f1", figure, scene.confidence))
            for name, figure in zip(names, figures, strict=True)
        ]
        for key, figures in zip(scene.order, by_row, strict=True)
    ]
    note = "One look at where a model is strong. Colours run from the lowest F1 of all to the highest."
    labels = [scene.labels[key] for key in scene.order]
    figure = _share_map([values_of(figures) for figures in by_row], hovers, labels, names, "F1 macro")
    yield chart("f1-heatmap", "F1 of every model on every dataset", QUALITY, note, figure)


def _share_map(
    values: Sequence[Sequence[float | None]],
    hovers: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
) -> Json:
    """Shares (rows, columns) as colours, with their numbers where there is room."""
    written = len(columns) <= _WRITTEN_CLASSES
    trace: Json = {
        "type": "heatmap",
        "z": [list(line) for line in values],
        "colorscale": [list(stop) for stop in SHARE_SCALE],
        "colorbar": {"title": {"text": title, "side": "right"}, "thickness": 12},
        "hovertext": [list(line) for line in hovers],
        "hoverinfo": "text",
        "xgap": 2,
        "ygap": 2,
    }
    if written:
        trace |= {"texttemplate": "%{z:.3f}", "textfont": {"color": ON_SCALE}}
    return {
        "data": [trace],
        "layout": {
            "height": 150 + ROW_PX * max(len(rows), 3),
            "margin": {"t": 60, "b": 40, "l": 20, "r": 20},
            "xaxis": places_axis(columns, chars=20, side="bottom", showgrid=False),
            "yaxis": places_axis(rows, reverse=True, showgrid=False),
        },
    }


# --- classes ----------------------------------------------------------------------------------------


def classes(scene: Scene) -> Iterator[Chart]:
    for part in scene.parts:
        found = {one.label: figures for one in part.rows if (figures := _class_figures(one))}
        if not found:
            continue
        supports = next(iter(found.values()))[0]
        largest = sorted(range(len(supports)), key=lambda k: -supports[k].support)[:MOST_CLASSES]
        shown = sorted(largest)
        names = [f"{supports[k].label} ({supports[k].support:,})" for k in shown]
        means = [[_mean([line[k].f1 for line in lines]) for k in shown] for lines in found.values()]
        hovers = [[_class_hover(label, [line[k] for line in lines]) for k in shown] for label, lines in found.items()]
        note = "In brackets how many test examples a class has: the fewer, the less its F1 says."
        if len(shown) < len(supports):
            note += f" The {len(shown)} largest of {len(supports)} classes are shown."
        note = with_cautions(note, [one.row for one in part.rows], QUALITY_FLAGS)
        figure = _share_map(means, hovers, list(found), names, "F1")
        figure["layout"]["xaxis"]["title"] = {"text": "class (test examples)"}
        yield chart(f"classes-{part.slug}", f"F1 of each class · {part.title}", QUALITY, note, figure)


def _class_figures(one: ReportRow) -> list[tuple[ClassFigures, ...]]:
    """Of each seed."""
    return [
        cell.result.quality.per_class for cell in one.cells if cell.result.quality and cell.result.quality.per_class
    ]


def _class_hover(label: str, seeds: Sequence[ClassFigures]) -> str:
    spread = ""
    if len(seeds) > 1:
        f1 = [one.f1 for one in seeds]
        spread = f"F1 of single seeds from {min(f1):.3f} to {max(f1):.3f}"
    return hover(
        label,
        f"Class {escaped(seeds[0].label)}, {seeds[0].support:,} test examples",
        f"F1 {_mean([one.f1 for one in seeds]):.3f}",
        f"Precision {_mean([one.precision for one in seeds]):.3f}",
        f"Recall {_mean([one.recall for one in seeds]):.3f}",
        spread,
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


# --- slices -----------------------------------------------------------------------------------------


def slices(scene: Scene) -> Iterator[Chart]:
    """A chart for each column by which a dataset's quality is also reported."""
    for part in scene.parts:
        found = {row_key(one.row): _slice_figures(one) for one in part.rows}
        columns = dict.fromkeys(column for figures in found.values() for column, _ in figures)
        for column in columns:
            identifier = f"slices-{part.slug}" + ("" if len(columns) == 1 else f"-{list(columns).index(column) + 1}")
            title = f"Accuracy by {column} · {part.title}"
            yield chart(identifier, title, QUALITY, *_slice_chart(scene, part, found, column))


def _slice_figures(one: ReportRow) -> dict[tuple[str, str], list[SliceFigures]]:
    """By column and value, of each seed."""
    found: dict[tuple[str, str], list[SliceFigures]] = {}
    for cell in one.cells:
        for figures in cell.result.quality.per_slice if cell.result.quality else ():
            found.setdefault((figures.column, figures.value), []).append(figures)
    return found


def _slice_chart(
    scene: Scene, part: Part, found: dict[RowKey, dict[tuple[str, str], list[SliceFigures]]], column: str
) -> tuple[str, Json]:
    """Its note and figure."""
    sizes = {
        value: one[0].rows for figures in found.values() for (name, value), one in figures.items() if name == column
    }
    largest = sorted(sizes, key=lambda value: (-sizes[value], value))[:MOST_SLICES]
    rows = [one for one in part.rows if found[row_key(one.row)]]
    panels = [_slice_panel(scene, rows, found, (column, value)) for value in largest]
    note = (
        f"Bars are {percent(scene.confidence)} Wilson intervals of the mean over seeds, for the test examples of the "
        "slice alone."
    )
    if len(largest) < len(sizes):
        note += f" The {len(largest)} largest of {len(sizes)} slices are shown."
    return note, side_by_side([one.label for one in rows], panels, per_line=4)


def _slice_panel(
    scene: Scene,
    rows: Sequence[ReportRow],
    found: dict[RowKey, dict[tuple[str, str], list[SliceFigures]]],
    key: tuple[str, str],
) -> Panel:
    seeds = [found[row_key(one.row)].get(key, []) for one in rows]
    counts = np.array([figures[0].rows if figures else 0 for figures in seeds], dtype=np.float64)
    accuracy = np.array([_mean([one.accuracy for one in figures]) if figures else np.nan for figures in seeds])
    bounds = wilson_interval(np.nan_to_num(accuracy) * counts, counts, scene.confidence)
    hovers = [
        hover(
            one.label,
            f"{escaped(key[0])} {escaped(key[1])}, {int(count):,} test examples",
            f"Accuracy {value:.3f} ({percent(scene.confidence)} interval {low:.3f}–{high:.3f})",
            f"Mean of {len(figures)} seed{'s' if len(figures) > 1 else ''}",
        )
        for one, figures, count, value, low, high in zip(rows, seeds, counts, accuracy, *bounds, strict=True)
    ]
    bars = bars_between([number(x) for x in accuracy - bounds.low], [number(x) for x in bounds.high - accuracy])
    looks = [scene.look(one.row) for one in rows]
    title = f"{short(key[1] or '(empty)', 22)} ({int(counts.max()):,})"
    return Panel(title, [dots(looks, numbers(accuracy), hovers, error_x=bars)], axis("accuracy (share)"))
