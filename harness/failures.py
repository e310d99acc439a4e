"""What an attempt that ended has come to: its result, or the failure that says why there is none."""

from __future__ import annotations

import signal
import time

import msgspec

from harness.executors import Exit
from harness.store import AttemptPaths, writing
from runner.contract import ContractError, Failure, FailureKind, Phase, Result, encode, read, write_atomic

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
    """Read what the attempt left. A failure it could not report itself is written for it; `phase`: where it was."""
    report: Failure | None = None
    try:
        if attempt.result.exists():
            return read(attempt.result, Result)
        if attempt.failure.exists():
            report = read(attempt.failure, Failure)
    except ContractError as error:
        return _failure(cell, "no_result", str(error), "run the same command again; report it if it comes back")
    if report is not None and exited.cause in (None, report.kind):
        return report
    failure = msgspec.structs.replace(unreported(cell, exited), phase=phase)
    if report is not None:  # what the cell said of an end that came from outside explains nothing but where it was
        failure = msgspec.structs.replace(failure, phase=report.phase or phase, traceback=report.traceback)
    write_failure(attempt, failure)
    return failure


def write_failure(attempt: AttemptPaths, failure: Failure) -> None:
    with writing(attempt.failure):
        write_atomic(attempt.failure, encode(failure))


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
