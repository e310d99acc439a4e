"""What became of a cell: every attempt, how it ended, what followed and why; from the journal and what they left."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

import msgspec

from harness.errors import InputError
from harness.failures import POLICIES
from harness.journal import tail_journal
from harness.reuse import REUSED_FILE, ReusedFrom
from harness.state import CellFailed, CellFinished, CellRetried, CellStarted, RunFinished, RunStarted
from harness.store import AttemptPaths, RunFolder
from runner.contract import CellSpec, ContractError, Event, Failure, Result, read

Ending = CellFinished | CellFailed | CellRetried | RunFinished


class Difference(msgspec.Struct, frozen=True):
    """What was not done as asked for."""

    name: str
    requested: str
    effective: str
    reason: str


class AttemptStory(msgspec.Struct, frozen=True, kw_only=True):
    """`state`: how it ended; "running" while it has not, "cut off" where its engine ended first, "taken over" where
    another run's is what a later attempt goes on from."""

    number: int
    folder: str
    state: str
    started: float | None = None
    seconds: float | None = None
    where: str = ""
    resumes: bool = False
    taken_from: ReusedFrom | None = None
    phase: str | None = None
    kind: str | None = None
    message: str = ""
    hint: str = ""
    log: str | None = None
    follows: str = ""
    differences: tuple[Difference, ...] = ()


class CellStory(msgspec.Struct, frozen=True, kw_only=True):
    cell: str
    attempts: tuple[AttemptStory, ...] = ()
    unavailable: str = ""  # why it never began


@dataclass
class _Told:
    """What the journal tells of one attempt."""

    started: CellStarted
    ending: Ending | None = None
    cut_off: bool = False


@dataclass
class _History:
    """Of one cell."""

    attempts: dict[int, _Told] = field(default_factory=dict)
    current: _Told | None = None
    refused: CellFailed | None = None  # before any attempt of its execution

    def take(self, event: Event, cell: str) -> None:
        if isinstance(event, RunStarted) and self.current is not None:  # its engine was killed
            self.current.cut_off, self.current = True, None
        elif isinstance(event, RunFinished) and self.current is not None:
            self.current.ending, self.current = event, None
        elif event.cell != cell:
            return
        elif isinstance(event, CellStarted):
            self.current = self.attempts[event.attempt] = _Told(event)
            self.refused = None
        elif isinstance(event, CellFinished | CellFailed | CellRetried):
            self._take_end(event)

    def _take_end(self, event: CellFinished | CellFailed | CellRetried) -> None:
        if self.current is not None:
            self.current.ending, self.current = event, None
        elif isinstance(event, CellFailed) and self.attempts:
            last = self.attempts[max(self.attempts)]  # stopped while it waited for its next attempt
            last.ending = last.ending or event
        elif isinstance(event, CellFailed):
            self.refused = event


def find_cell(folder: RunFolder, given: str) -> str:
    """A cell of the run by its name, or by a beginning or part of it that no other has. Raises InputError."""
    record = folder.read_record()
    known = [entry.cell for entry in record.cells] + [failure.cell for failure in record.unavailable]
    if given in known:
        return given
    for found in ([c for c in known if c.startswith(given)], [c for c in known if given.lower() in c.lower()]):
        if len(found) == 1:
            return found[0]
        if found:
            shown = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
            raise InputError(f"'{given}' may be any of {len(found)} cells: {shown}", "give more of its name")
    near = difflib.get_close_matches(given.lower(), known, n=3, cutoff=0.3) or known[:3]
    raise InputError(f"no cell '{given}' in run '{folder.folder.name}'", f"nearest names: {', '.join(near) or 'none'}")


def explain(folder: RunFolder, cell: str, *, alive: bool) -> CellStory:
    """`alive`: an engine works on the run."""
    history = _history(folder, cell)
    attempts = folder.attempts(cell)
    stories = tuple(_story(attempt, cell, history.attempts.get(attempt.number), alive) for attempt in attempts)
    return CellStory(cell=cell, attempts=stories, unavailable=_unavailable(folder, cell, history))


def _unavailable(folder: RunFolder, cell: str, history: _History) -> str:
    if history.refused is not None:
        return f"{history.refused.message}; {history.refused.hint}"
    failure = next((f for f in folder.read_record().unavailable if f.cell == cell), None)
    return f"{failure.message}; {failure.hint}" if failure is not None else ""


def _history(folder: RunFolder, cell: str) -> _History:
    history = _History()
    tail = tail_journal(folder.journal)
    while True:
        for event in tail.read():
            history.take(event, cell)
        if not tail.is_behind:
            return history


