"""Everything a report shows, read once; charts and tables are functions of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.board import Leaderboard, Row
from harness.compare import Significance
from harness.entries import CellRecord
from harness.nps import Nps
from harness.record import RunRecord
from harness.statistics import FloatArray
from runner.contract import Failure, Result


@dataclass(frozen=True)
class ReportCell:
    """One finished cell with all of its result: curves, raw latencies, confusion, per class, per slice, provenance."""

    record: CellRecord
    result: Result


@dataclass(frozen=True)
class Reliability:
    """Of one row's predictions, seeds pooled, in 15 equal bins of confidence: share of examples, their mean confidence
    and accuracy, each (15,), NaN where a bin is empty; `ece` over the bins."""

    share: FloatArray
    confidence: FloatArray
    accuracy: FloatArray
    ece: float


@dataclass(frozen=True)
class ReportRow:
    """One row of the leaderboard with its cells, by seed. `label`: tells it from the other rows of its dataset, such as
    "MiniLM-L6 lora"; the same model has the same label on every dataset."""

    row: Row
    label: str
    cells: tuple[ReportCell, ...]
    reliability: Reliability | None  # None: no probabilities could be read


@dataclass(frozen=True)
class Disagreement:
    """A test text on which models differ. `answers`: label of the row -> predicted label (of the first seed)."""

    id: str
    text: str  # cut where it is long
    label: str
    answers: Mapping[str, str]


@dataclass(frozen=True)
class Section:
    """One dataset version. `disagreements`: those on which the models are most divided, at most some hundred;
    `disagreements_total`: how many there are. `no_texts`: why texts cannot be shown."""

    dataset: str
    fingerprint: str
    label_names: tuple[str, ...]
    rows: tuple[ReportRow, ...]
    significance: Significance | None  # in the order of those `rows` that are scored
    disagreements: tuple[Disagreement, ...]
    disagreements_total: int
    no_texts: str | None


@dataclass(frozen=True)
class Material:
    run: RunRecord
    board: Leaderboard
    sections: tuple[Section, ...]
    nps: tuple[Nps, ...]
    no_nps: str | None  # why `nps` is empty
    failures: tuple[Failure, ...]
    missing: int


@dataclass(frozen=True)
class Chart:
    """One Plotly figure. `id` is unique in the page and fit for a file name: "accuracy-latency". `figure`: its JSON as
    Plotly.newPlot takes it ({"data": [...], "layout": {...}}), without colours of background, font and grid, which the
    page sets for light and dark. `group`: the heading it stands under. `note`: what to read from it, one sentence."""

    id: str
    title: str
    group: str
    note: str
    figure: Mapping[str, Any]
