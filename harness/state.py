"""Events -> RunState, pure: displays, the report and the terminal UI all read it.

A run's own events stand here; those of a cell come from the contract. `RunState.apply` takes either, in any order and
however often, and never fails on one it does not need. It costs the same however large the run is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeVar

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

MOST_WARNINGS = 50  # kept of a cell; the newest
MOST_NOTICES = 200
MOST_FAILURES = 20  # of a cell's attempts

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


ACTIVE: tuple[CellStatus, ...] = ("running", "waiting", "frozen")  # the cell has a process
IDLE: tuple[CellStatus, ...] = ("queued", "retrying")


@dataclass(frozen=True)
class AttemptFailure:
    """How an attempt failed. `why`: what that led to; empty for the last one, which led to nothing."""

    attempt: int
    kind: FailureKind
    message: str
    why: str = ""


@dataclass
class CellState:
    """One cell as a display shows it."""

    plan: PlannedCell
    status: CellStatus = "queued"
    attempt: int = 0
    cores: tuple[int, ...] = ()
    gpus: tuple[str, ...] = ()
    fallback: Fallback | None = None
    phase: Phase | None = None
    progress: Progress | None = None
    validation: dict[str, float | None] = field(default_factory=dict)
    windows: int = 0  # of this attempt's timing, so far
    disturbed_windows: int = 0
    summary: Summary | None = None
    failure: CellFailed | None = None
    failures: list[AttemptFailure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    started: float | None = None
    retry_at: float | None = None  # while it is retrying: not before
    seconds: float | None = None


@dataclass
class _OfModel:
    """What is known of the durations of one model's cells."""

    done: int = 0
    done_s: float = 0.0
    idle: int = 0

    @property
    def mean_s(self) -> float | None:
        return self.done_s / self.done if self.done else None


