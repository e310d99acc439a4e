"""The answer in sentences: which model, and how sure the data are of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.board import Leaderboard, OverallRow, Row
from harness.metrics import format_interval
from harness.report.labels import RowKey, labels_of, row_key

_AnyRow = Row | OverallRow
Sureness = Literal["clear", "likely", "open", "none"]

_LIKELY = 0.8  # of the resamples that the best must win to be called likely
_NAMED = 4  # of a tie group; the others are counted


@dataclass(frozen=True)
class Verdict:
    """On one dataset, or over all. `winners`: labels of those that stand first. `sentences`: how sure that is."""

    scope: str
    winners: tuple[str, ...]
    sureness: Sureness
    sentences: tuple[str, ...]


def verdicts(board: Leaderboard) -> tuple[Verdict, ...]:
    """Over all datasets first, where there are several; then each dataset version, in the order of the board."""
    labels = labels_of(board)
    found = []
    if board.overall:
        found.append(_verdict(f"over {_count(len(_groups(board)), 'dataset')}", board.overall, labels, board))
    found += [_verdict(f"on {title}", rows, labels, board) for title, rows in _groups(board).items()]
    return tuple(found)


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


def _verdict(scope: str, rows: Sequence[_AnyRow], labels: Mapping[RowKey, str], board: Leaderboard) -> Verdict:
    first = [row for row in rows if row.rank == 1]
    if not first:
        return Verdict(scope, (), "none", ("No model is ranked: there are no predictions to rank by.",))
    names = tuple(labels[row_key(row)] for row in first)
    if len(rows) == 1:
        return Verdict(scope, names, "none", ("It is the only model, so there is nothing to compare it with.",))
    best = first[0]
    tied = [labels[row_key(row)] for row in rows if row.tie == best.tie and best.tie is not None and row not in first]
    sureness = _sureness(best, tied, len(first))
    return Verdict(scope, names, sureness, (*_standing(best, first, board), _tie_sentence(first, tied)))


def _sureness(best: _AnyRow, tied: Sequence[str], first: int) -> Sureness:
    if first > 1:
        return "open"
    if not tied and best.rank_high == 1:
        return "clear"
    return "likely" if best.p_best is not None and best.p_best >= _LIKELY else "open"


def _standing(best: _AnyRow, first: Sequence[_AnyRow], board: Leaderboard) -> tuple[str, ...]:
    score = best.metrics["score"]
    sentences = []
    if len(first) == 1:
        sentences.append(f"Score {format_interval('score', score.value, score.low, score.high)}.")
    else:
        sentences.append(f"{len(first)} models share the first place.")
    if len(first) == 1 and best.p_best is not None:
        sentences.append(f"It is the best in {best.p_best:.0%} of {board.replicates:,} resamples.")
    if len(first) == 1 and best.rank_low is not None and best.rank_high is not None:
        sentences.append(f"{_rank_words(best.rank_low, best.rank_high)} with {board.confidence:.0%} confidence.")
    return tuple(sentences)


def _rank_words(low: int, high: int) -> str:
    return f"Its true rank is {low}" if low == high else f"Its true rank lies between {low} and {high}"


def _tie_sentence(first: Sequence[_AnyRow], tied: Sequence[str]) -> str:
    if not tied:
        return "" if len(first) > 1 else "The data tell it apart from every other model."
    who = "them" if len(first) > 1 else "it"
    shown = list(tied[:_NAMED])
    if len(tied) > _NAMED:
        shown.append(f"{len(tied) - _NAMED} more")
    words = shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
    return f"The data do not tell {who} apart from {words}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
