"""`moodbench doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.options import results_option
from harness.cli.output import echo_json


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@results_option
def doctor(as_json: bool, results: Path) -> int:
    """Check what this machine offers; each line is ok, or says how to fix it. Exit code 3 if a cell cannot run."""
    import asyncio

    from harness.doctor import examine
    from harness.errors import ExitCode

    findings = asyncio.run(examine(results))
    if as_json:
        echo_json(findings)
    else:
        for finding in findings:
            mark = {"ok": "ok  ", "note": "note", "fix": "FIX "}[finding.state]
            click.echo(f"{mark}  {finding.subject}: {finding.finding}")
            if finding.remedy:
                click.echo(f"      -> {finding.remedy}")
    return int(ExitCode.ENVIRONMENT if any(f.state == "fix" for f in findings) else ExitCode.OK)
