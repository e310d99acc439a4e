"""What a comparison of models or runs, and a gate, come to, as data. Imports no numpy."""

from __future__ import annotations

from typing import Literal

from harness.board import Base, Figure

SCHEMA_VERSION = 1

Test = Literal["mcnemar", "randomisation", "randomisation_limit", "bootstrap", "bootstrap_limit"]
"""`_limit`: the distribution that the replicates tend to, where p is smaller than their number allows."""
Outcome = Literal["pass", "fail", "not_enough_evidence", "refused", "broken"]


class LeftOut(Base, frozen=True, kw_only=True):
    """What has no counterpart, or cannot be compared with it."""

    what: str
    reason: str


class Side(Base, frozen=True, kw_only=True):
    run: str
    model: str
    method: str
    device: str
    seeds: tuple[int, ...]


class QualityDifference(Base, frozen=True, kw_only=True):
    """`difference`: second minus first. `p`: two-sided, by `test`; `p_corrected`: Holm's, over `Comparison.family`.
    `detectable`: the smallest difference that data like these show with 80 % power, at the level that the first of the
    family is held to; null where none does. `needed`: where the two are not told apart, what would tell at that level,
    if they differ as much as it seems."""

    metric: str
    first: float
    second: float
    difference: Figure
    p: float
    p_corrected: float
    test: Test
    detectable: float | None
    needed: str | None


class SpeedRatio(Base, frozen=True, kw_only=True):
    """`ratio`: second over first; null, with the reason, where there is none."""

    metric: str
    first: float | None
    second: float | None
    ratio: Figure
    notes: tuple[str, ...] = ()


class Pair(Base, frozen=True, kw_only=True):
    """Two models on one dataset version. `notes`: what the figures leave out."""

    dataset: str
    fingerprint: str
    test_rows: int
    first: Side
    second: Side
    quality: tuple[QualityDifference, ...]
    speed: tuple[SpeedRatio, ...]
    notes: tuple[str, ...] = ()


class OverDatasets(Base, frozen=True, kw_only=True):
    """The same two over `datasets` datasets, five or more: mean of the differences, and Wilcoxon's signed-rank test of
    them, `p_corrected` by Holm over all such tests."""

    first: str
    second: str
    metric: str
    datasets: int
    difference: float
    p: float
    p_corrected: float


class Comparison(Base, frozen=True, kw_only=True):
    """`first`, `second`: as asked for. `family`: how many tests of quality are corrected together."""

    schema_version: int = SCHEMA_VERSION
    first: str
    second: str
    confidence: float
    replicates: int
    family: int
    pairs: tuple[Pair, ...]
    over_datasets: tuple[OverDatasets, ...]
    left_out: tuple[LeftOut, ...]


class Check(Base, frozen=True, kw_only=True):
    """One limit on one figure of one model on one dataset; `metric` is null where a cell broke, or the data are not the
    baseline's. `figure`: what is held to `limit`, with its interval: how far the metric drops from the baseline, or a
    ratio to it in which more is worse. `reason`: why it did not pass; empty where it did. `cell`: what broke."""

    outcome: Outcome
    dataset: str
    model: str
    method: str
    device: str
    metric: str | None
    kind: Literal["drop", "ratio"] | None
    limit: float | None
    baseline: float | None
    candidate: float | None
    figure: Figure | None
    reason: str
    cell: str | None = None
    notes: tuple[str, ...] = ()


class GateReport(Base, frozen=True, kw_only=True):
    """`outcome`: that of the gate as a whole."""

    schema_version: int = SCHEMA_VERSION
    run: str
    baseline: str
    outcome: Outcome
    exit_code: int
    confidence: float
    replicates: int
    checks: tuple[Check, ...]
    left_out: tuple[LeftOut, ...]
