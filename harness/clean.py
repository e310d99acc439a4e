"""What killed hosts left behind: containers, scratch folders, run folders that never became runs. What a living host
uses is held by a lock and is not touched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from harness.errors import MoodBenchError
from harness.scratch import is_held, stale


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
    folders = [_folder("scratch folder", folder) for folder in stale()]
    folders += [_folder("run that never began", folder) for folder in _never_began(results)]
    try:
        containers = _containers()
    except MoodBenchError as error:
        return Leftovers(tuple(folders), unseen=error.message)
    return Leftovers((*containers, *folders))


def _folder(what: str, folder: Path) -> Leftover:
    return Leftover(what, str(folder), lambda: shutil.rmtree(folder))


def _never_began(results: Path) -> list[Path]:
    """Folders with nothing but a lock that nobody holds."""
    locks = sorted(results.glob("*/.lock"))
    return [lock.parent for lock in locks if list(lock.parent.iterdir()) == [lock] and not is_held(lock)]


def _containers() -> list[Leftover]:
    from harness.executors.docker import remove_container, stale_containers
    from harness.images import connect

    client = connect()
    return [
        Leftover("container", f"{found.name} ({found.state})", partial(remove_container, client, found))
        for found in stale_containers(client)
    ]
