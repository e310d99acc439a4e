"""The finished and failed cells of a run in MLflow: one experiment a suite, one MLflow run a cell.

What is there already is found by its tags and left alone, so that tracking again adds what is new. A cell's MLflow run
counts when it has an end, which comes last: what a killed export left goes to MLflow's trash and is made anew. So does
the run of a cell that was tried again, once the new one is whole.

A run is tracked when it ends: while it lasts, the work would fall into windows in which speed is measured.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import msgspec

from harness.errors import InputError
from harness.failures import unreadable
from harness.record import CellEntry, RunRecord
from harness.scratch import scratch
from harness.store import RunFolder
from harness.suite import Suite, jobs_of
from harness.tracking.attempts import Ended, ended_attempt, stage, told_of
from harness.tracking.cells import LEFT_OUT
from harness.tracking.store import Known, Store, opened
from runner.contract import ContractError, Failure

ADAPTER_MB = 50  # a LoRA adapter has a few; the whole weights of other methods would fill a server


class TrackingReport(msgspec.Struct, frozen=True, kw_only=True):
    """The cells of a run by what became of them. `present`: they were in MLflow before; `left`: they have not run to
    their end, or never began; `unreadable`: what they left is damaged, and not tracked. `halted`: the rest was left for
    the next time."""

    uri: str
    experiments: tuple[str, ...]
    added: tuple[str, ...]
    present: int
    left: int
    unreadable: tuple[Failure, ...] = ()
    halted: bool = False


def track(
    folder: RunFolder,
    uri: str,
    *,
    experiment: str | None = None,
    adapter_mb: int = ADAPTER_MB,
    told: Callable[[int, int], None] = lambda done, total: None,
    halted: Callable[[], bool] = lambda: False,
) -> TrackingReport:
    """Bring the run into MLflow. `uri`: as `checked_uri` gives it; `experiment`: for all cells, in place of their
    suites' names; `told` hears how many of how many cells are done; `halted` ends it after the cell at hand. Raises
    InputError, SetupError."""
    record = folder.read_record()
    names = _experiment_names(record, experiment)
    with _only_one(folder), opened(uri) as store:
        export = _Export(folder, record, store, adapter_mb)
        for number, entry in enumerate(record.cells, start=1):
            if halted():
                return export.report(halted=True)
            export.take(entry, names[entry.cell])
            told(number, len(record.cells))
        return export.report()


def _experiment_names(record: RunRecord, given: str | None) -> dict[str, str]:
    """By cell: the first suite that has it, so that suites which are run later into the folder move nothing."""
    if given is not None:
        return {entry.cell: given for entry in record.cells}
    try:
        suites = [msgspec.convert(suite, Suite) for suite in record.suites]
    except msgspec.ValidationError as error:
        raise InputError(f"cannot read the suites of the run: {error}", "give --experiment NAME") from None
    first: dict[tuple[str, str, str, int], str] = {}
    for suite in suites:
        for job in jobs_of(suite):
            first.setdefault((job.model.alias, job.request.name, job.method, job.seed), suite.name)
    return {
        entry.cell: first.get((entry.model, entry.dataset, entry.method, entry.seed), record.name)
        for entry in record.cells
    }


class _Export:
    """One run on its way into MLflow."""

    def __init__(self, folder: RunFolder, record: RunRecord, store: Store, adapter_mb: int) -> None:
        self._folder = folder
        self._record = record
        self._store = store
        self._adapter_mb = adapter_mb
        self._known: dict[str, Known] = {}  # by the experiment's name
        self._added: list[str] = []
        self._unreadable: list[Failure] = []
        self._present = 0
        self._left = len(record.unavailable)

    def take(self, entry: CellEntry, experiment: str) -> None:
        attempts = self._folder.attempts(entry.cell)
        try:
            ended = ended_attempt(entry, attempts)
            if ended is None:
                self._left += 1
            else:
                self._bring(ended, self._known_of(experiment))
        except ContractError as error:
            self._unreadable.append(unreadable(entry.cell, error, attempts[-1]))

    def _known_of(self, experiment: str) -> Known:
        if experiment not in self._known:
            self._known[experiment] = self._store.known(experiment, self._record.created)
        return self._known[experiment]

    def _bring(self, ended: Ended, known: Known) -> None:
        before = known.runs.get(ended.entry.cell, ())
        whole = next((one for one in before if one.digest == ended.digest), None)
        if whole is None:
            self._add(ended, known.experiment_id)
            self._added.append(ended.entry.cell)
        else:
            self._present += 1
        self._store.discard([one.run_id for one in before if one is not whole])

    def _add(self, ended: Ended, experiment_id: str) -> None:
        cell = told_of(ended, self._record)
        with scratch() as place:
            left_out = stage(ended, place / "artifacts", self._adapter_mb)
            if left_out:
                cell = replace(cell, tags={**cell.tags, LEFT_OUT: "; ".join(left_out)})
            self._store.add(experiment_id, cell, place / "artifacts")

    def report(self, *, halted: bool = False) -> TrackingReport:
        return TrackingReport(
            uri=self._store.uri,
            experiments=tuple(self._known),
            added=tuple(self._added),
            present=self._present,
            left=self._left,
            unreadable=tuple(self._unreadable),
            halted=halted,
        )


@contextmanager
def _only_one(folder: RunFolder) -> Iterator[None]:
    """Two exports at a time would take each other's beginnings for what a killed one left."""
    descriptor = os.open(folder.folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            name = folder.folder.name
            raise InputError(f"another moodbench is tracking the run '{name}'", "wait until it has ended") from None
        yield
    finally:
        os.close(descriptor)
