"""The leaderboard as HTML: a table for the means over datasets and one for each dataset version."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.board import FLAG_MEANINGS, Figure, Leaderboard, Row
from harness.metrics import METRICS, MISSING, format_interval, format_value
from harness.report.html import Child, Html, joined, tag
from harness.report.labels import RowKey, labels_of, row_key
from harness.report.material import Material, Section
from harness.report.words import LEVEL, ON_FRONT, AnyRow, p_best_text, parameters_text

_INTERVALS = ("accuracy", "f1")
_VALUES = (
    "latency_median_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "throughput_samples_per_sec",
    "memory_allocated_mb",
    "training_time_hours",
)
_BAR_WIDTH = 84  # px
_ON_FRONT = "On the Pareto front: no other is at least as good in F1, p95 latency and peak memory, and better in one"


@dataclass(frozen=True)
class _Cell:
    """`sort`: a number or text that the column is ordered by; None comes last."""

    content: Child
    sort: float | str | None


@dataclass(frozen=True)
class _Column:
    """`falling`: the first click sorts it from the largest down."""

    heading: str
    title: str
    cell: Callable[[AnyRow], _Cell]
    numeric: bool = True
    falling: bool = False
    unit: str = ""


@dataclass(frozen=True)
class _Extent:
    """The smallest and largest end of the intervals of a table."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """In px."""
        span = self.high - self.low
        return 3 + (_BAR_WIDTH - 6) * ((value - self.low) / span if span > 0 else 0.5)


def standings(material: Material) -> Html:
    """All tables. Each row carries the words it is searched by, each cell what it is sorted by."""
    board = material.board
    labels = labels_of(board)
    parts: list[Child] = []
    if board.overall:
        parts.append(_table("overall", "Mean over datasets", "", board.overall, labels))
    for number, section in enumerate(material.sections):
        rows = [one.row for one in section.rows]
        parts.append(_table(f"board-{number}", section_title(section, material), _facts(section), rows, labels))
    return joined([*parts, _legend(board)])


def section_title(section: Section, material: Material) -> str:
    """Versions of one name are told apart by fingerprint."""
    several = sum(one.dataset == section.dataset for one in material.sections) > 1
    return f"{section.dataset} ({section.fingerprint[:8]})" if several else section.dataset


def _facts(section: Section) -> str:
    rows = max((one.row.test_rows for one in section.rows), default=0)
    names = section.label_names
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return f"{rows:,} test rows · {len(names)} labels: {shown}"


def _table(identifier: str, title: str, facts: str, rows: Sequence[AnyRow], labels: Mapping[RowKey, str]) -> Html:
    columns = _columns(rows, labels)
    caption = tag("caption", tag("span", title, class_="name"), tag("span", facts, class_="facts"))
    head = tag("tr", *(_head(column) for column in columns))
    body = [
        tag(
            "tr",
            *(_cell(column, column.cell(row)) for column in columns),
            data_search=f"{labels[row_key(row)]} {row.model} {row.method} {row.device}".lower(),
            class_="first" if row.rank == 1 else None,
        )
        for row in rows
    ]
    table = tag("table", caption, tag("thead", head), tag("tbody", *body), class_="sortable", id=identifier)
    none = tag("p", "No model of this table matches the search.", class_="nothing", hidden=True)
    wide = tag("div", table, class_="wide", tabindex=0, role="region", aria_label=title)
    return tag("div", wide, none, class_="board")


def _head(column: _Column) -> Html:
    unit = tag("small", column.unit) if column.unit else None
    button = tag("button", column.heading, unit, type="button", title=column.title or None)
    first = "descending" if column.falling else None
    return tag("th", button, scope="col", class_="n" if column.numeric else None, data_first=first)


def _cell(column: _Column, cell: _Cell) -> Html:
    kind = "th" if column.heading == "Model" else "td"
    scope = "row" if kind == "th" else None
    sort = None if cell.sort is None else str(cell.sort)
    return tag(kind, cell.content, class_="n" if column.numeric else None, scope=scope, data_sort=sort)


# --- columns ------------------------------------------------------------------------------------


def _columns(rows: Sequence[AnyRow], labels: Mapping[RowKey, str]) -> list[_Column]:
    """Those in which any row has something."""
    extent = _extent(rows)
    columns = [
        _Column("Rank", "1 is best; beside it the interval that holds the true rank", _rank),
        _Column("Model", f"{ON_FRONT} {_ON_FRONT.lower()}", lambda row: _model(row, labels), numeric=False),
        _Column("Tie", "Tie group: models that the data do not tell apart from the best of the group", _tie),
        _Column("P(best)", "Share of resamples in which it is the best", _p_best, falling=True),
        _Column("Score", "Weighted sum of normalised columns, with its interval",
                lambda row: _score(row, extent), falling=True),
        *(_interval_column(name) for name in _INTERVALS),
        *(_value_column(name) for name in _VALUES),
        _Column("Parameters", "Number of weights", _parameters),
        _Column("Seeds", "Seeds of training", _seeds),
        _Column("Notes", "Reservations; their meanings stand below the tables", _flags, numeric=False),
    ]  # fmt: skip
    return [column for column in columns if any(column.cell(row).sort is not None for row in rows)]


def _rank(row: AnyRow) -> _Cell:
    if row.rank is None or row.rank_low is None or row.rank_high is None:
        return _Cell(MISSING if row.rank is None else row.rank, row.rank)
    return _Cell(joined([row.rank, " ", tag("small", f"{row.rank_low}–{row.rank_high}")]), row.rank)


def _model(row: AnyRow, labels: Mapping[RowKey, str]) -> _Cell:
    label = labels[row_key(row)]
    front = isinstance(row, Row) and row.pareto
    mark = tag("abbr", ON_FRONT, title=_ON_FRONT, class_="front")
    return _Cell(joined([label, " ", mark]) if front else label, label.lower())


def _tie(row: AnyRow) -> _Cell:
    return _Cell(MISSING if row.tie is None else row.tie, row.tie)


def _p_best(row: AnyRow) -> _Cell:
    if row.p_best is None:
        return _Cell(MISSING, None)
    return _Cell(p_best_text(row.p_best), row.p_best)


def _score(row: AnyRow, extent: _Extent | None) -> _Cell:
    figure = row.metrics.get("score")
    if figure is None or figure.value is None:
        return _Cell(MISSING, None)
    bar = _bar(figure, extent) if extent else ""
    return _Cell(tag("span", _figure("score", figure), bar, class_="score"), figure.value)


def _interval_column(name: str) -> _Column:
    def cell(row: AnyRow) -> _Cell:
        figure = row.metrics.get(name)
        return _Cell(_figure(name, figure), figure.value) if figure else _Cell(MISSING, None)

    return _Column(METRICS[name].title, "Mean over seeds, with its interval", cell, falling=True)


def _value_column(name: str) -> _Column:
    def cell(row: AnyRow) -> _Cell:
        figure = row.metrics.get(name)
        if figure is None or figure.value is None:
            return _Cell(tag("abbr", MISSING, title=figure.reason) if figure and figure.reason else MISSING, None)
        value = figure.value if figure.level is None else figure.level
        text = format_value(name, value) if figure.level is None else f"{LEVEL}{format_value(name, value)}"
        if figure.low is None or figure.high is None:
            return _Cell(text, value)
        interval = f"{format_interval(name, figure.value, figure.low, figure.high)} {METRICS[name].unit}"
        return _Cell(tag("span", text, title=interval), value)

    title, metric = "Mean over seeds; point at a figure for its interval", METRICS[name]
    return _Column(
        metric.title.removeprefix("Latency "), title, cell, falling=metric.higher_is_better, unit=metric.unit
    )


def _parameters(row: AnyRow) -> _Cell:
    count = row.parameters if isinstance(row, Row) else None
    return _Cell(parameters_text(count), count)


def _seeds(row: AnyRow) -> _Cell:
    if not isinstance(row, Row):
        return _Cell(MISSING, None)
    listed = ", ".join(map(str, row.seeds))
    return _Cell(tag("span", len(row.seeds), title=f"seeds {listed}"), len(row.seeds))


def _flags(row: AnyRow) -> _Cell:
    flags = row.flags if isinstance(row, Row) else ()
    return _Cell(flag_marks(flags), len(flags) if flags else None)


def flag_marks(flags: Iterable[str]) -> Html:
    """Point at one for its meaning."""
    return joined(tag("abbr", flag.replace("_", " "), title=FLAG_MEANINGS[flag], class_="flag") for flag in flags)


# --- drawing ------------------------------------------------------------------------------------


def _figure(name: str, figure: Figure) -> Html:
    """The value, and its interval in smaller type; "≈" where the machine's noise does not part it from others."""
    if figure.level is not None:
        return joined([f"{LEVEL}{format_value(name, figure.level)}"])
    value = format_value(name, figure.value)
    if value == MISSING:
        return tag("abbr", MISSING, title=figure.reason)
    if figure.low is None or figure.high is None:
        return joined([value])
    low, high = format_value(name, figure.low), format_value(name, figure.high)
    between = " to " if figure.low < 0 else "–"  # no dash before a minus
    return joined([value, " ", tag("small", f"{low}{between}{high}")])


