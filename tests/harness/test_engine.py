"""The engine with an executor in this process: each cell is a small coroutine that plays a runner."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import engine as engines
from harness import lease as leases
from harness.engine import Engine
from harness.errors import ExecutorError, SetupError
from harness.executors import Exit, Handle
from harness.failures import POLICIES, Policy
from harness.journal import EventTail, Journal
from harness.packing import Packer
from harness.resolve import plan_of
from harness.state import (
    CellFailed,
    CellFinished,
    CellRetried,
    CellStarted,
    LeaseEnded,
    LeaseGranted,
    Notice,
    PlannedCell,
    RunFinished,
    RunStarted,
    RunState,
)
from harness.store import AttemptPaths, RunFolder
from runner.contract import (
    FROZEN_FILE,
    PHASES,
    CellSpec,
    EvaluationSpec,
    Event,
    Failure,
    FailureKind,
    LeaseReleased,
    LeaseWanted,
    Limits,
    Phase,
    PhaseStarted,
    TrainingSpec,
    Verdict,
    Warned,
    encode,
    read,
    write_atomic,
)
from tests.harness.builders import cell, planned, result
from tests.harness.theatre import Attempt, Play, PlayedHandle, StillHost, Theatre, until_stopped


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "POLL_S", 0.005)
    monkeypatch.setattr(engines, "TIMED_POLL_S", 0.005)
    monkeypatch.setattr(engines, "BREATH_S", 0.0)
    monkeypatch.setattr(engines, "AGAIN_S", 0.05)
    for kind, policy in POLICIES.items():
        monkeypatch.setitem(POLICIES, kind, dataclasses.replace(policy, delay_s=policy.delay_s and 0.001))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


class Told:
    """What the engine told, and the state it leads to. `then` reacts to an event."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.state = RunState()
        self.then: Callable[[Event], None] = lambda event: None
        self.engine: Engine
        self.journal: Journal

    def keep(self, event: Event) -> Event:
        return self.journal.append(event)

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.state.apply(event)
        self.then(event)

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


def play(
    folder: RunFolder,
    executor: Theatre,
    *models: str,
    jobs: int = 1,
    told: Told | None = None,
    unavailable: Sequence[tuple[PlannedCell, Failure]] = (),
    seconds: float | dict[str, float] | None = None,
    host: StillHost | None = None,
    **changes: Any,
) -> RunFinished:
    """`changes`: of every cell's specification."""
    told = told or Told()
    journal = Journal(folder.journal)
    told.journal = journal

    async def work() -> RunFinished:
        packer = Packer(executor.capacity, jobs, memory_mb=None)
        engine = Engine(folder, executor, packer, host or StillHost(), tell=told.keep, watch=told)
        told.engine = engine
        limits = seconds if isinstance(seconds, dict) else dict.fromkeys(models, seconds)
        specs = [cell(model, **({"limits": Limits(seconds=limits.get(model))} | changes)) for model in models]
        plans = (*map(plan_of, specs), *(plan for plan, _ in unavailable))
        start = RunStarted(run="run", suite="suite", folder=str(folder.folder), jobs=jobs, cells=plans)
        running = engine.run(start, specs, unavailable=[failure for _, failure in unavailable])
        await asyncio.wait_for(running, 20)
        return engine.finished()

    try:
        return asyncio.run(work())
    finally:
        journal.close()


def counts(finished: RunFinished) -> tuple[str, int, int, int, int, int]:
    return (finished.outcome, finished.exit_code, finished.done, finished.reused, finished.failed, finished.left)


# --- outcomes of one cell ---------------------------------------------------------------------


def test_success(folder: RunFolder) -> None:
    told = Told()
    finished = play(folder, Theatre(), "a", "b", told=told)
    assert counts(finished) == ("finished", 0, 2, 0, 0, 0)
    assert [type(event) for event in told.events] == [
        RunStarted, *[CellStarted, CellFinished] * 2,
    ]  # fmt: skip
    assert read(folder.attempts(cell("a").cell)[0].spec, CellSpec) == cell("a", cores=(0, 1), threads=2)
    journal = EventTail(folder.journal, RunStarted | CellStarted | CellFinished).read()
    assert journal == told.events


