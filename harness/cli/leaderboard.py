"""`moodbench leaderboard`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import results_option

if TYPE_CHECKING:
    from harness.leaderboard import Standing

FORMATS = ("table", "json", "csv", "markdown")


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@results_option
def leaderboard(run: str, form: str, results: Path) -> int:
    """Show the ranking of RUN: a folder such as results/demo, or a run's name.

    Values are means over seeds; brackets hold 95 % bootstrap intervals over test examples and seeds.
    """
    from harness.leaderboard import standing_of
    from harness.store import find_run

    print_standing(standing_of(find_run(run, results)), form)
    return 0


def print_standing(standing: Standing, form: str) -> None:
    """The ranking on stdout in one format; cells that failed are named on stderr."""
    from harness.leaderboard import failure_lines
    from harness.report import formats, tables

    if form == "table":
        from rich.console import Console

        console = Console(highlight=False)
        console.print(tables.as_table(standing.board, width=console.width))
    else:
        render = {"json": formats.as_json, "csv": formats.as_csv, "markdown": formats.as_markdown}[form]
        click.echo(render(standing.board), nl=False)
    for line in failure_lines(standing.failures):
        click.echo(f"failed: {line}", err=True)
    if standing.missing:
        click.echo(f"{standing.missing} cells have not run to their end yet", err=True)
