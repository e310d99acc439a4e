"""Finished cells of other runs, taken over by identity.

Of the runs beside this one only the names of their cells are listed; what is read are results of cells that are wanted
here. Where the speed was measured under comparable conditions, the whole attempt is taken over; elsewhere its adapter
and predictions are, as what a new attempt goes on from: only its speed is measured again.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from harness.errors import InputError
from harness.finished import checked_predictions, checked_result
from harness.record import CellEntry
from harness.store import AttemptPaths, RunFolder, writing
from runner.contract import (
    SCHEMA_VERSION,
    STATE_FILE,
    CellSpec,
    ContractError,
    Result,
    checkpoint_of,
    encode,
    open_plain,
    read,
    write_atomic,
)

if TYPE_CHECKING:
    from harness.board import SpeedKey

REUSED_FILE = "reused.json"
UNFINISHED = ".reuse-"  # the name of an attempt while it is being taken over begins so


class ReusedFrom(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`reused.json` in an attempt: where it was taken over from. `speed`: whether its speed was, too."""

    schema_version: int = SCHEMA_VERSION
    run: str
    attempt: int
    speed: bool


@dataclass(frozen=True)
class Reusable:
    """A finished attempt of another run at a cell of this one, checked."""

    entry: CellEntry  # this run's
    run: str
    attempt: AttemptPaths
    speed_differs: bool  # it was timed under other conditions


def reuse(
    specs: Iterable[CellSpec], results: Path, own: RunFolder, key_of: Callable[[CellSpec], SpeedKey]
) -> list[Reusable]:
    """Take over into `own` what other runs under `results` have of these cells, none of which it has finished. Raises
    SetupError where it cannot be written."""
    taken = []
    for reusable in find_reusable(specs, results, own, key_of).values():
        with suppress(ContractError):  # the other run was removed meanwhile, say: the cell is done here
            adopt(reusable, own)
            taken.append(reusable)
    return taken


def find_reusable(
    specs: Iterable[CellSpec], results: Path, own: RunFolder, key_of: Callable[[CellSpec], SpeedKey]
) -> dict[str, Reusable]:
    """By cell, of those that `own` holds in its record and has not finished: the newest whose speed is comparable with
    what `key_of` expects here, else the newest. Whatever cannot be read is passed over."""
    wanted = {spec.cell: spec for spec in specs}
    if not wanted:
        return {}
    entries = {entry.cell: entry for entry in own.read_record().cells if entry.cell in wanted}
    candidates: dict[str, list[_Candidate]] = defaultdict(list)
    for other in _others(results, own):
        for cell in _planned_alike(other, entries):
            candidates[cell] += _candidates(other, cell)
    found: dict[str, Reusable] = {}
    for cell, of_cell in candidates.items():
        has_begun = any(os.path.lexists(attempt.checkpoint / STATE_FILE) for attempt in own.attempts(cell))
        best = _best(entries[cell], of_cell, key_of(wanted[cell]))
        if best is not None and not (best.speed_differs and has_begun):  # it goes on from what it has
            found[cell] = best
    return found


