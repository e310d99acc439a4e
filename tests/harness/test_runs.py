"""What is in a run folder when its engine starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import SetupError
from harness.estimates import Estimate
from harness.executors.choice import Executors
from harness.journal import Journal
from harness.packing import Packer
from harness.plan import make_plan
from harness.prepare import Prepared
from harness.request import RunOptions, RunRequest
from harness.runs import _make_ready, _Ready, left_fallbacks
from harness.state import CellFailed, CellFinished, CellRetried
from harness.store import RunFolder
from runner.contract import DeviceInfo, Fallback
from tests.harness.builders import cell, summary, write_result
from tests.harness.theatre import Theatre


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def ready(folder: RunFolder, *models: str, memory_mb: int = 10, disk_mb: int = 10, overcommit: bool = False) -> _Ready:
    """Each cell needs so much, on a machine of 1,000 MB with 100 MB of free disk."""
    theatre = Theatre()
    specs = [cell(model) for model in models]
    needs = {spec.cell: Estimate(memory_mb=memory_mb, disk_mb=disk_mb, kept_mb=disk_mb, seconds=1) for spec in specs}
    plan = make_plan(specs, theatre.capacity, needs, jobs=1, disk_free_mb=100, overcommit=overcommit)
    prepared = Prepared(
        plan,
        (),
        DeviceInfo(device="cpu", device_reason="", available=("cpu",)),
        Packer(theatre.capacity, 1, memory_mb=900),
    )
    request = RunRequest(suites=(), options=RunOptions(reuse=False, overcommit=overcommit))
    return _make_ready(request, prepared, Executors(theatre, theatre, ""), folder)


def finish(folder: RunFolder, model: str) -> None:
    write_result(folder.new_attempt(cell(model).cell), cell(model), [0, 1], [0, 1])


def verdicts(found: _Ready) -> list[str]:
    return [entry.verdict for entry in found.plan.cells]


def test_what_is_finished_needs_no_memory(folder: RunFolder) -> None:
    finish(folder, "a")
    found = ready(folder, "a", "b", memory_mb=5000)
    assert verdicts(found) == ["reused", "refused"]
    assert list(found.known) == [cell("a").cell]


def test_what_is_finished_needs_no_disk(folder: RunFolder) -> None:
    with pytest.raises(SetupError, match="disk"):
        ready(folder, "a", disk_mb=5000)
    assert verdicts(ready(folder, "a", disk_mb=5000, overcommit=True)) == ["runs"]
    finish(folder, "a")
    assert verdicts(ready(folder, "a", disk_mb=5000)) == ["reused"]


def test_what_a_cell_had_come_to_is_kept_until_it_ends(folder: RunFolder) -> None:
    halved = Fallback(batch_size=8, accumulation=8, reason="halved")
    retried = {"attempt": 1, "kind": "out_of_memory", "message": "", "delay_s": 0.0, "why": "", "fallback": halved}
    journal = Journal(folder.journal)
    for name in "abcd":
        journal.append(CellRetried(cell=name, **retried))
    journal.append(CellFinished(cell="b", summary=summary(), seconds=1.0))
    journal.append(CellFailed(cell="c", kind="code", message="", hint=""))
    journal.append(CellFailed(cell="d", kind="interrupted", message="", hint="", interrupted=True))
    journal.close()
    assert left_fallbacks(folder) == {"a": halved, "d": halved}
