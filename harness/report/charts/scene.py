"""What all charts of one report share: looks, the order of rows, and the names of datasets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.board import Figure, Leaderboard, OverallRow, Row
from harness.report.charts.palette import Look, looks_of
from harness.report.charts.words import key_words
from harness.report.labels import RowKey, row_key
from harness.report.material import Material, ReportRow, Section
from harness.text import clean
from runner.contract import slug

AnyRow = Row | OverallRow

RANKING = "Which model"
QUALITY = "Quality"
SPEED = "Speed and memory"
TRAINING = "Training"
ANSWERS = "Errors and confidence"
DIFFERENCES = "What makes a difference"
NPS = "Net Promoter Score"


@dataclass(frozen=True)
class Part:
    """A section with a name that no other has (`title`). `slug`: what the ids of its charts end in."""

    section: Section
    title: str
    slug: str

    @property
    def rows(self) -> tuple[ReportRow, ...]:
        return self.section.rows

    @property
    def scored(self) -> tuple[ReportRow, ...]:
        """Those that `Section.significance` is of."""
        return tuple(one for one in self.rows if any(cell.record.predicted is not None for cell in one.cells))

    @property
    def by_key(self) -> dict[RowKey, ReportRow]:
        return {row_key(one.row): one for one in self.rows}


@dataclass(frozen=True)
class Scene:
    """`order`: every row of the report, the best overall first."""

    material: Material
    parts: tuple[Part, ...]
    order: tuple[RowKey, ...]
    labels: Mapping[RowKey, str]
    looks: Mapping[RowKey, Look]

    @property
    def board(self) -> Leaderboard:
        return self.material.board

    @property
    def confidence(self) -> float:
        return self.material.board.confidence

    def look(self, row: AnyRow) -> Look:
        return self.looks[row_key(row)]

    def label(self, row: AnyRow) -> str:
        return self.labels[row_key(row)]


@dataclass(frozen=True)
class SpeedGroup:
    """The rows of a dataset whose speeds may be compared. `left_out`: how many were timed at several places."""

    part: Part
    id_suffix: str
    title: str
    place: str
    rows: tuple[ReportRow, ...]
    left_out: int

    def note(self, sentence: str) -> str:
        if not self.left_out:
            return sentence
        rows = "1 row is" if self.left_out == 1 else f"{self.left_out} rows are"
        return f"{sentence} {rows} left out: timed at several places, their speeds are comparable with no other."


def scene_of(material: Material) -> Scene:
    rows = [one for section in material.sections for one in section.rows]
    labels = {row_key(one.row): one.label for one in rows}
    overall = [row_key(row) for row in material.board.overall if row_key(row) in labels]
    order = tuple(dict.fromkeys((*overall, *labels)))
    return Scene(material, _parts(material.sections), order, labels, looks_of(order))


def _parts(sections: Sequence[Section]) -> tuple[Part, ...]:
    versions = Counter(section.dataset for section in sections)
    titles = [clean(f"{s.dataset} ({s.fingerprint[:8]})" if versions[s.dataset] > 1 else s.dataset) for s in sections]
    return tuple(Part(section, title, slug(section.dataset)) for section, title in zip(sections, titles, strict=True))


def unique(names: Sequence[str]) -> list[str]:
    """With a number behind those that came before."""
    taken: set[str] = set()
    result = []
    for name in names:
        free = next(one for n in range(len(names)) if (one := name if n == 0 else f"{name}-{n + 1}") not in taken)
        taken.add(free)
        result.append(free)
    return result


def speed_groups(scene: Scene, part: Part) -> tuple[SpeedGroup, ...]:
    """Speeds of different places never share a chart: there would be one front over them."""
    timed = [one for one in part.rows if any(cell.result.timing for cell in one.cells)]
    found: dict[str, list[ReportRow]] = {}
    for one in timed:
        if one.row.speed_key is not None:
            found.setdefault(one.row.speed_key, []).append(one)
    left_out = sum(one.row.speed_key is None for one in timed)
    groups = []
    for place, (key, rows) in enumerate(found.items(), 1):
        words = clean(key_words(scene.board.speed_keys[key])) if key in scene.board.speed_keys else ""
        title = part.title if len(found) == 1 else f"{part.title} · {words or key}"
        suffix = part.slug if place == 1 else f"{part.slug}-place-{place}"
        groups.append(SpeedGroup(part, suffix, title, words, tuple(rows), left_out))
    return tuple(groups)


def metric(row: AnyRow, name: str) -> Figure | None:
    """None also where the figure has no value."""
    found = row.metrics.get(name)
    return found if found and found.value is not None else None
