"""Plotly figures as plain dicts: axes, error bars, panels side by side. Importing Plotly itself would take a second."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.board import Figure
from harness.report.charts.palette import NEUTRAL, SYMBOLS, Look
from harness.report.charts.words import escaped, short
from harness.report.material import Chart

Json = dict[str, Any]

ROW_PX = 24  # height of one line of a plot whose lines are models
_TOP_PX, _BOTTOM_PX = 84, 64
_GAP_PX = 96  # between two lines of panels: ticks and title of the upper, title of the lower
_SIDE_GAP = 0.022  # between two panels of a line, as a share of the width


MENU: Json = {
    "type": "dropdown",
    "x": 1,
    "xanchor": "right",
    "y": 1,
    "yanchor": "bottom",
    "pad": {"b": 6},
    "showactive": False,  # Plotly's own colour of the active entry cannot be read on a dark page
}


def chart(identifier: str, title: str, group: str, note: str, figure: Json) -> Chart:
    """The figure carries the title as well: it goes with a picture that is saved from the page."""
    layout = {"title": {"text": escaped(title), "x": 0, "xref": "paper", "xanchor": "left", "font": {"size": 16}}}
    figure = {**figure, "layout": layout | figure["layout"]}
    return Chart(id=identifier, title=title, group=group, note=note, figure=figure)


def number(value: float | None, digits: int = 5) -> float | None:
    """Rounded to significant digits, for size; what is not finite has no place in JSON."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def numbers(values: Iterable[float | None], digits: int = 5) -> list[float | None]:
    return [number(value, digits) for value in values]


def error_bars(figures: Sequence[Figure | None], **changes: Any) -> Json:
    """Of the figures' intervals; none where there is none."""
    above = [_distance(one.value, one.high) if one else None for one in figures]
    below = [_distance(one.low, one.value) if one else None for one in figures]
    return bars_between(below, above) | changes


def bars_between(below: Sequence[float | None], above: Sequence[float | None]) -> Json:
    return {
        "type": "data",
        "symmetric": False,
        "array": numbers(above),
        "arrayminus": numbers(below),
        "color": NEUTRAL,
        "thickness": 1.5,
        "width": 0,
    }


def _distance(low: float | None, high: float | None) -> float | None:
    return None if low is None or high is None else high - low


def values_of(figures: Sequence[Figure | None]) -> list[float | None]:
    return numbers(one.value if one else None for one in figures)


# --- axes -----------------------------------------------------------------------------------------


def axis(title: str, **changes: Any) -> Json:
    return {"title": {"text": title, "standoff": 8}, "automargin": True, "zeroline": False, **changes}


def span_of(values: Iterable[float | None], least: float = 0.0) -> list[float | None]:
    """A range around the values with a margin, `least` wide: equal values are not magnified."""
    known = [value for value in values if value is not None and math.isfinite(value)] or [0.0, 1.0]
    middle, half = (min(known) + max(known)) / 2, max((max(known) - min(known)) / 2, least / 2)
    return numbers([middle - 1.08 * half, middle + 1.08 * half])


