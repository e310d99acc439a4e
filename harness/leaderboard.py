"""From a run folder to its leaderboard: what is finished, ranked, and kept as `leaderboard.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.board import Leaderboard
from harness.errors import InputError
from harness.evidence import Evidence, gather
from harness.ranking import RankOptions, rank_cells
from harness.store import RunFolder, writing
from runner.contract import Failure, write_atomic


@dataclass(frozen=True)
class Standing:
    """The ranking of what is finished, and what is not: cells that failed or whose model or dataset could not be had,
    and how many have not run or were stopped."""

    board: Leaderboard
    failures: tuple[Failure, ...]
    missing: int


def standing_of(folder: RunFolder, options: RankOptions | None = None) -> Standing:
    """Rank everything the run holds; a result that cannot be read counts as failed. Raises InputError where the
    folder is no run, or its cells contradict each other."""
    return ranked(gather(folder), options)


def ranked(evidence: Evidence, options: RankOptions | None = None) -> Standing:
    """Raises InputError where its cells contradict each other."""
    try:
        board = rank_cells(evidence.records, options, evidence.noise_floor)
    except ValueError as error:
        raise InputError(
            f"cannot rank run '{evidence.name}': {error}", "remove that cell's folder, run again"
        ) from None
    return Standing(board=board, failures=evidence.failures, missing=evidence.missing)


def write_leaderboard(folder: RunFolder, standing: Standing) -> None:
    from harness.report.tables import as_json

    with writing(folder.leaderboard):
        write_atomic(folder.leaderboard, as_json(standing.board).encode())


def failure_lines(failures: Sequence[Failure]) -> list[str]:
    from harness.text import clean

    return [clean(f"{f.cell} ({f.kind}): {f.message}; {f.hint}") for f in failures]
