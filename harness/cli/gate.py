"""`moodbench gate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.options import results_option
from harness.errors import MoodBenchError, SetupError

if TYPE_CHECKING:
    from harness.comparison import GateReport
    from harness.evidence import Evidence


class MetricLimits(click.ParamType[list[tuple[str, float]]]):
    """`f1=0.01,accuracy=0.02` -> [("f1", 0.01), ("accuracy", 0.02)]."""

    name = "metric=limit"

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = low, high  # the first is included

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[tuple[str, float]]:
        if isinstance(value, list):
            return value
        limits = []
        for part in str(value).split(","):
            metric, _, amount = (piece.strip() for piece in part.partition("="))
            try:
                limit = float(amount)
            except ValueError:
                self.fail(f"'{part}' is no limit such as f1=0.01", param, ctx)
            if not metric or not self._low <= limit < self._high:
                self.fail(f"'{part}': a limit lies between {self._low:g} and {self._high:g}", param, ctx)
            limits.append((metric, limit))
        return limits


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--baseline", metavar="RUN|FILE", help="What RUN is held to: a run, or a file of --write-baseline.")
@click.option(
    "--max-drop",
    "drops",
    type=MetricLimits(0.0, 1.0),
    multiple=True,
    help="How far quality may fall, again and again or by commas; without any limit: accuracy=0.01,f1=0.01.",
)
@click.option(
    "--max-ratio",
    "ratios",
    type=MetricLimits(0.01, 100.0),
    multiple=True,
    help="How many times worse speed or memory may be: latency_p95=1.1.",
)
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write the checks as JUnit XML, too.")
@click.option(
    "--write-baseline",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Only keep RUN as a baseline in this file, to lie beside the code.",
)
@click.option("--format", "form", type=click.Choice(("table", "json")), default="table", show_default=True)
@results_option
def gate(
    run: str,
    baseline: str | None,
    drops: tuple[list[tuple[str, float]], ...],
    ratios: tuple[list[tuple[str, float]], ...],
    junit: Path | None,
    write_baseline: Path | None,
    form: str,
    results: Path,
) -> int:
    """Refuse RUN where it is worse than a baseline: for CI.

    \b
    moodbench gate nightly --write-baseline baseline.json
    moodbench gate nightly --baseline baseline.json --max-drop f1=0.01 --max-ratio latency_p95=1.1 --junit gate.xml

    Run as many seeds as the baseline has: with fewer no check passes, and with one seed the interval leaves out how
    much training varies. A check passes when the whole 95 % interval of the drop, or ratio, lies within its limit,
    and fails when all of it lies beyond. Exit code: 0 every check passed, 1 the run is broken (a cell failed or is
    missing), 2 it cannot be compared (other data, other hardware), 4 a check failed, 5 not enough evidence.
    """
    from harness.cli.output import unread_at_worst

    if (baseline is None) == (write_baseline is None):
        raise click.UsageError("give either --baseline RUN|FILE, or --write-baseline FILE")
    if write_baseline is not None:
        return _keep(run, results, write_baseline)
    asked = _Asked(
        run, str(baseline), [one for given in drops for one in given], [x for given in ratios for x in given]
    )
    report = _report(asked, results, junit)
    try:
        if junit is not None:
            from harness.junit import write_junit

            write_junit(report, junit)
    finally:
        with unread_at_worst():
            _print(report, form)
    return report.exit_code


@dataclass(frozen=True)
class _Asked:
    run: str
    baseline: str
    drops: list[tuple[str, float]]
    ratios: list[tuple[str, float]]


def _report(asked: _Asked, results: Path, junit: Path | None) -> GateReport:
    """Raises InputError, SetupError, after a JUnit file that says so: that of an earlier gate would pass for this."""
    from harness.cli.output import unread_at_worst
    from harness.evidence import gather
    from harness.gate import gate as hold
    from harness.gate import limits_of
    from harness.selection import evidence_of
    from harness.store import find_run

    try:
        limits = limits_of(asked.drops, asked.ratios)
        candidate = gather(find_run(asked.run, results))
        held_to = evidence_of(asked.baseline, results)
        with unread_at_worst():
            _tell_incomplete(held_to, "the baseline")
        return hold(candidate, held_to, limits)
    except MoodBenchError as error:
        if junit is not None:
            _write_refusal(asked, error, junit)
        raise


def _write_refusal(asked: _Asked, error: MoodBenchError, junit: Path) -> None:
    from harness.gate import refusal
    from harness.junit import write_junit

    try:
        write_junit(refusal(asked.run, asked.baseline, error), junit)
    except SetupError as unwritten:
        click.echo(f"{unwritten.message}", err=True)


def _keep(run: str, results: Path, path: Path) -> int:
    from harness.cli.output import unread_at_worst
    from harness.evidence import gather, write_baseline
    from harness.store import find_run

    candidate = gather(find_run(run, results))
    write_baseline(candidate, path)
    with unread_at_worst():
        _tell_incomplete(candidate, "the run")
        click.echo(f"{path}: {_cells(len(candidate.records))} of {candidate.name}")
    return 0


def _tell_incomplete(evidence: Evidence, name: str) -> None:
    if lacking := len(evidence.failures) + evidence.missing:
        verb = "has" if lacking == 1 else "have"
        told = f"{_cells(lacking)} of {name} failed or {verb} not run to the end: nothing is held to that"
        click.echo(told, err=True)


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"


def _print(report: GateReport, form: str) -> None:
    from harness.cli.output import echo_json, print_table
    from harness.report.comparison import GATE_HEADINGS, gate_rows, gate_summary
    from harness.text import clean

    if form == "json":
        echo_json(report)
        return
    rows = [tuple(map(clean, row)) for row in gate_rows(report)]
    print_table(GATE_HEADINGS, rows, right=("Baseline", "Run"), whole_lines=True)
    for left in report.left_out:
        click.echo(clean(f"not held to anything: {left.what}, {left.reason}"), err=True)
    click.echo(clean(gate_summary(report)))
