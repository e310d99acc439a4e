"""`moodbench clean`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import results_option


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@results_option
def clean(yes: bool, results: Path) -> int:
    """Remove what killed runs left: containers, scratch folders, runs that never began. Results stay; so does
    whatever a running moodbench uses. Lists everything and asks first."""
    from harness.clean import find_leftovers
    from harness.errors import ExitCode
    from harness.text import clean as shown

    leftovers = find_leftovers(results)
    if leftovers.unseen:
        click.echo(f"containers were not looked for: {shown(leftovers.unseen)}", err=True)
    if not leftovers.found:
        click.echo("Nothing is left over.")
        return 0
    for leftover in leftovers.found:
        click.echo(f"{leftover.what}: {shown(leftover.name)}")
    if not yes and not click.confirm(f"Remove {'it' if len(leftovers.found) == 1 else 'these'}?", err=True):
        click.echo("Nothing was removed.")
        return 0
    failed = 0
    for leftover in leftovers.found:
        try:
            leftover.remove()
        except Exception as error:  # noqa: BLE001 - one that stays must not keep the others
            failed += 1
            click.echo(f"error: {leftover.what} {shown(leftover.name)} stays: {shown(str(error))}", err=True)
    click.echo(f"Removed {len(leftovers.found) - failed} of {len(leftovers.found)}.")
    return int(ExitCode.ENVIRONMENT if failed else ExitCode.OK)
