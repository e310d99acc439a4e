"""What killed hosts left behind: containers, scratch folders, run folders that never became runs. What a living host
uses is held by a lock and is not touched."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from harness.errors import InputError, MoodBenchError, SetupError
from harness.executors.containers import StaleContainer
from harness.launch import LOG, REQUEST, is_of_an_engine, remove_engine_files
from harness.run_lock import only_one
from harness.scratch import LOCK, MAKING_S, is_held, stale
from harness.store import RunFolder


@dataclass(frozen=True)
class Leftover:
    what: str
    name: str
    remove: Callable[[], object] = field(repr=False)


@dataclass(frozen=True)
class Leftovers:
    found: tuple[Leftover, ...]
    unseen: str | None = None  # why containers could not be looked for


def find_leftovers(results: Path) -> Leftovers:
    folders = [Leftover("scratch folder", str(folder), partial(_remove_scratch, folder)) for folder in stale()]
    folders += [
        Leftover("run that never began", str(folder), partial(_remove_run, folder)) for folder in _never_began(results)
    ]
    try:
        containers = _containers()
    except MoodBenchError as error:
        return Leftovers(tuple(folders), unseen=error.message)
    return Leftovers((*containers, *folders))


def _remove_scratch(folder: Path) -> None:
    if folder in stale():
        shutil.rmtree(folder)


def _never_began(results: Path) -> list[Path]:
    """Folders that hold nothing but what an engine lays there before its run has cells, and that no engine holds."""
    folders = {path.parent for name in (LOCK, LOG, REQUEST) for path in results.glob(f"*/{name}")}
    found = []
    for folder in sorted(folders):
        with suppress(OSError):  # gone meanwhile, or somebody else's
            if _has_no_cells(folder) and not _is_in_use(folder):
                found.append(folder)
    return found


def _has_no_cells(folder: Path) -> bool:
    return all(map(is_of_an_engine, folder.iterdir()))


def _is_in_use(folder: Path) -> bool:
    """Also by an engine that is being started: it has no lock yet."""
    if (folder / LOCK).exists():
        return is_held(folder / LOCK)
    return time.time() - folder.stat().st_mtime < MAKING_S


def _remove_run(folder: Path) -> None:
    """Looks again, holding the lock. Raises InputError where somebody has laid something there since it was found."""
    with only_one(RunFolder(folder)):
        if not _has_no_cells(folder):
            raise InputError("it now holds more than an engine leaves", "`moodbench status` shows what has begun there")
        remove_engine_files(RunFolder(folder))


def _containers() -> list[Leftover]:
    from harness.executors.docker import stale_containers
    from harness.images import connect

    client = connect()
    try:
        return [
            Leftover("container", f"{found.name} ({found.state})", partial(_remove_container, found))
            for found in stale_containers(client)
        ]
    finally:
        client.close()


def _remove_container(found: StaleContainer) -> None:
    from harness.executors.docker import remove_container
    from harness.images import connect

    client = connect()
    try:
        if not remove_container(client, found):
            raise SetupError("the engine did not remove it", "see the log of the Docker engine")
    finally:
        client.close()
