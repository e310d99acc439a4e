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
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import docker

from harness.build_context import ImageKind, image_name
from harness.errors import ExecutorError, MoodBenchError
from harness.executors import Answer, Capacity, Gpu, Handle, Question
from harness.executors.containers import (
    CELL_ENVIRONMENT,
    CELL_TMP_MB,
    EXECUTOR_LABEL,
    QUESTION_TMP_MB,
    ContainerSpec,
    Facilities,
    cell_labels,
    cell_user,
    facilities,
    first_gpu,
    fresh_name,
    image_missing,
    no_gpu,
    own_user,
    question_labels,
)
from harness.executors.docker.calls import asking, remove, remove_container, stale_containers, sweep
from harness.executors.docker.handle import END_S, Container, DockerHandle, Sink
from harness.executors.logs import LogWriter
from harness.executors.machine import affinity_of_this_process, engine_cores
from harness.executors.mounts import cell_mounts, check_readable, hand_over, mounts, read_mounts, take_back
from harness.executors.native import without_secrets
from harness.executors.streams import Connection, Output, Watch
from harness.gpus import list_gpus
from harness.guard import ContainerGuard
from harness.images import BuiltImage, connect, engine_address, find_image
from harness.store import AttemptPaths, RunFolder, writing
from runner.contract import CellSpec, ExecutorName, Failure

__all__ = ["DockerExecutor", "DockerHandle", "remove_container", "stale_containers"]

API_TIMEOUT_S = 30.0
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
        self._containers: list[Container] = []

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
            with asking():
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

        def begin() -> Container:
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

    def _launch_question(self, question: Question, outputs: dict[int, Output]) -> Container:
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
    ) -> Container:
        api = self._client.api
        self._watch.begin()
        try:
            config = container.config()
        except OSError as error:
            raise ExecutorError(
                "environment", f"what a cell needs is gone: there is no {error.filename}", "run the same command again"
            ) from error
        with asking(self._image.kind):
            made = api.create_container_from_config(config, container.name)["Id"]
            with ExitStack() as failed:
                if guard is not None:
                    guard.hold_container(made)
                    failed.callback(guard.release_container, made)
                failed.callback(remove, api, made)
                connection = Connection(api.attach_socket(made, ATTACHED))
                failed.callback(connection.close)
                api.start(made)
                failed.pop_all()
        running = Container(api, self._watch, made, connection, sink, after, guard)
        self._containers = [one for one in self._containers if not one.is_over] + [running]
        return running

    async def close(self) -> None:
        """End and remove what still runs; an engine that is gone cannot be asked to."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._pool.shutdown(wait=True)
        with suppress(ExecutorError), asking():
            for entry in self._client.api.containers(all=True, filters={"label": f"{EXECUTOR_LABEL}={self._id}"}):
                remove(self._client.api, entry["Id"])
        for container in self._containers:
            container.join(END_S)
        self._watch.close()
        self._client.close()
        if self._guard is not None:
            self._guard.close()

    async def _begun(self, launch: Callable[[], Container], memory_mb: int | None) -> DockerHandle:
        """Whoever no longer wants it, once it is begun, leaves none behind."""
        work = asyncio.get_running_loop().run_in_executor(self._pool, launch)
        try:
            return DockerHandle(await asyncio.shield(work), self._pool, memory_mb)
        except asyncio.CancelledError:
            with suppress(MoodBenchError):
                await DockerHandle(await work, self._pool, memory_mb).stop(0.0)
            raise
