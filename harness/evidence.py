"""What is finished of a run, as everything that ranks, compares or reports takes it.

Results and predictions are read from the attempts' folders, checked as the work of cells that nobody trusts, and kept
in `evidence.json` of the run's folder without what no ranking asks for: they are read back many times faster. A kept
cell counts while its files have the size and time they had. The same file, written elsewhere, is a baseline.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from harness.board import Base, NoiseFloor
from harness.calibration import Calibration
from harness.entries import CellRecord, best_throughput
from harness.errors import InputError
from harness.failures import unreadable
from harness.predictions import read_predictions, sha256_of
from harness.record import CellEntry
from harness.statistics import IntArray
from harness.statistics.intervals import order_statistic_interval
from harness.store import AttemptPaths, RunFolder, last_finished, writing
from runner.contract import ContractError, Failure, Result, read, write_atomic

SCHEMA_VERSION = 1
MOST_WINDOWS = 1_000  # of one cell, repeated ones among them
GREATEST = 1e15  # of a figure that means anything; sums of such are still exact enough
TAILS = {"latency_p95_ms": 95, "latency_p99_ms": 99}
REQUESTED = ("batch_size", "accumulation", "evaluation_batch_size", "throughput_batch_size")


@dataclass(frozen=True)
class Evidence:
    """`name`: of the run. `folder`: None where it was read from a baseline file. `failures`: cells that failed, whose
    result cannot be read, or whose model or dataset could not be had. `missing`: cells that have not run or were
    stopped."""

    name: str
    folder: RunFolder | None
    records: tuple[CellRecord, ...]
    failures: tuple[Failure, ...]
    missing: int
    noise_floor: NoiseFloor | None


class KeptCell(Base, frozen=True, kw_only=True):
    """A finished cell. `stamp`: size and time of the files it was read from. `predicted`: codes of a byte or two each,
    deflated."""

    entry: CellEntry
    attempt: int
    stamp: str
    result: Result  # without bulk
    labels_sha256: str
    predicted: bytes
    tails: dict[str, tuple[float, float]]


class KeptEvidence(Base, frozen=True, kw_only=True):
    """`evidence.json`, and a baseline file. `labels`: by sha256, packed as the predictions are. `noise_floor`: kept in
    a baseline only; a run has its calibration."""

    schema_version: int = SCHEMA_VERSION
    name: str
    labels: dict[str, bytes] = {}
    cells: tuple[KeptCell, ...] = ()
    noise_floor: NoiseFloor | None = None


def gather(folder: RunFolder) -> Evidence:
    """Everything the run holds; a result that cannot be read counts as failed. Raises InputError where the folder is no
    run."""
    run = folder.read_record()
    reader = CellReader(folder)
    records: list[CellRecord] = []
    failures: list[Failure] = list(run.unavailable)
    missing = 0
    for entry in run.cells:
        found = reader.read(entry)
        if isinstance(found, CellRecord):
            records.append(found)
        elif found is not None:
            failures.append(found)
        else:
            missing += 1
    reader.keep()
    return Evidence(
        name=folder.folder.name,
        folder=folder,
        records=tuple(records),
        failures=tuple(failures),
        missing=missing,
        noise_floor=noise_floor(folder),
    )


class CellReader:
    """Reads the cells of one run, each as often as it is asked; what is kept is not parsed again."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        kept = _kept_of(folder)
        self._kept = {cell.entry.cell: cell for cell in kept.cells}
        self._labels = {sha256: _unpacked(codes) for sha256, codes in kept.labels.items()}
        self._read: dict[str, KeptCell] = {}

    def read(self, entry: CellEntry) -> CellRecord | Failure | None:
        """None: it has not run to its end yet."""
        attempts = self._folder.attempts(entry.cell)
        attempt = last_finished(attempts)
        if attempt is None:
            failure = _failure(entry, attempts[-1]) if attempts else None
            return failure if failure and failure.kind != "interrupted" else None
        try:
            stamp = _stamp(attempt)
            kept = self._kept.get(entry.cell)
            if kept is None or (kept.entry, kept.attempt, kept.stamp) != (entry, attempt.number, stamp):
                kept = self._parsed(entry, attempt, stamp)
        except ContractError as error:
            return unreadable(entry.cell, error, attempt)
        self._read[entry.cell] = kept
        return _record(kept, self._labels, attempt)

    def keep(self) -> None:
        """Write what was read, if it is not what is there. A run that may only be read is read the slow way again."""
        if self._read == self._kept:
            return
        with suppress(OSError):
            write_atomic(self._folder.evidence, self.encoded(), durable=False)
            self._kept = dict(self._read)

    def encoded(self, floor: NoiseFloor | None = None) -> bytes:
        """All that was read, as a file."""
        cells = tuple(self._read.values())
        used = {cell.labels_sha256 for cell in cells}
        labels = {sha256: _packed(codes) for sha256, codes in self._labels.items() if sha256 in used}
        name = self._folder.folder.name
        return msgspec.json.encode(KeptEvidence(name=name, labels=labels, cells=cells, noise_floor=floor))

    def _parsed(self, entry: CellEntry, attempt: AttemptPaths, stamp: str) -> KeptCell:
        """Raises ContractError."""
        result = checked_result(entry, attempt)
        labels, predicted = checked_predictions(entry, attempt, classes=len(result.label_names))
        sha256 = sha256_of(labels)
        self._labels.setdefault(sha256, labels)
        return KeptCell(
            entry=entry,
            attempt=attempt.number,
            stamp=stamp,
            result=without_bulk(result),
            labels_sha256=sha256,
            predicted=_packed(predicted),
            tails=tails_of(result),
        )


