"""`moodbench calibrate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from harness.calibration import LEAST_WINDOWS
from harness.cli.options import executor_option
from harness.cli.output import echo_json, print_table

if TYPE_CHECKING:
    from harness.calibration import Calibration
    from harness.executors.choice import AskedExecutor

EPILOG = """\b
One small model is timed again and again; what differs between its windows is this machine's doing. Later runs show
speeds that differ by less as equal. It takes about two seconds a window; keep the machine idle meanwhile.

Exit codes: 0 calibrated; 2 usage; 3 environment, or the machine was busy; 130 interrupted.
"""
# Floor -> (what it is called in a sentence, its metric, the field of what was measured).
FIGURES = {
    "latency_p50": ("median latency", "latency_median_ms", "latency_p50_ms"),
    "latency_p99": ("p99 latency", "latency_p99_ms", "latency_p99_ms"),
    "throughput": ("throughput", "throughput_samples_per_sec", "samples_per_s"),
}


@click.command(epilog=EPILOG)
@executor_option
@click.option(
    "--windows", type=click.IntRange(LEAST_WINDOWS, 1000), default=20, show_default=True, help="How often it is timed."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def calibrate(executor: AskedExecutor, windows: int, as_json: bool) -> int:
    """Find out which differences in speed are noise on this machine."""
    import asyncio

    from harness.calibration import criticisms
    from harness.errors import ExitCode
    from harness.jobs import stoppable
    from harness.text import clean

    found = asyncio.run(stoppable(_calibrate(executor, windows)))
    if as_json:
        echo_json(found)
    else:
        _print(found)
    for sentence in criticisms(found):
        click.echo(f"note: {clean(sentence)}", err=True)
    return int(ExitCode.OK)


async def _calibrate(asked: AskedExecutor, windows: int) -> Calibration:
    from harness.calibration import calibrate as time_host
    from harness.executors.choice import choose_executor

    executors = await choose_executor(asked, "cpu", None)
    try:
        click.echo(f"timing {windows} windows ({executors.cells.name}: {executors.reason}) ...", err=True)
        return await time_host(executors.cells, windows)
    finally:
        await executors.close()


def _print(found: Calibration) -> None:
    from harness.calibration import calibration_file, percent
    from harness.metrics import METRICS, format_value
    from harness.text import clean

    rows = []
    for floor, (words, metric, measured) in FIGURES.items():
        share = percent(getattr(found, floor))
        meaning = f"differences of {words} below {share} are noise on this machine"
        rows.append((METRICS[metric].title, format_value(metric, getattr(found, measured), unit=True), share, meaning))
    print_table(("Figure", "Measured", "Noise floor", "Meaning"), rows, right=("Measured", "Noise floor"))
    counted = sum(window.counted and not window.contaminated for window in found.windows)
    click.echo(
        f"{counted} windows, {found.executor}, {found.threads} thread, {clean(found.cpu_model or 'unknown CPU')}; "
        f"kept in {calibration_file(found.executor, found.threads)}"
    )
