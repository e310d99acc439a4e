"""One process at a time, across processes and containers of one machine."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Wait until no other process is within a block of this lock file; the system frees the lock of one that is killed.

    It saves work, it does not guard it: where a lock cannot be had (a read-only folder, a network file system without
    locks) nobody waits, and what is done within must be safe without.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    except OSError:
        yield
        return
    with file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
