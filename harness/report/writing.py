"""The report of a run on disk, in each of its formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.board import Leaderboard
from harness.leaderboard import standing_of
from harness.store import RunFolder, writing
from runner.contract import write_atomic

Format = Literal["html", "json", "csv", "markdown"]

FILES: dict[Format, str] = {
    "html": "report.html",
    "json": "report.json",
    "csv": "report.csv",
    "markdown": "report.md",
}
CHARTS_FOLDER = "report-charts"


@dataclass(frozen=True)
class Written:
    """`page`: the HTML file, where it was asked for."""

    files: tuple[Path, ...]
    page: Path | None


def write_report(folder: RunFolder, formats: Sequence[Format], to: Path, *, png: bool = False) -> Written:
    """Raises InputError where the folder is no run or its cells contradict each other; SetupError where `to` cannot be
    written, or a PNG cannot be drawn."""
    with writing(to):
        to.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    if "html" in formats or png:
        board, files = _with_charts(folder, to, page="html" in formats, png=png)
    else:
        board = standing_of(folder).board
    files += [_written(to / FILES[form], _renderers()[form](board).encode()) for form in formats if form != "html"]
    return Written(tuple(files), to / FILES["html"] if "html" in formats else None)


def _with_charts(folder: RunFolder, to: Path, *, page: bool, png: bool) -> tuple[Leaderboard, list[Path]]:
    from harness.report.charts import all_charts
    from harness.report.gathering import gather_material
    from harness.report.page import render

    material = gather_material(folder)
    charts = all_charts(material)
    files = [_written(to / FILES["html"], render(material, charts))] if page else []
    if png:
        from harness.report.png import write_pngs

        files += write_pngs(charts, to / CHARTS_FOLDER)
    return material.board, files


def _renderers() -> dict[Format, Callable[[Leaderboard], str]]:
    from harness.report import formats

    return {"json": formats.as_json, "csv": formats.as_csv, "markdown": formats.as_markdown}


def _written(path: Path, data: bytes) -> Path:
    with writing(path):
        write_atomic(path, data, durable=False)
    return path
