"""What killed hosts left behind: containers, scratch folders, run folders that never became runs. What a living host
uses is held by a lock and is not touched."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from harness.errors import MoodBenchError, SetupError
from harness.executors.containers import StaleContainer
from harness.scratch import LOCK, is_held, stale


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
    """Folders with nothing but a lock that nobody holds."""
    return [lock.parent for lock in sorted(results.glob(f"*/{LOCK}")) if _is_alone(lock) and not is_held(lock)]


def _is_alone(lock: Path) -> bool:
    return list(lock.parent.iterdir()) == [lock]


def _remove_run(folder: Path) -> None:
    """Looks again, holding the lock: since it was found a run may have begun there."""
    with (folder / LOCK).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_alone(folder / LOCK):
            (folder / LOCK).unlink()
            folder.rmdir()


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
