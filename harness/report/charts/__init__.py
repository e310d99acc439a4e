"""The charts of the report, each a function of its material: Plotly figures as plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from harness.report.charts.answers import calibrations, confusions
from harness.report.charts.differences import contrasts, scaling, significances
from harness.report.charts.nps import nps_charts
from harness.report.charts.quality import classes, f1_by_dataset, heatmap, slices
from harness.report.charts.ranking import accuracy_against_latency, ranks
from harness.report.charts.scene import Scene, scene_of, unique
from harness.report.charts.speed import latencies, memory, throughputs
from harness.report.charts.training import losses, validations
from harness.report.material import Chart, Material

_ALL: tuple[Callable[[Scene], Iterator[Chart]], ...] = (
    ranks,
    accuracy_against_latency,
    f1_by_dataset,
    heatmap,
    classes,
    slices,
    confusions,
    calibrations,
    significances,
    contrasts,
    scaling,
    latencies,
    throughputs,
    memory,
    losses,
    validations,
    nps_charts,
)


def all_charts(material: Material) -> tuple[Chart, ...]:
    """In the order of the page. A chart for which there is no data is left out."""
    scene = scene_of(material)
    charts = [chart for make in _ALL for chart in make(scene)]
    identifiers = unique([chart.id for chart in charts])
    return tuple(replace(chart, id=free) for chart, free in zip(charts, identifiers, strict=True))
