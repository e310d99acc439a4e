"""Test examples and what a cell answered to each: texts, kept source columns, probabilities."""

from __future__ import annotations

from collections.abc import Sequence

from harness.entries import CellRecord
from harness.statistics import FloatArray


def test_examples(record: CellRecord, columns: Sequence[str]) -> dict[str, list[str]]:
    """These columns of the prepared test split, in the order of the cell's predictions, as text ("" for null); `text`
    and `id` are always there to be had. Raises InputError where the prepared dataset is gone, is another than the cell
    saw, or lacks a column."""
    raise NotImplementedError


def probabilities(record: CellRecord) -> FloatArray:
    """(n, K), rows summing to 1. Raises ContractError where the file is not what the runner writes."""
    raise NotImplementedError
