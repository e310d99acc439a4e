"""Where the runner works: `native` starts child processes, `docker` containers. One protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.store import AttemptPaths
from runner.contract import CellSpec, ExecutorName, Failure, FailureKind


@dataclass(frozen=True)
class Exit:
    """How an attempt ended: an exit code, or the signal that ended it; and the cause, where the executor knows it
    better than the attempt itself."""

    code: int | None
    signal: int | None = None
    cause: FailureKind | None = None
    detail: str = ""  # a sentence that says how it is known


@dataclass(frozen=True)
class Gpu:
    """`id` is what CUDA_VISIBLE_DEVICES and the container engine take."""

    id: str
    name: str
    memory_mb: int | None = None  # in all; None: not known


@dataclass(frozen=True)
class Capacity:
    """What cells can share: the numbers of the cores, memory in MB (2**20 bytes; None: not known), GPUs. `confines`:
    whether a cell can be held to a share of the memory."""

    cores: tuple[int, ...]
    memory_mb: int | None = None
    gpus: tuple[Gpu, ...] = ()
    confines: bool = False


@dataclass(frozen=True)
class Question:
    """A call of the runner that is no cell: `info`, `fetch`, `prepare`.

    `folder` is for this question alone and is writable; `lock` is held for as long as the answer is wanted
    (harness.scratch). `reads` and `writes` are further files and folders that the answer needs; `network` says whether
    it may reach any.
    """

    arguments: tuple[str, ...]
    folder: Path
    lock: Path
    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    network: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    code: int
    out: bytes
    err: bytes


class Handle(Protocol):
    """A started attempt."""

    async def wait(self) -> Exit:
        """Until it has ended and nothing of it runs. Raises ExecutorError where that can no longer be known."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Ask it to end, then make it, also when it is frozen; returns when nothing of it runs any more."""
        ...

    async def freeze(self) -> bool:
        """Let nothing of it run until `thaw`, whatever becomes of this process meanwhile; whether that worked. One
        that has ended is as good as frozen."""
        ...

    async def thaw(self) -> None:
        """Let it run again; nothing where it is not frozen, or has ended."""
        ...


class Executor(Protocol):
    @property
    def name(self) -> ExecutorName: ...

    @property
    def image_digest(self) -> str | None: ...

    @property
    def capacity(self) -> Capacity: ...

    def refusal(self, spec: CellSpec) -> Failure | None:
        """Why this cell cannot run there, where others can; None if nothing is known against it."""
        ...

    async def start(self, attempt: AttemptPaths, spec: CellSpec) -> Handle:
        """Start the attempt whose `spec.json` is written. Raises SetupError."""
        ...

    async def ask(self, question: Question) -> Answer:
        """Stopped with its asker. Raises SetupError."""
        ...

    async def close(self) -> None:
        """Leave nothing behind."""
        ...
