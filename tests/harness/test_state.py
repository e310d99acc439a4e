from __future__ import annotations

import pytest

from harness.state import (
    MOST_FAILURES,
    MOST_NOTICES,
    MOST_WARNINGS,
    AttemptFailure,
    CellFailed,
    CellFinished,
    CellRetried,
    CellStarted,
    LeaseEnded,
    LeaseGranted,
    Notice,
    RunFinished,
    RunStarted,
    RunState,
)
from runner.contract import Event, Fallback, LeaseReleased, LeaseWanted, PhaseStarted, Progress, Warned
from tests.harness.builders import planned, recorded_run, summary


def state_after(*events: Event) -> RunState:
    state = RunState()
    for event in events:
        state.apply(event)
    return state


def statuses(state: RunState) -> str:
    return " ".join(cell.status for cell in state.cells.values())


def test_a_whole_run() -> None:
    events = recorded_run()
    state = RunState()
    seen = []
    for event in events:
        state.apply(event)
        seen.append(statuses(state))
    assert seen == [
        "queued queued queued",
        "reused queued queued",
        "reused running queued",
        *["reused running running"] * 5,
        *["reused running failed"] * 2,
        "reused waiting failed",
        *["reused running failed"] * 3,  # granted: the phase `time` has started
        *["reused done failed"] * 2,
    ]
    assert (state.run, state.jobs, state.started) == ("demo", 2, 100.0)
    assert state.finished is events[-1]
    done, failed = state.cells["b"], state.cells["c"]
    assert (done.attempt, done.seconds, done.summary) == (2, 24.0, summary("MiniLM-L6", 0.9))
    assert (done.phase, done.progress, done.validation) == (None, None, {"f1": 0.8})
    assert done.warnings == ["the machine was busy"]
    assert failed.failure is not None
    assert failed.failure.message == "no weights"
    assert (state.count("done"), state.count("done", "reused", "failed")) == (1, 3)


def test_progress_belongs_to_its_phase() -> None:
    events = recorded_run()
    upto = next(i for i, event in enumerate(events) if isinstance(event, Progress))
    state = state_after(*events[: upto + 1])
    assert state.cells["b"].progress is events[upto]
    state.apply(PhaseStarted(cell="b", phase="score"))
    assert (state.cells["b"].phase, state.cells["b"].progress) == ("score", None)


def test_unknown_cells_and_notices_change_no_cell() -> None:
    events = recorded_run()
    state = state_after(events[0])
    for event in (CellStarted(cell="x", attempt=1), LeaseWanted(cell="x"), LeaseReleased(), Notice(message="hello")):
        state.apply(event)
    assert statuses(state) == "queued queued queued"
    assert state.notices == ["hello"]


def test_another_run_starts_afresh() -> None:
    state = state_after(*recorded_run(), recorded_run()[0])
    assert statuses(state) == "queued queued queued"
    assert state.finished is None


def running(*more: Event) -> RunState:
    """Three cells that run, and what follows."""
    plans = tuple(planned(name) for name in "abc")
    start = RunStarted(t=1.0, run="r", suite="s", folder="f", jobs=3, cells=plans, engine_pid=7)
    return state_after(start, *(CellStarted(t=2.0, cell=name, attempt=1) for name in "abc"), *more)


WANTED = [PhaseStarted(cell="a", phase="time"), LeaseWanted(cell="a", window=1)]
GRANTED = LeaseGranted(cell="a", window=1, frozen=("b", "c", "gone", "a"))
ENDED = LeaseEnded(cell="a", window=1, seconds=2.0, frozen=("b", "c"), reasons=("busy",))


