"""From a run folder to its leaderboard: reads results and predictions, ranks them, keeps `leaderboard.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from harness.errors import InputError
from harness.failures import unreadable
from harness.predictions import read_predictions
from harness.record import CellEntry
from harness.store import AttemptPaths, RunFolder, last_finished, writing
from runner.contract import ContractError, Failure, Result, read, write_atomic

if TYPE_CHECKING:
    from harness.board import Leaderboard, NoiseFloor
    from harness.ranking import CellRecord
    from harness.statistics import IntArray

MOST_WINDOWS = 1_000  # of one cell, repeated ones among them
GREATEST = 1e15  # of a figure that means anything; sums of such are still exact enough


@dataclass(frozen=True)
class Standing:
    """The ranking of what is finished, and what is not: cells that failed or whose model or dataset could not be had,
    and how many have not run or were stopped."""

    board: Leaderboard
    failures: tuple[Failure, ...]
    missing: int


def standing_of(folder: RunFolder) -> Standing:
    """Rank everything the run holds; a result that cannot be read counts as failed. Raises InputError where the
    folder is no run, or its cells contradict each other."""
    from harness.ranking import rank_cells

    run = folder.read_record()
    records: list[CellRecord] = []
    failures: list[Failure] = list(run.unavailable)
    labels = _SharedLabels()
    missing = 0
    for entry in run.cells:
        attempts = folder.attempts(entry.cell)
        attempt = last_finished(attempts)
        if attempt is not None:
            read_back = _record(entry, attempt, labels)
            if isinstance(read_back, Failure):
                failures.append(read_back)
            else:
                records.append(read_back)
        elif attempts and (failure := _failure(entry, attempts[-1])) and failure.kind != "interrupted":
            failures.append(failure)
        else:
            missing += 1
    try:
        board = rank_cells(records, noise_floor=_noise_floor(folder))
    except ValueError as error:
        raise InputError(f"cannot rank {folder.folder}: {error}", "remove that cell's folder, run again") from None
    return Standing(board=board, failures=tuple(failures), missing=missing)


def write_leaderboard(folder: RunFolder, standing: Standing) -> None:
    from harness.report.tables import as_json

    with writing(folder.leaderboard):
        write_atomic(folder.leaderboard, as_json(standing.board).encode())


def _noise_floor(folder: RunFolder) -> NoiseFloor | None:
    """That of the machine the run is on; None where it was not calibrated. Raises InputError."""
    from harness.board import NoiseFloor
    from harness.calibration import Calibration

    try:
        found = read(folder.calibration, Calibration)
    except FileNotFoundError:
        return None
    except (ContractError, OSError) as error:
        raise InputError(f"cannot read the calibration ({error})", "remove it: then no speeds count as equal") from None
    return NoiseFloor(
        latency_p50=found.latency_p50,
        latency_p99=found.latency_p99,
        throughput=found.throughput,
        cpu_model=found.cpu_model,
        executor=found.executor,
        threads=found.threads,
    )


class _SharedLabels:
    """The labels of a dataset are kept once, not once a cell."""

    def __init__(self) -> None:
        self._known: dict[str, IntArray] = {}

    def of(self, fingerprint: str, labels: IntArray) -> IntArray:
        known = self._known.setdefault(fingerprint, labels)
        return known if known.shape == labels.shape and bool((known == labels).all()) else labels


def _failure(entry: CellEntry, attempt: AttemptPaths) -> Failure | None:
    try:
        return attempt.read_left(attempt.failure, Failure, entry.cell)
    except ContractError as error:
        return unreadable(entry.cell, error, attempt)


def _record(entry: CellEntry, attempt: AttemptPaths, shared: _SharedLabels) -> CellRecord | Failure:
    from harness.ranking import CellRecord

    try:
        result = checked_result(entry, attempt)
        labels, predicted = checked_predictions(entry, attempt, classes=len(result.label_names))
    except ContractError as error:
        return unreadable(entry.cell, error, attempt)
    return CellRecord(
        cell=entry.cell,
        model=entry.model,
        dataset=entry.dataset,
        fingerprint=entry.fingerprint,
        method=entry.method,
        seed=entry.seed,
        device=entry.device,
        result=_without_bulk(result),
        labels=shared.of(entry.fingerprint, labels),
        predicted=predicted,
    )


def _without_bulk(result: Result) -> Result:
    """What no ranking asks for is most of a result: not to be held for 10,000 cells."""
    replace = msgspec.structs.replace
    timing, quality = result.timing, result.quality
    if timing is not None:
        timing = replace(timing, latency=replace(timing.latency, samples_ms=()))
    if quality is not None:
        quality = replace(quality, per_class=(), per_slice=(), confusion=())
    return replace(result, timing=timing, quality=quality, training=None)


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


def _check(result: Result, entry: CellEntry) -> None:
    """That it is the cell's, and that one can calculate with its figures. Raises ContractError."""
    if result.identity != entry.identity or (entry.label_names and result.label_names != entry.label_names):
        raise ContractError("it is of other settings than the cell's")
    figures = [*msgspec.structs.asdict(result.summary).items()]
    figures += result.quality.metrics.items() if result.quality else ()
    figures += [("latency_p95_ms", result.timing.latency.p95_ms)] if result.timing else ()
    figures += _of_windows(result)
    for name, value in figures:
        if isinstance(value, float) and abs(value) > GREATEST:
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


def failure_lines(failures: Sequence[Failure]) -> list[str]:
    from harness.text import clean

    return [clean(f"{f.cell} ({f.kind}): {f.message}; {f.hint}") for f in failures]
