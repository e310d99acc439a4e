"""`moodbench run`."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.asked import Asked, suite_options

if TYPE_CHECKING:
    from harness.runs import RunOutcome

EPILOG = """\b
Examples:
  moodbench run demo --run demo
  moodbench run --data reviews.csv --models MiniLM-L6,tfidf-logreg --seeds 1,2,3
  moodbench run my-suite.yaml --run nightly --jobs 2

Running again into the same --run finishes what is missing. Exit codes: 0 all finished; 1 some cell failed;
2 usage or configuration; 3 environment; 130 interrupted.
"""


@click.command(epilog=EPILOG)
@suite_options
@click.option(
    "--json",
    "json_lines",
    is_flag=True,
    help="Events as JSON lines on stdout, nothing else there; the last is run_finished, unless an option is wrong.",
)
def run(asked: Asked, json_lines: bool) -> int:
    """Run SUITE (a name or a YAML file), or your own --data, and rank the models."""
    from harness.display import choose_display, closing_display
    from harness.runs import execute

    with closing_display(choose_display(json_lines)) as display:
        outcome = asyncio.run(execute(asked.wanted(), asked.options(), display))
    if not json_lines:
        _print_end(outcome)
    return outcome.finished.exit_code


def _print_end(outcome: RunOutcome) -> None:
    """The leaderboard on stdout; around it, on stderr, what failed and where things lie."""
    from harness.cli.leaderboard import print_standing

    print_standing(outcome.standing, "table")
    folder = outcome.folder.folder
    program = program_name()
    if outcome.finished.outcome == "interrupted":
        click.echo("interrupted: finished cells are kept; the same command with --run goes on", err=True)
        click.echo(f"  {program} run … --run {folder.name}", err=True)
        return
    click.echo(f"Results: {folder}")
    click.echo("\nNext:")
    click.echo(f"  {program} leaderboard {folder} --format markdown")
    click.echo(f"  {program} run --data YOUR.csv --models MiniLM-L6,tfidf-logreg --seeds 1,2,3")
    click.echo(f"  {program} models list")


def program_name() -> str:
    """How the user can call this program from where they are."""
    if shutil.which("moodbench"):
        return "moodbench"
    here = Path(sys.argv[0])
    if here.name != "moodbench":
        return "python -m harness.cli"
    return str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else str(here)
