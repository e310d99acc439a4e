"""`moodbench status`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import results_option

if TYPE_CHECKING:
    from harness.status import RunStatus


@click.command()
@click.argument("run", metavar="[RUN]", required=False)
@click.option("--json", "as_json", is_flag=True, help="As data: one object, or a list of them for all runs.")
@results_option
def status(run: str | None, as_json: bool, results: Path) -> int:
    """Say how far RUN is, or all runs are, and whether an engine works on them."""
    from harness.cli.output import echo_json
    from harness.status import find_any_run, known_runs, status_of

    folders = known_runs(results) if run is None else [find_any_run(run, results)]
    found = [status_of(folder) for folder in folders]
    if as_json:
        echo_json(found if run is None else found[0])
    elif run is None:
        _print_all(found)
    else:
        _print_one(found[0])
    return 0


def _print_all(found: Sequence[RunStatus]) -> None:
    from harness.cli.output import print_table
    from harness.text import clean

    if not found:
        click.echo("No runs yet.")
        return
    rows = [
        (clean(one.run), one.state, f"{_finished(one)}/{one.cells.total}", str(one.cells.failed),
         str(one.cells.running), _time(one), _left(one), str(one.engine_pid or ""))
        for one in found
    ]  # fmt: skip
    headings = ("run", "state", "done", "failed", "running", "started", "left", "engine")
    print_table(headings, rows, right=("done", "failed", "running", "left", "engine"))


def _print_one(one: RunStatus) -> None:
    from harness.text import clean

    cells = one.cells
    engine = f"engine {one.engine_pid}" if one.engine_pid else "no engine"
    click.echo(clean(f"run '{one.run}': {one.state} ({engine}), in {one.folder}"))
    counts = ((_finished(one), "done"), (cells.failed, "failed"), (cells.running, "running"), (cells.queued, "queued"))
    words = ", ".join(f"{count} {word}" for count, word in counts if count) or "none"
    click.echo(f"{cells.total} cells: {words}" + (f" ({cells.reused} already finished before)" if cells.reused else ""))
    if one.timed:
        click.echo(clean(f"timed alone: {one.timed}"))
    if left := _left(one):
        click.echo(f"about {left} left")
    if one.message:
        click.echo(clean(f"error: {one.message}"))
        click.echo(clean(f"hint: {one.hint}"))


def _finished(one: RunStatus) -> int:
    return one.cells.done + one.cells.reused


def _time(one: RunStatus) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(one.started)) if one.started else ""


def _left(one: RunStatus) -> str:
    from harness.display.words import duration

    return duration(one.eta_s) if one.eta_s is not None else ""
