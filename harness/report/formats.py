"""A leaderboard as JSON, CSV, Markdown, and one flat JSON a row."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from harness.board import Figure, Leaderboard, OverallRow, Row, to_builtins
from harness.metrics import METRICS, SPEED_METRICS
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
)
from harness.store import writing
from harness.text import clean
from runner.contract import Summary, slug, write_atomic

CSV_HEAD = (
    "dataset", "fingerprint", "rank", "rank_low", "rank_high", "p_best", "tie", "model", "method", "device", "seeds",
    "test_rows", "architecture", "parameters", "pareto", "speed_key", "flags",
)  # fmt: skip


_PER_SIZE = "accuracy_per_million_parameters"  # a column where models are read by size


def as_json(board: Leaderboard) -> str:
    """The board as indented JSON, every metric at the top level of its row."""
    return msgspec.json.format(msgspec.json.encode(to_builtins(board)), indent=2).decode() + "\n"


# --- CSV --------------------------------------------------------------------------------------


def as_csv(board: Leaderboard) -> str:
    """One line a row; three columns a metric (`f1`, `f1_low`, `f1_high`), for speeds a fourth (`_level`: what it is
    shown and scored as). Empty for null, lists joined by blanks, true and false in small letters.

    Names that a spreadsheet would run as a formula get a quote in front; the other formats have them as they are.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*CSV_HEAD, *(column for name in METRICS for column in _figure_heads(name))])
    writer.writerows(
        [*_csv_head(row), *(x for name in METRICS for x in _figure_cells(name, row))] for row in board.rows
    )
    return out.getvalue()


def _csv_head(row: Row) -> list[str | int | float | None]:
    """In the order of CSV_HEAD."""
    return [
        *(no_formula(row.dataset), row.fingerprint),
        *(row.rank, row.rank_low, row.rank_high, row.p_best, row.tie),
        *(no_formula(row.model), no_formula(row.method), row.device, seeds_text(row.seeds).replace(",", "")),
        *(row.test_rows, None if row.architecture is None else no_formula(row.architecture), row.parameters),
        *(None if row.pareto is None else str(row.pareto).lower(), row.speed_key, " ".join(row.flags)),
    ]


def _figure_heads(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high", *([f"{name}_level"] if name in SPEED_METRICS else [])]


def _figure_cells(name: str, row: Row) -> list[float | None]:
    figure = row.metrics.get(name) or Figure(value=None, low=None, high=None)
    return [figure.value, figure.low, figure.high, *([figure.level] if name in SPEED_METRICS else [])]


def no_formula(name: str) -> str:
    """A name as a spreadsheet takes for text (OWASP, "CSV Injection")."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name


# --- Markdown ---------------------------------------------------------------------------------


def as_markdown(board: Leaderboard, by: By = "dataset") -> str:
    """A GitHub table a dataset version, the means over datasets, and what marks and flags mean."""
    if not board.rows:
        return EMPTY + "\n"
    lines: list[str] = []
    for section in sections_of(board, by):
        lines += [f"### {_escape(section.title)}", "", *_section_table(section), ""]
        lines += [*(f"- {_escape(line)}" for line in section.beneath), ""] if section.beneath else []
    if board.overall and by == "dataset":
        lines += ["### mean over datasets", "", *_overall_table(board.overall), ""]
        lines += [f"- {across}\n" for across in [across_text(board)] if across]
    lines += [f"- {_escape(meaning.mark)}: {meaning.words}" for meaning in mark_meanings(board, "Tie")]
    lines += [f"- `{flag}`: {words}" for flag, words in flag_meanings(note_letters(board.rows)).items()]
    return "\n".join(lines).rstrip() + "\n"


def _section_table(section: Section) -> list[str]:
    metrics = [*HEADINGS] if section.by == "size" else [name for name in HEADINGS if name != _PER_SIZE]
    heads = [*_PLACE_HEADS, "Parameters", "Seeds", *(HEADINGS[name] for name in metrics), "Flags"]
    cells = [
        [*_place_cells(row), parameters_text(row.parameters), seeds_text(row.seeds)]
        + [interval_text(name, row) for name in metrics]
        + [", ".join(row.flags)]
        for row in section.rows
    ]
    return _markdown_table(heads, cells)


def _overall_table(rows: Sequence[OverallRow]) -> list[str]:
    metrics = ("score", "accuracy", "f1")
    heads = [*_PLACE_HEADS, *(HEADINGS[name] for name in metrics)]
    return _markdown_table(heads, [[*_place_cells(row), *(interval_text(m, row) for m in metrics)] for row in rows])


_PLACE_HEADS = ("#", "Tie", "P(best)", "Model", "Method", "Device")


def _place_cells(row: AnyRow) -> list[str]:
    front = ON_FRONT if isinstance(row, Row) and row.pareto else ""
    rank = " ".join(part for part in (rank_text(row), rank_span_text(row), front) if part)
    tie = "" if row.tie is None else str(row.tie)
    return [rank, tie, p_best_text(row.p_best), _escape(row.model), method_text(row.method), clean(row.device)]


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *rows)]


def _escape(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table."""
    return re.sub(r"([\\|<>\[\]`*_~&])", r"\\\1", clean(text))


# --- one flat JSON a row ----------------------------------------------------------------------


def flat_models(board: Leaderboard) -> Iterator[Summary]:
    """The flat figures that existing tooling reads, of one row each in the order of the board: means over seeds."""
    for row in board.rows:
        values = {name: row.metrics[name].value for name in _FLAT_METRICS if name in row.metrics}
        yield Summary(model_name=row.model, **values)


_FLAT_METRICS = tuple(name for name in Summary.__struct_fields__ if name != "model_name")


def write_flat(board: Leaderboard, folder: Path) -> list[Path]:
    """One file a row, `<model>--<dataset>--<method>.json`; rows that would share a name have a hash in theirs. Raises
    SetupError where the folder cannot be written."""
    stems = ["--".join(map(slug, (row.model, row.dataset, row.method))) for row in board.rows]
    shared = {stem for stem, rows in Counter(stems).items() if rows > 1}
    paths = []
    for row, stem, flat in zip(board.rows, stems, flat_models(board), strict=True):
        path = folder / f"{f'{stem}--{_digest(row)}' if stem in shared else stem}.json"
        with writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, msgspec.json.format(msgspec.json.encode(flat), indent=2) + b"\n", durable=False)
        paths.append(path)
    return paths


def _digest(row: Row) -> str:
    """Of what makes a row: the same in every run, whatever else is on the board."""
    parts = (row.model, row.dataset, row.fingerprint, row.method, row.device)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
