"""`moodbench track`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import results_option
from harness.tracking import ADAPTER_MB

if TYPE_CHECKING:
    from harness.tracking import TrackingReport

EPILOG = """\b
Examples:
  moodbench track demo --uri sqlite:///mlflow.db
  mlflow server --backend-store-uri sqlite:///mlflow.db      # shows it in a browser
  moodbench track demo --uri https://mlflow.example.org      # MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD

Tracking again adds what is new. What the run has not finished yet is left for the next time; while it goes on, the work
of tracking may disturb a window in which speed is measured, which is then repeated.
Exit codes: 0 all that has ended is tracked; 1 some of it is damaged; 2 usage; 3 MLflow is missing or does not answer.
"""


@click.command(epilog=EPILOG)
@click.argument("run", metavar="RUN")
@click.option("--uri", envvar="MLFLOW_TRACKING_URI", help="Of the MLflow store.  [default: MLFLOW_TRACKING_URI]")
@click.option("--experiment", metavar="NAME", help="For all cells.  [default: the name of each cell's suite]")
@click.option(
    "--adapter-mb",
    type=click.IntRange(min=0),
    default=ADAPTER_MB,
    show_default=True,
    help="Trained weights of a cell are kept in MLflow, too, up to so many MB.",
)
@click.option("--json", "as_json", is_flag=True, help="As data.")
@results_option
def track(run: str, uri: str | None, experiment: str | None, adapter_mb: int, as_json: bool, results: Path) -> int:
    """Bring the finished and failed cells of RUN into MLflow: an experiment for a suite, an MLflow run for a cell."""
    from harness.cli.output import echo_json
    from harness.errors import ExitCode, InputError
    from harness.store import find_run
    from harness.tracking import track as bring
    from harness.tracking.address import checked_uri

    if not uri:
        raise InputError("no MLflow store is named", "give --uri sqlite:///mlflow.db, or set MLFLOW_TRACKING_URI")
    folder = find_run(run, results)
    report = bring(folder, checked_uri(uri), experiment=experiment, adapter_mb=adapter_mb, told=_show_progress)
    if as_json:
        echo_json(report)
    else:
        _print(report, f"moodbench track {run}")
    return int(ExitCode.CELL_FAILED if report.unreadable else ExitCode.OK)


def _show_progress(done: int, total: int) -> None:
    """On one line of a terminal, which is cleared at the end."""
    if sys.stderr.isatty():
        click.echo(f"\r{done}/{total} cells" if done < total else "\r\x1b[K", nl=False, err=True)


def _print(report: TrackingReport, command: str) -> None:
    from harness.text import clean
    from harness.tracking.ending import report_lines

    first, *more = map(clean, report_lines(report, command))
    click.echo(first)
    for line in more:
        click.echo(line, err=True)
