"""Runs the runner in containers, each confined to its attempt's folder (harness.executors.containers says how).

The SDK blocks, so every call of it is made in a pool of threads, and each running container has a thread that reads
what it prints until it ends. Input and output go over one connection: when this process is gone, however it went, the
engine closes the runner's standard input and the runner ends itself; the guard lets one that is frozen see that, and
removes it (harness.guard).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from harness.build_context import ImageKind, image_name
from harness.errors import ExecutorError, MoodBenchError
from harness.executors import Answer, Capacity, Exit, Gpu, Handle, Question
from harness.executors.containers import (
    CELL_ENVIRONMENT,
    CELL_TMP_MB,
    EXECUTOR_LABEL,
    HOST_LABEL,
    LOCK_LABEL,
    QUESTION_TMP_MB,
    ContainerSpec,
    End,
    Facilities,
    StaleContainer,
    cell_labels,
    cell_user,
    described,
    exit_of,
    facilities,
    first_gpu,
    fresh_name,
    gone,
    host_id,
    image_missing,
    lock_of,
    no_gpu,
    oom_kills,
    own_user,
    question_labels,
    refused,
)
from harness.executors.logs import LogWriter
from harness.executors.machine import affinity_of_this_process, engine_cores
from harness.executors.mounts import cell_mounts, check_readable, hand_over, mounts, read_mounts, take_back
from harness.executors.native import without_secrets
from harness.executors.streams import Connection, Output, Watch
from harness.gpus import list_gpus
from harness.guard import ContainerGuard
from harness.images import BuiltImage, connect, engine_address, find_image
from harness.scratch import is_held
from harness.store import AttemptPaths, RunFolder, writing
from runner.contract import CellSpec, ExecutorName, Failure

Sink = Callable[[int, bytes], None]  # a stream's number (1 output, 2 errors), a chunk of it
API_TIMEOUT_S = 30.0
STOP_CALL_S = 10.0  # a stop waits no longer for an engine that does not answer
FREEZE_CALL_S = 10.0  # an engine under load takes its time
THAW_TRIES = 3
END_S = 20.0  # from the end of its output to that of the container, and from being killed to being gone
OOM_TOLD_S = 1.0  # the engine may tell why a container was killed a little later than that
ANSWER_BYTES = 16 * 2**20
ATTACHED = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}


class DockerExecutor:
    name: ExecutorName = "docker"

    def __init__(
        self,
        client: docker.DockerClient,
        image: BuiltImage,
        offers: Facilities,
        run: RunFolder | None,
        gpus: tuple[Gpu, ...] = (),
        guard: ContainerGuard | None = None,
    ):
        self._client = client
        self._gpus = gpus
        self._guard = guard
        self._image = image
        self._offers = offers
        self._run = run
        self._id = secrets.token_hex(8)
        self._pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="docker")
        self._watch = Watch(client.api, self._id)
        self._containers: list[_Container] = []

    @classmethod
    async def open(cls, kind: ImageKind, run: RunFolder | None) -> DockerExecutor:
        """`run` None: for questions only, which change nothing; else the containers of hosts that are gone are removed.
        Raises SetupError."""
        return await asyncio.to_thread(cls._open, kind, run)

    @classmethod
    def _open(cls, kind: ImageKind, run: RunFolder | None) -> DockerExecutor:
        client = connect(API_TIMEOUT_S)
        client.api.timeout = API_TIMEOUT_S
        with ExitStack() as failed:
            failed.callback(client.close)
            with _asking():
                offers = facilities(client.info(), hook=shutil.which("nvidia-container-runtime-hook") is not None)
                if kind == "cuda" and not offers.gpu:
                    raise no_gpu()
                image = find_image(client, kind)
                if image is None:
                    raise image_missing(image_name(kind), kind)
                if run is not None:
                    sweep(client, run)
            failed.pop_all()
        gpus = list_gpus(by_index=offers.cdi and not offers.cdi_ids) if kind == "cuda" else ()
        return cls(client, image, offers, run, gpus, ContainerGuard(engine_address(), without_secrets(os.environ)))

    @property
    def image_digest(self) -> str | None:
        return self._image.digest

    @property
    def capacity(self) -> Capacity:
        return Capacity(
            cores=engine_cores(self._offers.cores, affinity_of_this_process()),
            memory_mb=self._offers.memory_mb or None,
            gpus=self._gpus,
            confines=True,
        )

    def refusal(self, spec: CellSpec) -> Failure | None:
        try:
            mounted = read_mounts(spec)
            if os.getuid() == 0:
                check_readable(mounted)
        except ExecutorError as error:
            return Failure(cell=spec.cell, kind=error.kind, message=error.message, hint=error.hint, t=time.time())
        return None

    async def start(self, attempt: AttemptPaths, spec: CellSpec) -> Handle:
        return await self.begin(await asyncio.to_thread(self.cell_container, attempt, spec), attempt)

    def cell_container(self, attempt: AttemptPaths, spec: CellSpec) -> ContainerSpec:
        """How that attempt is confined. Raises ExecutorError."""
        assert self._run is not None, "opened for questions only"
        mounted = tuple(cell_mounts(attempt, spec))
        folder = attempt.folder.absolute()
        limits = spec.limits
        return ContainerSpec(
            name=fresh_name(spec.cell, str(attempt.number)),
            image=self._image.digest,
            command=("--watch-stdin", "run", str(folder / attempt.spec.name), "--out", str(folder)),
            labels=cell_labels(attempt, spec, self._run) | {EXECUTOR_LABEL: self._id},
            user=cell_user(),
            mounts=mounted,
            environment=CELL_ENVIRONMENT,
            tmp_mb=min(CELL_TMP_MB, (limits.memory_mb or 2 * CELL_TMP_MB) // 2),
            limits=limits,
            cores=spec.cores,
            gpus=(spec.gpus or first_gpu()) if spec.device == "cuda" else (),
            cdi=self._offers.cdi,
            selinux=self._offers.selinux,
        )

    async def begin(self, container: ContainerSpec, attempt: AttemptPaths) -> DockerHandle:
        """Start an attempt in that container. Raises SetupError."""
        with writing(attempt.folder):
            log = LogWriter(attempt.log)

        def after() -> None:
            log.close()
            if os.getuid() == 0:
                take_back(attempt.folder)

        def begin() -> _Container:
            try:
                if os.getuid() == 0:
                    with writing(attempt.folder):
                        hand_over(attempt.folder)
                return self._launch(container, lambda _, chunk: log.feed(chunk), after, self._guard)
            except BaseException:
                after()
                raise

        return await self._begun(begin, container.limits.memory_mb)

    async def ask(self, question: Question) -> Answer:
        out, err = Output(ANSWER_BYTES), Output(ANSWER_BYTES)
        handle = await self._begun(lambda: self._launch_question(question, {1: out, 2: err}), None)
        try:
            code = await handle.code()
        except asyncio.CancelledError:
            await handle.stop(0.0)
            raise
        return Answer(code, bytes(out.data), bytes(err.data))

    def _launch_question(self, question: Question, outputs: dict[int, Output]) -> _Container:
        for folder in question.writes:
            if not folder.exists():
                with writing(folder):
                    folder.mkdir(parents=True)
        container = ContainerSpec(
            name=fresh_name(question.arguments[0]),
            image=self._image.digest,
            command=("--watch-stdin", *question.arguments),
            labels=question_labels(question, self._run) | {EXECUTOR_LABEL: self._id},
            user=own_user(),
            mounts=tuple(mounts(question.reads, [question.folder, *question.writes])),
            environment=question.environment,
            tmp_mb=QUESTION_TMP_MB,
            network=question.network,
            gpus=first_gpu() if self._image.kind == "cuda" and question.arguments[0] == "info" else (),
            cdi=self._offers.cdi,
            selinux=self._offers.selinux,
        )
        return self._launch(container, lambda stream, chunk: outputs[stream].take(chunk), lambda: None)

    def _launch(
        self, container: ContainerSpec, sink: Sink, after: Callable[[], None], guard: ContainerGuard | None = None
    ) -> _Container:
        api = self._client.api
        self._watch.begin()
        try:
            config = container.config()
        except OSError as error:
            raise ExecutorError(
                "environment", f"what a cell needs is gone: there is no {error.filename}", "run the same command again"
            ) from error
        with _asking(self._image.kind):
            made = api.create_container_from_config(config, container.name)["Id"]
            with ExitStack() as failed:
                if guard is not None:
                    guard.hold_container(made)
                    failed.callback(guard.release_container, made)
                failed.callback(_remove, api, made)
                connection = Connection(api.attach_socket(made, ATTACHED))
                failed.callback(connection.close)
                api.start(made)
                failed.pop_all()
        running = _Container(api, self._watch, made, connection, sink, after, guard)
        self._containers = [one for one in self._containers if not one.is_over] + [running]
        return running

    async def close(self) -> None:
        """End and remove what still runs; an engine that is gone cannot be asked to."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._pool.shutdown(wait=True)
        with suppress(ExecutorError), _asking():
            for entry in self._client.api.containers(all=True, filters={"label": f"{EXECUTOR_LABEL}={self._id}"}):
                _remove(self._client.api, entry["Id"])
        for container in self._containers:
            container.join(END_S)
        self._watch.close()
        self._client.close()
        if self._guard is not None:
            self._guard.close()

    async def _begun(self, launch: Callable[[], _Container], memory_mb: int | None) -> DockerHandle:
        """Whoever no longer wants it, once it is begun, leaves none behind."""
        work = asyncio.get_running_loop().run_in_executor(self._pool, launch)
        try:
            return DockerHandle(await asyncio.shield(work), self._pool, memory_mb)
        except asyncio.CancelledError:
            with suppress(MoodBenchError):
                await DockerHandle(await work, self._pool, memory_mb).stop(0.0)
            raise


