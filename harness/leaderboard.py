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
    missing = 0
    for entry in run.cells:
        attempt = folder.finished_attempt(entry.cell)
        if attempt is not None:
            read_back = _record(entry, attempt)
            if isinstance(read_back, Failure):
                failures.append(read_back)
            else:
                records.append(read_back)
        elif (failure := folder.failure(entry.cell)) and failure.kind != "interrupted":
            failures.append(failure)
        else:
            missing += 1
    try:
        board = rank_cells(records)
    except ValueError as error:
        raise InputError(f"cannot rank {folder.folder}: {error}", "remove that cell's folder, run again") from None
    return Standing(board=board, failures=tuple(failures), missing=missing)


def write_leaderboard(folder: RunFolder, standing: Standing) -> None:
    from harness.report.tables import as_json

    with writing(folder.leaderboard):
        write_atomic(folder.leaderboard, as_json(standing.board).encode())


def _record(entry: CellEntry, attempt: AttemptPaths) -> CellRecord | Failure:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from harness.ranking import CellRecord

    try:
        result = read(attempt.result, Result)
        table = pq.read_table(attempt.predictions, columns=["label", "predicted"])
    except (ContractError, OSError, pa.ArrowException) as error:
        return Failure(
            cell=entry.cell,
            kind="no_result",
            message=f"its result cannot be read: {error}",
            hint=f"remove {attempt.folder} and run the suite again",
        )
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

    return [clean(f"{f.cell} ({f.kind}): {f.message}; {f.hint}") for f in failures]
