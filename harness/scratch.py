"""Folders for what is needed for a moment, in the cache rather than in the system's own place, so that a container
can be given them and that what a killed host left can be told from what is in use: its owner holds a lock."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.store import writing

LOCK = ".lock"
MAKING_S = 60.0
_NAME = re.compile(r"\.?\d+-[0-9a-f]{8}")


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
    name = f"{os.getpid()}-{secrets.token_hex(4)}"
    folder = _place() / name
    unnamed = folder.with_name(f".{name}")  # nobody looks at it before its lock is held
    with writing(folder):
        unnamed.mkdir(parents=True, mode=0o700)
        lock = (unnamed / LOCK).open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with writing(folder):
                unnamed.rename(folder)
            yield folder
        finally:
            shutil.rmtree(unnamed, ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)


def is_held(lock: Path) -> bool:
    """Whether a living process holds this lock file; False where there is none."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # held, or somebody else's: not to be touched
        return True
    return False


def stale() -> list[Path]:
    """Scratch folders whose owner is gone."""
    folders = sorted(path for path in _place().glob("*") if _NAME.fullmatch(path.name))
    return [folder for folder in folders if not is_held(folder / LOCK) and not _is_being_made(folder)]


def _is_being_made(folder: Path) -> bool:
    """It has no name yet, and may be about to get its lock."""
    try:
        return folder.name.startswith(".") and time.time() - folder.stat().st_mtime < MAKING_S
    except FileNotFoundError:
        return True


def sweep() -> None:
    """Remove what killed hosts left; whatever cannot be removed stays for `moodbench clean` to name."""
    for folder in stale():
        with suppress(OSError):
            shutil.rmtree(folder)


def _place() -> Path:
    return cache_folder() / "scratch"
