"""The one place for colours and symbols: a colour for each model, a symbol for each method, the same in every chart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.report.labels import RowKey

COLOURS = ("#5a96e1", "#b40096", "#69a500", "#ff5a69", "#5a691e", "#8700ff", "#d278a5", "#695ae1")
"""Searched for: contrast of 3 or more with white and with #111 (WCAG 1.4.11), and the largest smallest distance (22 in
CIELAB) as seen with normal, protan, deutan and tritan vision (Machado, Oliveira & Fernandes 2009)."""

GREYS = ("#7d7d7d", "#949494", "#666666")  # of baselines, which are there to be compared with
NEUTRAL = "#808080"  # intervals, fronts and reference lines: between white and black
FAINT = "rgba(128, 128, 128, 0.35)"

DASHES = ("solid", "dash", "dot")
_FILLS = ("", "-open", "-open-dot")
"""When the colours are used up they come again, with open symbols and broken lines."""

SYMBOLS: dict[str, str] = {
    "lora": "circle",
    "qlora": "diamond",
    "full": "square",
    "frozen": "triangle-up",
    "none": "x",
}

PROMOTERS, PASSIVES, DETRACTORS = "#22c55e", "#eab308", "#ef4444"

SHARE_SCALE = ((0.0, "#eef4fb"), (0.5, "#6f9fd1"), (1.0, "#0b3c6e"))
"""From little to much. Opaque, so that a number on it has the same contrast on a light and on a dark page."""

DIFFERENCE_SCALE = ((0.0, "#b35806"), (0.25, "#f1a340"), (0.5, "#f7f7f7"), (0.75, "#6fa8dc"), (1.0, "#0b5394"))
"""From worse to better; orange and blue, which every kind of colour vision parts."""


@dataclass(frozen=True)
class Look:
    colour: str
    symbol: str
    dash: str


def looks_of(keys: Iterable[RowKey]) -> Mapping[RowKey, Look]:
    """The look of each row; models are given colours in the order they come."""
    looks: dict[RowKey, Look] = {}
    models: dict[str, int] = {}
    baselines: dict[str, int] = {}
    for key in keys:
        is_baseline = key.method == "none"
        seen, colours = (baselines, GREYS) if is_baseline else (models, COLOURS)
        times, place = divmod(seen.setdefault(key.model, len(seen)), len(colours))
        style = times % len(DASHES)
        symbol = SYMBOLS.get(key.method, "star") + _FILLS[style]
        looks[key] = Look(colours[place], symbol, DASHES[style])
    return looks
