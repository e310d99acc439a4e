"""One execution of a request, from its selection to its leaderboard: what the engine's process calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.calibration import calibration_for
from harness.engine import Engine
from harness.entries import planned_speed_key
from harness.errors import MoodBenchError, SetupError
from harness.executors.choice import Executors, choose_executor
from harness.gpus import free_mb
from harness.journal import tail_journal
from harness.leaderboard import standing_of, write_leaderboard
from harness.load import LoadWatch
from harness.plan import Plan, without
from harness.prepare import Prepared, prepare, set_aside
from harness.request import Control, RunRequest
from harness.resolve import plan_of
from harness.reuse import Reusable, reuse
from harness.run_lock import check_writable
from harness.scratch import sweep
from harness.state import CellFailed, CellFinished, CellRetried, Notice, RunFinished, RunStarted
from harness.store import FinishedCell, RunFolder, storage_problem, writing
from harness.suite import as_mapping
from harness.tracking.ending import track_ended_run
from runner.contract import Event, Fallback, encode, write_atomic

Tell = Callable[[Event], Event]


async def execute(request: RunRequest, folder: RunFolder, tell: Tell, control: Control) -> RunFinished:
    """Prepare, run and rank. `tell` keeps an event; the last one, which is returned, is left to the caller, who holds
    the folder (harness.run_lock). Raises MoodBenchError where the run cannot begin."""

    def note(message: str) -> None:
        tell(Notice(message=message))

    check_writable(folder)
    options = request.options
    executors = await control.preparing(choose_executor(options.executor, options.device, folder))
    try:
        note(f"executor: {executors.cells.name} ({executors.reason})")
        prepared = await control.preparing(prepare(request, executors, folder.folder.parent, note))
        ready = await control.preparing(asyncio.to_thread(_make_ready, request, prepared, executors, folder))
        for message in ready.notes:
            note(message)
        return await _carry_out(request, prepared, ready, executors, folder, tell, control)
    finally:
        await executors.close()


@dataclass(frozen=True)
class _Ready:
    """What is in the run folder when the engine starts: the plan of what is left, and what is finished."""

    plan: Plan
    known: Mapping[str, FinishedCell]
    fallbacks: Mapping[str, Fallback]
    notes: tuple[str, ...]


def _make_ready(request: RunRequest, prepared: Prepared, executors: Executors, folder: RunFolder) -> _Ready:
    """Reads and writes many files, so that it is done in a thread. Raises InputError, SetupError."""
    sweep()
    cells = [entry.spec for entry in prepared.plan.cells]
    known = folder.finished(spec.cell for spec in cells)
    plan = without(prepared.plan, known, prepared.packer)
    if plan.disk_problem and not request.options.overcommit:
        raise SetupError(plan.disk_problem, "free some space, choose another --results, or --overcommit")
    missing = [failure for _, failure in prepared.unavailable]
    for suite in request.suites:
        folder.extend(folder.folder.name, dict(as_mapping(suite)), cells, missing)
    _keep_calibration(prepared, executors, folder)
    taken = _take_over(prepared, plan, folder) if request.options.reuse else []
    known |= folder.finished(one.entry.cell for one in taken)
    plan = without(plan, known, prepared.packer)
    return _Ready(plan, known, left_fallbacks(folder), tuple(_words(taken)))


async def _carry_out(
    request: RunRequest,
    prepared: Prepared,
    ready: _Ready,
    executors: Executors,
    folder: RunFolder,
    tell: Tell,
    control: Control,
) -> RunFinished:
    plan, packer = ready.plan, prepared.packer
    missing = [failure for _, failure in prepared.unavailable]
    engine = Engine(folder, executors.cells, packer, LoadWatch(), tell=tell, gpu_memory=free_mb)
    planned = [plan_of(entry.spec) for entry in plan.cells] + [cell for cell, _ in prepared.unavailable]
    running = engine.run(
        RunStarted(
            run=folder.folder.name,
            suite=", ".join(suite.name for suite in request.suites),
            folder=str(folder.folder),
            jobs=packer.jobs,
            cells=tuple(planned),
        ),
        [entry.spec for entry in plan.cells if entry.verdict != "refused"],
        estimates=set_aside(plan),
        fallbacks=ready.fallbacks,
        unavailable=[failure for entry in plan.refused if (failure := entry.failure)] + missing,
        known=ready.known,
    )
    try:
        await control.running(running, lambda now: engine.stop(now=now))
        await asyncio.to_thread(lambda: write_leaderboard(folder, standing_of(folder)))
        if request.options.track is not None:
            await track_ended_run(folder, request.options.track, lambda said: tell(Notice(message=said)), control)
    except MoodBenchError as error:
        return engine.finished(error)
    except OSError as error:
        return engine.finished(storage_problem(error, folder.folder))
    return engine.finished()


def _keep_calibration(prepared: Prepared, executors: Executors, folder: RunFolder) -> None:
    """The run's own copy: its ranking does not change when the machine is calibrated again, or is another."""
    found = calibration_for(executors.cells.name, prepared.packer.threads, prepared.info.cpu_model)
    if found is not None:
        with writing(folder.calibration):
            write_atomic(folder.calibration, encode(found))


def _take_over(prepared: Prepared, plan: Plan, folder: RunFolder) -> list[Reusable]:
    """What other runs have of the cells that are left to do here."""
    cpu, gpu = prepared.info.cpu_model, next(iter(prepared.info.gpus), None)
    wanted = [entry.spec for entry in plan.started]
    return reuse(wanted, folder.folder.parent, folder, lambda spec: planned_speed_key(spec, cpu, gpu))


def _words(taken: Sequence[Reusable]) -> Iterator[str]:
    for run in sorted({one.run for one in taken}):
        whole = sum(one.run == run and not one.speed_differs for one in taken)
        again = sum(one.run == run and one.speed_differs for one in taken)
        words = [f"{whole} finished cells"] * bool(whole)
        words += [f"{again} whose speed is measured again here"] * bool(again)
        yield f"taken over from run '{run}': {' and '.join(words)} (--no-reuse does all of them again)"


def left_fallbacks(folder: RunFolder) -> dict[str, Fallback]:
    """By cell: what it had come to when an engine ended before the cell did."""
    left: dict[str, Fallback] = {}
    tail = tail_journal(folder.journal)
    while True:
        for event in tail.read():
            if isinstance(event, CellRetried) and event.fallback is not None:
                left[event.cell] = event.fallback
            elif isinstance(event, CellFinished) or (isinstance(event, CellFailed) and not event.interrupted):
                left.pop(event.cell, None)
        if not tail.is_behind:
            return left
