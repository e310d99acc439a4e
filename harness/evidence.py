"""What is finished of a run, as everything that ranks, compares or reports takes it.

Results and predictions are read from the attempts' folders, checked as the work of cells that nobody trusts, and kept
in `evidence.json` of the run's folder without what no ranking asks for: they are read back many times faster. A kept
cell counts while its files have the size and time they had. The same file, written elsewhere, is a baseline.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from harness.board import Base, NoiseFloor
from harness.calibration import Calibration
from harness.entries import CellRecord
from harness.errors import InputError
from harness.failures import unreadable
from harness.finished import (
    FinishedAttempt,
    checked_predictions,
    checked_result,
    finished_attempt,
    tails_of,
    without_bulk,
)
from harness.predictions import sha256_of
from harness.record import CellEntry
from harness.statistics import IntArray
from harness.store import AttemptPaths, RunFolder, write_given, writing
from runner.contract import ContractError, Failure, Result, read, write_atomic

SCHEMA_VERSION = 1
_MOST_ROWS = 20_000_000  # test examples, where an older run does not say how many there are
DAMAGE = (zlib.error, KeyError, ValueError)  # of what was packed


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


def gather(folder: RunFolder, survey: Survey | None = None) -> Evidence:
    """Everything the run holds, or what a survey of it found; a result that cannot be read counts as failed. Raises
    InputError where the folder is no run."""
    survey = survey or look_at(folder)
    reader = CellReader(folder)
    read = [reader.read_attempt(entry, found) for entry, found in survey.finished]
    reader.keep()
    return Evidence(
        name=folder.folder.name,
        folder=folder,
        records=tuple(one for one in read if isinstance(one, CellRecord)),
        failures=(*survey.failures, *(one for one in read if isinstance(one, Failure))),
        missing=survey.missing,
        noise_floor=noise_floor(folder),
    )


@dataclass(frozen=True)
class Survey:
    """What lies in a run's folder, without the results: they are not read."""

    finished: tuple[tuple[CellEntry, FinishedAttempt], ...]
    failures: tuple[Failure, ...]
    missing: int

    @property
    def stamp(self) -> str:
        """sha256 that changes with any result."""
        marks = [[entry, found.attempt.number, found.stamp] for entry, found in self.finished]
        return hashlib.sha256(msgspec.json.encode(marks)).hexdigest()


def look_at(folder: RunFolder) -> Survey:
    """Raises InputError where the folder is no run."""
    run = folder.read_record()
    seen = [(entry, finished_attempt(folder, entry)) for entry in run.cells]
    return Survey(
        finished=tuple((entry, found) for entry, found in seen if isinstance(found, FinishedAttempt)),
        failures=(*run.unavailable, *(found for _, found in seen if isinstance(found, Failure))),
        missing=sum(found is None for _, found in seen),
    )


class CellReader:
    """Reads the cells of one run, each as often as it is asked; what is kept is not parsed again."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        kept = _kept_of(folder)
        self._kept = {cell.entry.cell: cell for cell in kept.cells}
        self._labels = _whole_labels(kept)
        self._read: dict[str, KeptCell] = {}

    def read(self, entry: CellEntry) -> CellRecord | Failure | None:
        """None: it has not run to its end yet."""
        found = finished_attempt(self._folder, entry)
        return self.read_attempt(entry, found) if isinstance(found, FinishedAttempt) else found

    def read_attempt(self, entry: CellEntry, found: FinishedAttempt) -> CellRecord | Failure:
        kept = self._kept.get(entry.cell)
        if kept is not None and (kept.entry, kept.attempt, kept.stamp) == (entry, found.attempt.number, found.stamp):
            with suppress(*DAMAGE):
                record = _record(kept, self._labels, found.attempt)
                self._read[entry.cell] = kept
                return record
        try:
            kept = self._parsed(entry, found)
        except ContractError as error:
            return unreadable(entry.cell, error, found.attempt)
        self._read[entry.cell] = kept
        return _record(kept, self._labels, found.attempt)

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

    def _parsed(self, entry: CellEntry, found: FinishedAttempt) -> KeptCell:
        """Raises ContractError."""
        attempt = found.attempt
        result = checked_result(entry, attempt)
        labels, predicted = checked_predictions(entry, attempt, classes=len(result.label_names))
        sha256 = sha256_of(labels)
        self._labels.setdefault(sha256, labels)
        return KeptCell(
            entry=entry,
            attempt=attempt.number,
            stamp=found.stamp,
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
        write_given(path, reader.encoded(evidence.noise_floor))


def read_baseline(path: Path) -> Evidence:
    """Raises InputError."""
    try:
        kept = _decoded(path.read_bytes())
        labels = _whole_labels(kept)
        records = tuple(_record(cell, labels, None) for cell in kept.cells)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "give a run, or a file of --write-baseline") from None
    except (msgspec.MsgspecError, *DAMAGE) as error:
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


def _unpacked(packed: bytes, most: int) -> IntArray:
    """(n,) int16, of at most so many: a few bytes may hold zeros without end. Raises zlib.error, ValueError."""
    kind = np.dtype("u1" if packed[:1] == b"\1" else "<u2")
    inflating = zlib.decompressobj()
    data = inflating.decompress(packed[1:], most * kind.itemsize + 1)  # the one more shows that it goes on
    if len(data) > most * kind.itemsize or not inflating.eof:
        raise ValueError(f"what is packed in it is cut off, or more than {most:,} test examples")
    return np.frombuffer(data, dtype=kind).astype(np.int16)


def _most_rows(kept: KeptEvidence, labels_sha256: str) -> int:
    """How many labels there may be, by the cells that have them."""
    rows = [cell.entry.test_rows for cell in kept.cells if cell.labels_sha256 == labels_sha256]
    return max((_MOST_ROWS if count is None else count for count in rows), default=0)


def _whole_labels(kept: KeptEvidence) -> dict[str, IntArray]:
    """Those that are what their digest says."""
    whole = {}
    for sha256, packed in kept.labels.items():
        with suppress(*DAMAGE):
            codes = _unpacked(packed, _most_rows(kept, sha256))
            if sha256_of(codes) == sha256:
                whole[sha256] = codes
    return whole


def _record(kept: KeptCell, labels: Mapping[str, IntArray], attempt: AttemptPaths | None) -> CellRecord:
    """Raises one of `DAMAGE` for what someone changed."""
    entry = kept.entry
    true, predicted = labels[kept.labels_sha256], _unpacked(kept.predicted, labels[kept.labels_sha256].size)
    if predicted.shape != true.shape or not 0 <= predicted.min() <= predicted.max() < len(kept.result.label_names):
        raise ValueError(f"predictions of {entry.cell} are not one of its labels for each example")
    return CellRecord(
        cell=entry.cell,
        model=entry.model,
        dataset=entry.dataset,
        fingerprint=entry.fingerprint,
        method=entry.method,
        seed=entry.seed,
        device=entry.device,
        result=kept.result,
        labels=true,
        predicted=predicted,
        architecture=entry.architecture,
        attempt=attempt,
        tails=kept.tails,
    )


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
