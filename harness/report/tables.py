"""A leaderboard as a terminal table, JSON, CSV or Markdown. Names of models and datasets are data, never markup."""

from __future__ import annotations

import csv
import io
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import msgspec
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.board import FLAG_MEANINGS, Figure, Leaderboard, OverallRow, Row, to_builtins
from harness.metrics import METRICS, MISSING, format_interval, format_value

_HEADINGS = {
    "score": "Score",
    "accuracy": "Accuracy",
    "f1": "F1 macro",
    "latency_median_ms": "p50 ms",
    "throughput_samples_per_sec": "Samples/s",
    "memory_allocated_mb": "Memory MB",
}
_WITH_INTERVAL = ("score", "accuracy", "f1")
_LEVEL = "≈"
_EMPTY = "No finished cell yet."
_GAP = 2  # blanks between columns
_NARROW = 100  # below this many columns, long names fold sooner


@dataclass(frozen=True)
class _Column:
    """A column in one or more forms, the widest first; `importance` 0 is always shown, higher ones while they fit."""

    heading: str
    importance: int
    forms: tuple[Sequence[str], ...]
    justify: Literal["left", "right"] = "left"
    max_width: int | None = None

    def width(self, cells: Sequence[str]) -> int:
        widest = max(cell_len(text) for text in (self.heading, *cells))
        return widest if self.max_width is None else min(widest, self.max_width)


def as_table(board: Leaderboard, *, width: int) -> RenderableType:
    """One table a dataset version, then the means over datasets, then what the notes mean; `width` in columns.

    What all rows share stands in the title; what does not fit is left out, the least important first.
    """
    notes = _note_letters(board.rows)
    parts: list[RenderableType] = []
    for rows, title in _sections(board):
        parts += [Text(title, style="bold"), _fitted(_board_columns(rows, notes, width), width), Text()]
    if board.overall:
        parts += [Text("mean over datasets", style="bold"), _fitted(_overall_columns(board.overall, width), width)]
        parts.append(Text())
    parts += [Text(f"{letter}  {flag}: {FLAG_MEANINGS[flag]}", style="dim") for flag, letter in notes.items()]
    parts += [Text(f"{_LEVEL}  {meaning}", style="dim") for meaning in _level_meaning(board)]
    return Group(*parts) if board.rows else Text(_EMPTY)


def as_json(board: Leaderboard) -> str:
    """The board as indented JSON, every metric at the top level of its row."""
    return msgspec.json.format(msgspec.json.encode(to_builtins(board)), indent=2).decode() + "\n"


