"""What an attempt that ended has come to: its result, or the failure that says why there is none; and what follows.

The one layer that tries again is here: `POLICIES` (docs/failures.md shows them) and `next_step`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import msgspec

from harness.executors import Exit
from harness.store import MESSAGE_CHARS, AttemptPaths
from runner.contract import CellSpec, ContractError, Failure, FailureKind, Fallback, Phase, Result

How = Literal["never", "smaller_batch", "backoff"]


@dataclass(frozen=True)
class Policy:
    """What follows a failure of one class: so many further attempts in one run of the engine, the first after
    `delay_s`, each later one after twice as long. `why`: a clause for the user."""

    how: How
    why: str
    retries: int = 0
    delay_s: float = 0.0


NEVER_SAME = "it would end the same way again"
POLICIES: dict[FailureKind, Policy] = {
    "configuration": Policy("never", NEVER_SAME),
    "data": Policy("never", NEVER_SAME),
    "model": Policy("never", NEVER_SAME),
    "code": Policy("never", NEVER_SAME),
    "nan_loss": Policy("never", "the same seed leads to the same loss"),
    "no_result": Policy("never", NEVER_SAME),
    "environment": Policy("never", "something has to be set right first"),
    "disk_full": Policy("never", "space has to be freed first"),
    "image_missing": Policy("never", "the image has to be built first"),
    "timeout": Policy("never", "it would take as long again"),
    "interrupted": Policy("never", "the run was stopped; it goes on from there next time"),
    "out_of_memory": Policy("smaller_batch", "half the batch needs less memory", retries=3),
    "killed": Policy("backoff", "nothing says that the cell is at fault", retries=2, delay_s=1.0),
    "engine_gone": Policy("backoff", "the container engine may come back", retries=5, delay_s=2.0),
    "gpu_lost": Policy("backoff", "the GPU may come back", retries=3, delay_s=10.0),
    "network": Policy("backoff", "the network may come back", retries=4, delay_s=2.0),
}

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


@dataclass(frozen=True)
class Retry:
    """Another attempt, not before `delay_s` have passed."""

    delay_s: float
    why: str
    fallback: Fallback | None


def next_step(spec: CellSpec, failure: Failure, tried: Mapping[FailureKind, int]) -> Retry | None:
    """What follows this failure of the attempt that `spec` describes; None: nothing. `tried`: how often each class has
    led to another attempt already."""
    policy = POLICIES[failure.kind]
    count = tried.get(failure.kind, 0)
    pause_s = backoff_s(failure.kind, count)
    if pause_s is not None:
        return Retry(pause_s, policy.why, spec.fallback)
    if policy.how != "smaller_batch" or count >= policy.retries:
        return None
    fallback = smaller_batch(spec, failure.phase)
    return Retry(policy.delay_s, policy.why, fallback) if fallback else None


def backoff_s(kind: FailureKind, count: int) -> float | None:
    """The pause before the next attempt after `count` that trouble of this class has led to; None: there is none."""
    policy = POLICIES[kind]
    if policy.how != "backoff" or count >= policy.retries:
        return None
    return policy.delay_s * 2.0**count


def smaller_batch(spec: CellSpec, phase: Phase | None) -> Fallback | None:
    """About half of what the phase that ran out of memory takes at a time; None where that would not help. A step of
    training sees as many examples as before, so that the largest divisor of their number is taken."""
    if spec.method == "none" or phase not in ("train", "score", "time"):
        return None
    given = spec.fallback or Fallback(reason="")
    batch = given.batch_size or spec.training.batch_size
    scored = given.evaluation_batch_size or spec.evaluation.batch_size
    timed = given.throughput_batch_size or max(spec.evaluation.throughput_batch_sizes)
    if {"train": batch, "score": scored, "time": timed}[phase] == 1:
        return None
    changed = msgspec.structs.replace(given, reason=f"halved: memory ran out in the phase '{phase}'")
    if phase == "time":
        return msgspec.structs.replace(changed, throughput_batch_size=timed // 2)
    if phase == "score":
        return msgspec.structs.replace(changed, evaluation_batch_size=scored // 2)
    examples = spec.training.batch_size * spec.training.accumulation
    smaller = max(size for size in range(1, batch // 2 + 1) if examples % size == 0)
    return msgspec.structs.replace(
        changed,
        batch_size=smaller,
        accumulation=examples // smaller,
        evaluation_batch_size=max(1, scored // 2),  # the validation split is scored in that phase, too
    )


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
