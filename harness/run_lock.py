"""Who may fill a run folder: one process at a time, and only where something can be written."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from harness.errors import InputError, SetupError
from harness.scratch import LOCK
from harness.store import RunFolder, storage_problem

LEAST_FREE_MB = 50
TRIES, TRY_AGAIN_S = 5, 0.05


@contextmanager
def only_one(folder: RunFolder) -> Iterator[None]:
    """Hold the run folder: two processes that fill one run would do its cells twice. The lock's file names the holder.
    Raises InputError. A folder that did not become a run is removed again."""
    path = folder.folder / LOCK
    try:
        taken = _take(path)
    except FileNotFoundError:
        raise InputError(f"the folder of the run '{folder.folder.name}' is gone", "give the command again") from None
    if taken is None:
        raise InputError(
            f"another moodbench is filling the run '{folder.folder.name}'",
            "watch it with `moodbench attach`, end it with `moodbench stop`, or give another --run name",
        )
    with taken as lock:
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield
        finally:
            if not folder.record_path.exists() and not folder.journal.exists():
                path.unlink(missing_ok=True)
                with suppress(OSError):  # something else lies there: not ours to remove
                    folder.folder.rmdir()


def _take(path: Path) -> IO[str] | None:
    """The lock, unless another process keeps it; one that only looks whether it is held (`moodbench clean`, the start
    of another run) has it for a moment. Each try opens it again: its last holder may have removed it."""
    for _ in range(TRIES):
        lock = path.open("a+")
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        lock.close()
        time.sleep(TRY_AGAIN_S)
    return None


def check_writable(folder: RunFolder) -> None:
    """Before any work: the run folder can be made and written. Raises SetupError."""
    probe = folder.folder / ".writable"
    try:
        folder.folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x" * 4096)
    except OSError as error:
        raise storage_problem(error, folder.folder) from error
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    if free_mb(folder.folder) < LEAST_FREE_MB:
        raise SetupError(
            f"less than {LEAST_FREE_MB} MB are free where {folder.folder} lies",
            "free some space, or choose another --results folder",
        )


def free_mb(folder: Path) -> int:
    """On the disk that holds it."""
    free = os.statvfs(folder)
    return free.f_bavail * free.f_frsize // 2**20
