"""Where an attempt runs. One protocol; `native` starts a child process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from harness.store import AttemptPaths
from runner.contract import CellSpec


@dataclass(frozen=True)
class Exit:
    """How an attempt's process ended: an exit code, or the signal that ended it."""

    code: int | None
    signal: int | None = None


class Handle(Protocol):
    """A started attempt."""

    async def wait(self) -> Exit: ...

    async def stop(self, grace_s: float) -> None:
        """Ask it to end, then make it; returns when nothing of it is left."""
        ...


class Executor(Protocol):
    name: str

    async def start(self, attempt: AttemptPaths, spec: CellSpec) -> Handle:
        """Start the attempt whose `spec.json` is written. Raises SetupError."""
        ...
