"""Events -> RunState, pure: displays, the report and the terminal UI all read it.

A run's own events stand here; those of a cell come from the contract. `RunState.apply` takes either, in any order
that a run can produce, and never fails on one it does not need.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import msgspec

from runner.contract import (
    CellEvent,
    Event,
    FailureKind,
    Fallback,
    LeaseReleased,
    LeaseWanted,
    Metrics,
    Phase,
    PhaseFinished,
    PhaseStarted,
    Progress,
    Summary,
    Warned,
)

RunOutcome = Literal["finished", "failed", "interrupted", "broken"]  # broken: the run itself could not go on
# retrying: it failed and is queued again, later; waiting: for the lease; frozen: while another is timed.
CellStatus = Literal["queued", "retrying", "running", "waiting", "frozen", "done", "reused", "failed", "interrupted"]


class PlannedCell(msgspec.Struct, frozen=True, kw_only=True):
    cell: str
    model: str
    dataset: str
    method: str
    seed: int
    device: str


class Notice(Event, frozen=True, kw_only=True, tag="notice"):
    """Something the user should know before or during the run."""

    message: str


class RunStarted(Event, frozen=True, kw_only=True, tag="run_started"):
    run: str
    suite: str
    folder: str
    jobs: int
    cells: tuple[PlannedCell, ...]
    engine_pid: int | None = None


class CellStarted(Event, frozen=True, kw_only=True, tag="cell_started"):
    """`cores`, `gpus`: where it was put; () where it may use any. `resumes`: it goes on from an earlier attempt."""

    attempt: int
    cores: tuple[int, ...] = ()
    gpus: tuple[str, ...] = ()
    resumes: bool = False


class CellFinished(Event, frozen=True, kw_only=True, tag="cell_finished"):
    """`reused`: the result was there before this run started."""

    summary: Summary
    seconds: float
    reused: bool = False


class CellRetried(Event, frozen=True, kw_only=True, tag="cell_retried"):
    """The attempt failed and another follows, not before `delay_s` have passed. `fallback`: what it does otherwise."""

    attempt: int  # that failed
    kind: FailureKind
    message: str
    delay_s: float
    why: str
    fallback: Fallback | None = None
    log: str | None = None


class LeaseGranted(Event, frozen=True, kw_only=True, tag="lease_granted"):
    """The cell measures alone; `frozen` are the cells that stand still meanwhile."""

    window: int
    frozen: tuple[str, ...] = ()


class LeaseEnded(Event, frozen=True, kw_only=True, tag="lease_ended"):
    """Those frozen run again. `reasons`: why the window is contaminated, if it is; `seconds` since it was granted."""

    window: int
    seconds: float
    frozen: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


class CellFailed(Event, frozen=True, kw_only=True, tag="cell_failed"):
    kind: FailureKind
    message: str
    hint: str
    log: str | None = None
    interrupted: bool = False  # the run was stopped: the cell is not at fault and goes on next time


class RunFinished(Event, frozen=True, kw_only=True, tag="run_finished"):
    """Always the last event. Cells: total = done + reused + failed + left. `message`, `hint`: of a run that could not
    begin or go on."""

    outcome: RunOutcome
    exit_code: int
    total: int = 0
    done: int = 0
    reused: int = 0
    failed: int = 0
    left: int = 0
    seconds: float = 0.0
    folder: str = ""
    message: str = ""
    hint: str = ""


RunEvent = (
    Notice
    | RunStarted
    | CellStarted
    | CellFinished
    | CellRetried
    | CellFailed
    | LeaseGranted
    | LeaseEnded
    | RunFinished
)
AnyEvent = RunEvent | CellEvent


@dataclass
class CellState:
    """One cell as a display shows it."""

    plan: PlannedCell
    status: CellStatus = "queued"
    attempt: int = 0
    phase: Phase | None = None
    progress: Progress | None = None
    validation: dict[str, float | None] = field(default_factory=dict)
    summary: Summary | None = None
    failure: CellFailed | None = None
    warnings: list[str] = field(default_factory=list)
    started: float | None = None
    seconds: float | None = None


@dataclass
class RunState:
    """A whole run. Mutated by `apply` alone."""

    run: str = ""
    folder: str = ""
    jobs: int = 1
    started: float | None = None
    cells: dict[str, CellState] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    finished: RunFinished | None = None

    def apply(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self.run, self.folder, self.jobs, self.started = event.run, event.folder, event.jobs, event.t
            self.cells = {plan.cell: CellState(plan=plan) for plan in event.cells}
            self.finished = None
        elif isinstance(event, Notice):
            self.notices.append(event.message)
        elif isinstance(event, RunFinished):
            self.finished = event
        elif event.cell in self.cells:
            _apply_to_cell(self.cells[event.cell], event)

    def count(self, *statuses: CellStatus) -> int:
        return sum(cell.status in statuses for cell in self.cells.values())

    def eta_s(self, now: float) -> float | None:
        """Seconds left, by the mean duration of cells done for the same model and what running ones say themselves;
        None while there is neither for some cell: another model's duration says nothing about it."""
        durations: dict[str, list[float]] = {}
        for cell in self.cells.values():
            if cell.status == "done" and cell.seconds is not None:
                durations.setdefault(cell.plan.model, []).append(cell.seconds)
        unfinished = [cell for cell in self.cells.values() if cell.status in ("queued", "running", "waiting")]
        if not (durations or unfinished):
            return None
        left: list[float] = []
        for cell in unfinished:
            own_s = _time_left(cell, durations.get(cell.plan.model), now)
            if own_s is None:
                return None
            left.append(own_s)
        return max(sum(left) / self.jobs, max(left, default=0.0))  # no sooner than the longest cell


def _time_left(cell: CellState, durations: list[float] | None, now: float) -> float | None:
    """Seconds left of one cell, by how long others of its model took, and no less than its phase says."""
    reported = cell.progress.eta_s if cell.progress else None
    if not durations:
        return reported
    spent = now - cell.started if cell.started is not None else 0.0
    return max(sum(durations) / len(durations) - spent, reported or 0.0)


def _apply_to_cell(cell: CellState, event: Event) -> None:
    if isinstance(event, CellStarted):
        cell.status, cell.attempt, cell.started = "running", event.attempt, event.t
        cell.phase, cell.progress, cell.failure, cell.validation = None, None, None, {}
    elif isinstance(event, CellFinished):
        cell.status = "reused" if event.reused else "done"
        cell.summary, cell.seconds, cell.phase, cell.progress = event.summary, event.seconds, None, None
    elif isinstance(event, CellFailed):
        cell.status = "interrupted" if event.interrupted else "failed"
        cell.failure, cell.phase, cell.progress = event, None, None
    elif isinstance(event, PhaseStarted):
        cell.status, cell.phase, cell.progress = "running", event.phase, None  # `time` starts when the lease is granted
    elif isinstance(event, PhaseFinished):
        cell.progress = None
    elif isinstance(event, Progress):
        cell.progress = event
    elif isinstance(event, Metrics) and event.split == "validation":
        cell.validation = event.values
    elif isinstance(event, Warned):
        cell.warnings.append(event.message)
    elif isinstance(event, LeaseWanted):
        cell.status = "waiting"
    elif isinstance(event, LeaseReleased):
        cell.status = "running"
