"""`moodbench attach`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import json_lines_option, results_option


@click.command()
@click.argument("run", metavar="RUN")
@json_lines_option
@results_option
def attach(run: str, json_lines: bool, results: Path) -> int:
    """Follow RUN, whoever started it, until it ends.

    Ctrl-C asks whether to leave it running or to stop it; a second one leaves it. Exit codes are those of
    `moodbench run`; 130 also where you left it.
    """
    from harness.cli.following import attach as follow
    from harness.status import find_any_run

    return follow(find_any_run(run, results), json_lines=json_lines)
