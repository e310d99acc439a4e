from __future__ import annotations

import pytest

from harness.state import CellFinished, CellStarted, Notice, RunStarted, RunState
from runner.contract import Event, LeaseReleased, LeaseWanted, PhaseStarted, Progress
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


def eta(jobs: int, now: float, *events: Event) -> float | None:
    plans = (planned("a", "A"), planned("b", "A", seed=2), planned("c", "B"), planned("d", "B", seed=2))
    start = RunStarted(t=0.0, run="r", suite="s", folder="f", jobs=jobs, cells=plans)
    return state_after(start, *events).eta_s(now)


def done(cell: str, seconds: float, *, reused: bool = False) -> Event:
    return CellFinished(cell=cell, summary=summary(), seconds=seconds, reused=reused)


def training(cell: str, eta_s: float | None) -> list[Event]:
    progress = Progress(t=100.0, cell=cell, phase="train", step=1, steps=9, eta_s=eta_s)
    return [CellStarted(t=100.0, cell=cell, attempt=1), progress]


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
    ],
)
def test_time_left(jobs: int, events: list[Event], left: float | None) -> None:
    assert eta(jobs, 100.0, *events) == left
