"""The answer in sentences: which model, and how sure the data are of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.board import Leaderboard, Row
from harness.metrics import format_interval
from harness.report.labels import RowKey, labels_of, row_key
from harness.report.words import AnyRow, p_best_text

Sureness = Literal["clear", "likely", "open", "none"]

_LIKELY = 0.8  # of the resamples that the best must win to be called likely
_NAMED = 4  # of a tie group, or of datasets; the others are counted


@dataclass(frozen=True)
class Verdict:
    """On one dataset, or over all. `winners`: labels of those that stand first. `sentences`: how sure that is. `flags`:
    of the winners' rows, over all on any dataset."""

    scope: str
    winners: tuple[str, ...]
    sureness: Sureness
    sentences: tuple[str, ...]
    flags: tuple[str, ...] = ()


def verdicts(board: Leaderboard) -> tuple[Verdict, ...]:
    """Over all datasets first, where there are several; then each dataset version, in the order of the board."""
    labels = labels_of(board)
    on_each = [_verdict(f"on {title}", rows, labels, board) for title, rows in _groups(board).items()]
    datasets = len({row.dataset for row in board.rows})
    return (_over_all(board, labels, datasets), *on_each) if datasets > 1 else tuple(on_each)


def _over_all(board: Leaderboard, labels: Mapping[RowKey, str], datasets: int) -> Verdict:
    """A model alone on all datasets has won nothing: the others are not there yet."""
    scope = f"over {datasets} datasets"
    models, ranked = len({row_key(row) for row in board.rows}), len(board.overall)
    if not ranked:
        return Verdict(scope, (), "none", (f"No model is ranked on all {datasets} datasets yet.",))
    if ranked == 1:
        only = labels[row_key(board.overall[0])]
        rest = f"the other {models - 1} are not" if models > 2 else "the other one is not"
        alone = f"{only} is the only model, so there is nothing to compare it with."
        partly = f"Only {only} is ranked on all {datasets} datasets; {rest}."
        return Verdict(scope, (), "none", (partly if models > 1 else alone,))
    verdict = _verdict(scope, board.overall, labels, board)
    if ranked == models:
        return verdict
    words = f"{ranked} of {models} models are ranked on all {datasets} datasets; the others are left out here."
    return dataclasses.replace(verdict, sentences=(words, *verdict.sentences))


def _groups(board: Leaderboard) -> dict[str, list[Row]]:
    """Title -> rows; versions of one name are told apart by fingerprint."""
    versions: dict[tuple[str, str], list[Row]] = {}
    for row in board.rows:
        versions.setdefault((row.dataset, row.fingerprint), []).append(row)
    names = [name for name, _ in versions]
    return {
        f"{name} ({fingerprint[:8]})" if names.count(name) > 1 else name: rows
        for (name, fingerprint), rows in versions.items()
    }


def _verdict(scope: str, rows: Sequence[AnyRow], labels: Mapping[RowKey, str], board: Leaderboard) -> Verdict:
    first = [row for row in rows if row.rank == 1]
    if not first:
        return Verdict(scope, (), "none", ("No model is ranked: there are no predictions to rank by.",))
    names = tuple(labels[row_key(row)] for row in first)
    if len(rows) == 1:
        only = "It is the only model, so there is nothing to compare it with."
        return Verdict(scope, names, "none", (only,), _flags(first, board))
    best = first[0]
    tied = [labels[row_key(row)] for row in rows if row.tie == best.tie and best.tie is not None and row not in first]
    sureness = _sureness(best, tied, len(first))
    flags = _flags(first, board)
    sentences = (
        _chance_sentence(first, board),
        *_standing(best, first, board),
        _tie_sentence(first, tied),
        _quality_sentence(rows, first, labels),
    )
    return Verdict(scope, names, sureness, tuple(filter(None, sentences)), flags)


def _flags(first: Sequence[AnyRow], board: Leaderboard) -> tuple[str, ...]:
    keys = {row_key(row) for row in first}
    rows = [row for row in first if isinstance(row, Row)] or [row for row in board.rows if row_key(row) in keys]
    return tuple(sorted({flag for row in rows for flag in row.flags}))


def _sureness(best: AnyRow, tied: Sequence[str], first: int) -> Sureness:
    if first > 1:
        return "open"
    if not tied and best.rank_high == 1:
        return "clear"
    return "likely" if best.p_best is not None and best.p_best >= _LIKELY else "open"


def _standing(best: AnyRow, first: Sequence[AnyRow], board: Leaderboard) -> tuple[str, ...]:
    score = best.metrics["score"]
    sentences = []
    if len(first) == 1:
        sentences.append(f"Score {format_interval('score', score.value, score.low, score.high)}.")
    else:
        sentences.append(f"{len(first)} models share the first place.")
    if len(first) == 1 and best.p_best is not None:
        sentences.append(f"It is the best in {p_best_text(best.p_best)} of {board.replicates:,} resamples.")
    if len(first) == 1 and best.rank_low is not None and best.rank_high is not None:
        sentences.append(f"{_rank_words(best.rank_low, best.rank_high)} with {100 * board.confidence:g} % confidence.")
    return tuple(sentences)


def _rank_words(low: int, high: int) -> str:
    return f"Its true rank is {low}" if low == high else f"Its true rank lies between {low} and {high}"


def _tie_sentence(first: Sequence[AnyRow], tied: Sequence[str]) -> str:
    if not tied:
        return "" if len(first) > 1 else "The data tell it apart from every other model."
    who = "them" if len(first) > 1 else "it"
    return f"The data do not tell {who} apart from {_listed(tied)}."


def _listed(names: Sequence[str]) -> str:
    """The first few; the others are counted."""
    shown = [*names[:_NAMED], *([f"{len(names) - _NAMED} more"] if len(names) > _NAMED else [])]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _chance_sentence(first: Sequence[AnyRow], board: Leaderboard) -> str:
    """What a score that weighs speed hides of a model that only guesses; over all, on which datasets it does."""
    guess = "not surely above that of always naming the most frequent class: the score weighs speed, too."
    if all(isinstance(row, Row) for row in first):
        guessing = any("at_chance" in row.flags for row in first if isinstance(row, Row))
        return f"Accuracy is {guess}" if guessing else ""
    keys = {row_key(row) for row in first}
    names = [row.dataset for row in board.rows if row_key(row) in keys and "at_chance" in row.flags]
    return f"Accuracy on {_listed(list(dict.fromkeys(names)))} is {guess}" if names else ""


def _quality_sentence(rows: Sequence[AnyRow], first: Sequence[AnyRow], labels: Mapping[RowKey, str]) -> str:
    """Who leads in F1, where that is another: the score weighs speed, too."""
    known = [(value, row) for row in rows if (value := row.metrics["f1"].value) is not None]
    value, leader = max(known, key=lambda one: one[0], default=(None, None))
    if value is None or leader is None or any(row.metrics["f1"].value == value for row in first):
        return ""
    figure = leader.metrics["f1"]
    return f"In F1 alone {labels[row_key(leader)]} leads: {format_interval('f1', value, figure.low, figure.high)}."
