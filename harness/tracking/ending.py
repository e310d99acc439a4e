"""Tracking as the last thing that a run's engine does. Whatever comes of it, the run has not failed for that."""

from __future__ import annotations

import asyncio
import shlex
import sys
import threading
import traceback
from collections.abc import Callable, Iterator

from harness.errors import MoodBenchError
from harness.request import Control
from harness.store import RunFolder
from harness.tracking import TrackingReport, track
from harness.tracking.credentials import masked


async def track_ended_run(folder: RunFolder, uri: str, note: Callable[[str], object], control: Control) -> None:
    """Also what an interrupted run has finished. Who asks it to stop at once does not wait for the rest."""
    at_once = threading.Event()
    note(f"bringing the run into MLflow at {uri}")
    work = asyncio.to_thread(track, folder, uri, halted=at_once.is_set)
    try:
        report = await control.running(work, lambda now: at_once.set() if now else None)
    except MoodBenchError as error:
        note(f"not tracked: {error.message}; {error.hint}; then: {_command(folder, uri)}")
    except Exception as error:  # noqa: BLE001 - a fault of ours
        sys.stderr.write(masked(traceback.format_exc()))
        note(f"not tracked: {type(error).__name__}: {masked(str(error))}; report it, with what the engine's log says")
    else:
        for line in report_lines(report, _command(folder, uri)):
            note(line)


def report_lines(report: TrackingReport, command: str) -> Iterator[str]:
    """For the user, not yet cleaned. `command`: brings in what is left, later."""
    names = ", ".join(f"'{name}'" for name in report.experiments)
    where = f" in {'experiment' if len(report.experiments) == 1 else 'experiments'} {names}" if names else ""
    yield f"tracked {_cells(len(report.added))}{where} at {report.uri}; {report.present} were there before"
    for failure in report.unreadable:
        yield f"not tracked: {failure.cell}: {failure.message}; {failure.hint}"
    if report.halted:
        yield f"stopped before all were tracked; the rest: {command}"
    elif report.left:
        have = (
            "has not run to its end; when it has" if report.left == 1 else "have not run to their end; when they have"
        )
        yield f"{_cells(report.left)} {have}: {command}"


def _cells(number: int) -> str:
    return f"{number} cell{'' if number == 1 else 's'}"


def _command(folder: RunFolder, uri: str) -> str:
    return f"moodbench track {shlex.quote(str(folder.folder))} --uri {shlex.quote(uri)}"
