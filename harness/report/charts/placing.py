"""Where the labels of points go, so that they cover neither each other nor a point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A plot as it is on most screens; on a narrower one labels come closer.
_WIDTH_PX, _HEIGHT_PX = 860, 390
_CHAR_PX, _LINE_PX = 6.6, 15
_AWAY = {
    "top left": (-1, 1),
    "top right": (1, 1),
    "bottom right": (1, -1),
    "bottom left": (-1, -1),
    "middle right": (1, 0),
    "middle left": (-1, 0),
}
"""Plotly's words and their directions, the best first: a front rises to the right, and is free above and left."""


@dataclass(frozen=True)
class Point:
    """`x`, `y`: shares of the plot's width and height, from below left. `size`: diameter in px."""

    x: float
    y: float
    size: float
    label: str


@dataclass(frozen=True)
class _Box:
    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )


_PLOT = _Box(0, 0, _WIDTH_PX, _HEIGHT_PX + 2 * _LINE_PX)


def label_positions(points: Sequence[Point]) -> list[str | None]:
    """Plotly's `textposition` for each point, None where there is no room; the first points choose first."""
    marks = [_mark(point) for point in points]
    taken: list[_Box] = []
    positions: list[str | None] = []
    for place, point in enumerate(points):
        others = [*taken, *marks[:place], *marks[place + 1 :]]
        choices = {name: _label_box(point, *direction) for name, direction in _AWAY.items()}
        free = (
            name for name, box in choices.items() if _is_inside(box) and not any(box.meets(other) for other in others)
        )
        position = next(free, None)
        positions.append(position)
        if position is not None:
            taken.append(choices[position])
    return positions


def _mark(point: Point) -> _Box:
    x, y, half = point.x * _WIDTH_PX, point.y * _HEIGHT_PX, point.size / 2
    return _Box(x - half, y - half, x + half, y + half)


def _label_box(point: Point, right: int, up: int) -> _Box:
    """As Plotly places it: beside a corner of the marker, or beside its middle."""
    width = _CHAR_PX * len(point.label)
    offset = point.size / 2 * (0.75 if up else 1.0) + 3
    x = point.x * _WIDTH_PX + right * offset + (0 if right > 0 else -width)
    y = point.y * _HEIGHT_PX + up * offset - (_LINE_PX / 2 if up == 0 else 0 if up > 0 else _LINE_PX)
    return _Box(x, y, x + width, y + _LINE_PX)


def _is_inside(box: _Box) -> bool:
    return box.left >= _PLOT.left and box.right <= _PLOT.right and box.bottom >= _PLOT.bottom and box.top <= _PLOT.top
