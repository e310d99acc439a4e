"""Carries out the cells of a run: each in its slot (harness.packing), timing alone (harness.lease), what failed tried
again where that may help (harness.failures), finished work kept.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from harness.attempts import Running
from harness.errors import ExecutorError, ExitCode, MoodBenchError
from harness.estimates import Estimate
from harness.executors import Executor, Exit
from harness.failures import conclude, next_step, refuse, write_failure
from harness.journal import EventTail
from harness.lease import BREATH_S, Lease, LoadWatch
from harness.packing import Packer, Slot
from harness.state import (
    CellFailed,
    CellFinished,
    CellRetried,
    CellStarted,
    Notice,
    RunFinished,
    RunOutcome,
    RunStarted,
)
from harness.store import AttemptPaths, FinishedCell, RunFolder, writing
from runner.contract import (
    CellEvent,
    CellSpec,
    ContractError,
    Event,
    Failure,
    FailureKind,
    Fallback,
    LeaseReleased,
    LeaseWanted,
    Phase,
    PhaseStarted,
    Progress,
    Result,
    encode,
    write_atomic,
)

POLL_S = 0.1
TIMED_POLL_S = 0.02  # others may stand still meanwhile
STOP_GRACE_S = 8.0
OLD_ATTEMPT_S = 15.0  # an attempt whose engine was killed ends itself sooner
AGAIN_S = 5.0  # a cell that fits nowhere though nothing of ours is in its way is tried again so often
# What a cell may report when SIGTERM catches it: asked to end, or within code that turns that into an error.
STOPPED_KINDS: tuple[FailureKind, ...] = ("interrupted", "killed", "code", "no_result")
# Said by the executor, once nothing is tried again: no cell is at fault, and none can go on.
BLAMELESS_KINDS: tuple[FailureKind, ...] = ("engine_gone", "image_missing")
SETTLED_PHASES: tuple[Phase, ...] = ("export", "score", "time")

Tell = Callable[[Event], Event]  # keeps an event of the run and gives it back stamped


@dataclass
class _Work:
    """A cell that is not finished."""

    spec: CellSpec
    needs: Estimate
    fallback: Fallback | None = None
    tried: Counter[FailureKind] = field(default_factory=Counter)


class Engine:
    """One execution of a run. `tell` keeps the run's own events; `watch` sees these and the cells', in the order they
    arrive. `gpu_memory`: MB free on each GPU now, by its id; called in a thread."""

    def __init__(
        self,
        folder: RunFolder,
        executor: Executor,
        packer: Packer,
        load: LoadWatch,
        *,
        tell: Tell,
        watch: Callable[[Event], None] = lambda event: None,
        gpu_memory: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._folder = folder
        self._executor = executor
        self._packer = packer
        self._keep = tell
        self._watch = watch
        self._gpu_memory = gpu_memory
        self._lease = Lease(load, self._tell, self._refuse)
        self._closed = False  # nothing starts while a window is open
        self._starting: set[str] = set()  # placed, and not yet running
        self._work: dict[str, _Work] = {}
        self._running: dict[str, Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting: dict[str, asyncio.TimerHandle] = {}
        self._stops: set[asyncio.Future[None]] = set()
        self._wake = asyncio.Event()
        self._fault: BaseException | None = None
        self._counts = {"done": 0, "reused": 0, "failed": 0}
        self._total = 0
        self._started = time.monotonic()
        self._stopping = False
        self._is_told_to_wait = False

    async def run(
        self,
        start: RunStarted,
        specs: Sequence[CellSpec],
        *,
        estimates: Mapping[str, Estimate] | None = None,
        fallbacks: Mapping[str, Fallback] | None = None,
        unavailable: Sequence[Failure] = (),
        known: Mapping[str, FinishedCell] | None = None,
    ) -> None:
        """Run what is not finished; `start` names every cell. `unavailable` cells cannot start and count as failed;
        `fallbacks`: what cells came to that are not finished; `known`: those that are, if that was looked up.
        Raises SetupError where the run cannot go on. `finished` says afterwards how far it came."""
        self._total, self._started = len(start.cells), time.monotonic()
        self._tell(start)
        for failure in unavailable:
            self._failed(failure.cell, failure, log=None)
        finished = self._folder.finished(spec.cell for spec in specs) if known is None else known
        for spec in specs:
            found = finished.get(spec.cell)
            if found is None:
                needs = (estimates or {}).get(spec.cell, Estimate())
                self._work[spec.cell] = _Work(spec, needs, (fallbacks or {}).get(spec.cell))
                self._packer.add(spec.cell, spec.device, needs)
            else:
                self._reused(spec.cell, found)
        await self._work_off()

    def stop(self, *, now: bool = False) -> None:
        """End the run: running cells are asked to stop, finished ones stay. `now`, or a second call, does not wait."""
        grace_s = 0.0 if self._stopping or now else STOP_GRACE_S
        self._stopping = True
        for timer in self._resting.values():
            timer.cancel()
        self._resting.clear()
        self._stops |= {asyncio.ensure_future(one.handle.stop(grace_s)) for one in self._running.values()}
        self._wake.set()

    # --- the queue ---------------------------------------------------------------------------

    async def _work_off(self) -> None:
        windows = asyncio.create_task(self._grant_windows())
        windows.add_done_callback(self._has_ended)
        try:
            while self._tasks or (not self._stopping and (len(self._packer) or self._resting)):
                self._wake.clear()
                await self._start_what_fits()
                await _set_within(self._wake, AGAIN_S if len(self._packer) else None)
                if self._fault is not None:  # of the disk, the executor, or ours: it ends the run
                    raise self._fault
        finally:
            self.stop()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            windows.cancel()
            await asyncio.gather(windows, *self._stops, return_exceptions=True)

    async def _start_what_fits(self) -> None:
        if self._closed or self._stopping:  # nor is anything asked within a window
            return
        free_mb = await asyncio.to_thread(self._gpu_memory) if self._packer.waits_for_a_gpu else {}
        while not (self._closed or self._stopping):
            placed = self._packer.place(free_mb)
            if placed is None:
                if len(self._packer) and not (self._tasks or self._is_told_to_wait):
                    self._is_told_to_wait = True
                    self._tell(Notice(message="no cell fits: something else uses the GPU's memory; waiting for it"))
                return
            self._starting.add(placed.cell)
            task = asyncio.create_task(self._run_cell(self._work[placed.cell], placed.slot))
            self._tasks.add(task)
            task.add_done_callback(self._has_ended)

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._fault = self._fault or task.exception()
        self._wake.set()

    async def _grant_windows(self) -> None:
        """As long as the run lasts."""
        while True:
            await self._lease.wanted.wait()
            self._closed = True
            try:
                while self._starting:  # what is being started cannot be frozen yet
                    await asyncio.sleep(TIMED_POLL_S)
                await self._lease.turn(self._running)
            finally:
                self._closed = False
                self._wake.set()
            await self._breathe()

    async def _breathe(self) -> None:
        """Let those that stood still run for a while, or until all wait for a window themselves."""
        until = time.monotonic() + BREATH_S
        await asyncio.sleep(0)
        waiting = self._lease.is_waiting
        while len(self._running) > 1 and not all(map(waiting, self._running)) and time.monotonic() < until:
            await asyncio.sleep(TIMED_POLL_S)

    # --- one cell ----------------------------------------------------------------------------

    async def _run_cell(self, work: _Work, slot: Slot) -> None:
        try:
            if not self._stopping:
                await self._try(work, slot)
        finally:
            self._starting.discard(work.spec.cell)
            self._packer.release(work.spec.cell)

    async def _try(self, work: _Work, slot: Slot) -> None:
        """One attempt, and what follows from its end."""
        spec = _placed(work, slot)
        cell = spec.cell
        if (in_the_way := await self._old_attempt(cell)) is not None:
            self._failed(cell, in_the_way, log=None)
            return
        attempt = self._folder.new_attempt(cell)
        resumes = self._folder.carry(cell, attempt)
        with writing(attempt.spec):
            write_atomic(attempt.spec, encode(spec), durable=False)  # run.json has what a later attempt needs
        self._tell(CellStarted(cell=cell, attempt=attempt.number, cores=spec.cores, gpus=spec.gpus, resumes=resumes))
        started = time.monotonic()
        broken: ExecutorError | None = None
        try:
            outcome = await self._carry_out(spec, attempt)
        except ExecutorError as error:
            broken = error if error.kind in BLAMELESS_KINDS else None  # else it is this cell's trouble alone
            outcome = Failure(cell=cell, kind=error.kind, message=error.message, hint=error.hint, t=time.time())
            write_failure(attempt, outcome)
        if isinstance(outcome, Result):
            self._counts["done"] += 1
            del self._work[cell]
            attempt.drop_checkpoint()  # a cell that was killed after its result may have left it
            self._tell(CellFinished(cell=cell, summary=outcome.summary, seconds=time.monotonic() - started))
        elif not self._tried_again(work, spec, attempt, outcome):
            self._failed(cell, outcome, log=str(attempt.log), blameless=broken is not None)
            if broken is not None:  # no cell can go on
                raise broken

    async def _old_attempt(self, cell: str) -> Failure | None:
        """Wait until no earlier one runs: a killed engine's cells end themselves, but not at once, and two attempts at
        a time would both write results. What stands in the way, if one does not end."""
        attempts = self._folder.attempts(cell)
        deadline = time.monotonic() + OLD_ATTEMPT_S
        while attempts and self._folder.still_running(attempts[-1]):
            if time.monotonic() > deadline:
                message = f"an earlier attempt still runs ({attempts[-1].folder})"
                hint = "end its processes, then run the same command again"
                return Failure(cell=cell, kind="environment", message=message, hint=hint, t=time.time())
            await asyncio.sleep(TIMED_POLL_S)
        return None

    async def _carry_out(self, spec: CellSpec, attempt: AttemptPaths) -> Result | Failure:
        """Start the attempt and see it to its end."""
        handle = await self._executor.start(attempt, spec)
        one = self._running[spec.cell] = Running(spec, attempt, handle)
        self._starting.discard(spec.cell)
        if self._stopping:  # while it was being started
            self._stops.add(asyncio.ensure_future(handle.stop(STOP_GRACE_S)))
        try:
            exited = await self._follow(one)
        except BaseException:
            await handle.stop(0.0)  # nothing goes on unwatched
            raise
        finally:
            del self._running[spec.cell]
            self._lease.leave(spec.cell)
        if one.refused is not None:
            return refuse(spec.cell, attempt, one.refused, one.phase)
        return conclude(spec.cell, attempt, exited, one.phase)

    async def _follow(self, one: Running) -> Exit:
        """Take the cell's events in until its process has ended, or its time has."""
        cell = one.spec.cell
        tail = EventTail(one.attempt.events, CellEvent)
        waiter = asyncio.ensure_future(one.handle.wait())
        while True:
            await asyncio.wait({waiter}, timeout=TIMED_POLL_S if one.phase == "time" else POLL_S)
            ended = waiter.done()
            for event in self._new_events(tail, one):
                if isinstance(event, LeaseWanted):
                    self._lease.want(one.spec, event.window)
                elif isinstance(event, LeaseReleased):
                    self._lease.release(cell)
                elif isinstance(event, PhaseStarted):
                    one.phase = event.phase
                    one.clock.enter(event.phase)
                if isinstance(event, Progress) or (isinstance(event, PhaseStarted) and event.phase in SETTLED_PHASES):
                    self._packer.settle(cell)
                self._watch(event)
            if ended and not tail.is_behind:
                return one.clock.over or waiter.result()
            one.clock.advance(standing=one.is_frozen or self._lease.is_waiting(cell))
            if one.clock.has_run_out():
                self._stops.add(asyncio.ensure_future(one.handle.stop(STOP_GRACE_S)))

    def _new_events(self, tail: EventTail, one: Running) -> list[Event]:
        cell = one.spec.cell
        try:
            return [msgspec.structs.replace(event, cell=cell) for event in tail.read()]  # whatever it calls itself
        except ContractError as error:
            self._refuse(cell, str(error))
            return []

    def _refuse(self, cell: str, why: str) -> None:
        """This cell alone is ended, and what it leaves does not count."""
        one = self._running.get(cell)
        if one is not None and one.refused is None:
            one.refused = why
            self._stops.add(asyncio.ensure_future(one.handle.stop(STOP_GRACE_S)))

    def _tried_again(self, work: _Work, spec: CellSpec, attempt: AttemptPaths, failure: Failure) -> bool:
        """Whether another attempt follows; it holds no slot until its time has come."""
        step = None if self._stopping else next_step(spec, failure, work.tried)
        if step is None:
            return False
        work.tried[failure.kind] += 1
        work.fallback = step.fallback
        self._tell(
            CellRetried(
                cell=spec.cell,
                attempt=attempt.number,
                kind=failure.kind,
                message=failure.message,
                delay_s=step.delay_s,
                why=step.why,
                fallback=step.fallback,
                log=str(attempt.log),
            )
        )
        self._resting[spec.cell] = asyncio.get_running_loop().call_later(step.delay_s, self._queue_again, work)
        return True

    def _queue_again(self, work: _Work) -> None:
        del self._resting[work.spec.cell]
        self._packer.add(work.spec.cell, work.spec.device, work.needs)
        self._wake.set()

    # --- what is told ------------------------------------------------------------------------

    def _reused(self, cell: str, done: FinishedCell) -> None:
        self._counts["reused"] += 1
        self._tell(CellFinished(cell=cell, summary=done.summary, seconds=done.seconds, reused=True))

    def _failed(self, cell: str, failure: Failure, log: str | None, *, blameless: bool = False) -> None:
        interrupted = blameless or (self._stopping and failure.kind in STOPPED_KINDS)
        self._counts["failed"] += not interrupted
        self._work.pop(cell, None)
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

    def finished(self, error: MoodBenchError | None = None) -> RunFinished:
        """How far it came; `error`: what ended it."""
        counts = self._counts
        left = self._total - sum(counts.values())
        outcome: RunOutcome = "interrupted" if left else "failed" if counts["failed"] else "finished"
        code = {"interrupted": ExitCode.INTERRUPTED, "failed": ExitCode.CELL_FAILED, "finished": ExitCode.OK}[outcome]
        return RunFinished(
            outcome="broken" if error else outcome,
            exit_code=int(error.exit_code if error else code),
            total=self._total,
            left=left,
            seconds=time.monotonic() - self._started,
            folder=str(self._folder.folder),
            done=counts["done"],
            reused=counts["reused"],
            failed=counts["failed"],
            message=error.message if error else "",
            hint=error.hint if error else "",
        )

    def _tell(self, event: Event) -> None:
        self._watch(self._keep(event))


def _placed(work: _Work, slot: Slot) -> CellSpec:
    return msgspec.structs.replace(
        work.spec,
        threads=slot.threads,
        cores=slot.cores,
        gpus=(slot.gpu,) if slot.gpu is not None else (),
        fallback=work.fallback,
    )


async def _set_within(event: asyncio.Event, timeout_s: float | None) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