def adopt(reusable: Reusable, folder: RunFolder) -> AttemptPaths:
    """Make an attempt in `folder` of it, under its final name only when it is whole. Raises ContractError where the
    other run's attempt is no longer what it was; SetupError."""
    cell = reusable.entry.cell
    place = folder.cell(cell)
    unfinished = place / f"{UNFINISHED}{secrets.token_hex(8)}"
    with writing(place):
        for left in place.glob(f"{UNFINISHED}*"):  # by a host that was killed
            shutil.rmtree(left, ignore_errors=True)
        unfinished.mkdir(parents=True)
    try:
        _fill(AttemptPaths(folder=unfinished, number=0), reusable)
        attempts = folder.attempts(cell)
        attempt = folder.attempt(cell, attempts[-1].number + 1 if attempts else 1)
        with writing(attempt.folder):
            unfinished.rename(attempt.folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return attempt


# --- finding ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Candidate:
    written_ns: int
    run: str
    attempt: AttemptPaths


def _others(results: Path, own: RunFolder) -> Iterator[RunFolder]:
    """Every other folder under `results`, by name."""
    with suppress(FileNotFoundError):
        for folder in sorted(path for path in results.iterdir() if path.is_dir()):
            if folder.resolve() != own.folder.resolve():
                yield RunFolder(folder=folder)


def _planned_alike(other: RunFolder, entries: Mapping[str, CellEntry]) -> list[str]:
    """The cells that this run planned too, with the same settings: its record says so, whatever lies in its cells."""
    try:
        with os.scandir(other.folder / "cells") as found:
            names = {entry.name for entry in found} & entries.keys()
        if not names:
            return []
        planned = other.read_record().cells
    except (OSError, InputError):
        return []
    return [
        theirs.cell
        for theirs in planned
        if theirs.cell in names
        and (theirs.identity, theirs.fingerprint) == (entries[theirs.cell].identity, entries[theirs.cell].fingerprint)
    ]


def _candidates(other: RunFolder, cell: str) -> list[_Candidate]:
    found = []
    with suppress(OSError):
        for attempt in other.attempts(cell):
            with suppress(FileNotFoundError):
                found.append(_Candidate(attempt.result.lstat().st_mtime_ns, other.folder.name, attempt))
    return found


def _best(entry: CellEntry, candidates: Iterable[_Candidate], key: SpeedKey) -> Reusable | None:
    from harness.entries import speed_key

    other_speed: Reusable | None = None
    for candidate in sorted(candidates, key=lambda one: one.written_ns, reverse=True):
        try:
            result = checked_result(entry, candidate.attempt)
            checked_predictions(entry, candidate.attempt, classes=len(result.label_names))
        except ContractError:
            continue
        differs = result.timing is not None and speed_key(result.provenance, result.device) != key
        reusable = Reusable(entry, candidate.run, candidate.attempt, differs)
        if not differs:
            return reusable
        if other_speed is None and _is_folder(candidate.attempt.adapter):  # without it, all would be done again
            other_speed = reusable
    return other_speed


# --- taking over --------------------------------------------------------------------------------


def _fill(new: AttemptPaths, reusable: Reusable) -> None:
    """The result comes last. What a new attempt goes on from is copied, as that may write to it."""
    old, speed = reusable.attempt, not reusable.speed_differs
    spec = _spec_of(reusable)
    result = checked_result(reusable.entry, old)
    _take(old.spec, new.spec, link=speed)
    _take(old.predictions, new.predictions, link=speed)
    if _is_folder(old.adapter):
        _take_folder(old.adapter, new.adapter, link=speed)
    with writing(new.folder):
        (new.folder / REUSED_FILE).write_bytes(encode(_origin(reusable)))
        if not speed:
            _write_checkpoint(new, spec, result)
    if speed:
        _take(old.result, new.result, link=True)


def _spec_of(reusable: Reusable) -> CellSpec:
    """Of the old attempt, which may have run with a fallback. Raises ContractError."""
    path = reusable.attempt.spec
    try:
        spec = read(path, CellSpec)
    except OSError as error:
        raise ContractError(f"{path}: cannot be read ({error.strerror})") from None
    if spec.identity != reusable.entry.identity:
        raise ContractError(f"{path}: of another cell")
    return spec


def _origin(reusable: Reusable) -> ReusedFrom:
    return ReusedFrom(run=reusable.run, attempt=reusable.attempt.number, speed=not reusable.speed_differs)


def _write_checkpoint(new: AttemptPaths, spec: CellSpec, result: Result) -> None:
    new.checkpoint.mkdir()
    write_atomic(new.checkpoint / STATE_FILE, encode(checkpoint_of(spec, result, new.folder)))


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _take_folder(source: Path, target: Path, *, link: bool) -> None:
    """Its plain files; what else lies there is none of the runner's."""
    with writing(target):
        target.mkdir()
    try:
        with os.scandir(source) as entries:
            names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    except OSError as error:
        raise ContractError(f"{source}: cannot be read ({error.strerror})") from None
    for name in names:
        _take(source / name, target / name, link=link)


def _take(source: Path, target: Path, *, link: bool) -> None:
    """One plain file, as a hard link where that can be. Raises ContractError, SetupError."""
    if link and _linked(source, target):
        return
    try:
        file = open_plain(source, sys.maxsize)
    except OSError as error:
        raise ContractError(f"{source}: cannot be read ({error.strerror})") from None
    with file, writing(target), target.open("xb") as copy:
        shutil.copyfileobj(file, copy, 2**20)
        copy.flush()
        os.fsync(copy.fileno())


def _linked(source: Path, target: Path) -> bool:
    """False where the file system, or its rules on other users' files, have no hard link."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        return False
    if stat.S_ISREG(target.lstat().st_mode):
        return True
    target.unlink()
    return False
