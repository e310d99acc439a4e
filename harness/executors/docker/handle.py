"""A started container, followed to its end by a thread of its own, and the engine's handle on it."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import docker
import requests
from docker.errors import APIError, DockerException, NotFound

from harness.executors import Exit
from harness.executors.containers import End, exit_of, gone
from harness.executors.docker.calls import asking, remove
from harness.executors.machine import oom_kills
from harness.executors.streams import Connection, Watch
from harness.guard import ContainerGuard

Sink = Callable[[int, bytes], None]  # a stream's number (1 output, 2 errors), a chunk of it
STOP_CALL_S = 10.0  # a stop waits no longer for an engine that does not answer
FREEZE_CALL_S = 10.0  # an engine under load takes its time
THAW_TRIES = 3
END_S = 20.0  # from the end of its output to that of the container, and from being killed to being gone
OOM_TOLD_S = 1.0  # the engine may tell why a container was killed a little later than that


class DockerHandle:
    def __init__(self, container: Container, pool: ThreadPoolExecutor, memory_mb: int | None) -> None:
        self._container = container
        self._pool = pool
        self._memory_mb = memory_mb
        self._is_stopping = False

    @property
    def container_id(self) -> str:
        return self._container.id

    async def wait(self) -> Exit:
        return exit_of(await asyncio.wrap_future(self._container.ended), self._memory_mb)

    async def code(self) -> int:
        """As `wait`, for what is no cell."""
        return (await asyncio.wrap_future(self._container.ended)).code

    async def stop(self, grace_s: float) -> None:
        self._is_stopping = True
        told = True
        if grace_s > 0 and not self._container.ended.done():
            told = await self._signal(signal.SIGTERM)  # before it goes on: it does no more than end
        if told:
            await self.thaw()
            await self._ended(grace_s)
        if self._container.ended.done():
            return
        if told:
            told = await self._signal(signal.SIGKILL)
        if not told or not await self._ended(END_S):
            self._container.abandon()
            await self._ended(END_S)

    async def freeze(self) -> bool:
        if self._container.ended.done() or self._is_stopping:
            return self._container.ended.done()
        self._container.is_to_stand = True
        if await self._call(self._container.pause, FREEZE_CALL_S):
            return self._container.is_to_stand  # unless it was thawed meanwhile
        await self.thaw()
        return self._container.ended.done()

    async def thaw(self) -> None:
        if not self._container.is_to_stand:
            return
        self._container.is_to_stand = False
        for _ in range(THAW_TRIES):
            if self._container.ended.done() or await self._call(self._container.unpause, STOP_CALL_S):
                return

    async def _signal(self, number: signal.Signals) -> bool:
        """Whether the engine took it."""
        return await self._call(partial(self._container.kill, number), STOP_CALL_S)

    async def _call(self, function: Callable[[], bool], timeout_s: float) -> bool:
        """False, too, for an engine that does not answer in time."""
        call = asyncio.get_running_loop().run_in_executor(self._pool, function)
        try:
            return await asyncio.wait_for(call, timeout_s)
        except TimeoutError:
            return False

    async def _ended(self, timeout_s: float) -> bool:
        waiter = asyncio.wrap_future(self._container.ended)
        await asyncio.wait({waiter}, timeout=timeout_s)
        if waiter.done():
            waiter.exception()
            return True
        waiter.cancel()
        return False


class Container:
    """A started container, followed to its end and removed by a thread of its own. `ended` carries an ExecutorError
    where how it ended cannot be known; `after` is called before it is set."""

    def __init__(
        self,
        api: docker.APIClient,
        watch: Watch,
        id_: str,
        connection: Connection,
        sink: Sink,
        after: Callable[[], None],
        guard: ContainerGuard | None,
    ) -> None:
        self.id = id_
        self.is_to_stand = False  # frozen, or about to be
        self.ended: Future[End] = Future()
        self.ended.set_running_or_notify_cancel()  # whoever stops waiting for it does not cancel it
        self._api = api
        self._watch = watch
        self._connection = connection
        self._sink = sink
        self._after = after
        self._guard = guard
        self._pausing = threading.Lock()
        self._killed = False
        self._oom_kills = oom_kills()
        self._thread = threading.Thread(target=self._follow, name=f"container-{id_[:12]}", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Removed, too."""
        return not self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def kill(self, number: signal.Signals) -> bool:
        """Whether the engine answered; a container that has ended takes no signal, which is fine."""
        self._killed |= number == signal.SIGKILL
        try:
            self._api.kill(self.id, signal=number.name)
        except APIError as error:
            return bool(error.is_client_error())
        except (DockerException, requests.RequestException):
            return False
        return True

    def pause(self) -> bool:
        """Whether nothing of it runs now."""
        with self._pausing:
            return self.is_to_stand and self._set(self._api.pause, paused=True)  # else the call comes too late

    def unpause(self) -> bool:
        """Whether it runs now, or has ended."""
        with self._pausing:
            return self._set(self._api.unpause, paused=False)

    def _set(self, call: Callable[[str], object], *, paused: bool) -> bool:
        """Whether it is so now, however that came."""
        try:
            call(self.id)
        except (DockerException, requests.RequestException):
            return self._is(paused=paused)
        return True

    def _is(self, *, paused: bool) -> bool:
        try:
            state = self._api.inspect_container(self.id)["State"]
        except NotFound:
            return True
        except (DockerException, requests.RequestException):
            return False
        return not state["Running"] or state["Paused"] == paused

    def abandon(self) -> None:
        """No more is heard of an engine that does not answer."""
        self._connection.hang_up()

    def _follow(self) -> None:
        end: End | Exception
        try:
            for stream, chunk in self._connection.frames():
                self._sink(stream, chunk)
            with asking():
                end = self._end()
        except Exception as error:  # noqa: BLE001 - a thread's boundary: whoever waits gets it
            end = error
        with suppress(Exception):
            self._after()
        if isinstance(end, End):
            self.ended.set_result(end)
        else:
            self.ended.set_exception(end)
        self._connection.close()
        if remove(self._api, self.id) and self._guard is not None:
            self._guard.release_container(self.id)

    def _end(self) -> End:
        try:
            code = self._exit_code()
            if code != 0 and self._watch.is_lost:
                raise gone("it stopped or was restarted while the cell ran")
            end = self._what_is_known(code)
            deadline = time.monotonic() + OOM_TOLD_S
            while end.is_unexplained_kill and not end.machine_out_of_memory and time.monotonic() < deadline:
                time.sleep(0.05)
                end = self._what_is_known(code)
        except NotFound:
            if self._watch.is_lost or "destroy" not in self._watch.seen(self.id):
                raise gone("it no longer knows the cell's container") from None
            return End(128 + signal.SIGKILL, killed_by_us=self._killed, killed_outside=not self._killed)
        return end

    def _exit_code(self) -> int:
        while True:
            try:
                return int(self._api.wait(self.id, timeout=END_S)["StatusCode"])
            except requests.ReadTimeout:
                if not self.is_to_stand:
                    break
        self.kill(signal.SIGKILL)  # it prints no more, and nobody holds its input: it has to end
        return int(self._api.wait(self.id, timeout=END_S)["StatusCode"])

    def _what_is_known(self, code: int) -> End:
        seen = self._watch.seen(self.id)
        oom = "oom" in seen or (code != 0 and bool(self._api.inspect_container(self.id)["State"]["OOMKilled"]))
        return End(
            code,
            out_of_memory=oom,
            machine_out_of_memory=oom_kills() > self._oom_kills,
            killed_by_us=self._killed,
            killed_outside=not self._killed and "kill 9" in seen,
        )
