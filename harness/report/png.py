"""Each chart as a PNG, drawn by the Chrome or Chromium that kaleido finds."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.errors import SetupError
from harness.report.material import Chart
from harness.store import writing

WIDTH = 1000  # px; drawn at twice that
SCALE = 2
_HEIGHT = 520
_PAPER = "#ffffff"
LIMIT_S = 60.0  # to start, and for each chart
_OTHER_BROWSER = "run `kaleido_get_chrome`, or name another Chrome or Chromium in BROWSER_PATH"
_REMEDY = "pip install 'moodbench[png]'"


def write_pngs(charts: Sequence[Chart], folder: Path) -> list[Path]:
    """`<id>.png` of each, on white. Raises SetupError without kaleido or a browser that works, where the folder cannot
    be written, or a chart could not be drawn."""
    try:
        import kaleido
        from choreographer.errors import BrowserClosedError, BrowserFailedError, ChannelClosedError, ChromeNotFoundError
    except ImportError:
        raise SetupError("charts as PNG need the package kaleido", _REMEDY) from None
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{chart.id}.png" for chart in charts]
    wanted = [_wanted(chart, path) for chart, path in zip(charts, paths, strict=True)]
    try:
        # mathjax would come from the network
        browser = kaleido.Kaleido(mathjax=False, timeout=None)
        with writing(folder):
            failed = asyncio.run(_drawn(browser, wanted))
    except ChromeNotFoundError:
        raise SetupError(
            "charts as PNG need Chrome or Chromium, and none was found", "install one, or run `kaleido_get_chrome`"
        ) from None
    except (BrowserFailedError, BrowserClosedError, ChannelClosedError):
        raise SetupError("the browser that draws charts as PNG does not work", _OTHER_BROWSER) from None
    if failed:
        first = str(failed[0]).strip().splitlines() or [type(failed[0]).__name__]
        raise SetupError(
            f"{len(failed)} of {len(charts)} charts could not be drawn as PNG: {first[0]}",
            "the HTML report has a button beside each chart that saves it",
        )
    return paths


async def _drawn(browser: Any, wanted: Sequence[dict[str, Any]]) -> list[Exception]:
    """Why charts could not be drawn. Raises SetupError where nothing happens for a while. The browser has ended
    afterwards, and so have its children."""
    failed: list[Exception] = []
    try:
        async with asyncio.timeout(LIMIT_S) as limit:
            try:
                await browser.open()
            except Exception:
                if limit.expired():  # choreographer takes it for a browser that ended
                    raise TimeoutError from None
                raise
        for one in wanted:
            async with asyncio.timeout(LIMIT_S):
                failed += await browser.write_fig_from_object([one], cancel_on_error=False)
    except TimeoutError:
        raise SetupError(f"the browser did not answer within {LIMIT_S:g} s", _OTHER_BROWSER) from None
    finally:
        _end(browser)
        with suppress(Exception):  # its threads end with its pipes; it has ended in any case
            await asyncio.wait_for(browser.close(), LIMIT_S)
    return failed


def _end(browser: Any) -> None:
    """It leads a process group of its own."""
    if process := getattr(browser, "subprocess", None):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wanted(chart: Chart, path: Path) -> dict[str, Any]:
    layout = {**chart.figure["layout"], "paper_bgcolor": _PAPER, "plot_bgcolor": _PAPER}
    options = {"format": "png", "width": WIDTH, "height": int(layout.get("height") or _HEIGHT), "scale": SCALE}
    return {"fig": {"data": chart.figure["data"], "layout": layout}, "path": str(path), "opts": options}
