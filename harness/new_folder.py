"""A folder that is whole or not there: it is made out of sight, and gets its name when it is done.

It is made in a holder: a hidden folder with a lock, by which what a killed host left is told from what is in use.
"""

from __future__ import annotations

import fcntl
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import InputError, SetupError
from harness.scratch import LOCK, is_held
from harness.store import storage_problem

LAST = "config.json"  # a folder without it is not taken for a model
_MADE = "made"  # within the holder
_HOLDER = re.compile(r"\.moodbench-[0-9a-f]{8}\.unfinished")


def new_folder(to: Path) -> Path:
    """Absolute, links resolved. Raises InputError where something is there already, or it could not be replaced."""
    folder = _resolved(to)
    if folder == Path.cwd():
        raise InputError(f"'{to}' is the folder you are in", "give the name of a new folder: --to NAME")
    try:
        used = any(not _is_abandoned(path) for path in folder.iterdir())
    except FileNotFoundError:
        used = False
    except NotADirectoryError:
        raise InputError(f"'{to}' is not a folder", "give the name of a new folder") from None
    except OSError as error:
        raise InputError(f"'{to}' cannot be read ({error.strerror})", "give another folder") from None
    if used:
        raise InputError(
            f"'{to}' is not empty, and nothing is overwritten", "give a new folder, or remove what is there"
        )
    return folder


def _resolved(to: Path) -> Path:
    try:
        return to.expanduser().resolve()
    except RuntimeError:  # of expanduser: no such user; of resolve: links in a circle
        raise InputError(f"'{to}' leads nowhere: no such user, or links in a circle", "give another folder") from None


@contextmanager
def becoming(folder: Path) -> Iterator[Path]:
    """An empty folder whose content is `folder`'s when the block ends well; when it does not, nothing of it is left,
    nor of the parents that were made for it. Raises SetupError.

    A new folder comes by one renaming. One that is there may be a mount point, which cannot be replaced, and its parent
    may be closed to the user: it is filled from within.
    """
    with placing(folder):
        is_new = not folder.is_dir()
        parents = _make_parents(folder)
    try:
        for place in (folder, folder.parent):
            _sweep(place)
        with _holder(folder.parent if is_new else folder, folder) as holder:
            made = holder / _MADE
            with placing(folder):
                made.mkdir()
            yield made
            with placing(folder):
                if is_new:
                    made.replace(folder)
                else:
                    _fill(folder, made, holder)
    except BaseException:
        for parent in parents:
            with suppress(OSError):  # something else lies there by now
                parent.rmdir()
        raise


@contextmanager
def placing(folder: Path) -> Iterator[None]:
    """What the disk refuses, as SetupError."""
    try:
        yield
    except OSError as error:
        problem = storage_problem(error, folder)
        raise SetupError(problem.message, "free some space there, or give another folder: --to DIR") from error


def _make_parents(folder: Path) -> list[Path]:
    """Those that were not there, the innermost first."""
    missing = [parent for parent in folder.parents if not parent.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    return missing


@contextmanager
def _holder(place: Path, folder: Path) -> Iterator[Path]:
    name = f".moodbench-{secrets.token_hex(4)}"
    unnamed, holder = place / name, place / f"{name}.unfinished"
    with placing(folder):
        unnamed.mkdir()
        lock = (unnamed / LOCK).open("w")
    with lock:
        try:
            with suppress(OSError):  # a file system without locks: then nobody sweeps there either
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with placing(folder):
                unnamed.rename(holder)  # only now may others look whether it is held
            yield holder
        finally:
            shutil.rmtree(unnamed, ignore_errors=True)
            shutil.rmtree(holder, ignore_errors=True)


def _fill(folder: Path, made: Path, holder: Path) -> None:
    """Raises SetupError where the folder has been filled meanwhile: nothing of that is replaced."""
    if any(path != holder for path in folder.iterdir()):
        raise SetupError(f"{folder} is not empty any more", "give a new folder: --to DIR")
    for path in sorted(made.iterdir(), key=lambda path: path.name == LAST):
        path.rename(folder / path.name)


def _sweep(place: Path) -> None:
    """Remove what killed hosts left; what cannot be removed stays."""
    with suppress(OSError):
        for path in list(place.iterdir()):
            if _is_abandoned(path):
                shutil.rmtree(path, ignore_errors=True)


def _is_abandoned(path: Path) -> bool:
    """Whether it is a holder whose maker is gone."""
    if not _HOLDER.fullmatch(path.name):
        return False
    lock = path / LOCK
    try:
        is_lock = stat.S_ISREG(lock.lstat().st_mode)  # in a shared folder it may be anything
    except OSError:
        return False
    return is_lock and not is_held(lock)
