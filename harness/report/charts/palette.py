"""The one place for colours and symbols: a colour for each model, a symbol for each method, the same in every chart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.report.labels import RowKey

COLOURS = ("#5a96e1", "#b40096", "#69a500", "#ff5a69", "#5a691e", "#8700ff", "#d278a5", "#695ae1")
"""Searched for: contrast of 3 or more with white and with #111 (WCAG 1.4.11), and the largest smallest distance (22 in
CIELAB) as seen with normal, protan, deutan and tritan vision (Machado, Oliveira & Fernandes 2009)."""

GREYS = ("#7d7d7d", "#949494", "#666666")  # of baselines, which are there to be compared with
NEUTRAL = "#808080"  # intervals, fronts and reference lines: between white and black
FAINT = "rgba(128, 128, 128, 0.35)"

_FILLS = ("", "-open", "-open-dot")
"""Symbols of the models that come when the colours are used up, and begin again."""

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
"""Lines of the rows of one colour, in their order: a line has no symbol that would tell its method."""

SYMBOLS: dict[str, str] = {
    "lora": "circle",
    "qlora": "diamond",
    "full": "square",
    "frozen": "triangle-up",
    "none": "x",
}

PROMOTERS, PASSIVES, DETRACTORS = "#22c55e", "#eab308", "#ef4444"

SHARE_SCALE = ((0.0, "#f4f8fc"), (0.5, "#aecbe8"), (1.0, "#4f93d2"))
"""From little to much. Opaque and light: `ON_SCALE` can be read on all of it, on a light and on a dark page."""

DIFFERENCE_SCALE = ((0.0, "#e8923a"), (0.5, "#f7f7f7"), (1.0, "#5b9fe0"))
"""From worse to better; orange and blue, which every kind of colour vision parts."""

ON_SCALE = "#111111"


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
    lines: Counter[str] = Counter()
    for key in keys:
        is_baseline = key.method == "none"
        seen, colours = (baselines, GREYS) if is_baseline else (models, COLOURS)
        times, place = divmod(seen.setdefault(key.model, len(seen)), len(colours))
        colour = colours[place]
        symbol = SYMBOLS.get(key.method, "star") + _FILLS[times % len(_FILLS)]
        looks[key] = Look(colour, symbol, _DASHES[lines[colour] % len(_DASHES)])
        lines[colour] += 1
    return looks
