"""The charts of a material by id, and materials that differ from the one made by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec

from harness.board import Figure
from harness.report.charts import all_charts
from harness.report.material import Chart, Material, ReportRow


def drawn(shown: Material) -> dict[str, Chart]:
    return {chart.id: chart for chart in all_charts(shown)}


def data(chart: Chart) -> list[dict[str, Any]]:
    traces: list[dict[str, Any]] = chart.figure["data"]
    return traces


def layout(chart: Chart) -> dict[str, Any]:
    found: dict[str, Any] = chart.figure["layout"]
    return found


def changed(shown: Material, change: Callable[[ReportRow], ReportRow]) -> Material:
    """Every row changed."""
    sections = (dataclasses.replace(section, rows=tuple(map(change, section.rows))) for section in shown.sections)
    return dataclasses.replace(shown, sections=tuple(sections))


def with_row(one: ReportRow, **fields: Any) -> ReportRow:
    return dataclasses.replace(one, row=msgspec.structs.replace(one.row, **fields))


def with_figures(one: ReportRow, **figures: Figure) -> ReportRow:
    return with_row(one, metrics={**one.row.metrics, **figures})


def with_results(one: ReportRow, **fields: Any) -> ReportRow:
    """Every seed's result changed."""
    cells = (dataclasses.replace(cell, result=msgspec.structs.replace(cell.result, **fields)) for cell in one.cells)
    return dataclasses.replace(one, cells=tuple(cells))


def rows_of(shown: Material, dataset: str) -> tuple[ReportRow, ...]:
    return next(section.rows for section in shown.sections if section.dataset == dataset)


def with_confusion(one: ReportRow, counts: tuple[tuple[int, ...], ...]) -> ReportRow:
    quality = one.cells[0].result.quality
    assert quality is not None
    return with_results(one, quality=msgspec.structs.replace(quality, confusion=counts))