def reported(kind: str) -> Play:
    async def play(attempt: Attempt) -> Exit:
        failure = Failure(cell=attempt.spec.cell, kind=kind, message="why", hint="how")  # type: ignore[arg-type]
        write_atomic(attempt.paths.failure, encode(failure))
        return Exit(code=1)

    return play


def ended(code: int | None, number: int | None = None) -> Play:
    async def play(attempt: Attempt) -> Exit:
        return Exit(code=code, signal=number)

    return play


async def damaged_result(attempt: Attempt) -> Exit:
    attempt.paths.result.write_text("{")
    return Exit(code=0)


async def damaged_failure(attempt: Attempt) -> Exit:
    attempt.paths.failure.write_text("{}")
    return Exit(code=1)


@pytest.mark.parametrize(
    ("what", "kind", "words"),
    [
        (reported("nan_loss"), "nan_loss", "why"),
        (reported("killed"), "killed", "why"),  # nobody stopped the run: the cell failed
        (ended(0), "no_result", "without a result"),
        (ended(3), "code", "exit code 3"),
        (ended(None, signal.SIGKILL), "killed", "SIGKILL"),
        (ended(None, signal.SIGSEGV), "code", "SIGSEGV"),
        (ended(None, 63), "code", "signal 63"),
        (damaged_result, "no_result", "result.json"),
        (damaged_failure, "no_result", "failure.json"),
    ],
)
def test_failure(folder: RunFolder, what: Play, kind: str, words: str) -> None:
    told = Told()
    finished = play(folder, Theatre(bad=what), "bad", "good", told=told)
    assert counts(finished) == ("failed", 1, 1, 0, 1, 0)
    (failed,) = told.of(CellFailed)
    assert isinstance(failed, CellFailed)
    assert (failed.kind, failed.interrupted) == (kind, False)
    assert words in failed.message
    assert failed.hint
    assert failed.log is not None
    assert Path(failed.log).parent == folder.attempts(cell("bad").cell)[-1].folder


def test_a_failure_nobody_reported_is_written_down(folder: RunFolder) -> None:
    play(folder, Theatre(bad=ended(None, signal.SIGKILL)), "bad")
    failure = folder.failure(cell("bad").cell)
    assert failure is not None
    assert failure.kind == "killed"


def test_a_result_counts_even_if_the_process_then_crashed(folder: RunFolder) -> None:
    async def crash_at_exit(attempt: Attempt) -> Exit:
        attempt.succeed()
        return Exit(code=None, signal=signal.SIGSEGV)

    assert counts(play(folder, Theatre(a=crash_at_exit), "a"))[0] == "finished"


def test_events_pass_and_garbage_does_not(folder: RunFolder) -> None:
    async def noisy(attempt: Attempt) -> Exit:
        with attempt.paths.events.open("ab") as file:
            file.write(b'\xff\xfe\n{"event": "nothing known"}\n' + b"[" * 100_000 + b"\n")
        attempt.events.emit(Warned(message="told"))
        with attempt.paths.events.open("ab") as file:
            file.write(b'{"event": "warn')
        return attempt.succeed()

    told = Told()
    assert play(folder, Theatre(a=noisy), "a", told=told).outcome == "finished"
    assert [type(event) for event in told.events[2:]] == [Warned, CellFinished]


def test_unavailable_cells_count_as_failed(folder: RunFolder) -> None:
    failure = Failure(cell="x", kind="environment", message="not fetched", hint="fetch it")
    told = Told()
    finished = play(folder, Theatre(), "a", told=told, unavailable=[(planned("x", "X"), failure)])
    assert counts(finished) == ("failed", 1, 1, 0, 1, 0)
    assert told.state.cells["x"].status == "failed"


# --- running again ----------------------------------------------------------------------------


def test_finished_cells_are_reused(folder: RunFolder) -> None:
    play(folder, Theatre(b=ended(1)), "a", "b")
    told, theatre = Told(), Theatre()
    assert counts(play(folder, theatre, "a", "b", told=told)) == ("finished", 0, 1, 1, 0, 0)
    assert list(theatre.handles) == ["b"]
    assert [len(folder.attempts(cell(name).cell)) for name in ("a", "b")] == [1, 2]
    reused = told.of(CellFinished)[0]
    assert isinstance(reused, CellFinished)
    assert reused.reused


