"""What an attempt left, as it is brought into MLflow. Its folder is also the cell's, who may lay anything there."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.record import CellEntry, RunRecord
from harness.store import AttemptPaths, last_finished, writing
from harness.tracking.cells import Origin, TrackedCell, failed_cell, finished_cell
from runner.contract import CellSpec, ContractError, Failure, digests, open_plain, read

FILE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Ended:
    """The attempt that says how a cell ended, and the digest of the file that says so. `failure` None: it has a
    result."""

    entry: CellEntry
    attempt: AttemptPaths
    digest: str
    failure: Failure | None


def ended_attempt(entry: CellEntry, attempts: Sequence[AttemptPaths]) -> Ended | None:
    """None: the cell has not come to an end, or goes on next time. Raises ContractError."""
    finished = last_finished(attempts)
    if finished is not None:
        return Ended(entry, finished, _digest(finished.result), None)
    failure = attempts[-1].read_left(attempts[-1].failure, Failure, entry.cell) if attempts else None
    if failure is None or failure.kind == "interrupted":
        return None
    return Ended(entry, attempts[-1], _digest(attempts[-1].failure), failure)


def _digest(path: Path) -> str:
    try:
        return digests(path.parent, [path.name])[path.name]
    except KeyError:
        raise ContractError(f"{path}: not a plain file") from None
    except OSError as error:
        raise ContractError(f"{path}: cannot be read ({error.strerror})") from None


def told_of(ended: Ended, record: RunRecord) -> TrackedCell:
    """A result counts as the leaderboard counts it: with predictions of the cell's test split. Raises ContractError."""
    from harness.finished import checked_predictions, checked_result

    entry, attempt = ended.entry, ended.attempt
    origin = Origin(record.name, record.created, entry, attempt.number, ended.digest)
    spec = _spec_of(entry, attempt)
    if ended.failure is not None:
        return failed_cell(origin, ended.failure, spec, started=_begun(attempt))
    result = checked_result(entry, attempt)
    checked_predictions(entry, attempt, classes=len(result.label_names))
    return finished_cell(origin, result, spec)


def _spec_of(entry: CellEntry, attempt: AttemptPaths) -> CellSpec:
    try:
        spec = read(attempt.spec, CellSpec)
    except OSError as error:
        raise ContractError(f"{attempt.spec}: cannot be read ({error.strerror})") from None
    if spec.identity != entry.identity:
        raise ContractError(f"{attempt.spec}: of another cell")
    return spec


def _begun(attempt: AttemptPaths) -> float:
    """The host writes the specification when it starts an attempt."""
    try:
        return attempt.spec.lstat().st_mtime
    except OSError:
        return time.time()


def stage(ended: Ended, place: Path, adapter_mb: int) -> list[str]:
    """Copy into the new folder `place` what is to be kept: MLflow would follow links. What was left out, and why.
    Raises ContractError, SetupError."""
    attempt = ended.attempt
    with writing(place):
        place.mkdir()
    if ended.failure is not None:
        needed, wanted = [attempt.failure, attempt.spec], [attempt.log, attempt.predictions]
    else:
        needed, wanted = [attempt.result, attempt.spec, attempt.predictions], [attempt.log]
    for path in needed:
        _copy(path, place)
    left_out = []
    for path in wanted:
        if os.path.lexists(path):
            left_out += _tried(path, place)
    return left_out + (_adapter(attempt.adapter, place, adapter_mb) if ended.failure is None else [])


def _adapter(folder: Path, place: Path, most_mb: int) -> list[str]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    try:
        with os.scandir(folder) as entries:
            files = sorted(folder / entry.name for entry in entries if entry.is_file(follow_symlinks=False))
        size_mb = sum(path.lstat().st_size for path in files) / 2**20
    except OSError as error:
        return [f"{folder.name}: cannot be read ({error.strerror})"]
    if size_mb > most_mb:
        return [f"{folder.name}: {size_mb:.0f} MB, more than {most_mb}"]
    target = place / folder.name
    with writing(target):
        target.mkdir()
    return [why for path in files for why in _tried(path, target)]


def _tried(path: Path, place: Path) -> list[str]:
    """Why it was left out, if it was."""
    try:
        _copy(path, place)
    except ContractError as error:
        return [str(error).replace(str(path), path.name)]
    return []


def _copy(path: Path, place: Path) -> None:
    try:
        file = open_plain(path, FILE_BYTES)
    except OSError as error:
        raise ContractError(f"{path}: cannot be read ({error.strerror})") from None
    with file, writing(place / path.name), (place / path.name).open("xb") as copy:
        shutil.copyfileobj(file, copy, 2**20)
