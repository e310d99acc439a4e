"""An executor in this process: each cell is a small coroutine that plays a runner."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

from harness.executors import Exit, Handle
from harness.store import AttemptPaths
from runner.contract import CellSpec, LeaseWanted, encode, write_atomic
from runner.events import EventLog
from tests.harness.builders import result

Play = Callable[["Attempt"], Awaitable[Exit]]


class Attempt:
    """What a play has in hand: the attempt's files, its events, and whether it was asked to stop."""

    def __init__(self, paths: AttemptPaths, spec: CellSpec) -> None:
        self.paths, self.spec = paths, spec
        self.stopped = asyncio.Event()
        self.events = EventLog(paths.events, spec.cell)

    def succeed(self) -> Exit:
        write_atomic(self.paths.result, encode(result(self.spec)))
        return Exit(code=0)

    async def lease(self) -> None:
        self.events.emit(LeaseWanted())
        while not self.paths.lease.exists():
            await asyncio.sleep(0.002)


class PlayedHandle:
    def __init__(self, play: Play, attempt: Attempt) -> None:
        self.attempt = attempt
        self.graces: list[float] = []
        self._task = asyncio.ensure_future(play(attempt))

    async def wait(self) -> Exit:
        with self.attempt.events:
            return await self._task

    async def stop(self, grace_s: float) -> None:
        self.graces.append(grace_s)
        self.attempt.stopped.set()
        await asyncio.wait({self._task}, timeout=grace_s)
        if not self._task.done():
            self._task.cancel()


class Theatre:
    """An executor: `plays` by model alias; a model without one succeeds at once."""

    name = "theatre"

    def __init__(self, **plays: Play) -> None:
        self.plays = plays
        self.handles: dict[str, PlayedHandle] = {}
        self.running: set[str] = set()

    async def start(self, attempt: AttemptPaths, spec: CellSpec) -> Handle:
        handle = PlayedHandle(self.plays.get(spec.model.alias, success), Attempt(attempt, spec))
        self.handles[spec.model.alias] = handle
        return handle


async def success(attempt: Attempt) -> Exit:
    return attempt.succeed()


async def until_stopped(attempt: Attempt) -> Exit:
    await attempt.stopped.wait()
    return Exit(code=None, signal=signal.SIGTERM)