def log_axis(title: str, values: Iterable[float | None], *, most_ticks: int = 12, **changes: Any) -> Json:
    """An axis around the values, with ticks that are read at once; Plotly's own read 2, 5, 10, 2, 5."""
    known = [value for value in values if value is not None and value > 0]
    low, high = (math.log10(min(known)), math.log10(max(known))) if known else (0.0, 1.0)
    edge = 0.06 * max(1.0, high - low)
    ticks = _log_ticks(low - edge, high + edge, most_ticks)
    shown = {"tickvals": ticks, "ticktext": [si(tick) for tick in ticks], "tickangle": 0}
    return axis(title, type="log", range=numbers([low - edge, high + edge]), **shown) | changes


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """1, 2, 5, 10 ... between two powers of ten, or fewer where that were too many; round numbers in less than half a
    decade."""
    if high - low < 0.5:
        return _even_ticks(10**low, 10**high)
    powers = range(math.floor(low), math.ceil(high) + 1)
    choices = [[float(f"{step}e{power}") for power in powers for step in steps] for steps in ((1, 2, 5), (1, 3), (1,))]
    fitting = [[tick for tick in ticks if low <= math.log10(tick) <= high] for ticks in choices]
    every = max(1, -(-len(fitting[-1]) // most))
    return next((ticks for ticks in fitting if len(ticks) <= most), fitting[-1][::every])


def _even_ticks(low: float, high: float) -> list[float]:
    """Three to five multiples of 1, 2 or 5 times a power of ten."""
    power = 10 ** math.floor(math.log10((high - low) / 2))
    step = next(times * power for times in (1, 2, 5, 10) if (high - low) / (times * power) < 6)
    return [float(f"{count * step:.6g}") for count in range(math.ceil(low / step), math.floor(high / step) + 1)]


def si(value: float) -> str:
    """ "2,000", "0.5", "20M"."""
    if value >= 1e9:
        return f"{value / 1e9:g}B"
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value:,.0f}" if value >= 1 else f"{value:g}"


def places_axis(names: Sequence[str], *, reverse: bool = False, chars: int = 34, **changes: Any) -> Json:
    """Names at 0, 1, 2 ...: as an axis of categories, but for names that are equal when cut, or look like numbers or
    dates. `reverse`: from the top."""
    ends = [len(names) - 0.5, -0.5] if reverse else [-0.5, len(names) - 0.5]
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [short(name, chars) for name in names],
        "range": ends,
        "automargin": True,
        "zeroline": False,
        **changes,
    }


def legend_below(**changes: Any) -> Json:
    """Under the plot, which keeps the width also on a narrow page."""
    return {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, **changes}


def height_with_legend(plot: int, entries: int) -> int:
    """In px; about five entries fit on a line."""
    return plot + 22 * math.ceil(entries / 5)


# --- marks ----------------------------------------------------------------------------------------


