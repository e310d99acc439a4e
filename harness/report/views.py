"""The sections that a leaderboard is read in: by dataset, by method, or by the size of the models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, get_args

from harness.board import Contrast, Leaderboard, Row, Scaling
from harness.metrics import METRICS
from harness.report.words import difference_text, method_text, seeds_text
from harness.text import clean
from runner.contract import METHODS

By = Literal["dataset", "method", "size"]
VIEWS: tuple[By, ...] = get_args(By)


@dataclass(frozen=True)
class Section:
    """Rows of one dataset version. `blocks`: the rows as they belong together, all in one where nothing parts them.
    `beneath`: what the rows tell together, a line each."""

    title: str
    by: By
    blocks: tuple[tuple[Row, ...], ...]
    beneath: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for block in self.blocks for row in block)


def sections_of(board: Leaderboard, by: By = "dataset") -> Iterator[Section]:
    """Every dataset version in the order of the board; versions of one name are told apart by fingerprint.

    By dataset: rows by rank. By method: rows by method, then rank, and what one method gains on another. By size: rows
    by their number of parameters, how accuracy grows with it, and encoders against decoders.
    """
    names = [name for name, _ in {(row.dataset, row.fingerprint): None for row in board.rows}]
    for (dataset, fingerprint), group in groupby(board.rows, key=lambda row: (row.dataset, row.fingerprint)):
        rows = tuple(group)
        version = f" ({clean(fingerprint)[:8]})" if names.count(dataset) > 1 else ""
        contrasts = [one for one in board.contrasts if (one.dataset, one.fingerprint) == (dataset, fingerprint)]
        fits = [one for one in board.scaling if (one.dataset, one.fingerprint) == (dataset, fingerprint)]
        yield Section(
            title=" · ".join([f"{clean(dataset)}{version}", *_shared(rows)]),
            by=by,
            blocks=tuple(_blocks(rows, by)),
            beneath=tuple(_beneath(by, fits, contrasts)),
        )


def _blocks(rows: Sequence[Row], by: By) -> Iterator[tuple[Row, ...]]:
    if by == "method":
        for _, block in groupby(sorted(rows, key=_method_place), key=lambda row: row.method):
            yield tuple(block)
    elif by == "size":
        yield tuple(sorted(rows, key=lambda row: (row.parameters is None, row.parameters)))
    else:
        yield tuple(rows)


def _method_place(row: Row) -> int:
    """Methods stand in the contract's order."""
    return next((place for place, method in enumerate(METHODS) if method == row.method), len(METHODS))


def _beneath(by: By, fits: Iterable[Scaling], contrasts: Iterable[Contrast]) -> Iterator[str]:
    if by == "size":
        yield from map(_scaling_line, fits)
    kind = {"method": "method", "size": "architecture"}.get(by)
    chosen = [one for one in contrasts if one.kind == kind]
    for _, metrics in groupby(chosen, key=lambda one: (one.method, one.first, one.second)):
        yield _contrast_line(list(metrics))


def _scaling_line(fit: Scaling) -> str:
    return (
        f"{method_text(fit.method)}: accuracy {difference_text(fit.slope)} for ten times the parameters "
        f"({fit.models} models, off the line by {fit.residual:.3f})"
    )


def _contrast_line(metrics: Sequence[Contrast]) -> str:
    """The metrics of one pair of kinds."""
    one = metrics[0]
    differences = ", ".join(f"{METRICS[m.metric].title} {difference_text(m.difference)}" for m in metrics)
    if one.kind == "method":
        models = "1 model" if one.pairs == 1 else f"{one.pairs} models"
        return f"{method_text(one.first)} against {method_text(one.second)}: {differences} ({models})"
    method = f"{method_text(one.method)}: " if one.method else ""
    return f"{method}{clean(one.first)} against {clean(one.second)}: {differences} (at least {one.pairs} of each)"


def _shared(rows: Sequence[Row]) -> list[str]:
    """What all rows of a section have in common."""
    parts = []
    if largest := max(row.test_rows for row in rows):
        parts.append(f"{largest:,} test rows")
    if len({row.method for row in rows}) == 1 and rows[0].method != "none":
        parts.append(method_text(rows[0].method))
    if len({row.device for row in rows}) == 1:
        parts.append(clean(rows[0].device))
    if len({row.seeds for row in rows}) == 1:
        parts.append(f"{'seed' if len(rows[0].seeds) == 1 else 'seeds'} {seeds_text(rows[0].seeds)}")
    return parts
