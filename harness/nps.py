"""Net Promoter Score: what reviewers' ratings say, and what a classifier makes of their texts."""

from __future__ import annotations

from harness.board import Base, Figure
from harness.evidence import Evidence

OVERALL = ""  # the branch of a line over all branches


class NpsLine(Base, frozen=True, kw_only=True):
    """One line: the actual ratings (`model` None) or a model, of one branch or overall. `nps`: -100 to 100. Shares sum to
    1. `error`: model minus actual on the same reviews; `accuracy`: against rating >= 4; both null for the actual."""

    model: str | None
    method: str | None
    device: str | None
    seeds: tuple[int, ...]
    branch: str
    reviews: int
    nps: Figure
    promoters: float
    passives: float
    detractors: float
    error: Figure | None
    accuracy: Figure | None


class Nps(Base, frozen=True, kw_only=True):
    """Of one dataset version. `sample`: at most so many reviews of each branch and overall, drawn with `seed`."""

    dataset: str
    fingerprint: str
    threshold: float
    sample: int
    seed: int
    confidence: float
    replicates: int
    lines: tuple[NpsLine, ...]


def nps_of(evidence: Evidence, threshold: float = 0.8) -> tuple[Nps, ...]:
    """One for each dataset of two classes with ratings from 1 to 5. Raises InputError where there is none."""
    raise NotImplementedError
