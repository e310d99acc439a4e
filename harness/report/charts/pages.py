"""Small multiples that may be many: six at a time, a menu turns the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.report.charts.figures import MENU, Json, Slot, panel_title, placed, slots_of
from harness.report.charts.palette import NEUTRAL

_COLUMNS, _LINES = 3, 2
PAGE = _COLUMNS * _LINES
_LINE_PX, _LINE_GAP_PX, _TOP_PX, _BOTTOM_PX = 250, 56, 92, 70
_SIDE_GAP = 0.035


@dataclass(frozen=True)
class Small:
    """One of the multiples. `title` is shown as it is."""

    title: str
    traces: Sequence[Mapping[str, Any]]


def paged(panels: Sequence[Small], x: Json, y: Json, *, diagonal: bool = False, **layout: Any) -> Json:
    """All panels have the axes `x` and `y`: the first of a line shows the labels of `y`, the last of a column those of
    `x`. `diagonal`: a line from (0, 0) to (1, 1) in each."""
    count = min(PAGE, len(panels))
    columns = 2 if count in (2, 4) else _COLUMNS
    lines = math.ceil(count / columns)
    plot_px = lines * _LINE_PX + (lines - 1) * _LINE_GAP_PX
    slots = slots_of(count, columns, _SIDE_GAP, _LINE_GAP_PX / plot_px)
    axes: Json = {}
    for slot in slots:
        x_here = x if _is_lowest(slot, slots) else _without_words(x)
        y_here = _without_words(y) if slot.column else y
        axes[f"xaxis{slot.suffix}"] = {**x_here, "domain": slot.x, "anchor": f"y{slot.suffix}"}
        axes[f"yaxis{slot.suffix}"] = {**y_here, "domain": slot.y, "anchor": f"x{slot.suffix}"}
    pages = [panels[start : start + count] for start in range(0, len(panels), count)]
    traces = [
        {**trace, "visible": number == 0}
        for number, page in enumerate(pages)
        for slot, panel in zip(slots, page, strict=False)
        for trace in placed(slot, panel.traces)
    ]
    menus = [{**MENU, "pad": {"b": 26}, "buttons": [_button(pages, number, slots, x) for number in range(len(pages))]}]
    return {
        "data": traces,
        "layout": {
            "height": _TOP_PX + plot_px + _BOTTOM_PX,
            "margin": {"t": _TOP_PX, "b": _BOTTOM_PX, "r": 20},
            "annotations": _titles(pages[0], slots),
            "updatemenus": menus if len(pages) > 1 else [],
            "shapes": [_diagonal(slot.suffix) for slot in slots] if diagonal else [],
            "hovermode": "closest",
            "showlegend": False,
            **axes,
            **layout,
        },
    }


def _is_lowest(slot: Slot, used: Sequence[Slot]) -> bool:
    return not any(other.column == slot.column and other.line > slot.line for other in used)


def _without_words(axis: Json) -> Json:
    return {**axis, "title": None, "showticklabels": False}


def _titles(page: Sequence[Small], slots: Sequence[Slot]) -> list[Json]:
    return [panel_title(slot, panel.title) for slot, panel in zip(slots, page, strict=False)]


def _button(pages: Sequence[Sequence[Small]], number: int, slots: Sequence[Slot], x: Json) -> Json:
    first = sum(len(page) for page in pages[:number]) + 1
    visible = [place == number for place, page in enumerate(pages) for panel in page for _ in panel.traces]
    relayout: Json = {"annotations": _titles(pages[number], slots)}
    used = slots[: len(pages[number])]
    for slot in slots:
        lowest = _is_lowest(slot, used)
        relayout |= {f"{letter}axis{slot.suffix}.visible": slot in used for letter in "xy"}
        relayout[f"xaxis{slot.suffix}.title.text"] = x["title"]["text"] if lowest else ""
        relayout[f"xaxis{slot.suffix}.showticklabels"] = lowest and x.get("showticklabels", True)
    last = first + len(pages[number]) - 1
    label = f"{first} to {last}" if last > first else str(first)
    return {"label": label, "method": "update", "args": [{"visible": visible}, relayout]}


def _diagonal(suffix: str) -> Json:
    ends = {"x0": 0, "y0": 0, "x1": 1, "y1": 1, "xref": f"x{suffix}", "yref": f"y{suffix}"}
    return {"type": "line", **ends, "line": {"color": NEUTRAL, "width": 1, "dash": "dot"}, "layer": "below"}