@dataclass
class RunState:
    """A whole run. Mutated by `apply` alone. `holder`: the cell that has the lease."""

    run: str = ""
    folder: str = ""
    jobs: int = 1
    engine_pid: int | None = None
    started: float | None = None
    cells: dict[str, CellState] = field(default_factory=dict)
    holder: str | None = None
    notices: list[str] = field(default_factory=list)
    finished: RunFinished | None = None
    _by_status: dict[CellStatus, dict[str, CellState]] = field(default_factory=dict, repr=False)
    _by_model: dict[str, _OfModel] = field(default_factory=dict, repr=False)

    def apply(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._start(event)
        elif isinstance(event, Notice):
            _keep(self.notices, event.message, MOST_NOTICES)
        elif isinstance(event, RunFinished):
            self.finished = event
            for cell in self.having(*ACTIVE, "retrying"):  # those of a run that broke, or was killed
                self._set(cell, "interrupted")
            self.holder = None
        elif (found := self.cells.get(event.cell)) is not None:
            self._apply_to_cell(found, event)

    def count(self, *statuses: CellStatus) -> int:
        return sum(len(self._by_status.get(status, ())) for status in set(statuses))

    def having(self, *statuses: CellStatus) -> list[CellState]:
        """The cells with one of these statuses; takes no longer than there are such."""
        return [cell for status in statuses for cell in self._by_status.get(status, {}).values()]

    def eta_s(self, now: float) -> float | None:
        """Seconds left, by the mean duration of cells done for the same model and what running ones say themselves;
        None while there is neither for some cell: another model's duration says nothing about it."""
        active = self.having(*ACTIVE)
        if not (active or self.count(*IDLE, "done")):
            return None
        total, longest = 0.0, 0.0  # a run ends no sooner than its longest cell
        for of_model in self._by_model.values():
            if of_model.idle == 0:
                continue
            mean_s = of_model.mean_s
            if mean_s is None:
                return None
            total, longest = total + of_model.idle * mean_s, max(longest, mean_s)
        for cell in active:
            own_s = _time_left(cell, self._by_model[cell.plan.model].mean_s, now)
            if own_s is None:
                return None
            total, longest = total + own_s, max(longest, own_s)
        return max(total / max(self.jobs, 1), longest)

    def _start(self, event: RunStarted) -> None:
        """Also of a run that goes on: what is finished is told again as reused."""
        self.run, self.folder, self.jobs, self.started = event.run, event.folder, event.jobs, event.t
        self.engine_pid, self.finished, self.holder = event.engine_pid, None, None
        self.cells = {plan.cell: CellState(plan=plan) for plan in event.cells}
        self._by_status = {"queued": dict(self.cells)}
        self._by_model = {}
        for cell in self.cells.values():
            self._by_model.setdefault(cell.plan.model, _OfModel()).idle += 1

    def _apply_to_cell(self, cell: CellState, event: Event) -> None:
        if isinstance(event, CellStarted | CellFinished | CellFailed | CellRetried):
            if self.holder == cell.plan.cell:
                self._end_lease()
            self._apply_turn(cell, event)
        elif isinstance(event, Warned):
            _keep(cell.warnings, event.message, MOST_WARNINGS)
        elif isinstance(event, LeaseEnded):
            self._window_ended(cell, event)
        elif cell.status not in ACTIVE:
            return  # its last words may come after its end
        elif isinstance(event, LeaseGranted):
            self._grant(cell, event)
        elif isinstance(event, LeaseWanted):
            self._set(cell, "waiting")
        elif isinstance(event, LeaseReleased | PhaseStarted) and cell.status == "waiting":
            self._set(cell, "running")
        _follow(cell, event)

    def _apply_turn(self, cell: CellState, event: CellStarted | CellFinished | CellFailed | CellRetried) -> None:
        cell.phase, cell.progress, cell.retry_at = None, None, None
        if isinstance(event, CellStarted):
            cell.attempt, cell.started, cell.cores, cell.gpus = event.attempt, event.t, event.cores, event.gpus
            cell.failure, cell.validation, cell.windows, cell.disturbed_windows = None, {}, 0, 0
            self._set(cell, "running")
        elif isinstance(event, CellFinished):
            self._set(cell, "reused")  # a figure that counted already counts no more
            cell.summary, cell.seconds = event.summary, event.seconds
            self._set(cell, "reused" if event.reused else "done")
        elif isinstance(event, CellFailed):
            cell.failure = event
            if not event.interrupted:
                _keep(cell.failures, AttemptFailure(cell.attempt, event.kind, event.message), MOST_FAILURES)
            self._set(cell, "interrupted" if event.interrupted else "failed")
        else:
            failure = AttemptFailure(event.attempt, event.kind, event.message, event.why)
            _keep(cell.failures, failure, MOST_FAILURES)
            cell.fallback, cell.retry_at = event.fallback or cell.fallback, event.t + event.delay_s
            self._set(cell, "retrying")

    def _grant(self, cell: CellState, event: LeaseGranted) -> None:
        self._end_lease()  # one whose end was not told, if any
        self.holder = cell.plan.cell
        self._set(cell, "running")
        for name in event.frozen:
            other = self.cells.get(name)
            if other is not None and other is not cell and other.status == "running":
                self._set(other, "frozen")

    def _window_ended(self, cell: CellState, event: LeaseEnded) -> None:
        if self.holder == cell.plan.cell:
            self._end_lease()
            cell.windows += 1
            cell.disturbed_windows += bool(event.reasons)

    def _end_lease(self) -> None:
        self.holder = None
        for cell in self.having("frozen"):
            self._set(cell, "running")

    def _set(self, cell: CellState, status: CellStatus) -> None:
        """The one place where a status changes: the counts go with it."""
        of_model = self._by_model[cell.plan.model]
        of_model.idle += (status in IDLE) - (cell.status in IDLE)
        for known, sign in ((cell.status, -1), (status, 1)):
            if known == "done":
                of_model.done += sign
                of_model.done_s += sign * (cell.seconds or 0.0)
        del self._by_status[cell.status][cell.plan.cell]
        cell.status = status
        self._by_status.setdefault(status, {})[cell.plan.cell] = cell


def _time_left(cell: CellState, mean_s: float | None, now: float) -> float | None:
    """Seconds left of one cell, by how long others of its model took, and no less than its phase says."""
    reported = cell.progress.eta_s if cell.progress else None
    if mean_s is None:
        return reported
    spent = now - cell.started if cell.started is not None else 0.0
    return max(mean_s - spent, reported or 0.0)


def _follow(cell: CellState, event: Event) -> None:
    """What a cell tells while it works."""
    if isinstance(event, PhaseStarted):
        cell.phase, cell.progress = event.phase, None
    elif isinstance(event, PhaseFinished):
        cell.progress = None
    elif isinstance(event, Progress):
        cell.progress = event
    elif isinstance(event, Metrics) and event.split == "validation":
        cell.validation = event.values


T = TypeVar("T")


def _keep(items: list[T], item: T, most: int) -> None:
    """Append, and forget the oldest beyond `most`."""
    items.append(item)
    del items[:-most]
