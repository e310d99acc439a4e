"""Random sequences of events, as a run can produce and as it cannot, whole, cut at any byte and repeated."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from harness.journal import EventTail
from harness.state import (
    ACTIVE,
    AnyEvent,
    CellFailed,
    CellFinished,
    CellRetried,
    CellStarted,
    CellStatus,
    LeaseEnded,
    LeaseGranted,
    Notice,
    RunFinished,
    RunStarted,
    RunState,
)
from runner.contract import (
    PHASES,
    Event,
    Failed,
    Finished,
    LeaseReleased,
    LeaseWanted,
    Metrics,
    PhaseFinished,
    PhaseStarted,
    Progress,
    Resources,
    Warned,
)
from tests.harness.builders import planned, summary

STATUSES: tuple[CellStatus, ...] = get_args(CellStatus)
NAMES = ("a", "b", "c", "d", "e")
SEEDS = range(300)


def started(chance: random.Random) -> RunStarted:
    cells = tuple(planned(name, chance.choice(("A", "B"))) for name in NAMES if chance.random() < 0.9)
    return RunStarted(t=chance.random(), run="r", suite="s", folder="f", jobs=chance.choice((1, 2, 8)), cells=cells)


def failed(chance: random.Random, cell: str) -> CellFailed:
    return CellFailed(cell=cell, kind="killed", message="m", hint="h", interrupted=chance.random() < 0.5)


def retried(chance: random.Random, cell: str) -> CellRetried:
    return CellRetried(cell=cell, attempt=chance.randrange(5), kind="network", message="m", delay_s=1.0, why="again")


def finished_cell(chance: random.Random, cell: str) -> CellFinished:
    seconds = chance.choice((0.0, 0.1, 3.7, 1e6))
    return CellFinished(cell=cell, summary=summary(), seconds=seconds, reused=chance.random() < 0.3)


def some(chance: random.Random) -> tuple[str, ...]:
    return tuple(chance.choices(("x", *NAMES), k=chance.randrange(4)))


ANY: tuple[Callable[[random.Random, str], Event], ...] = (
    lambda chance, _: Notice(message=str(chance.random())),
    lambda chance, cell: CellStarted(t=chance.random(), cell=cell, attempt=chance.randrange(5)),
    finished_cell,
    failed,
    retried,
    lambda chance, cell: LeaseGranted(cell=cell, window=1, frozen=some(chance)),
    lambda chance, cell: LeaseEnded(cell=cell, window=1, seconds=1.0, frozen=some(chance), reasons=some(chance)),
    lambda chance, cell: PhaseStarted(cell=cell, phase=chance.choice(PHASES)),
    lambda chance, cell: PhaseFinished(cell=cell, phase=chance.choice(PHASES), seconds=1.0),
    lambda chance, cell: Progress(cell=cell, phase="train", step=1, steps=chance.randrange(3), eta_s=chance.random()),
    lambda chance, cell: Metrics(cell=cell, phase="train", split="validation", values={"f1": chance.random()}),
    lambda _, cell: Resources(cell=cell, rss_mb=1.0),
    lambda _, cell: Warned(cell=cell, message="w"),
    lambda _, cell: LeaseWanted(cell=cell),
    lambda _, cell: LeaseReleased(cell=cell),
    lambda _, cell: Finished(cell=cell, seconds=1.0),
    lambda _, cell: Failed(cell=cell, kind="code", message="m"),
)


def life(chance: random.Random, cell: str) -> list[Event]:
    """What one cell can bring about, with an attempt or two before the last."""
    events: list[Event] = []
    for attempt in range(1, chance.randrange(1, 4) + 1):
        events += [CellStarted(t=chance.random(), cell=cell, attempt=attempt), PhaseStarted(cell=cell, phase="train")]
        for window in range(chance.randrange(4)):
            others = tuple(name for name in NAMES if name != cell)
            events += [
                LeaseWanted(cell=cell, window=window),
                LeaseGranted(cell=cell, window=window, frozen=others),
                LeaseReleased(cell=cell, window=window),
                LeaseEnded(cell=cell, window=window, seconds=1.0, frozen=others),
            ]
        events.append(retried(chance, cell))
    return [*events[:-1], chance.choice((failed, finished_cell))(chance, cell)]


def possible(chance: random.Random) -> list[Event]:
    """The lives of all cells, shuffled into one another."""
    lives = [life(chance, name) for name in NAMES]
    events: list[Event] = [started(chance)]
    while lives := [events_left for events_left in lives if events_left]:
        events.append(chance.choice(lives).pop(0))
    return [*events, RunFinished(outcome="finished", exit_code=0)]


def impossible(chance: random.Random) -> list[Event]:
    events: list[Event] = [started(chance)] if chance.random() < 0.9 else []
    for _ in range(chance.randrange(120)):
        if chance.random() < 0.02:
            events.append(chance.choice((started(chance), RunFinished(outcome="broken", exit_code=3))))
        else:
            events.append(chance.choice(ANY)(chance, chance.choice((*NAMES, "", "x"))))
    return events


def mangled(chance: random.Random) -> list[Event]:
    """Some events twice, some not at all, a stretch repeated, as after a restart or a copy of a file."""
    events = [event for event in possible(chance) for _ in range(chance.choices((1, 0, 2), (8, 1, 1))[0])]
    begin = chance.randrange(len(events) + 1)
    return [*events, *events[begin : begin + 20]]


def sequence(seed: int) -> list[Event]:
    chance = random.Random(seed)
    return chance.choice((possible, impossible, mangled))(chance)


def reduced(events: list[Event]) -> RunState:
    state = RunState()
    for event in events:
        state.apply(event)
    return state


def check(state: RunState) -> None:
    recount = Counter(cell.status for cell in state.cells.values())
    assert {status: state.count(status) for status in STATUSES} == {status: recount[status] for status in STATUSES}
    assert state.count(*STATUSES) == len(state.cells)
    for status in STATUSES:
        assert {cell.plan.cell for cell in state.having(status)} == {
            name for name, cell in state.cells.items() if cell.status == status
        }
    if state.holder is not None:
        assert state.cells[state.holder].status in ("running", "waiting")
    else:
        assert state.count("frozen") == 0
    left = state.eta_s(5.0)
    assert left is None or left >= 0.0
    assert left == pytest.approx(eta_from_scratch(state, 5.0))


def eta_from_scratch(state: RunState, now: float) -> float | None:
    """The definition, walking all cells."""
    durations: dict[str, list[float]] = {}
    for cell in state.cells.values():
        if cell.status == "done":
            durations.setdefault(cell.plan.model, []).append(cell.seconds or 0.0)
    left: list[float] = []
    for cell in state.cells.values():
        if cell.status not in ("queued", "retrying", *ACTIVE):
            continue
        own = durations.get(cell.plan.model)
        mean_s = sum(own) / len(own) if own else None
        reported = cell.progress.eta_s if cell.progress else None
        spent = now - cell.started if cell.status in ACTIVE and cell.started is not None else 0.0
        own_s = reported if mean_s is None else max(mean_s - spent, reported or 0.0)
        if own_s is None:
            return None
        left.append(own_s)
    if not left:
        return 0.0 if durations else None
    return max(sum(left) / state.jobs, *left)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_step_keeps_the_counts(seed: int) -> None:
    state = RunState()
    for event in sequence(seed):
        state.apply(event)
        check(state)
    state.apply(RunFinished(outcome="interrupted", exit_code=130))
    check(state)
    assert (state.count(*ACTIVE, "retrying"), state.holder) == (0, None)


def test_what_is_drawn_reaches_every_status() -> None:
    reached = {cell.status for seed in SEEDS for cell in reduced(sequence(seed)[:-1]).cells.values()}
    assert reached == set(STATUSES)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_journal_cut_at_any_byte_and_followed_further(seed: int, tmp_path: Path) -> None:
    chance = random.Random(~seed)
    events = sequence(seed)
    data = b"".join(msgspec.json.encode(event) + b"\n" for event in events)
    cut = chance.randrange(len(data) + 1)
    path = tmp_path / "journal.jsonl"
    tail, state = EventTail(path, AnyEvent), RunState()
    for upto in sorted((cut, chance.randrange(len(data) + 1), len(data))):
        path.write_bytes(data[:upto])
        for event in tail.read():
            state.apply(event)
        check(state)
        assert state == reduced(events[: data[:upto].count(b"\n")])
    assert (state, tail.unreadable) == (reduced(events), 0)


@pytest.mark.parametrize("seed", range(0, 300, 10))
def test_torn_lines_and_garbage_between(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    lines = [msgspec.json.encode(event) for event in sequence(seed)]
    torn = [line[: chance.randrange(len(line))] if chance.random() < 0.2 else line for line in lines]
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"\n".join(torn) + b"\n")
    tail, state = EventTail(path, AnyEvent), RunState()
    for event in tail.read():
        state.apply(event)
        check(state)


@pytest.mark.parametrize("seed", range(0, 300, 10))
def test_all_of_it_told_again_after_a_new_start_comes_to_the_same(seed: int) -> None:
    events = [event for event in sequence(seed) if not isinstance(event, Notice)]
    if events and isinstance(events[0], RunStarted):
        assert reduced([*events, *events]) == reduced(events)