class DockerHandle:
    def __init__(self, container: _Container, pool: ThreadPoolExecutor, memory_mb: int | None) -> None:
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


class _Container:
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
            with _asking():
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
        if _remove(self._api, self.id) and self._guard is not None:
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


# --- talking to the engine -----------------------------------------------------------------------


@contextmanager
def _asking(kind: ImageKind = "cpu") -> Iterator[None]:
    """What the SDK raises, as what it means; `kind`: of an image that may be missing. Raises ExecutorError."""
    try:
        yield
    except MoodBenchError:
        raise
    except ImageNotFound as error:
        raise image_missing(_said(error), kind) from error
    except APIError as error:
        raise refused(_said(error)) from error
    except (DockerException, requests.RequestException, OSError) as error:
        raise gone(type(error).__name__) from error


def _said(error: APIError) -> str:
    return str(error.explanation or error).strip()


def _remove(api: docker.APIClient, container: str) -> bool:
    """End and remove it; whether it is gone. Somebody else may be removing it."""
    try:
        api.remove_container(container, force=True, v=True)
    except APIError as error:
        return isinstance(error, NotFound) or error.status_code == 409
    except (DockerException, requests.RequestException):
        return False
    return True


# --- what was left behind ------------------------------------------------------------------------


def stale_containers(client: docker.DockerClient, own: Path | None = None) -> list[StaleContainer]:
    """Containers of this host whose lock nobody holds; `own` is a lock of the caller, which started none yet. Raises
    ExecutorError."""
    with _asking():
        entries = client.api.containers(all=True, filters={"label": f"{HOST_LABEL}={host_id()}"})
    found = []
    for entry in entries:
        lock = Path(entry["Labels"].get(LOCK_LABEL, "/nowhere"))
        if lock == own or not is_held(lock):
            found.append(described(entry))
    return found


def remove_container(client: docker.DockerClient, stale: StaleContainer) -> bool:
    """Also gives what root's cells wrote back to root. Whether it is gone."""
    removed = _remove(client.api, stale.id)
    if removed and stale.attempt is not None and os.getuid() == 0:
        take_back(stale.attempt)
    return removed


def sweep(client: docker.DockerClient, run: RunFolder) -> None:
    """Remove what killed hosts left; the lock of `run` is held by the caller. Raises ExecutorError."""
    for stale in stale_containers(client, lock_of(run)):
        remove_container(client, stale)
    if os.getuid() == 0:  # also where the container was gone already
        for attempt in run.folder.glob("cells/*/attempt-*"):
            take_back(attempt)
