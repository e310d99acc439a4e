"""What this process may use of the machine: its cores, and the memory that its control groups leave it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

MACHINE_OUT_OF_MEMORY = "the machine ran out of memory, and the system ended the cell"


def own_cores() -> tuple[int, ...]:
    """By number, where the system tells on which this process may run."""
    affinity = affinity_of_this_process()
    return tuple(sorted(affinity)) if affinity else tuple(range(os.cpu_count() or 1))


def engine_cores(count: int, affinity: Collection[int] | None) -> tuple[int, ...]:
    """Of an engine with so many: those of this process, if it is on the same machine."""
    cores = range(count)
    if affinity and set(affinity) <= set(cores):
        return tuple(sorted(affinity))
    return tuple(cores)


def affinity_of_this_process() -> Collection[int] | None:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def memory_mb(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """All there is, or the tightest limit of a control group that this process is in."""
    return min([psutil.virtual_memory().total, *_limits(groups, own)]) // 2**20


def _limits(groups: Path, own: Path) -> Iterator[int]:
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                yield from _limits_above(groups, path, "memory.max")
            elif "memory" in controllers.split(","):
                yield from _limits_above(groups / "memory", path, "memory.limit_in_bytes")


def _limits_above(root: Path, path: str, name: str) -> Iterator[int]:
    """From its own group up to the root; in a container only the root may be there, which is its own then."""
    group = Path(path)
    for folder in (group, *group.parents):
        with suppress(OSError, ValueError):  # no such group here, or "max"
            yield int((root / folder.relative_to("/") / name).read_text())


def oom_kills(vmstat: Path = Path("/proc/vmstat")) -> int:
    """How many processes this machine has ended for want of memory; 0 where that is not told."""
    with suppress(OSError, ValueError):
        for line in vmstat.read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
