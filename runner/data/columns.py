"""Which column is the text, which the label: as told, or guessed where there is only one answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.contract import DatasetRequest
from runner.data.prepared import STANDARD_COLUMNS
from runner.data.sources import SourceTable, missing_column
from runner.errors import RunnerError

# Names by tier: one column of the first tier that has any is the answer, two of one tier are ambiguous.
TEXT_NAMES = (
    ("text", "sentence", "review", "review_text", "reviewtext", "content", "comment", "comment_text", "message",
     "body", "tweet", "post", "utterance", "document", "full_text"),
    ("title", "headline", "summary", "subject", "description", "question"),
)  # fmt: skip
LABEL_NAMES = (
    ("label", "labels", "class", "target"),
    ("sentiment", "category", "emotion", "mood", "polarity", "topic", "intent", "rating", "stars", "score"),
)
SAMPLE_ROWS = 5_000
MIN_TEXT_CHARS = 20  # mean length from which a column may be free text


@dataclass(frozen=True)
class ChosenColumns:
    """Names in the source. `kept` includes `slices`."""

    text: str
    label: str
    kept: tuple[str, ...]
    slices: tuple[str, ...]
    notes: tuple[str, ...]


def choose_columns(request: DatasetRequest, tables: Sequence[SourceTable]) -> ChosenColumns:
    """Columns for all tables of a source; `tables[0]`, the training rows, serves for guesses.

    Raises RunnerError: `data` where a column is missing or cannot be guessed, `configuration` where a kept column
    would hide a standard one.
    """
    notes = []
    table = tables[0]
    text, label = request.text_column, request.label_column
    if text is None:
        text = _guess("text", table, _taken(request, label), request)
        notes.append(f"text column: {text!r} (guessed)")
    if label is None:
        label = _guess("label", table, _taken(request, text), request)
        notes.append(f"label column: {label!r} (guessed)")
    if text == label:
        raise RunnerError(
            "configuration",
            f"{text!r} is named as both text and label",
            "name two columns: --text-column, --label-column",
        )
    kept = tuple(dict.fromkeys((*request.keep_columns, *request.slice_columns)))
    hidden = [name for name in kept if name in STANDARD_COLUMNS]
    if hidden:
        raise RunnerError(
            "configuration",
            f"the column {hidden[0]!r} cannot be kept under its name",
            "leave it out of keep_columns: id, text and label are always there; or rename it in the source",
        )
    roles = {**dict.fromkeys(request.filters, "filters"), **dict.fromkeys(kept, "keep_columns")}
    roles |= {label: "label_column", text: "text_column"}
    for each in tables:
        for name, role in reversed(roles.items()):
            if name not in each.columns:
                raise missing_column(role, name, list(each.columns), each.origin)
    return ChosenColumns(text, label, kept, request.slice_columns, tuple(notes))


def _taken(request: DatasetRequest, other: str | None) -> frozenset[str]:
    """Columns that are something else already."""
    named = (other, request.split_column, *request.keep_columns, *request.slice_columns)
    return frozenset(name for name in named if name)


def _guess(role: str, table: SourceTable, taken: frozenset[str], request: DatasetRequest) -> str:
    free = [name for name in table.columns if name not in taken]
    for tier in TEXT_NAMES if role == "text" else LABEL_NAMES:
        candidates = [name for name in free if _folded(name) in tier]
        if candidates:
            break
    else:
        fits = _is_free_text if role == "text" else _is_category
        candidates = [name for name in free if _folded(name) != "id" and fits(table.columns[name][:SAMPLE_ROWS])]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        found = ", ".join(map(repr, candidates))
        cause = f"{table.origin} has several columns that could be the {role}: {found}"
    else:
        cause = f"{table.origin} has no column that looks like the {role}; it has: {', '.join(table.columns)}"
    raise RunnerError("data", cause, f"name the right one with --{role}-column (dataset {request.name!r})")


def _folded(name: str) -> str:
    """Lower case, words joined by underscores: "Review Text" and "review-text" are "review_text"."""
    return re.sub(r"\W+", "_", name.strip().casefold()).strip("_")


def _is_free_text(values: list[Any]) -> bool:
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    if not texts or len(texts) < len(values) / 2:
        return False
    long = sum(map(len, texts)) / len(texts) >= MIN_TEXT_CHARS
    worded = sum(" " in text.strip() for text in texts) > len(texts) / 2
    return long and worded and len(set(texts)) > len(texts) / 2


def _is_category(values: list[Any]) -> bool:
    present = [str(value).strip() for value in values if value is not None and not isinstance(value, list | dict)]
    distinct = len(set(present) - {""})
    return 2 <= distinct <= min(50, len(present) // 2)