def dots(looks: Sequence[Look], x: Sequence[float | None], hovers: Sequence[str], **changes: Any) -> Json:
    """One for each line of a plot whose lines are rows, at 0, 1, 2 ... unless `changes` say otherwise."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": list(x),
        "y": list(range(len(looks))),
        "marker": {"color": [look.colour for look in looks], "symbol": [look.symbol for look in looks], "size": 10},
        "hovertext": list(hovers),
        "hoverinfo": "text",
        **changes,
    }


def legend_only(name: str, group: str, **look: Any) -> Json:
    """An entry of the legend for traces of several colours."""
    return {
        "type": "scatter",
        "x": [None],
        "y": [None],
        "name": escaped(name),
        "legendgroup": group,
        "mode": "markers",
        "marker": {"color": NEUTRAL, "size": 9} | look,
        "hoverinfo": "skip",
        "showlegend": True,
    }


def method_legend(methods: Iterable[str]) -> list[Json]:
    """What the symbols mean; "none" is the method of baselines."""
    present = sorted(
        set(methods), key=lambda method: list(SYMBOLS).index(method) if method in SYMBOLS else len(SYMBOLS)
    )
    return [
        legend_only("baseline" if method == "none" else method, method, symbol=SYMBOLS.get(method, "star"))
        for method in present
    ]


# --- panels ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """A plot of its own within a figure. Traces without axes, which they are given here. `title` is shown as it is."""

    title: str
    traces: Sequence[Json]
    x: Json
    shapes: Sequence[Json] = field(default=())


@dataclass(frozen=True)
class Slot:
    """The place of a panel: shares of width and height, and the number of its axes ("" is the first)."""

    x: tuple[float, float]
    y: tuple[float, float]
    suffix: str
    column: int
    line: int


def slots_of(count: int, columns: int, side_gap: float, line_gap: float) -> list[Slot]:
    """From the left, line by line from the top. Gaps as shares of width and height."""
    columns = max(1, min(columns, count))
    lines = math.ceil(count / columns)
    width = (1 - side_gap * (columns - 1)) / columns
    height = (1 - line_gap * (lines - 1)) / lines
    slots = []
    for place in range(count):
        line, column = divmod(place, columns)
        left, top = column * (width + side_gap), 1 - line * (height + line_gap)
        x, y = (round(left, 4), round(left + width, 4)), (round(max(top - height, 0.0), 4), round(top, 4))
        slots.append(Slot(x, y, "" if place == 0 else str(place + 1), column, line))
    return slots


def placed(slot: Slot, traces: Iterable[Mapping[str, Any]]) -> list[Json]:
    return [{**trace, "xaxis": f"x{slot.suffix}", "yaxis": f"y{slot.suffix}"} for trace in traces]


def panel_title(slot: Slot, text: str) -> Json:
    return {
        "text": text,
        "x": sum(slot.x) / 2,
        "y": slot.y[1],
        "xref": "paper",
        "yref": "paper",
        "xanchor": "center",
        "yanchor": "bottom",
        "showarrow": False,
    }


def side_by_side(
    names: Sequence[str], panels: Sequence[Panel], *, per_line: int = 5, row_px: int = ROW_PX, **layout: Any
) -> Json:
    """Panels with the same lines, one for each of `names` (at 0, 1, 2 ... from the top), which stand at the left."""
    columns = min(per_line, len(panels))
    lines = math.ceil(len(panels) / columns)
    plot_px = lines * row_px * max(len(names), 2) + (lines - 1) * _GAP_PX
    slots = slots_of(len(panels), columns, _SIDE_GAP, _GAP_PX / plot_px)
    axes: Json = {}
    traces: list[Json] = []
    shapes: list[Json] = []
    for slot, panel in zip(slots, panels, strict=True):
        anchors = (f"x{slot.suffix}", f"y{slot.suffix}")
        axes[f"xaxis{slot.suffix}"] = {**panel.x, "domain": slot.x, "anchor": anchors[1]}
        axes[f"yaxis{slot.suffix}"] = places_axis(
            names, reverse=True, domain=slot.y, anchor=anchors[0], showticklabels=slot.column == 0
        )
        if slot.suffix:
            axes[f"yaxis{slot.suffix}"]["matches"] = "y"
        traces += placed(slot, panel.traces)
        shapes += [{**shape, "xref": _ref(shape, "x", slot), "yref": _ref(shape, "y", slot)} for shape in panel.shapes]
    return {
        "data": traces,
        "layout": {
            "height": _TOP_PX + plot_px + _BOTTOM_PX + layout.pop("extra_px", 0),
            "margin": {"t": _TOP_PX, "b": _BOTTOM_PX, "l": 20, "r": 20},
            "annotations": [panel_title(slot, panel.title) for slot, panel in zip(slots, panels, strict=True)],
            "shapes": shapes,
            "hovermode": "closest",
            "showlegend": False,
            **axes,
            **layout,
        },
    }


def _ref(shape: Mapping[str, Any], letter: str, slot: Slot) -> str:
    """A shape across the whole of one direction says so by "domain"."""
    return f"{letter}{slot.suffix}" + (" domain" if shape.get(f"{letter}ref") == "domain" else "")


def upright(x: float, **line: Any) -> Json:
    """A reference line over the whole height of a panel."""
    ends = {"x0": number(x), "x1": number(x), "y0": 0, "y1": 1, "yref": "domain"}
    return {"type": "line", **ends, "line": {"color": NEUTRAL, "width": 1, "dash": "dot"} | line, "layer": "below"}


def level(y: float, **line: Any) -> Json:
    """A reference line over the whole width of a panel."""
    ends = {"y0": y, "y1": y, "x0": 0, "x1": 1, "xref": "domain"}
    return {"type": "line", **ends, "line": {"color": NEUTRAL, "width": 1, "dash": "dot"} | line, "layer": "below"}
