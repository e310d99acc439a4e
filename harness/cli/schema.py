"""`moodbench schema`."""

from __future__ import annotations

import click

from harness.cli.output import echo_json
from harness.errors import unknown


@click.command()
@click.argument("name", required=False)
def schema(name: str | None) -> int:
    """Print the JSON Schemas of all files, or of NAME alone."""
    import msgspec

    from harness.board import json_schema
    from harness.calibration import Calibration
    from harness.comparison import Comparison, GateReport
    from harness.evidence import KeptEvidence
    from harness.exporting import ExportRecord
    from harness.nps import Nps
    from harness.record import RunRecord
    from harness.reuse import ReusedFrom
    from harness.state import AnyEvent
    from harness.suite import SuiteFile
    from runner.contract import json_schemas

    files = (RunRecord, SuiteFile, Calibration, ReusedFrom, ExportRecord, KeptEvidence, Nps, Comparison, GateReport)
    schemas = json_schemas(extra=files)
    schemas["Leaderboard"] = json_schema()
    schemas["RunEvent"] = msgspec.json.schema(AnyEvent)
    if name is not None:
        known = {known.lower(): known for known in schemas}
        if name.lower() not in known:
            raise unknown("schema", name, schemas, f"schemas: {', '.join(sorted(schemas))}")
        schemas = schemas[known[name.lower()]]
    echo_json(schemas)
    return 0
