"""A source table -> its usable rows: filtered, labelled, with a text and an id. Every row dropped is counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.contract import DatasetRequest
from runner.data.columns import ChosenColumns
from runner.data.labels import Outcome, label_reader, value_text
from runner.data.sources import SourceTable
from runner.errors import RunnerError

EMPTY_TEXT = Outcome(reason="empty_text")
FILTERED = Outcome(reason="filtered")


@dataclass(frozen=True)
class Cleaned:
    """Usable rows: parallel lists, labels as class names."""

    ids: list[str]
    texts: list[str]
    labels: list[str]
    kept: dict[str, Sequence[Any]]
    dropped: dict[str, int]  # reason -> rows
    notes: tuple[str, ...]


def clean_table(request: DatasetRequest, table: SourceTable, columns: ChosenColumns) -> Cleaned:
    """The rows of `table` that have a label and a text and pass the filters. Raises RunnerError."""
    read_label = label_reader(request, table.class_names.get(columns.label, ()))
    outcomes = [read_label(value) for value in table.columns[columns.label]]
    texts = _texts(table, columns.text)
    outcomes = [
        one if one.name is None or text.strip() else EMPTY_TEXT for one, text in zip(outcomes, texts, strict=True)
    ]
    for column, allowed in request.filters.items():
        passes = [value_text(value) in allowed for value in table.columns[column]]
        outcomes = [one if passed else FILTERED for one, passed in zip(outcomes, passes, strict=True)]
    usable = [row for row, one in enumerate(outcomes) if one.name is not None]
    ids, notes = _ids(table)
    if request.source == "hub" and not table.class_names.get(columns.label) and -1 in table.columns[columns.label]:
        notes = (*notes, "A label of -1 stands for no label, as is the hub's custom; a label_map may make it a class.")
    return Cleaned(
        ids=[ids[row] for row in usable],
        texts=[texts[row] for row in usable],
        labels=[one.name for one in outcomes if one.name is not None],
        kept={name: [_plain(table.columns[name][row]) for row in usable] for name in columns.kept},
        dropped=dict(Counter(one.reason for one in outcomes if one.name is None)),
        notes=notes,
    )


def nothing_left(table: SourceTable, columns: ChosenColumns, cleaned: Cleaned) -> RunnerError:
    """The error for a table without a usable row: it says why, and shows what the label column holds."""
    values = dict.fromkeys(text for value in table.columns[columns.label] if (text := value_text(value)) is not None)
    shown = ", ".join(repr(value[:40]) for value in list(values)[:5]) or "nothing"
    reasons = ", ".join(f"{rows:,} {reason}" for reason, rows in cleaned.dropped.items())
    if set(cleaned.dropped) == {"label_not_a_number"}:
        cause = f"no label of {table.origin} is a number, but the label_rule compares numbers"
    else:
        cause = f"no row of {table.origin} is usable ({reasons})"
    return RunnerError(
        "data",
        f"{cause}; column {columns.label!r} holds {shown}",
        "check the label column, label_rule, label_map and filters against these values",
    )


def _texts(table: SourceTable, column: str) -> list[str]:
    values = table.columns[column]
    for number, value in zip(table.numbers, values, strict=True):
        if isinstance(value, list | dict | bytes):
            raise RunnerError(
                "data",
                f"{table.origin}, row {number:,}: column {column!r} holds {type(value).__name__} values, not text",
                "name a column of texts with --text-column",
            )
    return [value if isinstance(value, str) else value_text(value) or "" for value in values]


def _ids(table: SourceTable) -> tuple[list[str], tuple[str, ...]]:
    """The source's `id` column where it identifies rows, else "<split>-<row number>"."""
    numbered = [f"{table.name}-{number}" for number in table.numbers]
    if "id" not in table.columns:
        return numbered, ()
    ids = [value_text(value) for value in table.columns["id"]]
    given = [each for each in ids if each is not None]
    if len(given) == len(ids) == len(set(given)):
        return given, ()
    return numbered, (f"The id column of {table.origin} has gaps or repeats; rows are known by their number.",)


def _plain(value: Any) -> str | int | float | None:
    """A kept value as Parquet and JSON carry it: strings and numbers as they are, anything else as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    return value_text(value)