def _extent(rows: Sequence[AnyRow]) -> _Extent | None:
    figures = [row.metrics["score"] for row in rows if "score" in row.metrics]
    ends = [end for figure in figures for end in (figure.low, figure.value, figure.high) if end is not None]
    return _Extent(min(ends), max(ends)) if ends else None


def _bar(figure: Figure, extent: _Extent) -> Html:
    """The interval as a line with a dot at the value, on the scale of its table."""
    if figure.value is None:
        return Html("")
    low = figure.value if figure.low is None else figure.low
    high = figure.value if figure.high is None else figure.high
    x1, x2, at = (f"{extent.at(end):.1f}" for end in (low, high, figure.value))
    line = tag("line", x1=x1, x2=x2, y1=7, y2=7)
    dot = tag("circle", cx=at, cy=7, r=3)
    return tag("svg", line, dot, width=_BAR_WIDTH, height=14, aria_hidden="true", class_="bar")


def _legend(board: Leaderboard) -> Html:
    flags = sorted({flag for row in board.rows for flag in row.flags})
    entries: list[Child] = []
    for flag in flags:
        entries += [tag("dt", flag.replace("_", " ")), tag("dd", FLAG_MEANINGS[flag])]
    if any(figure.level is not None for row in board.rows for figure in row.metrics.values()):
        level = "Equal but for the noise of this machine: shown and scored as one value."
        entries += [tag("dt", LEVEL), tag("dd", level)]
    if any(row.pareto for row in board.rows):
        entries += [tag("dt", ON_FRONT), tag("dd", f"{_ON_FRONT}.")]
    return tag("dl", *entries, class_="legend") if entries else Html("")
