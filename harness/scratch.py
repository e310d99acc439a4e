"""Folders for what is needed for a moment, in the cache rather than in the system's own place, so that a container
can be given them and that what a killed host left can be told from what is in use: its owner holds a lock."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.store import writing

LOCK = ".lock"


def cache_folder() -> Path:
    """Prepared datasets and scratch live here: $MOODBENCH_CACHE, else `moodbench` in the user's cache folder."""
    own = os.environ.get("MOODBENCH_CACHE")
    if own:
        return Path(own).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "moodbench"


@contextmanager
def scratch() -> Iterator[Path]:
    """A new folder that only this user can enter, removed at the end. Raises SetupError."""
    folder = _place() / f"{os.getpid()}-{secrets.token_hex(4)}"
    with writing(folder):
        folder.mkdir(parents=True, mode=0o700)
        lock = (folder / LOCK).open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def is_held(lock: Path) -> bool:
    """Whether a living process holds this lock file; False where there is none."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # held, or somebody else's: not to be touched
        return True
    return False


def stale() -> list[Path]:
    """Scratch folders whose owner is gone."""
    return [folder for folder in sorted(_place().glob("*-*")) if not is_held(folder / LOCK)]


def sweep() -> None:
    """Remove what killed hosts left; whatever cannot be removed stays for `moodbench clean` to name."""
    for folder in stale():
        with suppress(OSError):
            shutil.rmtree(folder)


def _place() -> Path:
    return cache_folder() / "scratch"
