"""A finished attempt: its result and predictions, checked as what a cell left that nobody trusts, and cut to what
rankings and comparisons ask for."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from harness.entries import best_throughput
from harness.failures import unreadable
from harness.metrics import CONFUSION_METRICS
from harness.predictions import read_predictions
from harness.record import CellEntry
from harness.statistics import IntArray, order_statistic_interval
from harness.store import AttemptPaths, RunFolder, last_finished
from runner.contract import ContractError, Failure, Result

MOST_WINDOWS = 1_000  # of one cell, repeated ones among them
GREATEST = 1e15  # of a figure that means anything; sums of such are still exact enough
# What can be; of all other figures, from 0 to `GREATEST`.
BOUNDS = dict.fromkeys((*CONFUSION_METRICS, "roc_auc", "ece"), (0.0, 1.0)) | {"mcc": (-1.0, 1.0), "brier": (0.0, 2.0)}
TAILS = {"latency_p95_ms": 95, "latency_p99_ms": 99}
REQUESTED = ("batch_size", "accumulation", "evaluation_batch_size", "throughput_batch_size")


@dataclass(frozen=True)
class FinishedAttempt:
    """`stamp`: changes with the files that are read of it."""

    attempt: AttemptPaths
    stamp: str


def finished_attempt(folder: RunFolder, entry: CellEntry) -> FinishedAttempt | Failure | None:
    """The last attempt with a result, without reading it; how the cell failed, or None where it has not run to its
    end."""
    attempts = folder.attempts(entry.cell)
    attempt = last_finished(attempts)
    if attempt is None:
        failure = _failure(entry, attempts[-1]) if attempts else None
        return failure if failure and failure.kind != "interrupted" else None
    try:
        return FinishedAttempt(attempt, _stamp(attempt))
    except ContractError as error:
        return unreadable(entry.cell, error, attempt)


def checked_result(entry: CellEntry, attempt: AttemptPaths) -> Result:
    """That of a finished attempt, if it is the cell's and one can calculate with it. Raises ContractError."""
    result = attempt.read_left(attempt.result, Result, entry.cell)
    if result is None:  # it went away meanwhile
        raise ContractError(f"{attempt.result}: not there")
    _check(result, entry)
    return result


def checked_predictions(entry: CellEntry, attempt: AttemptPaths, classes: int) -> tuple[IntArray, IntArray]:
    """Labels and predictions, each (rows,), if they are of the cell's test split. Raises ContractError."""
    try:
        return read_predictions(attempt.predictions, classes, entry.test_rows, entry.test_labels_sha256)
    except OSError as error:
        raise ContractError(f"{attempt.predictions}: cannot be read ({error.strerror})") from None


def without_bulk(result: Result) -> Result:
    """What no ranking asks for is most of a result: not to be held for 10,000 cells."""
    replace = msgspec.structs.replace
    timing, quality, where = result.timing, result.quality, result.provenance
    if timing is not None:
        best = best_throughput(timing)
        sizes = {best.batch_size} if best else set()
        windows = tuple(
            replace(window, throughput=tuple(one for one in window.throughput if one.batch_size in sizes))
            for window in timing.windows
            if window.counted
        )
        throughput = (best,) if best else ()
        timing = replace(timing, latency=replace(timing.latency, samples_ms=()), windows=windows, throughput=throughput)
    if quality is not None:
        quality = replace(quality, per_class=(), per_slice=(), confusion=())
    return replace(
        result,
        timing=timing,
        quality=quality,
        training=None,
        requested={name: value for name, value in result.requested.items() if name in REQUESTED},
        effective={name: choice for name, choice in result.effective.items() if name in REQUESTED},
        provenance=replace(where, packages={}, weights_sha256={}),
    )


def tails_of(result: Result) -> dict[str, tuple[float, float]]:
    """Of the p95 and p99 that are given: what the order of the raw samples says of them."""
    if result.timing is None:
        return {}
    latency = result.timing.latency
    given = {"latency_p95_ms": latency.p95_ms, "latency_p99_ms": latency.p99_ms}
    samples = np.asarray(latency.samples_ms)
    bounds = {name: order_statistic_interval(samples, p) for name, p in TAILS.items() if given[name] is not None}
    return {name: (float(found.low), float(found.high)) for name, found in bounds.items() if found is not None}


def _failure(entry: CellEntry, attempt: AttemptPaths) -> Failure | None:
    try:
        return attempt.read_left(attempt.failure, Failure, entry.cell)
    except ContractError as error:
        return unreadable(entry.cell, error, attempt)


def _stamp(attempt: AttemptPaths) -> str:
    """Changes with the files that are read. Raises ContractError."""
    marks = []
    for path in (attempt.result, attempt.predictions):
        try:
            found = path.lstat()
        except OSError as error:
            raise ContractError(f"{path}: cannot be read ({error.strerror})") from None
        marks.append(f"{found.st_size:x}.{found.st_mtime_ns:x}.{found.st_ino:x}")
    return " ".join(marks)


def _check(result: Result, entry: CellEntry) -> None:
    """That it is the cell's, and that one can calculate with its figures. Raises ContractError."""
    if result.identity != entry.identity or (entry.label_names and result.label_names != entry.label_names):
        raise ContractError("it is of other settings than the cell's")
    figures = [*msgspec.structs.asdict(result.summary).items()]
    figures += result.quality.metrics.items() if result.quality else ()
    figures += [("latency_p95_ms", result.timing.latency.p95_ms)] if result.timing else ()
    figures += _of_windows(result)
    figures += [("number of parameters", result.parameters_total)]
    for name, value in figures:
        least, most = BOUNDS.get(name, (0.0, GREATEST))
        if isinstance(value, int | float) and not least <= value <= most:
            raise ContractError(f"its {name[:40]} is beyond measure")


def _of_windows(result: Result) -> list[tuple[str, float | None]]:
    windows = result.timing.windows if result.timing else ()
    if len(windows) > MOST_WINDOWS:
        raise ContractError("its timing has more windows than can be")
    figures: list[tuple[str, float | None]] = [("p50_ms", window.p50_ms) for window in windows]
    figures += [("mean_ms", window.mean_ms) for window in windows]
    for one in (one for window in windows for one in window.throughput):
        figures += [("samples_per_s", one.samples_per_s), ("tokens_per_s", one.tokens_per_s)]
    return figures
