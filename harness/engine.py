"""Carries out the cells of a run: `jobs` at a time, timing apart, finished work kept.

Timing has the machine to itself: a cell that wants the lease waits until every other running cell also waits (or has
ended), no cell starts meanwhile, and one cell at a time holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from harness.errors import ExecutorError, ExitCode, MoodBenchError
from harness.executors import Executor, Exit, Handle
from harness.failures import conclude, refuse, write_failure
from harness.journal import EventTail, Journal
from harness.state import CellFailed, CellFinished, CellStarted, PlannedCell, RunFinished, RunOutcome, RunStarted
from harness.store import AttemptPaths, RunFolder, writing
from runner.contract import (
    CellEvent,
    CellSpec,
    ContractError,
    Event,
    Failure,
    FailureKind,
    LeaseReleased,
    LeaseWanted,
    Phase,
    PhaseStarted,
    Result,
    encode,
    write_atomic,
)

POLL_S = 0.1
STOP_GRACE_S = 8.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What a cell may report when SIGTERM catches it: asked to end, or within code that turns that into an error.
STOPPED_KINDS: tuple[FailureKind, ...] = ("interrupted", "killed", "code", "no_result")
BLAMELESS_KINDS: tuple[FailureKind, ...] = ("engine_gone", "image_missing")  # said by the executor: goes on next time


class Lease:
    """Who may measure speed. Cells ask, `grant` picks one when the machine is quiet."""

    def __init__(self) -> None:
        self._waiting: dict[str, AttemptPaths] = {}
        self._holder: str | None = None

    @property
    def busy(self) -> bool:
        return bool(self._waiting) or self._holder is not None

    def is_waiting(self, cell: str) -> bool:
        return cell in self._waiting

    def want(self, cell: str, attempt: AttemptPaths) -> None:
        self._waiting[cell] = attempt

    def release(self, cell: str) -> None:
        """Also when a cell ends, however it ends."""
        self._waiting.pop(cell, None)
        if self._holder == cell:
            self._holder = None

    @property
    def holder(self) -> str | None:
        return self._holder

    def grant(self, running: int) -> None:
        """Raises ContractError where the new holder stands in the way of its own lease; SetupError."""
        if self._holder is None and self._waiting and len(self._waiting) == running:
            self._holder = next(iter(self._waiting))
            self._waiting.pop(self._holder).make_lease()


class _Clock:
    """The time an attempt may take; that in which it waits for others does not count."""

    def __init__(self, limit_s: float | None) -> None:
        self._limit_s = limit_s
        self._spent_s = 0.0
        self._last = time.monotonic()
        self.over = False

    def has_run_out(self, *, waiting: bool) -> bool:
        """To be called often; True once, when the limit is passed."""
        now = time.monotonic()
        self._spent_s += 0.0 if waiting else now - self._last
        self._last = now
        if self._limit_s is None or self.over or self._spent_s <= self._limit_s:
            return False
        self.over = True
        return True

    @property
    def exit(self) -> Exit:
        return Exit(code=None, cause="timeout", detail=f"the cell took longer than its {self._limit_s:g} s")


class Engine:
    """One execution of a run. `watch` sees every event, the run's and the cells', in the order they arrive."""

    def __init__(
        self,
        folder: RunFolder,
        executor: Executor,
        *,
        jobs: int,
        watch: Callable[[Event], None],
    ) -> None:
        self._folder = folder
        self._executor = executor
        self._jobs = jobs
        self._watch = watch
        self._journal = Journal(folder.journal)
        self._lease = Lease()
        self._handles: dict[str, Handle] = {}
        self._stops: set[asyncio.Future[None]] = set()
        self._refused: dict[str, str] = {}  # running cells that are ended for what they laid in their folder -> what
        self._counts = {"done": 0, "reused": 0, "failed": 0}
        self._stopping = False

    async def run(
        self, suite: str, specs: Sequence[CellSpec], unavailable: Sequence[tuple[PlannedCell, Failure]] = ()
    ) -> RunFinished:
        """Run what is not finished. `unavailable` cells cannot start and count as failed. Raises SetupError
        where the run folder can no longer be written."""
        started = time.time()
        plans = [plan_of(spec) for spec in specs] + [plan for plan, _ in unavailable]
        self._tell(
            RunStarted(
                run=self._folder.folder.name,
                suite=suite,
                folder=str(self._folder.folder),
                jobs=self._jobs,
                cells=tuple(plans),
            )
        )
        try:
            for plan, failure in unavailable:
                self._failed(plan.cell, failure, log=None)
            await self._work_off(deque(spec for spec in specs if not self._reuse(spec)))
            finished = self._finished(len(plans), time.time() - started)
            self._tell(finished)
        except MoodBenchError as error:
            self._tell_broken(error, len(plans), time.time() - started)
            raise
        finally:
            self._journal.close()
        return finished

    def stop(self) -> None:
        """End the run: running cells are asked to stop, finished ones stay. A second call does not wait for them."""
        grace_s = 0.0 if self._stopping else STOP_GRACE_S
        self._stopping = True
        self._stops |= {asyncio.ensure_future(handle.stop(grace_s)) for handle in self._handles.values()}

    async def _work_off(self, pending: deque[CellSpec]) -> None:
        tasks: set[asyncio.Task[None]] = set()
        done: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self.stop)
        try:
            while tasks or (pending and not self._stopping):
                while pending and len(tasks) < self._jobs and not self._lease.busy and not self._stopping:
                    tasks.add(asyncio.create_task(self._run_cell(pending.popleft())))
                done, tasks = await asyncio.wait(tasks, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # a fault of the engine or the disk ends the run
                self._grant(running=len(tasks))
        finally:
            self.stop()
            await asyncio.gather(*tasks, *done, *self._stops, return_exceptions=True)
            for number in STOP_SIGNALS:
                loop.remove_signal_handler(number)

    async def _run_cell(self, spec: CellSpec) -> None:
        if self._stopping:
            return
        attempt = self._folder.new_attempt(spec.cell)
        with writing(attempt.spec):
            write_atomic(attempt.spec, encode(spec))
        self._tell(CellStarted(cell=spec.cell, attempt=attempt.number))
        started = time.time()
        try:
            exited, phase = await self._carry_out(spec, attempt)
        except ExecutorError as error:  # no cell can go on: the attempt is closed, and the run ends
            failure = Failure(cell=spec.cell, kind=error.kind, message=error.message, hint=error.hint, t=time.time())
            write_failure(attempt, failure)
            self._failed(spec.cell, failure, log=str(attempt.log), blameless=error.kind in BLAMELESS_KINDS)
            raise
        refused = self._refused.pop(spec.cell, None)
        if refused is None:
            outcome = conclude(spec.cell, attempt, exited, phase)
        else:
            outcome = refuse(spec.cell, attempt, refused, phase)
        if isinstance(outcome, Result):
            self._counts["done"] += 1
            self._tell(CellFinished(cell=spec.cell, summary=outcome.summary, seconds=time.time() - started))
        else:
            self._failed(spec.cell, outcome, log=str(attempt.log))

    async def _carry_out(self, spec: CellSpec, attempt: AttemptPaths) -> tuple[Exit, Phase | None]:
        """Start the attempt and see it to its end; the phase is the last it began."""
        handle = await self._executor.start(attempt, spec)
        self._handles[spec.cell] = handle
        if self._stopping:  # while it was being started
            self._stops.add(asyncio.ensure_future(handle.stop(STOP_GRACE_S)))
        try:
            return await self._follow(spec, attempt, handle)
        except BaseException:
            await handle.stop(0.0)  # nothing goes on unwatched
            raise
        finally:
            del self._handles[spec.cell]
            self._lease.release(spec.cell)

    async def _follow(self, spec: CellSpec, attempt: AttemptPaths, handle: Handle) -> tuple[Exit, Phase | None]:
        """Pass the cell's events on until its process has ended, or its time has."""
        tail = EventTail(attempt.events, CellEvent)
        waiter = asyncio.ensure_future(handle.wait())
        phase: Phase | None = None
        clock = _Clock(spec.limits.seconds)
        while True:
            await asyncio.wait({waiter}, timeout=POLL_S)
            ended = waiter.done()
            for event in self._new_events(tail, spec.cell):
                if isinstance(event, LeaseWanted):
                    self._lease.want(spec.cell, attempt)
                elif isinstance(event, LeaseReleased):
                    self._lease.release(spec.cell)
                elif isinstance(event, PhaseStarted):
                    phase = event.phase
                self._watch(event)
            if ended and not tail.is_behind:
                exited = waiter.result()
                return (clock.exit if clock.over else exited), phase
            if clock.has_run_out(waiting=self._lease.is_waiting(spec.cell)):
                self._stops.add(asyncio.ensure_future(handle.stop(STOP_GRACE_S)))

    def _new_events(self, tail: EventTail, cell: str) -> list[Event]:
        try:
            return [msgspec.structs.replace(event, cell=cell) for event in tail.read()]  # whatever it calls itself
        except ContractError as error:
            self._refuse(cell, str(error))
            return []

    def _grant(self, running: int) -> None:
        try:
            self._lease.grant(running)
        except ContractError as error:
            assert self._lease.holder is not None
            self._refuse(self._lease.holder, str(error))

    def _refuse(self, cell: str, why: str) -> None:
        """This cell alone is ended, and what it leaves does not count."""
        if cell not in self._refused:
            self._refused[cell] = why
            self._stops.add(asyncio.ensure_future(self._handles[cell].stop(STOP_GRACE_S)))

    def _reuse(self, spec: CellSpec) -> bool:
        """Whether the cell is finished already; tells so."""
        try:
            result = self._folder.result(spec.cell)
        except ContractError:
            return False  # a damaged result is done again; the old attempt stays where it is
        if result is None:
            return False
        self._counts["reused"] += 1
        seconds = result.provenance.finished - result.provenance.started
        self._tell(CellFinished(cell=spec.cell, summary=result.summary, seconds=seconds, reused=True))
        return True

    def _failed(self, cell: str, failure: Failure, log: str | None, *, blameless: bool = False) -> None:
        interrupted = blameless or (self._stopping and failure.kind in STOPPED_KINDS)
        self._counts["failed"] += not interrupted
        self._tell(
            CellFailed(
                cell=cell,
                kind=failure.kind,
                message=failure.message,
                hint=failure.hint,
                log=log,
                interrupted=interrupted,
            )
        )

    def _finished(self, total: int, seconds: float) -> RunFinished:
        counts = self._counts
        left = total - sum(counts.values())
        outcome: RunOutcome = "interrupted" if left else "failed" if counts["failed"] else "finished"
        code = {"interrupted": ExitCode.INTERRUPTED, "failed": ExitCode.CELL_FAILED, "finished": ExitCode.OK}[outcome]
        return RunFinished(
            outcome=outcome,
            exit_code=int(code),
            total=total,
            left=left,
            seconds=seconds,
            folder=str(self._folder.folder),
            done=counts["done"],
            reused=counts["reused"],
            failed=counts["failed"],
        )

    def _tell_broken(self, error: MoodBenchError, total: int, seconds: float) -> None:
        """`run_finished` is the last event of a run that cannot go on, too, even where the journal takes no more."""
        event: Event = msgspec.structs.replace(
            self._finished(total, seconds), outcome="broken", exit_code=int(error.exit_code), t=time.time()
        )
        with contextlib.suppress(MoodBenchError):
            event = self._journal.append(event)
        self._watch(event)

    def _tell(self, event: Event) -> None:
        self._watch(self._journal.append(event))


def plan_of(spec: CellSpec) -> PlannedCell:
    return PlannedCell(
        cell=spec.cell,
        model=spec.model.alias,
        dataset=spec.dataset.name,
        method=spec.method,
        seed=spec.seed,
        device=spec.device,
    )
