"""From a run folder to its leaderboard: what is finished, ranked, and kept as `leaderboard.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

import msgspec

from harness.board import SCHEMA_VERSION, Leaderboard, NoiseFloor, from_json
from harness.errors import InputError, SetupError
from harness.evidence import Evidence, Survey, gather, look_at, noise_floor
from harness.ranking import RankOptions, rank_cells
from harness.store import RunFolder, writing
from runner.contract import ContractError, Failure, write_atomic

RANKING_VERSION = 1  # to be raised with every change by which the same results give another board


@dataclass(frozen=True)
class Standing:
    """The ranking of what is finished, and what is not: cells that failed or whose model or dataset could not be had,
    and how many have not run or were stopped."""

    board: Leaderboard
    failures: tuple[Failure, ...]
    missing: int


def standing_of(folder: RunFolder, options: RankOptions | None = None) -> Standing:
    """Rank everything the run holds; a result that cannot be read counts as failed. The board that the run keeps is
    taken where it was made of the same results in the same way; one of the usual options is kept, if the folder may be
    written. Raises InputError where the folder is no run, or its cells contradict each other."""
    options = options or RankOptions()
    survey = look_at(folder)
    made_of = _made_of(survey, options, noise_floor(folder))
    kept = _kept_board(folder)
    if kept is not None and kept.made_of == made_of:
        return Standing(kept, survey.failures, survey.missing)
    evidence = gather(folder, survey)
    standing = ranked(evidence, options)
    if len(evidence.records) < len(survey.finished):  # the next time someone may read what could not be read now
        return standing
    standing = replace(standing, board=msgspec.structs.replace(standing.board, made_of=made_of))
    if options == RankOptions():
        with suppress(SetupError):
            write_leaderboard(folder, standing)
    return standing


def _made_of(survey: Survey, options: RankOptions, floor: NoiseFloor | None) -> str:
    """sha256 of all that a board depends on."""
    parts = [RANKING_VERSION, SCHEMA_VERSION, survey.stamp, asdict(options), floor]
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def _kept_board(folder: RunFolder) -> Leaderboard | None:
    with suppress(OSError, ContractError):
        return from_json(folder.leaderboard.read_bytes())
    return None


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
    from harness.report.formats import as_json

    with writing(folder.leaderboard):
        write_atomic(folder.leaderboard, as_json(standing.board).encode())


def failure_lines(failures: Sequence[Failure]) -> list[str]:
    from harness.text import clean

    return [clean(f"{f.cell} ({f.kind}): {f.message}; {f.hint}") for f in failures]
