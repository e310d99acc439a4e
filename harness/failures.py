"""What an attempt that ended has come to: its result, or the failure that says why there is none."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

import msgspec

from harness.executors import Exit
from harness.store import MESSAGE_CHARS, AttemptPaths
from runner.contract import ContractError, Failure, FailureKind, Phase, Result

AGAIN = "run the same command again; report it if it comes back"

# For causes that the cell cannot report itself, because it no longer runs.
HINTS: dict[FailureKind, str] = {
    "out_of_memory": "give it more (--memory), run fewer at a time (--jobs), or choose a smaller model or "
    "training.batch_size",
    "timeout": "give it longer (--timeout), or fewer rows or epochs",
    "disk_full": "free some space, then run the same command again: finished cells are kept",
    "killed": "if nobody did that, memory ran out: choose a smaller batch or model, or --jobs 1; then run again",
    "engine_gone": "start the engine, then run the same command again: finished cells are kept",
    "image_missing": "build it with `moodbench images build`, then run the same command again: finished cells are kept",
    "gpu_lost": "check the GPU with `nvidia-smi`, then run the same command again: finished cells are kept",
}


def conclude(cell: str, attempt: AttemptPaths, exited: Exit, phase: Phase | None) -> Result | Failure:
    """Read what the attempt left. A failure it could not report itself is written for it; `phase`: where it was. Raises
    SetupError."""
    report: Failure | None = None
    failure: Failure | None = None
    try:
        result = attempt.read_left(attempt.result, Result, cell)
        if result is not None:
            return result
        report = attempt.read_left(attempt.failure, Failure, cell)
    except ContractError as error:
        failure = _failure(cell, "no_result", str(error), AGAIN)
        if os.path.lexists(attempt.result):  # kept: it is done again all the same
            return failure
    if report is not None and exited.cause in (None, report.kind):
        return _shortened(report)
    if failure is None or exited.cause is not None:
        failure = unreported(cell, exited)
    failure = msgspec.structs.replace(failure, phase=phase)
    if report is not None:  # what the cell said of an end that came from outside explains nothing but where it was
        failure = msgspec.structs.replace(failure, phase=report.phase or phase, traceback=report.traceback)
    write_failure(attempt, failure)
    return failure


def refuse(cell: str, attempt: AttemptPaths, why: str, phase: Phase | None) -> Failure:
    """The failure of a cell that laid in its folder what no cell does: whatever it left, it is no result. Raises
    SetupError."""
    attempt.open_up()
    with suppress(OSError):
        attempt.put_aside(attempt.result)
    failure = msgspec.structs.replace(_failure(cell, "no_result", why, AGAIN), phase=phase)
    write_failure(attempt, failure)
    return failure


def write_failure(attempt: AttemptPaths, failure: Failure) -> None:
    """A cell that stands in the way of that has failed all the same. Raises SetupError."""
    with suppress(ContractError):
        attempt.write_failure(failure)


def unreadable(cell: str, error: Exception, attempt: AttemptPaths) -> Failure:
    """Of what was found damaged when it was read again, later."""
    hint = f"remove {attempt.folder} and run the suite again"
    return _failure(cell, "no_result", f"its result cannot be read: {error}", hint)


def _shortened(report: Failure) -> Failure:
    return msgspec.structs.replace(report, message=report.message[:MESSAGE_CHARS], hint=report.hint[:MESSAGE_CHARS])


def unreported(cell: str, exited: Exit) -> Failure:
    """The failure of a process that left neither result nor report, or whose end the executor knows better."""
    if exited.cause is not None:
        return _failure(cell, exited.cause, exited.detail, HINTS[exited.cause])
    if exited.signal is not None:
        name = _signal_name(exited.signal)
        if exited.signal in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            message = f"the cell's process was ended from outside ({name})"
            return _failure(cell, "killed", message, HINTS["killed"])
        return _failure(cell, "code", f"the cell's process crashed ({name})", "see the log; report it if it comes back")
    if exited.code == 0:
        return _failure(cell, "no_result", "the cell ended without a result", "see the log, then run again")
    return _failure(cell, "code", f"the cell's process ended with exit code {exited.code} and no report", "see the log")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"


def _failure(cell: str, kind: FailureKind, message: str, hint: str) -> Failure:
    return Failure(cell=cell, kind=kind, message=message, hint=hint, t=time.time())