# --- a baseline ---------------------------------------------------------------------------------


def write_baseline(evidence: Evidence, path: Path) -> None:
    """One JSON file, small enough to be kept beside code, that `read_baseline` reads back: predictions, labels, speeds
    by window. Raises InputError, SetupError."""
    folder = evidence.folder
    if folder is None or not evidence.records:
        raise InputError(f"run '{evidence.name}' has no finished cell to compare with", "finish it first")
    reader = CellReader(folder)
    for entry in folder.read_record().cells:
        reader.read(entry)
    with writing(path):
        write_atomic(path, reader.encoded(evidence.noise_floor))


def read_baseline(path: Path) -> Evidence:
    """Raises InputError."""
    try:
        kept = _decoded(path.read_bytes())
        labels = {sha256: _unpacked(codes) for sha256, codes in kept.labels.items()}
        records = tuple(_record(cell, labels, None) for cell in kept.cells)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "give a run, or a file of --write-baseline") from None
    except (msgspec.MsgspecError, zlib.error, KeyError, ValueError) as error:
        raise InputError(
            f"{path} is no baseline: {error}", "write it with `moodbench gate RUN --write-baseline`"
        ) from None
    return Evidence(name=kept.name, folder=None, records=records, failures=(), missing=0, noise_floor=kept.noise_floor)


# --- what is kept -------------------------------------------------------------------------------


def _kept_of(folder: RunFolder) -> KeptEvidence:
    """Empty where there is none, or one that this version does not read: it is made anew."""
    try:
        return _decoded(folder.evidence.read_bytes())
    except (OSError, msgspec.MsgspecError, ValueError):
        return KeptEvidence(name=folder.folder.name)


def _decoded(data: bytes) -> KeptEvidence:
    """Raises MsgspecError, ValueError."""
    kept = msgspec.json.decode(data, type=KeptEvidence)
    if kept.schema_version != SCHEMA_VERSION:
        raise ValueError(f"schema_version {kept.schema_version} is not this program's ({SCHEMA_VERSION})")
    return kept


def _packed(codes: IntArray) -> bytes:
    """The first byte says how wide a code is."""
    narrow = codes.astype("u1" if codes.max() < 256 else "<u2")
    return bytes([narrow.itemsize]) + zlib.compress(narrow.tobytes(), 1)


def _unpacked(packed: bytes) -> IntArray:
    """(n,) int16. Raises zlib.error, ValueError."""
    codes = np.frombuffer(zlib.decompress(packed[1:]), dtype="u1" if packed[:1] == b"\1" else "<u2")
    return codes.astype(np.int16)


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


def _record(kept: KeptCell, labels: Mapping[str, IntArray], attempt: AttemptPaths | None) -> CellRecord:
    """Raises KeyError, ValueError, zlib.error for a baseline that someone changed."""
    entry = kept.entry
    return CellRecord(
        cell=entry.cell,
        model=entry.model,
        dataset=entry.dataset,
        fingerprint=entry.fingerprint,
        method=entry.method,
        seed=entry.seed,
        device=entry.device,
        result=kept.result,
        labels=labels[kept.labels_sha256],
        predicted=_unpacked(kept.predicted),
        architecture=entry.architecture,
        attempt=attempt,
        tails=kept.tails,
    )


# --- a result -----------------------------------------------------------------------------------


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


def noise_floor(folder: RunFolder) -> NoiseFloor | None:
    """That of the machine the run is on; None where it was not calibrated. Raises InputError."""
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


def _failure(entry: CellEntry, attempt: AttemptPaths) -> Failure | None:
    try:
        return attempt.read_left(attempt.failure, Failure, entry.cell)
    except ContractError as error:
        return unreadable(entry.cell, error, attempt)


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
