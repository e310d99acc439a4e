"""From a run folder to its leaderboard: reads results and predictions, ranks them, keeps `leaderboard.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import InputError
from harness.store import AttemptPaths, CellEntry, RunFolder, writing
from runner.contract import ContractError, Failure, Result, read, write_atomic

if TYPE_CHECKING:
    from harness.board import Leaderboard
    from harness.ranking import CellRecord


@dataclass(frozen=True)
class Standing:
    """The ranking of what is finished, and what is not: failed cells and how many have no outcome yet."""

    board: Leaderboard
    failures: tuple[Failure, ...]
    missing: int


def standing_of(folder: RunFolder) -> Standing:
    """Rank everything the run holds. Raises InputError where the folder is no run or a result cannot be read."""
    from harness.ranking import rank_cells

    records: list[CellRecord] = []
    failures: list[Failure] = []
    missing = 0
    for entry in folder.read_record().cells:
        attempt = folder.finished_attempt(entry.cell)
        if attempt is not None:
            records.append(_record(entry, attempt))
        elif failure := folder.failure(entry.cell):
            failures.append(failure)
        else:
            missing += 1
    return Standing(board=rank_cells(records), failures=tuple(failures), missing=missing)


def write_leaderboard(folder: RunFolder, standing: Standing) -> None:
    from harness.report.tables import as_json

    with writing(folder.leaderboard):
        write_atomic(folder.leaderboard, as_json(standing.board).encode())


def _record(entry: CellEntry, attempt: AttemptPaths) -> CellRecord:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from harness.ranking import CellRecord

    try:
        result = read(attempt.result, Result)
        table = pq.read_table(attempt.predictions, columns=["label", "predicted"])
    except (ContractError, OSError, pa.ArrowException) as error:
        raise InputError(
            f"cannot read the result of '{entry.cell}': {error}", f"remove {attempt.folder} and run the suite again"
        ) from None
    return CellRecord(
        cell=entry.cell,
        model=entry.model,
        dataset=entry.dataset,
        fingerprint=entry.fingerprint,
        method=entry.method,
        seed=entry.seed,
        device=entry.device,
        result=result,
        labels=table["label"].to_numpy(),
        predicted=table["predicted"].to_numpy(),
    )


def failure_lines(failures: Sequence[Failure]) -> list[str]:
    from harness.display.words import clean

    return [f"{f.cell} ({f.kind}): {clean(f.message)}; {clean(f.hint)}" for f in failures]
