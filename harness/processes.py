"""The processes of a native attempt, as Linux lists them: those of its group, and those that have left the group and
still carry its mark. Standard library only, because the guard uses it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MARK = "MOODBENCH_ATTEMPT"  # in the environment of a native cell, and so of what it starts: its attempt's folder
ENDED = frozenset("ZX")
STOPPED = frozenset("Tt") | ENDED


@dataclass(frozen=True)
class Member:
    pid: int
    states: frozenset[str]  # of its threads, in the kernel's letters

    @property
    def is_stopped(self) -> bool:
        return self.states <= STOPPED

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, number)


def members(group: int, mark: str, proc: Path = Path("/proc")) -> list[Member]:
    """Those that live. Empty where the system does not list processes in files."""
    entry = f"{MARK}={mark}".encode()
    found = []
    for pid in _listed(proc):
        with suppress(OSError, ValueError, IndexError):  # it has ended since
            folder = proc / str(pid)
            if _group(folder) == group or _is_marked(folder, entry):
                member = Member(pid, frozenset(_states(folder)))
                if not member.states <= ENDED:
                    found.append(member)
    return found


def end_processes(group: int, mark: str) -> bool:
    """Kill what lives of it; whether there may be more, since what forks may need a second round."""
    if not Path("/proc/self/stat").exists():
        signal_group(group, signal.SIGKILL)
        return False
    found = members(group, mark)
    for member in found:
        member.signal(signal.SIGKILL)
    return bool(found)


def signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _listed(proc: Path) -> list[int]:
    try:
        return [int(name) for name in os.listdir(proc) if name.isdecimal()]  # noqa: PTH208 - names alone are wanted
    except OSError:
        return []


def _is_marked(folder: Path, entry: bytes) -> bool:
    """Only of this user: the mark of anybody else's process means nothing."""
    return folder.stat().st_uid == os.getuid() and entry in (folder / "environ").read_bytes().split(b"\0")


def _group(folder: Path) -> int:
    return int(_fields(folder / "stat")[2])


def _states(folder: Path) -> Iterator[str]:
    for thread in (folder / "task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            yield _fields(thread / "stat")[0]


def _fields(stat: Path) -> list[str]:
    """State, parent, group ...: what follows the name, which may hold anything."""
    return stat.read_text(errors="replace").rpartition(")")[2].split()
