"""A table without lines for the terminal: the columns that fit, each in the widest form that does.

Rich's own table takes seconds for 3,000 rows; where all widths are known beforehand, lines can be put together at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment

GAP = 2  # blanks between columns
_LEAST = 4  # letters of a column that has to give way


@dataclass(frozen=True)
class Form:
    """The cells of a column in one way to write them. `importance` 0 is always shown, higher ones while they fit."""

    cells: Sequence[str]
    importance: int


@dataclass(frozen=True)
class Column:
    """One column, its narrowest form first. Cells are text that is safe to show; what is longer than `most` folds."""

    heading: str
    forms: tuple[Form, ...]
    right: bool = False
    most: int | None = None

    @property
    def says_something(self) -> bool:
        return any(any(form.cells) for form in self.forms)

    def width(self, form: Form) -> int:
        widest = max(map(_width, (self.heading, *form.cells)))
        return widest if self.most is None else min(widest, self.most)


@dataclass(frozen=True)
class Grid:
    """What rich prints of `columns` within `width`. `blocks`: after so many rows each comes an empty line."""

    columns: Sequence[Column]
    width: int
    blocks: Sequence[int] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bold = console.get_style("bold")
        for number, line in enumerate(self.lines()):
            yield Segment(line, bold if number == 0 else None)
            yield Segment.line()

    def lines(self) -> Iterator[str]:
        """The heading first; columns in their order."""
        shown = _fitted(self.columns, self.width)
        yield _line([(one.column.heading, one) for one in shown])
        ends = set(accumulate(self.blocks[:-1]))
        for number, cells in enumerate(zip(*(one.form.cells for one in shown), strict=True)):
            if number in ends:
                yield ""
            yield from _row_lines(cells, shown)


@dataclass(frozen=True)
class _Shown:
    column: Column
    form: Form
    width: int


def _fitted(columns: Sequence[Column], width: int) -> list[_Shown]:
    """By importance, each new column or wider form that still fits. Columns that are always shown share what there is:
    the widest gives way."""
    left = width + GAP
    shown: dict[int, _Shown] = {}
    wishes = [(form.importance, index, form) for index, column in enumerate(columns) for form in column.forms]
    for importance, index, form in sorted(wishes, key=lambda wish: wish[:2]):
        column = columns[index]
        size = column.width(form)
        cost = size - shown[index].width if index in shown else size + GAP
        if cost <= left or importance == 0:
            shown[index] = _Shown(column, form, size)
            left -= cost
    if left < 0:
        index = max(shown, key=lambda index: shown[index].width)
        wide = shown[index]
        shown[index] = _Shown(wide.column, wide.form, max(_LEAST, wide.width + left))
    return [shown[index] for index in sorted(shown)]


def _row_lines(cells: Sequence[str], shown: Sequence[_Shown]) -> Iterator[str]:
    """One line, or as many as the longest cell folds into."""
    if all(_width(cell) <= one.width for cell, one in zip(cells, shown, strict=True)):
        yield _line(list(zip(cells, shown, strict=True)))
        return
    folded = [chop_cells(cell, one.width) for cell, one in zip(cells, shown, strict=True)]
    for parts in zip_longest(*folded, fillvalue=""):
        yield _line(list(zip(parts, shown, strict=True)))


def _line(cells: Sequence[tuple[str, _Shown]]) -> str:
    padded = []
    for text, one in cells:
        blank = " " * (one.width - _width(text))
        padded.append(blank + text if one.column.right else text + blank)
    return (" " * GAP).join(padded).rstrip()


def _width(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)
