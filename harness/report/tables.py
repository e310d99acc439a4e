"""A leaderboard as tables for the terminal. Names of models and datasets are data, never markup."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.text import Text

from harness.board import Leaderboard, OverallRow, Row
from harness.report.grid import Column, Form, Grid
from harness.report.views import By, Section, sections_of
from harness.report.words import (
    EMPTY,
    HEADINGS,
    ON_FRONT,
    AnyRow,
    across_text,
    flag_meanings,
    interval_text,
    mark_meanings,
    method_text,
    note_letters,
    p_best_text,
    parameters_text,
    rank_span_text,
    rank_text,
    seeds_text,
    value_text,
)
from harness.text import clean

R = TypeVar("R", bound=AnyRow)

_NARROW = 100  # below this many columns, long names fold sooner
_TIED = "┌└"


def as_table(board: Leaderboard, *, width: int, by: By = "dataset") -> RenderableType:
    """One table a dataset version, the means over datasets, and what the marks and notes mean; `width` in columns.

    What all rows share stands in the title; what does not fit is left out, the least important first.
    """
    if not board.rows:
        return Text(EMPTY)
    notes = note_letters(board.rows)
    parts: list[RenderableType] = []
    for section in sections_of(board, by):
        grid = Grid(_columns(section, notes, width), width, tuple(map(len, section.blocks)))
        parts += [Text(section.title, style="bold"), grid]
        parts += [Text(line) for line in section.beneath]
        parts.append(Text())
    if board.overall and by == "dataset":
        parts += [Text("mean over datasets", style="bold"), Grid(_overall_columns(board.overall, width), width)]
        parts += [Text(across) for across in [across_text(board)] if across]
        parts.append(Text())
    parts += [
        _footnote(meaning.mark, meaning.words) for meaning in mark_meanings(board, _TIED if by == "dataset" else "")
    ]
    parts += [_footnote(notes[flag], f"{flag}: {words}") for flag, words in flag_meanings(notes).items()]
    return Group(*parts)


def _footnote(mark: str, words: str) -> Text:
    return Text(f"{mark}  {words}", style="dim")


# --- columns, in the order shown: the lower an importance, the sooner a form is chosen ------------


def _columns(section: Section, notes: dict[str, str], width: int) -> list[Column]:
    rows = section.rows
    name = _name_column(rows, width)
    apart = _method_and_device(rows, always_method=section.by == "method")
    if section.by == "size":
        size = _column("Parameters", 0, rows, lambda row: parameters_text(row.parameters), right=True)
        per_size = _value_column("accuracy_per_million_parameters", 3, rows)
        first = [name, size, *apart, per_size, _rank_column(rows, [""] * len(rows), of_span=9)]
    else:
        ties = _tie_marks(rows) if section.by == "dataset" else [""] * len(rows)  # elsewhere others stand between them
        first = [_rank_column(rows, ties), name, *apart]
    return _telling([*first, *_figure_columns(rows, notes)], rows)


def _method_and_device(rows: Sequence[AnyRow], *, always_method: bool = False) -> list[Column]:
    """They matter only where they tell rows apart."""
    models = {row.model for row in rows}
    several_methods = always_method or len({(row.model, row.method) for row in rows}) > len(models)
    several_devices = len({(row.model, row.device) for row in rows}) > len(models)
    return [
        _column("Method", 0 if several_methods else 13, rows, lambda row: method_text(row.method)),
        _column("Device", 0 if several_devices else 15, rows, lambda row: clean(row.device)),
    ]


def _figure_columns(rows: Sequence[Row], notes: dict[str, str]) -> list[Column]:
    seeds = [seeds_text(row.seeds) for row in rows]
    return [
        _interval_column("accuracy", 2, 2, rows),
        _p_best_column(rows),
        _interval_column("score", 6, 10, rows),
        _interval_column("f1", 8, 9, rows),
        _value_column("latency_median_ms", 5, rows),
        _value_column("throughput_samples_per_sec", 7, rows),
        _value_column("memory_allocated_mb", 11, rows),
        _column("Kind", 12, rows, lambda row: clean(row.architecture or "")),
        Column("Seeds", (Form([str(len(row.seeds)) for row in rows], 14), Form(seeds, 16)), most=24),
        _column("Notes", 4, rows, lambda row: "".join(sorted(notes[flag] for flag in row.flags))),
    ]


def _overall_columns(rows: Sequence[OverallRow], width: int) -> list[Column]:
    columns = [
        _rank_column(rows, _tie_marks(rows)),
        _name_column(rows, width),
        *_method_and_device(rows),
        _interval_column("accuracy", 2, 2, rows),
        _p_best_column(rows),
        _interval_column("score", 4, 6, rows),
        _interval_column("f1", 4, 5, rows),
    ]
    return _telling(columns, rows)


def _telling(columns: Sequence[Column], rows: Sequence[AnyRow]) -> list[Column]:
    """Without those that say the same in every row, which the title of a dataset says, or nothing in any."""
    values: dict[str, Set[object]] = {
        "Method": {method_text(row.method) for row in rows},
        "Device": {row.device for row in rows},
        "Seeds": {row.seeds for row in rows if isinstance(row, Row)},
    }
    shared = {heading for heading, found in values.items() if len(found) == 1}
    return [column for column in columns if column.heading not in shared and column.says_something]


def _column(
    heading: str, importance: int, rows: Sequence[R], text: Callable[[R], str], *, right: bool = False
) -> Column:
    return Column(heading, (Form([text(row) for row in rows], importance),), right=right)


def _name_column(rows: Sequence[AnyRow], width: int) -> Column:
    return Column("Model", (Form([clean(row.model) for row in rows], 0),), most=18 if width < _NARROW else 40)


def _p_best_column(rows: Sequence[AnyRow]) -> Column:
    known = any(row.p_best is not None for row in rows)
    return Column("P(best)", (Form([p_best_text(row.p_best) if known else "" for row in rows], 3),), right=True)


def _interval_column(name: str, importance: int, of_interval: int, rows: Sequence[AnyRow]) -> Column:
    values, intervals = [value_text(name, row) for row in rows], [interval_text(name, row) for row in rows]
    return Column(HEADINGS[name], (Form(values, importance), Form(intervals, of_interval)))


def _value_column(name: str, importance: int, rows: Sequence[Row]) -> Column:
    return Column(HEADINGS[name], (Form([value_text(name, row) for row in rows], importance),), right=True)


def _rank_column(rows: Sequence[AnyRow], ties: Sequence[str], of_span: int = 1) -> Column:
    """Tie mark, rank, rank interval, mark of the Pareto front: each in its place."""
    fronts = [ON_FRONT if isinstance(row, Row) and row.pareto else "" for row in rows]
    ranks = _aligned([rank_text(row) for row in rows], right=True)
    spans = _aligned([rank_span_text(row) for row in rows])
    before, after = _aligned(ties), _aligned(fronts)
    narrow = [_spaced(*parts) for parts in zip(before, ranks, after, strict=True)]
    wide = [_spaced(*parts) for parts in zip(before, ranks, spans, after, strict=True)]
    return Column("#", (Form(narrow, 0), Form(wide, of_span)))


def _aligned(texts: Sequence[str], *, right: bool = False) -> list[str]:
    size = max(map(len, texts))
    return [text.rjust(size) if right else text.ljust(size) for text in texts]


def _spaced(*parts: str) -> str:
    """Parts that are empty in all rows leave no gap."""
    return " ".join(part for part in parts if part)


def _tie_marks(rows: Sequence[AnyRow]) -> list[str]:
    """A bracket down the rows of each tie group: "┌", "│", "└"; "" for a row that is alone."""
    groups = [None, *(row.tie for row in rows), None]
    marks = []
    for above, group, below in zip(groups, groups[1:], groups[2:], strict=False):
        joined = (group is not None and group == above, group is not None and group == below)
        marks.append({(False, True): "┌", (True, True): "│", (True, False): "└"}.get(joined, ""))
    return marks