def test_a_damaged_result_is_done_again_and_kept(folder: RunFolder) -> None:
    play(folder, Theatre(), "a")
    damaged = folder.attempts(cell("a").cell)[0].result
    damaged.write_text('{"schema_version": 1, "cell"')
    assert counts(play(folder, Theatre(), "a")) == ("finished", 0, 1, 0, 0, 0)
    assert damaged.read_text() == '{"schema_version": 1, "cell"'
    assert folder.result(cell("a").cell) == result(cell("a"))


# --- the lease --------------------------------------------------------------------------------


class Stage:
    """Watches who works and who measures while cells take turns with the lease."""

    def __init__(self) -> None:
        self.working: set[str] = set()
        self.measuring: set[str] = set()
        self.disturbed: list[str] = []
        self.order: list[str] = []

    @contextlib.contextmanager
    def during(self, group: set[str], name: str) -> Iterator[None]:
        group.add(name)
        self._check()
        yield
        self._check()
        group.remove(name)

    def _check(self) -> None:
        if self.measuring and (len(self.measuring) > 1 or self.working):
            self.disturbed.append(f"{self.measuring} beside {self.working}")

    def cell(self, work_s: float, windows: int = 1) -> Play:
        async def play(attempt: Attempt) -> Exit:
            name = attempt.spec.model.alias
            watcher = asyncio.ensure_future(self._watch(attempt, name))
            await attempt.work(work_s)
            watcher.cancel()
            for window in range(1, windows + 1):
                await attempt.lease(window)
                self.order.append(name)
                with self.during(self.measuring, name):
                    await asyncio.sleep(0.03)
                await attempt.release(window)
            return attempt.succeed()

        return play

    async def _watch(self, attempt: Attempt, name: str) -> None:
        """Whether it works while another measures."""
        while True:
            if attempt.at_work and self.measuring:
                self.disturbed.append(f"{self.measuring} beside {name}")
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_measuring_has_the_machine_to_itself(folder: RunFolder, jobs: int) -> None:
    stage = Stage()
    names = ("a", "b", "c", "d", "e")
    theatre = Theatre(**{name: stage.cell(0.01 * (i % 3), windows=2) for i, name in enumerate(names)})
    assert play(folder, theatre, *names, jobs=jobs).outcome == "finished"
    assert stage.disturbed == []
    assert sorted(stage.order) == sorted(names * 2)


def test_neighbours_stand_still_and_go_on(folder: RunFolder) -> None:
    stage, told = Stage(), Told()
    theatre = Theatre(a=stage.cell(0.0), b=stage.cell(0.2))
    assert play(folder, theatre, "a", "b", jobs=2, told=told).outcome == "finished"
    granted, ended = told.of(LeaseGranted)[0], told.of(LeaseEnded)[0]
    assert isinstance(granted, LeaseGranted)
    assert isinstance(ended, LeaseEnded)
    assert (granted.cell, granted.frozen) == (cell("a").cell, (cell("b").cell,))
    assert (ended.window, ended.reasons, ended.frozen) == (1, (), granted.frozen)
    frozen_s = msgspec.json.decode((folder.attempts(cell("b").cell)[0].folder / FROZEN_FILE).read_bytes())
    assert frozen_s >= ended.seconds


