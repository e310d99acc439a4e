"""`moodbench fetch`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import CommaList
from harness.cli.output import echo_json, print_table

if TYPE_CHECKING:
    from harness.fetching import Fetched

EPILOG = """\b
Examples:
  moodbench fetch demo
  moodbench fetch --models BERT-tiny,hub:prajjwal1/bert-small --datasets sst2

Afterwards runs need no network. Exit codes: 0 everything is here; 1 some could not be had; 2 usage or configuration;
3 environment; 130 interrupted.
"""
HEADINGS = ("Name", "Source", "Revision", "Size", "Digest", "State")


@click.command(epilog=EPILOG)
@click.argument("suite", required=False)
@click.option("--models", type=CommaList(), help="Aliases; `hub:ID` for any model of the Hugging Face hub.")
@click.option("--datasets", type=CommaList(), help="Datasets of the catalogue.")
@click.option("--data", type=click.Path(path_type=Path), multiple=True, help="Your own file; may be given repeatedly.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def fetch(
    suite: str | None,
    models: list[str] | None,
    datasets: list[str] | None,
    data: tuple[Path, ...],
    as_json: bool,
) -> int:
    """Fetch the models and prepare the datasets of SUITE, or those named: all that needs the network."""
    from harness.cli.asked import own_data
    from harness.errors import ExitCode
    from harness.fetching import fetch_everything, wanted
    from harness.suite import Selection

    selections = [
        Selection(models=models or (), datasets=datasets or (), data=own_data(file, None, None) if file else None)
        for file in data or (None,)
    ]
    found = asyncio.run(fetch_everything(wanted(suite, selections), _tell))
    if as_json:
        echo_json(found)
    else:
        print_table(HEADINGS, [_row(each) for each in found], right=("Size",))
    return int(ExitCode.CELL_FAILED if any(each.state == "failed" for each in found) else ExitCode.OK)


def _tell(found: Fetched) -> None:
    """One line as each is done, and what the user should know about it."""
    from harness.text import clean

    lines = [f"{found.what} {found.name}: {found.state}", *(f"  {note}" for note in found.notes)]
    if found.state == "failed":
        lines += [f"  error: {found.reason}", f"  hint: {found.remedy}"]
    for line in lines:
        click.echo(clean(line), err=True)


def _row(found: Fetched) -> tuple[str, ...]:
    from harness.text import clean

    size = "–" if found.size_bytes is None else f"{found.size_bytes / 2**20:,.1f} MB"
    revision, digest = (found.revision or "–")[:12], (found.digest or "–")[:12]
    return clean(found.name), clean(found.source), clean(revision), size, digest, found.state
