"""`moodbench stop`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from harness.cli.options import results_option


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--now", is_flag=True, help="Do not give running cells time to end by themselves.")
@results_option
def stop(run: str, now: bool, results: Path) -> int:
    """Stop RUN and wait until nothing of it runs. Finished cells are kept; `moodbench resume` goes on."""
    from harness.cli.output import program_name
    from harness.control import ask_to_stop, is_alive
    from harness.errors import InputError
    from harness.status import find_any_run, status_of

    folder = find_any_run(run, results)
    name = folder.folder.name
    if not (is_alive(folder) and ask_to_stop(folder, now=now)):
        raise InputError(f"run '{name}' is not running", f"`{program_name()} status` shows all runs")
    while is_alive(folder):
        time.sleep(0.05)
    cells = status_of(folder).cells
    done = cells.done + cells.reused
    click.echo(f"run '{name}' has stopped: {done} of {cells.total} cells are done")
    if done < cells.total or not cells.total:
        click.echo(f"  {program_name()} resume {run}")
    return 0