def test_windows_of_different_cells_alternate(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BREATH_S", 0.05)
    stage = Stage()
    theatre = Theatre(a=stage.cell(0.0, windows=3), b=stage.cell(0.0, windows=3))
    assert play(folder, theatre, "a", "b", jobs=2).outcome == "finished"
    assert stage.order in (["a", "b"] * 3, ["b", "a"] * 3)


def test_nobody_waits_where_all_wait_for_a_window(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BREATH_S", 3600.0)
    stage = Stage()
    theatre = Theatre(a=stage.cell(0.0, windows=3), b=stage.cell(0.0, windows=3))
    assert play(folder, theatre, "a", "b", jobs=2).outcome == "finished"
    assert sorted(stage.order) == ["a"] * 3 + ["b"] * 3


def test_nothing_starts_while_a_window_is_open(folder: RunFolder) -> None:
    async def quick(attempt: Attempt) -> Exit:  # its end frees a place while `a` measures
        await asyncio.sleep(0.1)
        return attempt.succeed()

    async def measure(attempt: Attempt) -> Exit:
        await attempt.lease()
        await asyncio.sleep(0.3)
        await attempt.release()
        return attempt.succeed()

    told = Told()
    theatre = Theatre(a=measure, quick=quick)
    assert play(folder, theatre, "a", "quick", "late", jobs=2, told=told).outcome == "finished"
    kinds = [type(e) for e in told.events if e.cell.startswith("late") or isinstance(e, LeaseGranted | LeaseEnded)]
    assert kinds == [LeaseGranted, LeaseEnded, CellStarted, CellFinished]


def test_what_the_host_saw_is_told(folder: RunFolder) -> None:
    heard: list[Verdict] = []

    async def measure(attempt: Attempt) -> Exit:
        await attempt.lease()
        heard.append(await attempt.release())
        return attempt.succeed()

    host, told = StillHost(), Told()
    host.reasons = ("the processor was throttled",)
    play(folder, Theatre(a=measure), "a", host=host, told=told)
    assert heard == [Verdict(reasons=("the processor was throttled",))]
    (ended,) = told.of(LeaseEnded)
    assert isinstance(ended, LeaseEnded)
    assert ended.reasons == heard[0].reasons


def test_a_neighbour_that_cannot_be_frozen_contaminates(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no(self: PlayedHandle) -> bool:
        return False

    monkeypatch.setattr(PlayedHandle, "freeze", no)
    told, stage = Told(), Stage()
    play(folder, Theatre(a=stage.cell(0.0), b=stage.cell(0.2)), "a", "b", jobs=2, told=told)
    first = told.of(LeaseEnded)[0]
    assert isinstance(first, LeaseEnded)
    assert first.reasons == (f"{cell('b').cell} could not be frozen",)


def test_a_holder_that_hangs_loses_the_lease(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "longest_window_s", lambda spec: 0.05)

    async def hang(attempt: Attempt) -> Exit:
        await attempt.lease()
        await asyncio.sleep(0.5)
        return attempt.succeed()

    told, stage = Told(), Stage()
    finished = play(folder, Theatre(a=hang, b=stage.cell(0.1)), "a", "b", jobs=2, told=told)
    assert finished.outcome == "finished"
    first = told.of(LeaseEnded)[0]
    assert isinstance(first, LeaseEnded)
    assert "lasted longer than" in first.reasons[0]
    order = [event.cell.partition("--")[0] for event in told.of(CellFinished)]
    assert order == ["b", "a"], "b went on although a never gave it back"


async def greedy(attempt: Attempt) -> Exit:
    for window in range(1, 100):
        if attempt.stopped.is_set():
            return Exit(code=None, signal=signal.SIGTERM)
        attempt.events.emit(LeaseWanted(window=window))
        await asyncio.sleep(0.02)
        attempt.events.emit(LeaseReleased(window=window))
    return attempt.succeed()


def test_a_cell_that_asks_for_windows_without_end_is_ended(folder: RunFolder) -> None:
    told, stage = Told(), Stage()
    theatre = Theatre(a=greedy, b=stage.cell(0.1))
    evaluation = EvaluationSpec(windows=2, repeats=1)
    finished = play(folder, theatre, "a", "b", jobs=2, told=told, evaluation=evaluation)
    assert counts(finished) == ("failed", 1, 1, 0, 1, 0)
    (failed,) = told.of(CellFailed)
    assert isinstance(failed, CellFailed)
    assert "more windows" in failed.message


def test_a_cell_that_keeps_the_lease_again_is_ended(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "longest_window_s", lambda spec: 0.03)

    async def keep(attempt: Attempt) -> Exit:
        for window in (1, 2, 3):
            await attempt.lease(window)
            await asyncio.wait({asyncio.ensure_future(attempt.stopped.wait())}, timeout=0.3)
            if attempt.stopped.is_set():
                return Exit(code=None, signal=signal.SIGTERM)
            await attempt.release(window)
        return attempt.succeed()

    told = Told()
    assert play(folder, Theatre(a=keep), "a", told=told).failed == 1
    assert len(told.of(LeaseEnded)) == 2


def test_a_cell_that_works_while_it_says_that_it_waits_stands_still_too(folder: RunFolder) -> None:
    stage = Stage()

    async def liar(attempt: Attempt) -> Exit:
        attempt.events.emit(LeaseWanted(window=1))
        watcher = asyncio.ensure_future(stage._watch(attempt, "liar"))
        await attempt.work(0.3)
        watcher.cancel()
        return attempt.succeed()

    theatre = Theatre(a=stage.cell(0.0, windows=3), liar=liar)
    assert play(folder, theatre, "a", "liar", jobs=2).outcome == "finished"
    assert stage.disturbed == []


@pytest.mark.parametrize("at", ["waiting", "holding"])
def test_a_cell_that_dies_with_the_lease_gives_it_back(folder: RunFolder, at: str) -> None:
    async def die(attempt: Attempt) -> Exit:
        if at == "holding":
            await attempt.lease()
        else:
            attempt.events.emit(LeaseWanted())
            await asyncio.sleep(0.03)
        return Exit(code=1)

    stage = Stage()
    finished = play(folder, Theatre(a=die, b=stage.cell(0.0)), "a", "b", jobs=2)
    assert counts(finished) == ("failed", 1, 1, 0, 1, 0)


# --- the time limit ---------------------------------------------------------------------------


async def slow_in_training(attempt: Attempt) -> Exit:
    attempt.events.emit(PhaseStarted(phase="train"))
    return await until_stopped(attempt)


def test_a_cell_that_takes_too_long_is_ended(folder: RunFolder) -> None:
    told, theatre = Told(), Theatre(slow=slow_in_training)
    assert counts(play(folder, theatre, "slow", "quick", told=told, seconds=0.1)) == ("failed", 1, 1, 0, 1, 0)
    failure = folder.failure(cell("slow").cell)
    assert failure is not None
    assert (failure.kind, failure.phase) == ("timeout", "train")
    assert "0.1 s" in failure.message
    assert "--timeout" in failure.hint
    (failed,) = told.of(CellFailed)
    assert isinstance(failed, CellFailed)
    assert (failed.kind, failed.interrupted) == ("timeout", False)
    assert theatre.handles["slow"].graces == [engines.STOP_GRACE_S], "asked once, and given time to write"


def test_what_a_cell_says_of_its_end_does_not_hide_the_limit(folder: RunFolder) -> None:
    async def report(attempt: Attempt) -> Exit:
        await attempt.stopped.wait()
        return await reported("interrupted")(attempt)

    play(folder, Theatre(slow=report), "slow", seconds=0.05)
    failure = folder.failure(cell("slow").cell)
    assert failure is not None
    assert failure.kind == "timeout"


def test_a_result_that_was_written_in_time_to_be_read_counts(folder: RunFolder) -> None:
    async def finish(attempt: Attempt) -> Exit:
        await attempt.stopped.wait()
        return attempt.succeed()

    assert play(folder, Theatre(slow=finish), "slow", seconds=0.05).outcome == "finished"


def test_waiting_for_the_lease_and_standing_still_do_not_count(folder: RunFolder) -> None:
    async def long_window(attempt: Attempt) -> Exit:
        await attempt.lease()
        await asyncio.sleep(0.6)
        await attempt.release()
        return attempt.succeed()

    stage = Stage()
    theatre = Theatre(long=long_window, waiting=stage.cell(0.0), frozen=stage.cell(0.15))
    finished = play(folder, theatre, "long", "waiting", "frozen", jobs=3, seconds={"waiting": 0.4, "frozen": 0.5})
    assert finished.outcome == "finished"
    assert theatre.handles["waiting"].graces == theatre.handles["frozen"].graces == []


@pytest.mark.parametrize("phase", PHASES)
def test_each_phase_can_have_a_limit(folder: RunFolder, phase: Phase) -> None:
    async def hang(attempt: Attempt) -> Exit:
        attempt.events.emit(PhaseStarted(phase=phase))
        return await until_stopped(attempt)

    play(folder, Theatre(a=hang), "a", limits=Limits(phase_seconds={phase: 0.05}))
    failure = folder.failure(cell("a").cell)
    assert failure is not None
    assert (failure.kind, failure.phase) == ("timeout", phase)
    assert f"'{phase}' took longer than its 0.05 s" in failure.message


def test_work_with_the_lease_counts(folder: RunFolder) -> None:
    async def hold(attempt: Attempt) -> Exit:
        await attempt.lease()
        return await until_stopped(attempt)

    play(folder, Theatre(a=hold), "a", seconds=0.05)
    failure = folder.failure(cell("a").cell)
    assert failure is not None
    assert failure.kind == "timeout"


# --- stopping ---------------------------------------------------------------------------------


def test_stop_interrupts_and_keeps_what_is_finished(folder: RunFolder) -> None:
    told = Told()

    def stop_second(event: Event) -> None:
        if isinstance(event, CellStarted) and event.cell == cell("b").cell:
            asyncio.get_running_loop().call_later(0.02, told.engine.stop)

    told.then = stop_second
    theatre = Theatre(b=until_stopped)
    assert counts(play(folder, theatre, "a", "b", "c", told=told)) == ("interrupted", 130, 1, 0, 0, 2)
    (failed,) = told.of(CellFailed)
    assert isinstance(failed, CellFailed)
    assert failed.interrupted
    assert list(theatre.handles) == ["a", "b"]
    assert theatre.handles["b"].graces[0] == engines.STOP_GRACE_S
    assert counts(play(folder, Theatre(), "a", "b", "c")) == ("finished", 0, 2, 1, 0, 0)


def test_a_second_stop_does_not_wait(folder: RunFolder) -> None:
    async def deaf(attempt: Attempt) -> Exit:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return Exit(code=None, signal=signal.SIGKILL)
        return Exit(code=0)

    told, theatre = Told(), Theatre(a=deaf)

    def stop_twice(event: Event) -> None:
        if isinstance(event, CellStarted):
            for delay in (0.02, 0.04):
                asyncio.get_running_loop().call_later(delay, told.engine.stop)

    told.then = stop_twice
    assert play(folder, theatre, "a", told=told).outcome == "interrupted"
    assert theatre.handles["a"].graces[:2] == [engines.STOP_GRACE_S, 0.0]


def test_a_cell_that_is_starting_is_stopped_too(folder: RunFolder) -> None:
    told = Told()

    class Slow(Theatre):
        async def start(self, attempt: AttemptPaths, spec: CellSpec) -> Handle:
            told.engine.stop()
            await asyncio.sleep(0)
            return await super().start(attempt, spec)

    assert play(folder, Slow(a=until_stopped), "a", "b", told=told).left == 2


# --- what ends the run ------------------------------------------------------------------------


class Lost(Theatre):
    """Loses the engine, as containers can: when a cell starts, or while it runs."""

    def __init__(self, kind: FailureKind, at: str, **plays: Play) -> None:
        super().__init__(**plays)
        self.kind, self.at = kind, at

    async def start(self, attempt: AttemptPaths, spec: CellSpec) -> Handle:
        if self.at == "start" and spec.model.alias == "lost":
            raise self.error()
        return await super().start(attempt, spec)

    def error(self) -> ExecutorError:
        return ExecutorError(self.kind, "the engine is gone", "start it")


@pytest.mark.parametrize("at", ["start", "wait"])
@pytest.mark.parametrize("kind", ["engine_gone", "image_missing"])
def test_an_executor_that_is_lost(
    folder: RunFolder, kind: FailureKind, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(attempt: Attempt) -> Exit:
        raise theatre.error()

    monkeypatch.setitem(POLICIES, "engine_gone", Policy("never", ""))
    told, theatre = Told(), Lost(kind, at, lost=lose)
    with pytest.raises(ExecutorError, match="the engine is gone"):
        play(folder, theatre, "good", "lost", "later", told=told)
    failure = folder.failure(cell("lost").cell)
    assert failure is not None
    assert (failure.kind, failure.message, failure.hint) == (kind, "the engine is gone", "start it")
    (failed,) = told.of(CellFailed)
    assert isinstance(failed, CellFailed)
    assert (failed.kind, failed.interrupted) == (kind, True)
    last = told.engine.finished(theatre.error())
    assert (last.outcome, last.exit_code, last.done, last.message) == ("broken", 3, 1, "the engine is gone")
    assert folder.attempts(cell("later").cell) == []
    again = play(folder, Theatre(), "good", "lost", "later")
    assert counts(again) == ("finished", 0, 2, 1, 0, 0), "it goes on where it was broken off"


@pytest.mark.parametrize("at", ["start", "wait"])
@pytest.mark.parametrize("kind", ["environment", "disk_full", "gpu_lost"])
def test_trouble_of_one_cell_with_the_executor_is_its_own(folder: RunFolder, kind: FailureKind, at: str) -> None:
    async def lose(attempt: Attempt) -> Exit:
        raise theatre.error()

    told, theatre = Told(), Lost(kind, at, lost=lose)
    assert counts(play(folder, theatre, "good", "lost", "later", told=told)) == ("failed", 1, 2, 0, 1, 0)
    (failed,) = told.of(CellFailed)
    assert isinstance(failed, CellFailed)
    assert (failed.kind, failed.interrupted) == (kind, False)
    assert len(told.of(CellRetried)) == POLICIES[kind].retries


def test_an_earlier_attempt_that_does_not_end_stops_its_own_cell_alone(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "OLD_ATTEMPT_S", 0.05)
    old = folder.new_attempt(cell("held").cell)
    with old.events.open("w") as events:
        fcntl.flock(events, fcntl.LOCK_EX)
        told = Told()
        assert counts(play(folder, Theatre(), "held", "free", told=told)) == ("failed", 1, 1, 0, 1, 0)
    (failed,) = told.of(CellFailed)
    assert isinstance(failed, CellFailed)
    assert str(old.folder) in failed.message
    assert counts(play(folder, Theatre(), "held", "free")) == ("finished", 0, 1, 1, 0, 0)


class Broken(Theatre):
    """Cannot start the model `broken`."""

    async def start(self, attempt: AttemptPaths, spec: CellSpec) -> Handle:
        if spec.model.alias == "broken":
            await asyncio.sleep(0.02)
            raise SetupError("cannot start a cell", "buy memory")
        return await super().start(attempt, spec)


def test_an_executor_that_cannot_start_ends_the_run(folder: RunFolder) -> None:
    told, theatre = Told(), Broken(a=until_stopped)
    with pytest.raises(SetupError, match="cannot start a cell"):
        play(folder, theatre, "a", "broken", "c", jobs=2, told=told)
    assert theatre.handles["a"].attempt.stopped.is_set()
    assert "c" not in theatre.handles
    assert told.engine.finished().left == 3
    assert read(folder.attempts(cell("a").cell)[0].failure, Failure).kind == "killed"


def test_a_journal_that_takes_no_more_ends_the_run(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()

    def fill_the_disk(event: Event) -> None:
        if isinstance(event, CellStarted):

            def refuse(_event: Event) -> Event:
                raise SetupError("the disk is full", "free some space")

            monkeypatch.setattr(told.journal, "append", refuse)

    told.then = fill_the_disk
    with pytest.raises(SetupError, match="the disk is full"):
        play(folder, Theatre(), "a", "b", told=told)


def test_a_display_that_breaks_leaves_no_cell_behind(folder: RunFolder) -> None:
    async def talk(attempt: Attempt) -> Exit:
        attempt.events.emit(Warned(message="m"))
        return await until_stopped(attempt)

    told, theatre = Told(), Theatre(a=talk, b=until_stopped)

    def close(event: Event) -> None:
        if isinstance(event, Warned | Notice):
            raise BrokenPipeError

    told.then = close
    with pytest.raises(BrokenPipeError):
        play(folder, theatre, "a", "b", jobs=2, told=told)
    assert all(handle.attempt.stopped.is_set() for handle in theatre.handles.values())


# --- trying again -----------------------------------------------------------------------------


def flaky(kind: FailureKind, failures: int, phase: Phase | None = None) -> tuple[Play, list[CellSpec]]:
    """Fails so often, then succeeds; and the specifications it was given."""
    specs: list[CellSpec] = []

    async def play(attempt: Attempt) -> Exit:
        specs.append(attempt.spec)
        if len(specs) > failures:
            return attempt.succeed()
        failure = Failure(cell=attempt.spec.cell, kind=kind, message="why", hint="how", phase=phase)
        write_atomic(attempt.paths.failure, encode(failure))
        return Exit(code=1)

    return play, specs


def test_out_of_memory_halves_the_batch_three_times(folder: RunFolder) -> None:
    once, specs = flaky("out_of_memory", 3, "train")
    told = Told()
    training = TrainingSpec(batch_size=16, accumulation=4)
    assert play(folder, Theatre(a=once), "a", told=told, training=training, method="lora").outcome == "finished"
    given = [(spec.fallback.batch_size, spec.fallback.accumulation) for spec in specs if spec.fallback]
    assert given == [(8, 8), (4, 16), (2, 32)]
    assert [event.attempt for event in told.of(CellRetried) if isinstance(event, CellRetried)] == [1, 2, 3]
    assert len({spec.identity for spec in specs}) == 1, "it is the same cell"
    assert len(folder.attempts(specs[0].cell)) == 4


def test_out_of_memory_four_times_fails(folder: RunFolder) -> None:
    always, specs = flaky("out_of_memory", 9, "train")
    finished = play(folder, Theatre(a=always), "a", method="lora")
    assert (counts(finished), len(specs)) == (("failed", 1, 0, 0, 1, 0), 4)


@pytest.mark.parametrize("kind", sorted({k for k, p in POLICIES.items() if p.how == "never"} - {"interrupted"}))
def test_what_would_fail_again_is_not_tried_again(folder: RunFolder, kind: FailureKind) -> None:
    always, specs = flaky(kind, 9)
    assert play(folder, Theatre(a=always), "a").failed == 1
    assert len(specs) == 1


@pytest.mark.parametrize("kind", sorted(k for k, p in POLICIES.items() if p.how == "backoff"))
def test_trouble_from_outside_is_tried_again_later(
    folder: RunFolder, kind: FailureKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = POLICIES[kind]
    monkeypatch.setitem(POLICIES, kind, Policy("backoff", policy.why, policy.retries, delay_s=0.001))
    once, specs = flaky(kind, policy.retries)
    told = Told()
    assert play(folder, Theatre(a=once), "a", told=told).outcome == "finished"
    delays = [event.delay_s for event in told.of(CellRetried) if isinstance(event, CellRetried)]
    assert delays == [0.001 * 2**n for n in range(policy.retries)]
    assert len(specs) == policy.retries + 1


def test_a_cell_that_rests_holds_no_slot(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POLICIES, "killed", Policy("backoff", "", 1, delay_s=0.2))
    once, _ = flaky("killed", 1)
    told = Told()
    assert play(folder, Theatre(a=once), "a", "b", told=told).outcome == "finished"
    ended = [event.cell.partition("--")[0] for event in told.of(CellFinished)]
    assert ended == ["b", "a"]


def test_an_executor_that_comes_back(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POLICIES, "engine_gone", Policy("backoff", "", 3, delay_s=0.01))
    starts: list[str] = []

    class Back(Theatre):
        async def start(self, attempt: AttemptPaths, spec: CellSpec) -> Handle:
            starts.append(spec.model.alias)
            if starts.count(spec.model.alias) < 3:
                raise ExecutorError("engine_gone", "gone", "start it")
            return await super().start(attempt, spec)

    assert counts(play(folder, Back(), "a", "b")) == ("finished", 0, 2, 0, 0, 0)


def test_a_stop_does_not_wait_for_a_resting_cell(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POLICIES, "killed", Policy("backoff", "", 1, delay_s=60))
    once, _ = flaky("killed", 1)
    told = Told()
    told.then = lambda event: told.engine.stop() if isinstance(event, CellRetried) else None
    assert counts(play(folder, Theatre(a=once), "a", told=told)) == ("interrupted", 130, 0, 0, 0, 1)


# --- clocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [-86400.0, 86400.0])
def test_a_clock_that_jumps_changes_no_duration(
    folder: RunFolder, jump_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    true, told = time.time, Told()

    def jump(event: Event) -> None:
        if isinstance(event, CellStarted):
            monkeypatch.setattr(time, "time", lambda: true() + jump_s)

    told.then = jump
    finished = play(folder, Theatre(a=Stage().cell(0.05)), "a", told=told, seconds=60)
    (done,) = told.of(CellFinished)
    assert isinstance(done, CellFinished)
    assert 0 < done.seconds < 60
    assert 0 < finished.seconds < 60
    assert finished.outcome == "finished"
