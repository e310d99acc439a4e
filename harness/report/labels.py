"""How a report names the rows of a leaderboard."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from harness.board import Leaderboard, OverallRow, Row


class RowKey(NamedTuple):
    model: str
    method: str
    device: str


def row_key(row: Row | OverallRow) -> RowKey:
    return RowKey(row.model, row.method, row.device)


def labels_of(board: Leaderboard) -> dict[RowKey, str]:
    """The same on every dataset: the model, with its method and device where they tell rows apart; a baseline has no
    method."""
    keys = list(dict.fromkeys([*map(row_key, board.rows), *map(row_key, board.overall)]))
    methods = Counter(key.model for key in {key._replace(device="") for key in keys})
    devices = Counter((key.model, key.method) for key in keys)
    labels = {}
    for key in keys:
        parts = [key.model]
        if methods[key.model] > 1 and key.method != "none":
            parts.append(key.method)
        if devices[key.model, key.method] > 1:
            parts.append(key.device)
        labels[key] = " ".join(parts)
    taken = Counter(labels.values())
    return {key: label if taken[label] == 1 else " · ".join(key) for key, label in labels.items()}
