"""`moodbench leaderboard`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from harness.board import Normaliser
from harness.cli.options import Weights, results_option
from harness.report.views import VIEWS, By

if TYPE_CHECKING:
    from harness.leaderboard import Standing
    from harness.ranking import RankOptions

FORMATS = ("table", "json", "csv", "markdown", "models")


@click.command()
@click.argument("run", metavar="RUN")
@click.option(
    "--weights",
    type=Weights(),
    help="What the score is made of, such as accuracy=.3,f1=.3,throughput=.2,latency=-.2 (as it is if not given).",
)
@click.option(
    "--normalise",
    type=click.Choice(get_args(Normaliser)),
    default="minmax",
    show_default=True,
    help="How metrics come to one scale among the models of a dataset.",
)
@click.option("--by", type=click.Choice(VIEWS), help="How rows are put together in table and markdown.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option(
    "--to", type=click.Path(file_okay=False, path_type=Path), help="For --format models: the folder for its files."
)
@click.option("--follow", is_flag=True, help="Show the table again whenever a result arrives, until the run ends.")
@results_option
def leaderboard(
    run: str,
    weights: dict[str, float] | None,
    normalise: Normaliser,
    by: By | None,
    form: str,
    to: Path | None,
    follow: bool,
    results: Path,
) -> int:
    """Show the ranking of RUN: a folder such as results/demo, or a run's name.

    Values are means over seeds; brackets hold 95 % intervals over test examples and seeds. --by method adds what one
    method gains on another, --by size how accuracy grows with the model. --format models writes one flat JSON a row.
    """
    _check(form, by, to, follow)
    options = _options(weights, normalise)
    if follow:
        return _follow(run, results, options, by or "dataset")
    from harness.leaderboard import standing_of
    from harness.store import find_run

    standing = standing_of(find_run(run, results), options)
    if to is not None:
        from harness.report.formats import write_flat

        click.echo(f"{len(write_flat(standing.board, to))} files in {to}")
        _print_missing(standing)
    else:
        print_standing(standing, form, by or "dataset")
    return 0


def print_standing(standing: Standing, form: str, by: By = "dataset") -> None:
    """The ranking on stdout in one format; cells that failed are named on stderr."""
    from harness.report import formats, tables

    if form == "table":
        from rich.console import Console

        console = Console(highlight=False)
        console.print(tables.as_table(standing.board, width=console.width, by=by))
    elif form == "markdown":
        click.echo(formats.as_markdown(standing.board, by), nl=False)
    else:
        render = {"json": formats.as_json, "csv": formats.as_csv}[form]
        click.echo(render(standing.board), nl=False)
    _print_missing(standing)


def _print_missing(standing: Standing) -> None:
    from harness.leaderboard import failure_lines

    for line in failure_lines(standing.failures):
        click.echo(f"failed: {line}", err=True)
    if standing.missing:
        click.echo(f"{standing.missing} cells have not run to their end yet", err=True)


def _check(form: str, by: By | None, to: Path | None, follow: bool) -> None:
    if (form == "models") != (to is not None):
        raise click.UsageError("--format models and --to FOLDER go together: it writes one file a row")
    if by is not None and form not in ("table", "markdown"):
        raise click.UsageError(f"--by is for table and markdown; leave it out with --format {form}")
    if follow and form != "table":
        raise click.UsageError("--follow shows the table; for data as it comes: moodbench attach RUN --json")


def _options(weights: Mapping[str, float] | None, normalise: Normaliser) -> RankOptions:
    from harness.metrics import METRICS, PROBABILITY_METRICS
    from harness.ranking import RankOptions

    if weights is None:
        return RankOptions(normalise=normalise)
    for name in PROBABILITY_METRICS:
        if name in weights:
            words = "cannot be resampled by test examples: in the score's interval it varies by seed alone"
            click.echo(f"note: {METRICS[name].title} {words}", err=True)
    return RankOptions(weights=weights, normalise=normalise)


def _follow(run: str, results: Path, options: RankOptions, by: By) -> int:
    """On a terminal the table as it changes; at the end, or where the user leaves, the table as it then is."""
    from harness.cli.following import Signals, shown_run
    from harness.cli.output import program_name
    from harness.cli.watching import Watch, screen
    from harness.errors import ExitCode
    from harness.leaderboard import standing_of
    from harness.live import LiveBoard
    from harness.status import find_any_run

    folder = find_any_run(run, results)
    watch = Watch(folder, LiveBoard(folder, options))
    with Signals() as signals, screen(by) as show:
        ended = watch.to_the_end(show, signals)
    if ended or watch.standing is not None:
        print_standing(watch.standing or standing_of(folder, options), "table", by)
    if ended:
        return int(ExitCode.OK)
    again = f"{program_name()} leaderboard {shown_run(folder)} --follow"
    click.echo(f"run '{folder.folder.name}' goes on; to see it again: {again}", err=True)
    return int(ExitCode.INTERRUPTED)
