"""What a run was asked to do, as `request.json` in its folder holds it, and how it is asked to end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from harness.executors.choice import AskedExecutor
from harness.suite import Suite
from runner.contract import Phase

T = TypeVar("T")
NO_LIMIT = 0.0  # asked for, in seconds


class RunOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`jobs`: cells at a time; None: one for each core. `memory_mb`: per cell; None: by the estimate and an equal
    share. `seconds`: per cell; None: by the estimate; `NO_LIMIT`: none. `overcommit`: also start what is estimated not
    to fit. `reuse`: take over what other runs beside it have finished. `track`: address of the MLflow store that
    the run is brought into when it ends."""

    device: str = "auto"
    jobs: int | None = None
    executor: AskedExecutor = "auto"
    memory_mb: int | None = None
    seconds: float | None = None
    phase_seconds: dict[Phase, float] = {}
    overcommit: bool = False
    reuse: bool = True
    track: str | None = None


class RunRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Several suites: a run that was extended goes on with all of them."""

    suites: tuple[Suite, ...]
    options: RunOptions


class Control:
    """How a run is asked to end, at whatever point it is. To be used in the run's event loop alone."""

    def __init__(self) -> None:
        self._stop: Callable[[bool], None] | None = None
        self.stopping = False

    def stop(self, *, now: bool = False) -> None:
        """Finished work is kept. `now`: running cells are not waited for."""
        self.stopping = True
        if self._stop is not None:
            self._stop(now)

    async def preparing(self, work: Coroutine[Any, Any, T]) -> T:
        """What `stop` breaks off at once. Raises CancelledError then."""
        task = asyncio.ensure_future(work)

        def cancel(now: bool) -> None:
            task.cancel()

        self._stop = cancel
        if self.stopping:
            cancel(True)
        try:
            return await task
        finally:
            self._stop = None

    async def running(self, work: Coroutine[Any, Any, T], stop: Callable[[bool], None]) -> T:
        """What has a way of its own to end."""
        self._stop = stop
        if self.stopping:
            stop(False)
        try:
            return await work
        finally:
            self._stop = None
