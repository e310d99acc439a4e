"""The charts of the report, each a function of its material."""

from __future__ import annotations

from harness.report.material import Chart, Material


def all_charts(material: Material) -> tuple[Chart, ...]:
    """In the order of the page. A chart for which there is no data is left out."""
    raise NotImplementedError
