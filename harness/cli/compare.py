"""`moodbench compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.options import CommaList, results_option

if TYPE_CHECKING:
    from harness.comparison import Comparison


@click.command()
@click.argument("first", metavar="RUN[:MODEL]")
@click.argument("second", metavar="RUN[:MODEL]")
@click.option("--metrics", type=CommaList(), help="accuracy,f1,latency_p95,...; quality, speed or memory.")
@click.option("--format", "form", type=click.Choice(("table", "json")), default="table", show_default=True)
@results_option
def compare(first: str, second: str, metrics: list[str] | None, form: str, results: Path) -> int:
    """Compare two models, or two runs, on the same test examples.

    \b
    moodbench compare demo:MiniLM-L6 demo:tfidf-logreg     two models of a run
    moodbench compare demo:MiniLM-L6/lora demo:MiniLM-L6/full
    moodbench compare monday tuesday                       what both runs have
    moodbench compare monday:MiniLM-L6 tuesday:BERT-tiny

    Differences are second minus first, with 95 % intervals over test examples and seeds; speed and memory are ratios,
    where both were measured on the same hardware. A file of `moodbench gate --write-baseline` may stand for a run.
    """
    from harness.cli.output import echo_json
    from harness.compare import DEFAULT_METRICS
    from harness.compare import compare as comparison_of
    from harness.metrics import metric_named
    from harness.selection import selected

    names = [metric_named(text).name for text in metrics] if metrics else DEFAULT_METRICS
    found = comparison_of(selected(first, results), selected(second, results), list(dict.fromkeys(names)))
    if form == "json":
        echo_json(found)
    else:
        _print(found)
    return 0


def _print(found: Comparison) -> None:
    from harness.cli.output import print_table
    from harness.report.comparison import COMPARISON_HEADINGS, comparison_notes, pair_rows, pair_title
    from harness.text import clean

    for pair in found.pairs:
        click.echo(clean(pair_title(pair)))
        rows = [tuple(map(clean, row)) for row in pair_rows(pair)]
        print_table(COMPARISON_HEADINGS, rows, right=("First", "Second", "p"), whole_lines=True)
        click.echo()
    for note in comparison_notes(found):
        click.echo(clean(note))