def as_csv(board: Leaderboard) -> str:
    """One line a row; three columns a metric (`f1`, `f1_low`, `f1_high`), empty for null; lists joined by blanks.

    Names that a spreadsheet would run as a formula get a quote in front; the other formats have them as they are.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    figures = [column for name in METRICS for column in (name, f"{name}_low", f"{name}_high")]
    head = ["dataset", "fingerprint", "rank", "model", "method", "device", "seeds", "test_rows", "flags"]
    writer.writerow([*head, *figures])
    for row in board.rows:
        writer.writerow(
            [_no_formula(row.dataset), row.fingerprint, row.rank, _no_formula(row.model), _no_formula(row.method)]
            + [row.device, " ".join(map(str, row.seeds)), row.test_rows, " ".join(row.flags)]
            + [x for name in METRICS for x in _triple(row.metrics.get(name))]
        )
    return out.getvalue()


def as_markdown(board: Leaderboard) -> str:
    """A GitHub table a dataset version, the means over datasets, and what the flags mean."""
    lines: list[str] = []
    for rows, title in _sections(board):
        cells = [
            [_rank(row.rank), _escape(row.model), _method(row.method), row.device, _seeds(row.seeds)]
            + [_figure(name, row) for name in _HEADINGS]
            + [", ".join(row.flags)]
            for row in rows
        ]
        heads = ["#", "Model", "Method", "Device", "Seeds", *_HEADINGS.values(), "Flags"]
        lines += [f"### {_escape(title)}", "", *_markdown_table(heads, cells), ""]
    if board.overall:
        cells = [
            [
                _rank(row.rank),
                _escape(row.model),
                _method(row.method),
                row.device,
                *(_figure(name, row) for name in _WITH_INTERVAL),
            ]
            for row in board.overall
        ]
        heads = ["#", "Model", "Method", "Device", *(_HEADINGS[name] for name in _WITH_INTERVAL)]
        lines += ["### mean over datasets", "", *_markdown_table(heads, cells), ""]
    lines += [f"- `{flag}`: {FLAG_MEANINGS[flag]}" for flag in _note_letters(board.rows)]
    lines += [f"- {_LEVEL} {meaning}" for meaning in _level_meaning(board)]
    return ("\n".join(lines).rstrip() if board.rows else _EMPTY) + "\n"


# --- columns ----------------------------------------------------------------------------------


def _board_columns(rows: Sequence[Row], notes: dict[str, str], width: int) -> list[_Column]:
    """In the order shown. Method, device and seeds matter only where they tell rows apart."""
    models = {row.model for row in rows}
    several_methods = len({(row.model, row.method) for row in rows}) > len(models)
    several_devices = len({(row.model, row.device) for row in rows}) > len(models)
    columns = [
        _Column("#", 0, ([_rank(row.rank) for row in rows],), "right"),
        _name_column([row.model for row in rows], width),
        _Column("Method", 0 if several_methods else 8, ([_method(row.method) for row in rows],)),
        _Column("Device", 0 if several_devices else 10, ([row.device for row in rows],)),
        _interval_column("score", 2, rows),
        _interval_column("accuracy", 1, rows),
        _interval_column("f1", 6, rows),
        _value_column("latency_median_ms", 4, rows),
        _value_column("throughput_samples_per_sec", 5, rows),
        _value_column("memory_allocated_mb", 7, rows),
        _Column("Seeds", 9, ([_seeds(row.seeds) for row in rows], [str(len(row.seeds)) for row in rows]), max_width=24),
        _Column("Notes", 3, (["".join(notes[flag] for flag in row.flags) for row in rows],)),
    ]
    shared = {"Method": {_method(row.method) for row in rows}, "Device": {row.device for row in rows}}
    shared["Seeds"] = {_seeds(row.seeds) for row in rows}
    in_title = {heading for heading, values in shared.items() if len(values) == 1}
    return [column for column in columns if column.heading not in in_title and any(map(any, column.forms))]


def _overall_columns(rows: Sequence[OverallRow], width: int) -> list[_Column]:
    models = {row.model for row in rows}
    return [
        _Column("#", 0, ([_rank(row.rank) for row in rows],), "right"),
        _name_column([row.model for row in rows], width),
        _Column("Method", 0 if len(rows) > len(models) else 4, ([_method(row.method) for row in rows],)),
        _Column("Device", 0 if len(rows) > len(models) else 5, ([row.device for row in rows],)),
        *(_interval_column(name, 1 + place, rows) for place, name in enumerate(_WITH_INTERVAL)),
    ]


def _name_column(names: Sequence[str], width: int) -> _Column:
    return _Column("Model", 0, ([_clean(name) for name in names],), max_width=18 if width < _NARROW else 40)


def _interval_column(name: str, importance: int, rows: Sequence[Row | OverallRow]) -> _Column:
    values = [format_value(name, _value(row, name)) for row in rows]
    return _Column(_HEADINGS[name], importance, ([_figure(name, row) for row in rows], values))


def _value_column(name: str, importance: int, rows: Sequence[Row]) -> _Column:
    values = [_levelled(name, row) or format_value(name, _value(row, name)) for row in rows]
    return _Column(_HEADINGS[name], importance, (values,), "right")


def _fitted(columns: Sequence[_Column], width: int) -> Table:
    """A table of the most important columns that fit, each in its widest form that does."""
    left = width + _GAP
    chosen: dict[int, Sequence[str]] = {}
    for index in sorted(range(len(columns)), key=lambda index: columns[index].importance):
        column = columns[index]
        fitting = [form for form in column.forms if column.width(form) + _GAP <= left]
        if fitting or column.importance == 0:
            chosen[index] = (fitting or column.forms)[0]
            left -= column.width(chosen[index]) + _GAP
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for index in sorted(chosen):
        column = columns[index]
        head, size = Text(column.heading), column.width(chosen[index])
        table.add_column(head, justify=column.justify, width=size, overflow="fold")
    for cells in zip(*(chosen[index] for index in sorted(chosen)), strict=True):
        table.add_row(*map(Text, cells))
    return table


# --- text -------------------------------------------------------------------------------------


def _sections(board: Leaderboard) -> Iterable[tuple[list[Row], str]]:
    """Rows of each dataset version with its title; versions of one name are told apart by fingerprint."""
    names = [name for name, _ in {(row.dataset, row.fingerprint): None for row in board.rows}]
    for (dataset, fingerprint), group in groupby(board.rows, key=lambda row: (row.dataset, row.fingerprint)):
        rows = list(group)
        title = _clean(dataset)
        if names.count(dataset) > 1:
            title += f" ({_clean(fingerprint)[:8]})"
        yield rows, " · ".join([title, *_shared(rows)])


def _shared(rows: Sequence[Row]) -> list[str]:
    """What all rows of a section have in common."""
    parts = []
    if largest := max(row.test_rows for row in rows):
        parts.append(f"{largest:,} test rows")
    if len({row.method for row in rows}) == 1 and rows[0].method != "none":
        parts.append(rows[0].method)
    if len({row.device for row in rows}) == 1:
        parts.append(rows[0].device)
    if len({row.seeds for row in rows}) == 1:
        parts.append(f"{'seed' if len(rows[0].seeds) == 1 else 'seeds'} {_seeds(rows[0].seeds)}")
    return parts


def _note_letters(rows: Iterable[Row]) -> dict[str, str]:
    """Flag -> letter, for the flags that occur."""
    present = sorted({flag for row in rows for flag in row.flags})
    return dict(zip(present, string.ascii_lowercase, strict=False))


def _rank(rank: int | None) -> str:
    return MISSING if rank is None else str(rank)


def _method(method: str) -> str:
    """A baseline has no method."""
    return MISSING if method == "none" else method


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _value(row: Row | OverallRow, name: str) -> float | None:
    figure = row.metrics.get(name)
    return figure.value if figure else None


def _levelled(name: str, row: Row | OverallRow) -> str:
    """The value that a figure shares with other rows'; "" where it stands alone."""
    figure = row.metrics.get(name)
    return f"{_LEVEL}{format_value(name, figure.level)}" if figure and figure.level is not None else ""


def _level_meaning(board: Leaderboard) -> list[str]:
    """The footnote of levelled figures, where a table shows one."""
    floor = board.noise_floor
    if floor is None or not any(_levelled(name, row) for row in board.rows for name in _HEADINGS):
        return []
    return [
        f"Shown as equal: on this machine, differences in latency below {100 * floor.latency_p50:.1f} % and in "
        f"throughput below {100 * floor.throughput:.1f} % are noise."
    ]


def _figure(name: str, row: Row | OverallRow) -> str:
    if text := _levelled(name, row):
        return text
    figure = row.metrics.get(name)
    return format_interval(name, figure.value, figure.low, figure.high) if figure else MISSING


def _triple(figure: Figure | None) -> tuple[float | None, float | None, float | None]:
    return (figure.value, figure.low, figure.high) if figure else (None, None, None)


def _no_formula(name: str) -> str:
    """A name as a spreadsheet takes for text (OWASP, "CSV Injection")."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name


def _clean(text: str) -> str:
    """Text with what a terminal could obey (escapes, line ends) replaced."""
    return "".join(char if char.isprintable() else "�" for char in text)


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table."""
    return re.sub(r"([\\|<>\[\]`*])", r"\\\1", _clean(text))


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *rows)]
