"""What makes a difference: pairs of models, methods, kinds of models, and size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from harness.board import Contrast, Figure, Row, Scaling
from harness.compare import Significance
from harness.metrics import CONFUSION_METRICS, METRICS
from harness.report.charts.figures import (
    ROW_PX,
    Json,
    Panel,
    axis,
    chart,
    dots,
    error_bars,
    legend_below,
    log_axis,
    method_legend,
    number,
    numbers,
    panel_title,
    placed,
    places_axis,
    side_by_side,
    slots_of,
    upright,
    values_of,
)
from harness.report.charts.palette import COLOURS, DIFFERENCE_SCALE, NEUTRAL, ON_SCALE, Look
from harness.report.charts.scene import DIFFERENCES, Part, Scene, metric
from harness.report.charts.words import (
    QUALITY_FLAGS,
    escaped,
    figure_line,
    flags_line,
    hover,
    percent,
    short,
    signed,
    signed_line,
    with_cautions,
)
from harness.report.material import Chart

_WRITTEN_MODELS = 14
_STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
_KINDS = {"encoder-only": "encoders", "decoder-only": "decoders"}


# --- pairs ------------------------------------------------------------------------------------------


def significances(scene: Scene) -> Iterator[Chart]:
    for part in scene.parts:
        pairs, rows = part.section.significance, part.scored
        if pairs is None or len(rows) < 2:
            continue
        count = len(rows) * (len(rows) - 1) // 2
        note = (
            "Accuracy of the line's model minus that of the column's, in percentage points: blue where the line's is "
            f"better. Stars: p < 0.05, 0.01, 0.001, Holm-corrected over {_all_pairs(count)}. The tie groups, which are "
            "of the score and held together by one critical value, may tell more models apart."
        )
        if 100 * pairs.detectable >= 0.05:  # less: most pairs answer alike
            level = "p < 0.05" if count == 1 else f"the strictest level of that correction, p < 0.05/{count}"
            note += (
                f" Held to {level}, a true difference below {100 * pairs.detectable:.1f} points is missed more than "
                "one time in five."
            )
        note = with_cautions(note, [one.row for one in rows], QUALITY_FLAGS)
        figure = _significance_figure([one.label for one in rows], pairs)
        yield chart(f"significance-{part.slug}", f"Who beats whom · {part.title}", DIFFERENCES, note, figure)


def _all_pairs(count: int) -> str:
    return "the only pair" if count == 1 else f"all {count} pairs"


def _significance_figure(labels: Sequence[str], pairs: Significance) -> Json:
    points = 100 * np.asarray(pairs.difference, dtype=np.float64)
    np.fill_diagonal(points, np.nan)
    largest = max(float(np.nanmax(np.abs(points))), 0.1)
    trace = {
        "type": "heatmap",
        "z": [numbers(line, 4) for line in points],
        "zmin": -largest,
        "zmax": largest,
        "colorscale": [list(stop) for stop in DIFFERENCE_SCALE],
        "colorbar": {"title": {"text": "difference (percentage points)", "side": "right"}, "thickness": 12},
        "text": [
            [_pair_text(difference, p, len(labels)) for difference, p in zip(*lines, strict=True)]
            for lines in zip(points, pairs.p, strict=True)
        ],
        "texttemplate": "%{text}",
        "textfont": {"color": ON_SCALE},
        "hovertext": [
            [_pair_hover(labels, (a, b), points[a, b], pairs.p[a, b]) for b in range(len(labels))]
            for a in range(len(labels))
        ],
        "hoverinfo": "text",
        "xgap": 1,
        "ygap": 1,
    }
    return {
        "data": [trace],
        "layout": {
            "height": 240 + round(1.2 * ROW_PX) * max(len(labels), 3),
            "margin": {"t": 60, "l": 20, "r": 20},
            "xaxis": places_axis(labels, showgrid=False, title={"text": "compared with", "standoff": 8}, chars=24),
            "yaxis": places_axis(labels, reverse=True, showgrid=False),
        },
    }


def _pair_text(points: float, p: float, models: int) -> str:
    if not math.isfinite(points):
        return ""
    star = next((star for bound, star in _STARS if p < bound), "")
    return f"{signed(points, 1)}{star}" if models <= _WRITTEN_MODELS else star


def _pair_hover(labels: Sequence[str], pair: tuple[int, int], points: float, p: float) -> str:
    a, b = pair
    if a == b:
        return hover(labels[a])
    corrected = f"{p:.2g}" if p >= 1e-4 else "below 0.0001"
    return hover(
        labels[a], f"against {escaped(labels[b])}: {signed(points, 2)} percentage points", f"p {corrected} (Holm)"
    )


# --- contrasts --------------------------------------------------------------------------------------


def contrasts(scene: Scene) -> Iterator[Chart]:
    """Method against method and encoders against decoders, as a forest plot; a column for each figure."""
    found = [one for one in scene.board.contrasts if one.difference.value is not None]
    lines = list(dict.fromkeys((_pair_words(one), _dataset_title(scene, one), one.pairs) for one in found))
    if not lines:
        return
    panels = []
    for name in dict.fromkeys(one.metric for one in found):
        here = {(_pair_words(one), _dataset_title(scene, one), one.pairs): one for one in found if one.metric == name}
        panels.append(_contrast_panel(scene, name, [here.get(line) for line in lines]))
    names = [f"{words} · {dataset} ({pairs})" for words, dataset, pairs in lines]
    note = (
        f"Right of the dotted line the first named is better, where its {percent(scene.confidence)} interval stays "
        "clear of it. In brackets the pairs of models behind it: methods are compared on the same models, encoders "
        "with decoders by their means, which differ in more than their kind."
    )
    figure = side_by_side(names, panels)
    for number_, _ in enumerate(panels):
        axes = figure["layout"][f"yaxis{'' if number_ == 0 else number_ + 1}"]
        axes["ticktext"] = [short(name, 60) for name in names]
    yield chart("contrasts", "Method against method, encoders against decoders", DIFFERENCES, note, figure)


def _pair_words(one: Contrast) -> str:
    return f"{_KINDS.get(one.first, one.first)} − {_KINDS.get(one.second, one.second)}"


def _dataset_title(scene: Scene, one: Contrast) -> str:
    versions = {(part.section.dataset, part.section.fingerprint): part.title for part in scene.parts}
    return versions.get((one.dataset, one.fingerprint), one.dataset)


def _contrast_panel(scene: Scene, name: str, lines: Sequence[Contrast | None]) -> Panel:
    is_ratio = _is_ratio(name)
    figures = [_in_points(one.difference, 1 if is_ratio else 100) if one else None for one in lines]
    hovers = [_contrast_hover(scene, one) if one else "" for one in lines]
    looks = [Look(COLOURS[0] if one and one.kind == "method" else COLOURS[1], "circle", "solid") for one in lines]
    title = METRICS[name].title if name in METRICS else escaped(name)
    ends = [end for one in figures if one for end in (one.value, one.low, one.high)]
    x = log_axis("ratio", [*ends, 1.0]) if is_ratio else axis("difference (percentage points)")
    return Panel(
        f"{title}, {'ratio' if is_ratio else 'difference'}",
        [dots(looks, values_of(figures), hovers, error_x=error_bars(figures))],
        x,
        [upright(1.0 if is_ratio else 0.0)],
    )


def _in_points(figure: Figure, times: float) -> Figure:
    value, low, high = (None if end is None else times * end for end in (figure.value, figure.low, figure.high))
    return Figure(value=value, low=low, high=high)


def _contrast_hover(scene: Scene, one: Contrast) -> str:
    name = escaped(METRICS[one.metric].title if one.metric in METRICS else one.metric)
    return hover(
        _pair_words(one),
        escaped(_dataset_title(scene, one)),
        _ratio_line(name, one.difference, scene.confidence)
        if _is_ratio(one.metric)
        else signed_line(name, one.difference, 1, scene.confidence, times=100, unit=" percentage points"),
        f"{one.pairs} pair{'s' if one.pairs != 1 else ''} of models",
    )


def _is_ratio(name: str) -> bool:
    """Speeds are compared by their ratio, shares by their difference."""
    return name not in CONFUSION_METRICS


def _ratio_line(name: str, figure: Figure, confidence: float) -> str:
    text = f"{name} {figure.value:.3g} times"
    if figure.low is None or figure.high is None:
        return text
    return f"{text} ({percent(confidence)} interval {figure.low:.3g}–{figure.high:.3g})"


# --- size -------------------------------------------------------------------------------------------


def scaling(scene: Scene) -> Iterator[Chart]:
    """Accuracy against parameters; a column for each dataset."""
    sized = [(part, [one.row for one in part.rows if _has_size(one.row)]) for part in scene.parts]
    shown = [(part, rows) for part, rows in sized if len({row.model for row in rows}) > 1]
    if not shown:
        return
    columns = min(3, len(shown))
    lines = math.ceil(len(shown) / columns)
    plot_px = 300 * lines + 90 * (lines - 1)
    slots = slots_of(len(shown), columns, 0.07, 90 / plot_px)
    layout: Json = {
        "height": 84 + plot_px + 100,
        "margin": {"t": 84, "r": 20},
        "hovermode": "closest",
        "legend": legend_below(),
        "annotations": [panel_title(slot, short(part.title, 24)) for slot, (part, _) in zip(slots, shown, strict=True)],
    }
    traces: list[Json] = method_legend(row.method for _, rows in shown for row in rows)
    for slot, (part, rows) in zip(slots, shown, strict=True):
        x = log_axis("parameters", [row.parameters for row in rows], most_ticks=5)
        y = axis("" if slot.column else "accuracy (share)")
        layout[f"xaxis{slot.suffix}"] = {**x, "domain": slot.x, "anchor": f"y{slot.suffix}"}
        layout[f"yaxis{slot.suffix}"] = {**y, "domain": slot.y, "anchor": f"x{slot.suffix}"}
        traces += placed(slot, [_sized_dots(scene, rows), *_fits(scene, part, rows)])
    figure = {"data": traces, "layout": layout}
    yield chart("size-scaling", "Accuracy against size", DIFFERENCES, _scaling_note(scene), figure)


def _has_size(row: Row) -> bool:
    """Baselines are no language models: what they count as parameters is something else."""
    return row.method != "none" and bool(row.parameters) and metric(row, "accuracy") is not None


def _scaling_note(scene: Scene) -> str:
    if not any(one.slope.value is not None for one in scene.board.scaling):
        return "Too few sizes for a fitted line: it takes three models of one method."
    return (
        "Lines are least squares on the logarithm of the size, one for each method with three or more models. They "
        "hold for the models at hand: which these are decides more than their number of parameters, and the intervals "
        "in the hover text know of test examples and seeds alone."
    )


def _sized_dots(scene: Scene, rows: Sequence[Row]) -> Json:
    figures = [metric(row, "accuracy") for row in rows]
    hovers = [
        hover(
            scene.label(row),
            f"{row.parameters:,} parameters" if row.parameters else "",
            figure_line("accuracy", figure, scene.confidence),
            flags_line(row),
        )
        for row, figure in zip(rows, figures, strict=True)
    ]
    looks = [scene.look(row) for row in rows]
    x = [row.parameters for row in rows]
    return dots(looks, x, hovers, y=values_of(figures), error_y=error_bars(figures), showlegend=False)


def _fits(scene: Scene, part: Part, rows: Sequence[Row]) -> list[Json]:
    here = (part.section.dataset, part.section.fingerprint)
    fits = [
        one for one in scene.board.scaling if (one.dataset, one.fingerprint) == here and one.slope.value is not None
    ]
    return [_fit_line(scene, fit, [row.parameters for row in rows if row.method == fit.method]) for fit in fits]


def _fit_line(scene: Scene, fit: Scaling, sizes: Sequence[int | None]) -> Json:
    known = [size for size in sizes if size]
    ends = [min(known), max(known)] if known else []
    slope = fit.slope.value or 0.0
    slope_line = signed_line("Tenfold size:", fit.slope, 1, scene.confidence, times=100, unit=" percentage points")
    text = hover(fit.method, slope_line, f"{fit.models} models")
    return {
        "type": "scatter",
        "mode": "lines",
        "x": ends,
        "y": [number(fit.intercept + slope * math.log10(end)) for end in ends],
        "line": {"color": NEUTRAL, "width": 1.5, "dash": "dash"},
        "hovertext": [text] * len(ends),
        "hoverinfo": "text",
        "legendgroup": fit.method,
        "showlegend": False,
    }
