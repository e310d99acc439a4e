"""`moodbench run`."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import CommaList, IntList, MemorySize, Seconds, executor_option, results_option
from harness.errors import InputError

if TYPE_CHECKING:
    from harness.catalog import DatasetEntry
    from harness.executors.choice import AskedExecutor
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
@click.argument("suite", required=False)
@click.option("--models", type=CommaList(), help="Aliases; `path:FOLDER` for a model of your own.")
@click.option("--datasets", type=CommaList(), help="Datasets of the catalogue.")
@click.option("--data", type=click.Path(path_type=Path), help="Your own CSV, TSV, JSONL or Parquet file.")
@click.option("--text-column", help="Column of --data that holds the text.  [default: guessed]")
@click.option("--label-column", help="Column of --data that holds the label.  [default: guessed]")
@click.option("--method", "methods", type=CommaList(), help="lora, full, frozen.  [default: the suite's, else lora]")
@click.option("--seeds", type=IntList(), help="One cell per seed.  [default: the suite's, else 42]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Cells at a time.")
@executor_option
@click.option("--memory", type=MemorySize(), help="Per cell, such as 4g; containers only.  [default: a fair share]")
@click.option("--timeout", type=Seconds(), help="Per cell, such as 90s, 30m or 2h.  [default: none]")
@click.option("--smoke", is_flag=True, help="50/20/20 rows, 1 epoch; also MOODBENCH_TEST_MODE=1.")
@click.option("--run", "name", help="Folder under the results; running again finishes what is missing.")
@results_option
@click.option(
    "--json",
    "json_lines",
    is_flag=True,
    help="Events as JSON lines on stdout, nothing else there; the last is run_finished, unless an option is wrong.",
)
def run(
    suite: str | None,
    models: list[str] | None,
    datasets: list[str] | None,
    data: Path | None,
    text_column: str | None,
    label_column: str | None,
    methods: list[str] | None,
    seeds: list[int] | None,
    device: str,
    jobs: int,
    executor: AskedExecutor,
    memory: int | None,
    timeout: float | None,
    smoke: bool,
    name: str | None,
    results: Path,
    json_lines: bool,
) -> int:
    """Run SUITE (a name or a YAML file), or your own --data, and rank the models."""
    from harness.display import choose_display, closing_display
    from harness.runs import RunOptions, execute
    from harness.suite import Selection, build_suite

    with closing_display(choose_display(json_lines)) as display:
        selection = Selection(
            models=models or (),
            datasets=datasets or (),
            data=own_data(data, text_column, label_column),
            methods=methods or (),
            seeds=seeds or (),
            smoke=smoke,
        )
        wanted = build_suite(suite, selection)
        options = RunOptions(results, name, device, jobs, executor, memory, timeout)
        outcome = asyncio.run(execute(wanted, options, display))
    if not json_lines:
        _print_end(outcome)
    return outcome.finished.exit_code


def own_data(data: Path | None, text_column: str | None, label_column: str | None) -> DatasetEntry | None:
    from harness.catalog import DatasetEntry
    from runner.contract import slug

    if data is None:
        if text_column or label_column:
            raise InputError("--text-column and --label-column describe --data, which is missing", "add --data FILE")
        return None
    if not data.is_file():
        raise InputError(f"no such file: {data}", "check the path given to --data")
    return DatasetEntry(name=slug(data.stem), file=str(data), text_column=text_column, label_column=label_column)


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
