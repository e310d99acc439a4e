"""An executor in this process: each cell is a small coroutine that plays a runner."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

from harness.executors import Capacity, Exit, Handle
from harness.store import AttemptPaths
from runner.contract import (
    CellSpec,
    LeaseReleased,
    LeaseWanted,
    Verdict,
    encode,
    grant_file,
    read,
    verdict_file,
    write_atomic,
)
from runner.events import EventLog
from tests.harness.builders import result

Play = Callable[["Attempt"], Awaitable[Exit]]


class Attempt:
    """What a play has in hand: the attempt's files, its events, and whether it was asked to stop."""

    def __init__(self, paths: AttemptPaths, spec: CellSpec) -> None:
        self.paths, self.spec = paths, spec
        self.stopped = asyncio.Event()
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.at_work = False
        self.events = EventLog(paths.events, spec.cell)

    def succeed(self) -> Exit:
        write_atomic(self.paths.result, encode(result(self.spec)))
        return Exit(code=0)

    async def work(self, seconds: float) -> None:
        """What freezing stops; `at_work` tells when it goes on."""
        spent = 0.0
        while spent < seconds:
            await self.thawed.wait()
            self.at_work = True
            await asyncio.sleep(0.005)
            self.at_work = False
            spent += 0.005
            await asyncio.sleep(0)

    async def lease(self, window: int = 1) -> None:
        self.events.emit(LeaseWanted(window=window))
        while not (self.paths.folder / grant_file(window)).exists():
            await asyncio.sleep(0.002)

    async def release(self, window: int = 1) -> Verdict:
        self.events.emit(LeaseReleased(window=window))
        while not (self.paths.folder / verdict_file(window)).exists():
            await asyncio.sleep(0.002)
        return read(self.paths.folder / verdict_file(window), Verdict)


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
        self.attempt.thawed.set()
        self.attempt.stopped.set()
        await asyncio.wait({self._task}, timeout=grace_s)
        if not self._task.done():
            self._task.cancel()

    async def freeze(self) -> bool:
        self.attempt.thawed.clear()
        while self.attempt.at_work:
            await asyncio.sleep(0.001)
        return True

    async def thaw(self) -> None:
        self.attempt.thawed.set()


class StillHost:
    """A machine on which nothing else happens, unless `reasons` are put there."""

    def __init__(self) -> None:
        self.reasons: tuple[str, ...] = ()

    async def quiet(self, patience_s: float) -> None:
        pass

    async def begin(self, gpus: tuple[str, ...]) -> None:
        pass

    async def end(self) -> tuple[str, ...]:
        return self.reasons


class Theatre:
    """An executor: `plays` by model alias; a model without one succeeds at once."""

    name = "theatre"
    capacity = Capacity(cores=(0, 1), memory_mb=1000)

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