@pytest.mark.parametrize(
    ("events", "expected", "holder"),
    [
        ([], "running running running", None),
        (WANTED, "waiting running running", None),
        ([*WANTED, GRANTED], "running frozen frozen", "a"),
        ([*WANTED, GRANTED, LeaseReleased(cell="a"), ENDED], "running running running", None),
        # what a frozen cell told before, but was read later
        ([*WANTED, GRANTED, Progress(cell="b", phase="train", step=1, steps=2)], "running frozen frozen", "a"),
        ([*WANTED, GRANTED, LeaseWanted(cell="b"), ENDED], "running waiting running", None),
        ([LeaseWanted(cell="b"), *WANTED, GRANTED], "running waiting frozen", "a"),
        # the holder ends, however
        ([*WANTED, GRANTED, CellFinished(cell="a", summary=summary(), seconds=1.0)], "done running running", None),
        (
            [*WANTED, GRANTED, CellFailed(cell="a", kind="killed", message="m", hint="h")],
            "failed running running",
            None,
        ),
        # a window whose end was not told, and an end of another's
        ([*WANTED, GRANTED, LeaseGranted(cell="b", window=1, frozen=("c",))], "running running frozen", "b"),
        ([*WANTED, GRANTED, LeaseGranted(cell="b", window=1)], "running running running", "b"),
        ([*WANTED, GRANTED, LeaseEnded(cell="b", window=1, seconds=1.0)], "running frozen frozen", "a"),
        # a frozen cell is ended
        (
            [*WANTED, GRANTED, CellFailed(cell="b", kind="killed", message="m", hint="h"), ENDED],
            "running failed running",
            None,
        ),
    ],
)
def test_who_stands_still_while_one_is_timed(events: list[Event], expected: str, holder: str | None) -> None:
    state = running(*events)
    assert (statuses(state), state.holder) == (expected, holder)


def test_windows_are_counted_in_an_attempt() -> None:
    state = running(*WANTED, GRANTED, ENDED, *WANTED, GRANTED, LeaseEnded(cell="a", window=2, seconds=1.0), ENDED)
    assert (state.cells["a"].windows, state.cells["a"].disturbed_windows) == (2, 1)
    state.apply(CellStarted(cell="a", attempt=2))
    assert (state.cells["a"].windows, state.cells["a"].disturbed_windows) == (0, 0)


def retried(attempt: int) -> CellRetried:
    fallback = Fallback(batch_size=8, accumulation=8, reason="memory ran out")
    return CellRetried(
        t=10.0, cell="a", attempt=attempt, kind="out_of_memory", message="no memory", delay_s=5.0, why="half the batch",
        fallback=fallback if attempt == 1 else None,
    )  # fmt: skip


def test_a_cell_that_is_tried_again() -> None:
    state = running(Progress(cell="a", phase="train", step=1, steps=2), retried(1))
    cell = state.cells["a"]
    assert (cell.status, cell.retry_at, cell.phase, cell.progress) == ("retrying", 15.0, None, None)
    assert cell.failures == [AttemptFailure(1, "out_of_memory", "no memory", "half the batch")]
    state.apply(CellStarted(cell="a", attempt=2, cores=(1,), gpus=("0",)))
    assert (cell.status, cell.attempt, cell.cores, cell.gpus, cell.retry_at) == ("running", 2, (1,), ("0",), None)
    state.apply(retried(2))
    assert cell.fallback is not None  # it holds on
    state.apply(CellStarted(cell="a", attempt=3))
    state.apply(CellFailed(cell="a", kind="timeout", message="too long", hint="h"))
    assert [(failure.attempt, failure.kind, failure.why) for failure in cell.failures] == [
        (1, "out_of_memory", "half the batch"),
        (2, "out_of_memory", "half the batch"),
        (3, "timeout", ""),
    ]


def test_a_stop_is_no_failure_of_the_attempt() -> None:
    state = running(CellFailed(cell="a", kind="interrupted", message="m", hint="h", interrupted=True))
    assert (state.cells["a"].status, state.cells["a"].failures) == ("interrupted", [])


def test_what_is_kept_is_bounded() -> None:
    state = running()
    for number in range(1000):
        state.apply(Warned(cell="a", message=f"w{number}"))
        state.apply(Notice(message=f"n{number}"))
        state.apply(retried(number))
    cell = state.cells["a"]
    assert (len(cell.warnings), len(state.notices), len(cell.failures)) == (MOST_WARNINGS, MOST_NOTICES, MOST_FAILURES)
    assert (cell.warnings[-1], state.notices[-1], cell.failures[-1].attempt) == ("w999", "n999", 999)


def test_last_words_after_the_end_change_nothing_but_warnings() -> None:
    late = [PhaseStarted(cell="a", phase="time"), *WANTED, GRANTED, Progress(cell="a", phase="time", step=1, steps=2)]
    state = running(CellFinished(cell="a", summary=summary(), seconds=1.0), *late, Warned(cell="a", message="late"))
    assert (statuses(state), state.holder) == ("done running running", None)
    assert (state.cells["a"].phase, state.cells["a"].progress) == (None, None)
    assert state.cells["a"].warnings == ["late"]


