"""Two models, or two runs, on the same test examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.entries import Entry
from harness.statistics import FloatArray


@dataclass(frozen=True)
class Significance:
    """All pairs of the models of one dataset, in the order given. `difference` (M, M): accuracy of the row's model minus
    that of the column's. `p` (M, M): two-sided, Holm-corrected over all pairs; NaN on the diagonal. `detectable`: the
    smallest difference that data like these show with 80 % power, median over pairs."""

    difference: FloatArray
    p: FloatArray
    detectable: float


def significance(entries: Sequence[Entry]) -> Significance:
    """Of the scored entries of one dataset version. With one seed each: exact McNemar; with several: paired bootstrap over
    examples and seeds."""
    raise NotImplementedError
