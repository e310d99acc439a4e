"""`moodbench run`."""

from __future__ import annotations

import click

from harness.cli.asked import Asked, suite_options
from harness.cli.options import detach_option, json_lines_option

EPILOG = """\b
Examples:
  moodbench run demo --run demo
  moodbench run --data reviews.csv --models MiniLM-L6,tfidf-logreg --seeds 1,2,3
  moodbench run my-suite.yaml --run nightly --detach

The run does not depend on this terminal: Ctrl-C asks whether to leave it running or to stop it (a second
one stops it), and `moodbench attach` shows it again. Running again into the same --run finishes what is missing.
Exit codes: 0 all finished; 1 some cell failed; 2 usage or configuration; 3 environment; 130 interrupted.
"""


@click.command(epilog=EPILOG)
@suite_options
@detach_option
@json_lines_option
def run(asked: Asked, detach: bool, json_lines: bool) -> int:
    """Run SUITE (a name or a YAML file), or your own --data, and rank the models."""
    from harness.cli.following import start
    from harness.display import choose_display, closing_display
    from harness.request import RunRequest
    from harness.store import fresh_name, run_folder

    with closing_display(choose_display(json_lines)):
        suite = asked.wanted()
        folder = run_folder(asked.results, asked.name or fresh_name(suite.name))
        request = RunRequest(suites=(suite,), options=asked.options())
    return start(folder, request, detach=detach, json_lines=json_lines)