def _story(attempt: AttemptPaths, cell: str, told: _Told | None, alive: bool) -> AttemptStory:
    result = _read_result(attempt, cell)
    failure = _read_failure(attempt, cell)
    taken_from = _taken_from(attempt) if told is None else None  # a cell may have laid it there, too
    ending = told.ending if told is not None else None
    ended = isinstance(ending, CellFailed | CellRetried)
    message = failure.message if failure is not None else ""
    if isinstance(ending, CellFailed | CellRetried):
        message = ending.message
    return AttemptStory(
        number=attempt.number,
        folder=str(attempt.folder),
        state="taken over" if taken_from and not taken_from.speed else _state(told, result, failure, alive),
        started=told.started.t if told is not None else None,
        seconds=_seconds(told, result),
        where=_where(attempt, told),
        resumes=told is not None and told.started.resumes,
        taken_from=taken_from,
        phase=failure.phase if failure is not None else None,
        kind=ending.kind if isinstance(ending, CellFailed | CellRetried) else failure.kind if failure else None,
        message=message,
        hint=ending.hint if isinstance(ending, CellFailed) else failure.hint if failure is not None else "",
        log=str(attempt.log) if (ended or failure is not None) and attempt.log.exists() else None,
        follows=_follows(ending),
        differences=differences_of(result),
    )


def _state(told: _Told | None, result: Result | None, failure: Failure | None, alive: bool) -> str:
    ending = told.ending if told is not None else None
    if isinstance(ending, CellFailed):
        return "stopped" if ending.interrupted else "failed"
    if isinstance(ending, CellRetried):
        return "failed"
    if isinstance(ending, CellFinished) or result is not None:
        return "finished"
    if failure is not None:
        return "failed"
    if told is not None and ending is None and not told.cut_off and alive:
        return "running"
    return "cut off"


def _seconds(told: _Told | None, result: Result | None) -> float | None:
    if told is not None and isinstance(told.ending, CellFinished):
        return told.ending.seconds
    if told is not None and told.ending is not None:
        return max(0.0, told.ending.t - told.started.t)
    return sum(result.phases.values()) if result is not None else None


def _where(attempt: AttemptPaths, told: _Told | None) -> str:
    """`native, device cpu, cores 0-1, 2 threads`."""
    try:
        spec = read(attempt.spec, CellSpec)
    except (ContractError, OSError):
        return ""
    cores = told.started.cores if told is not None else spec.cores
    gpus = told.started.gpus if told is not None else spec.gpus
    parts = [spec.executor, f"device {spec.device}"]
    parts += [f"cores {','.join(map(str, cores))}"] if cores else []
    parts += [f"GPU {', '.join(gpus)}"] if gpus else []
    return ", ".join([*parts, f"{spec.threads} thread{'s' if spec.threads > 1 else ''}"])


def _follows(ending: Ending | None) -> str:
    """What followed, and why."""
    from harness.display.words import duration, fallback_words

    if isinstance(ending, CellRetried):
        when = f"tried again after {duration(ending.delay_s)}" if ending.delay_s else "tried again"
        changed = f" with {fallback_words(ending.fallback)}" if ending.fallback is not None else ""
        return f"{when}{changed}: {ending.why}"
    if isinstance(ending, CellFailed) and ending.interrupted:
        return "the run was stopped or could not go on; `moodbench resume` goes on with it"
    if isinstance(ending, CellFailed):
        policy = POLICIES[ending.kind]
        why = policy.why if policy.how == "never" else "it had been tried as often as that helps, or cannot be smaller"
        return f"not tried again: {why}"
    return ""


def differences_of(result: Result | None) -> tuple[Difference, ...]:
    """What was not done as asked for, in the order of the result."""
    if result is None:
        return ()
    found = []
    for name, choice in result.effective.items():
        asked = result.requested.get(name)
        if name in result.requested and asked != choice.value:
            found.append(Difference(name, str(asked), str(choice.value), choice.reason))
    return tuple(found)


def _taken_from(attempt: AttemptPaths) -> ReusedFrom | None:
    try:
        return read(attempt.folder / REUSED_FILE, ReusedFrom)
    except (ContractError, OSError):
        return None


def _read_result(attempt: AttemptPaths, cell: str) -> Result | None:
    try:
        return attempt.read_left(attempt.result, Result, cell)
    except ContractError:
        return None


def _read_failure(attempt: AttemptPaths, cell: str) -> Failure | None:
    try:
        return attempt.read_left(attempt.failure, Failure, cell)
    except ContractError:
        return None
