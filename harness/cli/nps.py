"""`moodbench nps`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import results_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.nps import Nps


@click.command()
@click.argument("run", metavar="RUN")
@click.option(
    "--threshold",
    type=float,
    default=0.8,
    show_default=True,
    help="Probability from which a positive answer is a promoter.",
)
@click.option("--rating-column", default="Rating", show_default=True, help="Kept column that holds 1 to 5.")
@click.option("--branch-column", help="Kept column that holds the branch.  [default: Branch, where there is one]")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
@results_option
def nps(run: str, threshold: float, rating_column: str, branch_column: str | None, form: str, results: Path) -> int:
    """Show the Net Promoter Score of reviews: what their ratings say, and what each model of RUN makes of their texts.

    Of five stars, 5 make a promoter, 4 a passive, fewer a detractor. A negative answer of a model makes a detractor, a
    positive one a promoter from the threshold on, else a passive. Overall and of each branch, at most 1,000 reviews
    are used: of more, a sample, the same each time. Brackets hold 95 % intervals over reviews and seeds.
    """
    from harness.evidence import gather
    from harness.leaderboard import failure_lines
    from harness.nps import nps_of
    from harness.store import find_run

    evidence = gather(find_run(run, results))
    _show(nps_of(evidence, threshold, rating_column=rating_column, branch_column=branch_column), form)
    for line in failure_lines(evidence.failures):
        click.echo(f"failed: {line}", err=True)
    if evidence.missing:
        click.echo(f"{evidence.missing} cells have not run to their end yet", err=True)
    return 0


def _show(found: Sequence[Nps], form: str) -> None:
    from harness.cli.output import echo_json
    from harness.report.nps_table import as_csv, as_table

    if form == "json":
        echo_json(found)
    elif form == "csv":
        click.echo(as_csv(found), nl=False)
    else:
        from rich.console import Console

        console = Console(highlight=False)
        console.print(as_table(found, width=console.width))
