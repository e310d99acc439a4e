"""Where a dataset comes from -> one table per canonical split, all values kept as read.

A table is plain Python columns rather than a pandas frame: pandas would turn a missing integer into a float and
costs more to import than SST-2 costs to prepare.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from runner.contract import SPLITS, DatasetRequest, Split
from runner.data.files import Columns, read_file
from runner.errors import RunnerError

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class SourceTable:
    """Rows of one split as the source has them. `numbers`: 1-based row numbers in the source."""

    name: str  # the source's own name for this split: part of a row's id
    origin: str  # what to call it to the user: a file name, or the split's name
    columns: Columns
    numbers: Sequence[int]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # column -> names behind its integers

    def take(self, name: str, rows: Sequence[int]) -> SourceTable:
        """Some rows, by position, as a split of their own."""
        columns = {column: [values[row] for row in rows] for column, values in self.columns.items()}
        return replace(self, name=name, columns=columns, numbers=[self.numbers[row] for row in rows])


@dataclass(frozen=True)
class Source:
    """All tables of a dataset. `train` is the pool from which splits that have no table are cut."""

    tables: dict[Split, SourceTable]
    dropped: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    revision: str | None = None  # the hub's commit, Kaggle's version


def table_of(name: str, origin: str, columns: Columns, class_names: Mapping[str, tuple[str, ...]]) -> SourceTable:
    """A whole source table, its rows numbered from 1."""
    rows = len(next(iter(columns.values()), []))
    return SourceTable(name, origin, columns, range(1, rows + 1), class_names)


def read_source(request: DatasetRequest) -> Source:
    """Read what the request names. Raises RunnerError (`data`, `configuration`, `environment`, `disk_full`)."""
    if request.source == "hub":
        from runner.data.hub import read_hub

        source = read_hub(request)
    elif request.source == "kaggle":
        from runner.data.kaggle import read_kaggle

        source = read_kaggle(request)
    else:
        source = read_files(request)
    read = ", ".join(f"{len(t.numbers):,} rows from {t.origin} ({t.name})" for t in source.tables.values())
    source = replace(source, notes=(f"Read {read}.", *source.notes))
    return _partition(source, request) if request.split_column else source


def read_files(request: DatasetRequest) -> Source:
    """Tables of local files: `files` maps a split, or "all" for a pool, to a path."""
    _check_files(request)
    tables: dict[Split, SourceTable] = {}
    notes: list[str] = []
    for given, path in request.files.items():
        table = read_file(Path(path), wanted_columns(request))
        tables[canonical(given)] = table_of(given, Path(path).name, table.columns, {})
        notes += table.notes
    return Source(tables, notes=tuple(notes))


def canonical(given: str) -> Split:
    """The split that a key of `files` stands for; "all" is the pool."""
    return "train" if given == "all" else SPLIT_NAMES[given]


def _check_files(request: DatasetRequest) -> None:
    unknown = [key for key in request.files if key != "all" and key not in SPLITS]
    if unknown:
        raise RunnerError(
            "configuration",
            f"dataset {request.name!r}: files has the key {unknown[0]!r}",
            f"use {', '.join(SPLITS)}, or all for one file that is yet to be split",
        )
    if "all" in request.files and "train" in request.files:
        raise RunnerError(
            "configuration", f"dataset {request.name!r}: files has both all and train", "name the training file once"
        )
    if not {"all", "train"} & set(request.files):
        raise RunnerError(
            "configuration",
            f"dataset {request.name!r} names no file with training rows",
            "give train: FILE, or file: FILE for one that is yet to be split",
        )


def wanted_columns(request: DatasetRequest) -> frozenset[str]:
    """The columns a request needs, or nothing (all are needed) where some must be guessed."""
    if not (request.text_column and request.label_column):
        return frozenset()
    named = {request.text_column, request.label_column, *request.keep_columns, *request.slice_columns}
    return frozenset(named | set(request.filters) | ({request.split_column} if request.split_column else set()))


def choose_splits(request: DatasetRequest, available: Sequence[str], origin: str) -> dict[Split, str]:
    """Which of the source's own split names serve as train, validation and test.

    What the request maps goes first; else the usual names; a source with a single split is a pool.
    Raises RunnerError (`configuration`, `data`).
    """
    for name in request.splits.values():
        if name not in available:
            near = difflib.get_close_matches(name, available, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(map(repr, available))}"
            raise RunnerError("configuration", f"{origin} has no split {name!r}", hint)
    if request.splits:
        chosen = dict(request.splits)
    else:
        chosen = {}
        for name in available:
            split = SPLIT_NAMES.get(name.casefold())
            if split and split not in chosen:
                chosen[split] = name
        if len(available) == 1:
            chosen = {"train": available[0]}
    if len(set(chosen.values())) < len(chosen):
        raise RunnerError(
            "configuration", f"dataset {request.name!r} uses one split of {origin} twice", "map each split to its own"
        )
    if "train" not in chosen:
        raise RunnerError(
            "data",
            f"{origin} has no training split (it has: {', '.join(map(repr, available))})",
            "say which one is which: splits: {train: ..., test: ...}",
        )
    return chosen


def _partition(source: Source, request: DatasetRequest) -> Source:
    """Split one table by the values of `split_column`; rows of any other value are dropped and counted."""
    column = request.split_column or ""
    if set(source.tables) != {"train"}:
        raise RunnerError(
            "configuration",
            f"dataset {request.name!r} has a split_column and separate splits as well",
            "give one file (file: PATH) with split_column, or train, validation and test without it",
        )
    table = source.tables["train"]
    if column not in table.columns:
        raise missing_column("split_column", column, list(table.columns), table.origin)
    rows: dict[str, list[int]] = {}
    for row, value in enumerate(table.columns[column]):
        rows.setdefault("" if value is None else str(value).strip(), []).append(row)
    chosen = choose_splits(request, list(rows), f"column {column!r} of {table.origin}")
    tables = {split: table.take(name, rows[name]) for split, name in chosen.items()}
    others = {name: len(found) for name, found in rows.items() if name not in chosen.values()}
    if not others:
        return Source(tables, notes=source.notes)
    listed = ", ".join(f"{name!r}" for name in list(others)[:5])
    note = f"{sum(others.values()):,} rows belong to none of the splits used (column {column!r}: {listed})."
    return Source(tables, {"other_split": sum(others.values())}, (*source.notes, note))


def missing_column(role: str, name: str, available: list[str], origin: str) -> RunnerError:
    """The error for a column that is not there, with the nearest one that is."""
    by_folded = {column.casefold(): column for column in available}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    guess = f"did you mean {by_folded[near[0]]!r}? " if near else ""
    option = f"--{role.replace('_', '-')}" if role in ("text_column", "label_column") else role
    return RunnerError(
        "data",
        f"{origin} has no column {name!r}; it has: {', '.join(available)}",
        f"{guess}Name the right one with {option}",
    )
