"""What is finished of a run, as everything that ranks, compares or reports takes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.board import NoiseFloor
from harness.entries import CellRecord
from harness.store import RunFolder
from runner.contract import Failure


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


def gather(folder: RunFolder) -> Evidence:
    """Everything the run holds; a result that cannot be read counts as failed. Raises InputError where the folder is no
    run."""
    raise NotImplementedError


def write_baseline(evidence: Evidence, path: Path) -> None:
    """One JSON file, small enough to be kept beside code, that `read_baseline` reads back: predictions, labels, speeds
    by window. Raises SetupError."""
    raise NotImplementedError


def read_baseline(path: Path) -> Evidence:
    """Raises InputError."""
    raise NotImplementedError
