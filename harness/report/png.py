"""Each chart as a PNG, drawn by the Chrome or Chromium that kaleido finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import SetupError
from harness.report.material import Chart
from harness.store import writing

WIDTH = 1000  # px; drawn at twice that
SCALE = 2
_HEIGHT = 520
_PAPER = "#ffffff"
_REMEDY = "pip install 'moodbench[png]'"


def write_pngs(charts: Sequence[Chart], folder: Path) -> list[Path]:
    """`<id>.png` of each, on white. Raises SetupError without kaleido or a browser, where the folder cannot be written,
    or a chart could not be drawn."""
    try:
        import kaleido
        from choreographer.errors import ChromeNotFoundError
    except ImportError:
        raise SetupError("charts as PNG need the package kaleido", _REMEDY) from None
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{chart.id}.png" for chart in charts]
    wanted = [_wanted(chart, path) for chart, path in zip(charts, paths, strict=True)]
    # mathjax would come from the network
    browser = {"mathjax": False}
    try:
        with writing(folder):
            failed = kaleido.write_fig_from_object_sync(wanted, cancel_on_error=False, kopts=browser)
    except ChromeNotFoundError:
        raise SetupError(
            "charts as PNG need Chrome or Chromium, and none was found", "install one, or run `kaleido_get_chrome`"
        ) from None
    if failed:
        first = str(failed[0]).strip().splitlines() or [type(failed[0]).__name__]
        raise SetupError(
            f"{len(failed)} of {len(charts)} charts could not be drawn as PNG: {first[0]}",
            "the HTML report has a button beside each chart that saves it",
        )
    return paths


def _wanted(chart: Chart, path: Path) -> dict[str, Any]:
    layout = {**chart.figure["layout"], "paper_bgcolor": _PAPER, "plot_bgcolor": _PAPER}
    options = {"format": "png", "width": WIDTH, "height": int(layout.get("height") or _HEIGHT), "scale": SCALE}
    return {"fig": {"data": chart.figure["data"], "layout": layout}, "path": str(path), "opts": options}
