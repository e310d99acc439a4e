"""The engine with an executor in this process: each cell is a small coroutine that plays a runner."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from harness import engine as engines
from harness.engine import Engine
from harness.errors import ExecutorError, SetupError
from harness.executors import Exit, Handle
from harness.journal import EventTail
from harness.state import CellFailed, CellFinished, CellStarted, Notice, PlannedCell, RunFinished, RunStarted, RunState
from harness.store import AttemptPaths, RunFolder
from runner.contract import (
    CellSpec,
    Event,
    Failure,
    FailureKind,
    LeaseReleased,
    Limits,
    PhaseStarted,
    Warned,
    encode,
    read,
    write_atomic,
)
from tests.harness.builders import cell, planned, result
from tests.harness.theatre import Attempt, Play, Theatre, until_stopped


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "POLL_S", 0.005)


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
) -> RunFinished:
    told = told or Told()

    async def work() -> RunFinished:
        engine = Engine(folder, executor, jobs=jobs, watch=told)
        told.engine = engine  # type: ignore[attr-defined]
        limits = seconds if isinstance(seconds, dict) else dict.fromkeys(models, seconds)
        specs = [cell(model, limits=Limits(seconds=limits.get(model))) for model in models]
        return await asyncio.wait_for(engine.run("suite", specs, unavailable), 20)

    return asyncio.run(work())


def counts(finished: RunFinished) -> tuple[str, int, int, int, int, int]:
    return (finished.outcome, finished.exit_code, finished.done, finished.reused, finished.failed, finished.left)


# --- outcomes of one cell ---------------------------------------------------------------------


def test_success(folder: RunFolder) -> None:
    told = Told()
    finished = play(folder, Theatre(), "a", "b", told=told)
    assert counts(finished) == ("finished", 0, 2, 0, 0, 0)
    assert [type(event) for event in told.events] == [
        RunStarted, *[CellStarted, CellFinished] * 2, RunFinished,
    ]  # fmt: skip
    assert read(folder.attempts(cell("a").cell)[0].spec, CellSpec) == cell("a")
    journal = EventTail(folder.journal, RunStarted | CellStarted | CellFinished | RunFinished).read()
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
    assert Path(failed.log).parent == folder.attempts(cell("bad").cell)[0].folder


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
    assert [type(event) for event in told.events[2:]] == [Warned, CellFinished, RunFinished]


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
    assert (reused.reused, reused.seconds) == (True, 7.0)


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

    def cell(self, work_s: float) -> Play:
        async def play(attempt: Attempt) -> Exit:
            name = attempt.spec.model.alias
            with self.during(self.working, name):
                await asyncio.sleep(work_s)
            await attempt.lease()
            self.order.append(name)
            with self.during(self.measuring, name):
                await asyncio.sleep(0.03)
            attempt.events.emit(LeaseReleased())
            return attempt.succeed()

        return play


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_measuring_has_the_machine_to_itself(folder: RunFolder, jobs: int) -> None:
    stage = Stage()
    names = ("a", "b", "c", "d", "e")
    theatre = Theatre(**{name: stage.cell(0.01 * (i % 3)) for i, name in enumerate(names)})
    assert play(folder, theatre, *names, jobs=jobs).outcome == "finished"
    assert stage.disturbed == []
    assert sorted(stage.order) == list(names)


def test_nothing_starts_while_a_lease_is_wanted(folder: RunFolder) -> None:
    async def quick(attempt: Attempt) -> Exit:  # its end frees a place while `a` waits for `b`
        await asyncio.sleep(0.05)
        return attempt.succeed()

    stage, told = Stage(), Told()
    theatre = Theatre(a=stage.cell(0.0), b=stage.cell(0.15), quick=quick, late=quick)
    assert play(folder, theatre, "a", "b", "quick", "late", jobs=3, told=told).outcome == "finished"
    ended = [event.cell.partition("--")[0] for event in told.events if isinstance(event, CellFinished)]
    assert ended[0] == "quick"
    released = [i for i, event in enumerate(told.events) if isinstance(event, LeaseReleased)]
    late = next(i for i, e in enumerate(told.events) if isinstance(e, CellStarted) and e.cell.startswith("late"))
    assert len(released) == 2
    assert late > released[-1]


def test_a_cell_that_dies_with_the_lease_gives_it_back(folder: RunFolder) -> None:
    async def die(attempt: Attempt) -> Exit:
        await attempt.lease()
        return Exit(code=None, signal=signal.SIGKILL)

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


def test_waiting_for_the_lease_does_not_count(folder: RunFolder) -> None:
    stage = Stage()
    theatre = Theatre(working=stage.cell(0.4), waiting=stage.cell(0.0))
    finished = play(folder, theatre, "working", "waiting", jobs=2, seconds={"waiting": 0.2})
    assert finished.outcome == "finished"
    assert stage.order[0] == "waiting", "it asked first, and had to wait for longer than it may take"
    assert theatre.handles["waiting"].graces == []


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
            asyncio.get_running_loop().call_later(0.02, told.engine.stop)  # type: ignore[attr-defined]

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
                asyncio.get_running_loop().call_later(delay, told.engine.stop)  # type: ignore[attr-defined]

    told.then = stop_twice
    assert play(folder, theatre, "a", told=told).outcome == "interrupted"
    assert theatre.handles["a"].graces[:2] == [engines.STOP_GRACE_S, 0.0]


def test_a_signal_stops(folder: RunFolder) -> None:
    told = Told()
    told.then = lambda event: signal.raise_signal(signal.SIGTERM) if isinstance(event, CellStarted) else None
    assert play(folder, Theatre(a=until_stopped), "a", told=told).exit_code == 130


def test_a_cell_that_is_starting_is_stopped_too(folder: RunFolder) -> None:
    told = Told()

    class Slow(Theatre):
        async def start(self, attempt: AttemptPaths, spec: CellSpec) -> Handle:
            told.engine.stop()  # type: ignore[attr-defined]
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
@pytest.mark.parametrize(
    ("kind", "interrupted"), [("engine_gone", True), ("image_missing", True), ("environment", False)]
)
def test_an_executor_that_is_lost(folder: RunFolder, kind: FailureKind, at: str, interrupted: bool) -> None:
    async def lose(attempt: Attempt) -> Exit:
        raise theatre.error()

    told, theatre = Told(), Lost(kind, at, lost=lose)
    with pytest.raises(ExecutorError, match="the engine is gone"):
        play(folder, theatre, "good", "lost", "later", told=told)
    failure = folder.failure(cell("lost").cell)
    assert failure is not None
    assert (failure.kind, failure.message, failure.hint) == (kind, "the engine is gone", "start it")
    (failed,) = told.of(CellFailed)
    assert isinstance(failed, CellFailed)
    assert (failed.kind, failed.interrupted) == (kind, interrupted)
    last = told.events[-1]
    assert isinstance(last, RunFinished)
    assert (last.outcome, last.exit_code, last.done) == ("broken", 3, 1)
    assert folder.attempts(cell("later").cell) == []
    again = play(folder, Theatre(), "good", "lost", "later")
    assert counts(again) == ("finished", 0, 2, 1, 0, 0), "it goes on where it was broken off"


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
    last = told.events[-1]
    assert isinstance(last, RunFinished)
    assert (last.outcome, last.exit_code, last.left) == ("broken", 3, 3)
    assert read(folder.attempts(cell("a").cell)[0].failure, Failure).kind == "killed"


def test_a_journal_that_takes_no_more_still_ends_with_run_finished(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()

    def fill_the_disk(event: Event) -> None:
        if isinstance(event, CellStarted):

            def refuse(_event: Event) -> Event:
                raise SetupError("the disk is full", "free some space")

            monkeypatch.setattr(told.engine._journal, "append", refuse)  # type: ignore[attr-defined]

    told.then = fill_the_disk
    with pytest.raises(SetupError, match="the disk is full"):
        play(folder, Theatre(), "a", "b", told=told)
    last = told.events[-1]
    assert isinstance(last, RunFinished)
    assert last.exit_code == 3


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