def test_nothing_runs_after_the_end_of_a_run_however_it_ended() -> None:
    state = running(retried(1), *WANTED, LeaseGranted(cell="b", window=1, frozen=("c",)))
    state.apply(RunFinished(outcome="broken", exit_code=3))
    assert (statuses(state), state.holder) == ("interrupted interrupted interrupted", None)


def test_a_run_that_goes_on_tells_all_cells_again() -> None:
    state = running(*WANTED, GRANTED)
    start = RunStarted(t=9.0, run="r", suite="s", folder="f", jobs=3, cells=tuple(map(planned, "ab")), engine_pid=8)
    state.apply(start)
    assert (statuses(state), state.holder, state.engine_pid) == ("queued queued", None, 8)
    assert state.count("queued") == 2
    assert state.count("running", "frozen") == 0


def test_the_cells_of_a_status() -> None:
    state = running(*WANTED, GRANTED)
    assert [cell.plan.cell for cell in state.having("frozen", "running")] == ["b", "c", "a"]
    assert state.count("frozen", "frozen") == 2


def eta(jobs: int, now: float, *events: Event) -> float | None:
    plans = (planned("a", "A"), planned("b", "A", seed=2), planned("c", "B"), planned("d", "B", seed=2))
    start = RunStarted(t=0.0, run="r", suite="s", folder="f", jobs=jobs, cells=plans)
    return state_after(start, *events).eta_s(now)


def done(cell: str, seconds: float, *, reused: bool = False) -> Event:
    return CellFinished(cell=cell, summary=summary(), seconds=seconds, reused=reused)


def training(cell: str, eta_s: float | None) -> list[Event]:
    progress = Progress(t=100.0, cell=cell, phase="train", step=1, steps=9, eta_s=eta_s)
    return [CellStarted(t=100.0, cell=cell, attempt=1), progress]


ENDS = [done("c", 1.0), done("d", 1.0)]
RETRIED = CellRetried(t=50.0, cell="b", attempt=1, kind="network", message="m", delay_s=1.0, why="w")


@pytest.mark.parametrize(
    ("jobs", "events", "left"),
    [
        (1, [], None),
        (1, [done("a", 10.0, reused=True)], None),  # it says nothing about this machine now
        (1, [done("a", 10.0)], None),  # it says nothing about the other model
        (1, [done("a", 10.0), CellStarted(t=90.0, cell="c", attempt=1)], None),
        (1, [done("a", 10.0), done("c", 40.0)], 50.0),  # by the model's own duration
        (2, [done("a", 10.0), done("c", 40.0)], 40.0),  # no sooner than the longest cell
        (1, [done("a", 10.0), done("c", 40.0), CellStarted(t=96.0, cell="b", attempt=1)], 46.0),
        (1, [done("a", 10.0), done("c", 40.0), CellStarted(t=0.0, cell="b", attempt=1)], 40.0),  # late: never negative
        (1, [done("a", 10.0), done("b", 10.0), done("d", 1.0), *training("c", 90.0)], 90.0),  # it says so itself
        (2, [done("a", 10.0), done("b", 10.0), *training("c", 80.0), *training("d", 90.0)], 90.0),
        (1, [done("a", 10.0), done("b", 10.0), *training("c", 80.0)], None),  # the queued one says nothing
        (1, [*training("a", None), done("b", 10.0), done("c", 1.0), done("d", 1.0)], 10.0),
        (1, [done("a", 1.0), done("b", 1.0), done("c", 1.0), done("d", 1.0)], 0.0),
        (1, [done("a", 10.0), done("a", 10.0), done("c", 40.0)], 50.0),  # told twice, counted once
        (1, [done("a", 10.0), done("b", 30.0), CellStarted(t=100.0, cell="b", attempt=2), *ENDS], 10.0),  # again
        (1, [done("a", 10.0), CellStarted(t=9.0, cell="b", attempt=1), RETRIED, *ENDS], 10.0),  # from its start
        (0, [done("a", 10.0), *ENDS], 10.0),
    ],
)
def test_time_left(jobs: int, events: list[Event], left: float | None) -> None:
    assert eta(jobs, 100.0, *events) == left
