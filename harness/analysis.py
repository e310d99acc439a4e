"""What a leaderboard tells beyond single rows: size against accuracy, encoders against decoders, method against method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.board import Contrast, Row, Scaling
from harness.statistics import FloatArray


@dataclass(frozen=True)
class RankedGroup:
    """One dataset version as ranked. `rows`: (M,) in the order of the arrays' columns. `samples`: accuracy and f1 ->
    joint bootstrap replicates (B, M); NaN for a row without predictions."""

    dataset: str
    fingerprint: str
    rows: tuple[Row, ...]
    samples: Mapping[str, FloatArray]
    confidence: float


def scaling_of(group: RankedGroup) -> tuple[Scaling, ...]:
    """A fit for each method with at least three models of known, different size, baselines left out."""
    raise NotImplementedError


def contrasts_of(group: RankedGroup) -> tuple[Contrast, ...]:
    """Each pair of methods that share models (same device), and encoders against decoders, in accuracy and F1; the
    interval is that of the mean difference over the pairs, over examples and seeds."""
    raise NotImplementedError
