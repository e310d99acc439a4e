"""Net Promoter Score: what the ratings say, and what each model makes of the texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.board import Figure
from harness.nps import OVERALL, Nps, NpsLine
from harness.report.charts.figures import (
    Json,
    Panel,
    axis,
    chart,
    dots,
    error_bars,
    legend_below,
    side_by_side,
    upright,
    values_of,
)
from harness.report.charts.palette import DETRACTORS, NEUTRAL, PASSIVES, PROMOTERS, Look
from harness.report.charts.scene import NPS, Scene
from harness.report.charts.words import escaped, hover, percent, short, signed_line
from harness.report.labels import RowKey
from harness.report.material import Chart

ACTUAL = "actual ratings"
MOST_BRANCHES = 11
_CATEGORIES = (("detractors", DETRACTORS), ("passives", PASSIVES), ("promoters", PROMOTERS))


@dataclass(frozen=True)
class _Table:
    """The lines of one dataset by branch and row; None is the row of the actual ratings, the first of `keys`."""

    nps: Nps
    title: str
    slug: str
    keys: tuple[RowKey | None, ...]
    branches: tuple[str, ...]
    lines: dict[tuple[str, RowKey | None], NpsLine]
    branches_total: int

    def column(self, branch: str) -> list[NpsLine | None]:
        return [self.lines.get((branch, key)) for key in self.keys]


def nps_charts(scene: Scene) -> Iterator[Chart]:
    for nps in scene.material.nps:
        table = _table_of(scene, nps)
        yield _scores(scene, table)
        yield _shares(scene, table)
        if any(line.error for line in nps.lines):
            yield _errors(scene, table)


def _table_of(scene: Scene, nps: Nps) -> _Table:
    lines = {(line.branch, _key(line)): line for line in nps.lines}
    present = {key for _, key in lines if key is not None}
    known = [key for key in scene.order if key in present]
    part = next(
        (p for p in scene.parts if (p.section.dataset, p.section.fingerprint) == (nps.dataset, nps.fingerprint)), None
    )
    named = list(dict.fromkeys(line.branch for line in nps.lines if line.branch != OVERALL))
    return _Table(
        nps=nps,
        title=part.title if part else nps.dataset,
        slug=part.slug if part else "dataset",
        keys=(None, *known),
        branches=(OVERALL, *named[:MOST_BRANCHES]),
        lines=lines,
        branches_total=len(named),
    )


def _key(line: NpsLine) -> RowKey | None:
    if line.model is None:
        return None
    return RowKey(line.model, line.method or "none", line.device or "cpu")


def _name(branch: str) -> str:
    return "all branches" if branch == OVERALL else branch


def _label(scene: Scene, key: RowKey | None) -> str:
    return ACTUAL if key is None else scene.labels[key]


def _heading(table: _Table, branch: str) -> str:
    found = next((line.reviews for line in table.column(branch) if line), 0)
    return f"{short(_name(branch), 24)} ({found:,})"


def _look(scene: Scene, key: RowKey | None) -> Look:
    return Look(NEUTRAL, "diamond-tall", "solid") if key is None else scene.looks[key]


def _note(scene: Scene, table: _Table, sentence: str) -> str:
    note = f"{sentence} In brackets the number of reviews. Bars are {percent(table.nps.confidence)} intervals."
    if len(table.branches) - 1 < table.branches_total:
        note += f" {len(table.branches) - 1} of {table.branches_total} branches are shown."
    return note


def _columns(
    scene: Scene, table: _Table, panels: Sequence[Panel], rows: Sequence[RowKey | None], **layout: Any
) -> Json:
    return side_by_side([_label(scene, key) for key in rows], panels, per_line=4, **layout)


# --- score and error --------------------------------------------------------------------------------


def _scores(scene: Scene, table: _Table) -> Chart:
    panels = []
    for branch in table.branches:
        lines = table.column(branch)
        actual = lines[0]
        reference = [upright(actual.nps.value)] if actual and actual.nps.value is not None else []
        panels.append(_dot_panel(scene, table, branch, [line.nps if line else None for line in lines], reference))
    sentence = (
        "The dotted line is what the ratings say; a model whose interval lies beside it would report another NPS from "
        "the texts alone."
    )
    figure = _columns(scene, table, panels, table.keys)
    title = f"NPS, actual and by model · {table.title}"
    return chart(f"nps-{table.slug}", title, NPS, _note(scene, table, sentence), figure)


def _dot_panel(
    scene: Scene, table: _Table, branch: str, figures: Sequence[Figure | None], shapes: Sequence[Json]
) -> Panel:
    looks = [_look(scene, key) for key in table.keys]
    hovers = [_line_hover(scene, table, branch, key) for key in table.keys]
    trace = dots(looks, values_of(figures), hovers, error_x=error_bars(figures))
    return Panel(_heading(table, branch), [trace], axis("NPS (points)"), shapes)


def _line_hover(scene: Scene, table: _Table, branch: str, key: RowKey | None) -> str:
    line = table.lines.get((branch, key))
    if line is None:
        return ""
    shares = ", ".join(f"{name} {percent(getattr(line, name))}" for name, _ in reversed(_CATEGORIES))
    return hover(
        _label(scene, key),
        f"{escaped(_name(branch))}, {line.reviews:,} reviews",
        signed_line("NPS", line.nps, 1, table.nps.confidence),
        signed_line("Error", line.error, 1, table.nps.confidence) if line.error else "",
        shares,
    )


def _errors(scene: Scene, table: _Table) -> Chart:
    keys = table.keys[1:]
    looks = [_look(scene, key) for key in keys]
    panels = []
    for branch in table.branches:
        figures = [line.error if line else None for line in table.column(branch)[1:]]
        hovers = [_line_hover(scene, table, branch, key) for key in keys]
        trace = dots(looks, values_of(figures), hovers, error_x=error_bars(figures))
        panels.append(Panel(_heading(table, branch), [trace], axis("error (points)"), [upright(0.0)]))
    sentence = "The model's NPS minus the actual one, on the same reviews: 0 would be right on average."
    figure = _columns(scene, table, panels, keys)
    return chart(
        f"nps-error-{table.slug}", f"Error of the NPS · {table.title}", NPS, _note(scene, table, sentence), figure
    )


# --- categories -------------------------------------------------------------------------------------


def _shares(scene: Scene, table: _Table) -> Chart:
    panels = [
        Panel(
            _heading(table, branch),
            [_share_bars(scene, table, branch, name, colour) for name, colour in _CATEGORIES],
            axis("share of reviews (%)", range=[0, 100], tickvals=[0, 25, 50, 75]),
        )
        for branch in table.branches
    ]
    note = (
        "Promoters minus detractors is the NPS. A negative answer of a model makes a detractor, however sure it is; a "
        f"positive one a promoter from {percent(table.nps.threshold)} on, else a passive."
    )
    figure = _columns(
        scene, table, panels, table.keys, barmode="stack", bargap=0.25, showlegend=True,
        legend=legend_below() | {"traceorder": "normal"}, extra_px=30,
    )  # fmt: skip
    return chart(f"nps-shares-{table.slug}", f"Detractors, passives, promoters · {table.title}", NPS, note, figure)


def _share_bars(scene: Scene, table: _Table, branch: str, category: str, colour: str) -> Json:
    lines = table.column(branch)
    shares = [100 * getattr(line, category) if line else None for line in lines]
    return {
        "type": "bar",
        "orientation": "h",
        "name": category,
        "legendgroup": category,
        "showlegend": branch == OVERALL,
        "x": [None if share is None else round(share, 2) for share in shares],
        "y": list(range(len(lines))),
        "marker": {"color": colour},
        "hovertext": [_line_hover(scene, table, branch, key) for key in table.keys],
        "hoverinfo": "text",
    }
