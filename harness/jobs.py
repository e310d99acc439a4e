"""Questions to the runner that need no run: which devices are there, where a model's files lie, a dataset in canonical
form, a trained model for use elsewhere. Where a model lies and a dataset may need the network and the user's
credentials, which nothing else gets.

They are answered by a process or container of the runner (`info`, `fetch`, `prepare`, `export`), because the host
imports neither torch nor datasets.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from harness.credentials import Access, find_credentials, give_access
from harness.errors import InputError, MoodBenchError, SetupError
from harness.executors import Executor, Question
from harness.executors.choice import executor_of_jobs
from harness.failures import backoff_s
from harness.network import outside
from harness.scratch import LOCK, cache_folder, scratch
from harness.store import writing
from runner.contract import (
    ContractError,
    DatasetRequest,
    DeviceInfo,
    ExportedFiles,
    ExportRequest,
    Failure,
    FailureKind,
    FetchedModel,
    ModelSpec,
    PreparedDataset,
    encode,
    installed_folder,
    installed_version,
    read,
)

T = TypeVar("T")
USER_FAULTS: tuple[FailureKind, ...] = ("data", "configuration", "model")
AT_ONCE = 2


class Jobs:
    """Asks `executor`. `folder` is a scratch folder of the caller: each question has one of its own in it, beside the
    credentials, which only those that need the network are given."""

    def __init__(self, executor: Executor, folder: Path) -> None:
        self._executor = executor
        self._folder = folder
        self._limit = asyncio.Semaphore(AT_ONCE)
        self._numbers = itertools.count()

    async def device_info(self) -> DeviceInfo:
        """Devices and packages where the executor's cells would run. Raises SetupError."""
        answer = await self._executor.ask(Question(("info",), self._own_folder("info"), self._folder / LOCK))
        if answer.code != 0:
            raise SetupError(f"the runner does not start: {_last_line(answer.err)}", self._repair)
        try:
            return msgspec.json.decode(answer.out, type=DeviceInfo)
        except msgspec.DecodeError as error:
            raise SetupError(f"the runner's answer cannot be read: {error}", self._repair) from None

    @property
    def _repair(self) -> str:
        if self._executor.name == "docker":
            return "build the image again: moodbench images build --force; or use --executor native"
        return "install it again: pip install 'moodbench[runner]'; `python -m runner info` shows what it prints"

    async def fetch(self, models: Sequence[ModelSpec]) -> list[FetchedModel | Failure]:
        async with all_or_none() as group:
            tasks = [group.create_task(self.fetch_one(model)) for model in models]
        return [task.result() for task in tasks]

    async def prepare(self, requests: Sequence[DatasetRequest]) -> list[PreparedDataset | Failure]:
        async with all_or_none() as group:
            tasks = [group.create_task(self.prepare_one(request)) for request in requests]
        return [task.result() for task in tasks]

    async def fetch_one(self, model: ModelSpec) -> FetchedModel | Failure:
        """Raises InputError, SetupError."""
        if model.kind in ("scratch", "baseline"):
            return FetchedModel(model=model)
        if model.kind == "package":
            model = found_here(model)
        folder = Path(model.name).expanduser().absolute() if model.kind == "path" else model.folder
        reads = (Path(folder),) if folder is not None and Path(folder).is_dir() else ()
        return await self._ask("fetch", model, FetchedModel, reads=reads, network=model.kind == "hub")

    async def prepare_one(self, request: DatasetRequest) -> PreparedDataset | Failure:
        """Raises InputError, SetupError."""
        cache = prepared_cache()
        with suppress(OSError):  # the answer says what is wrong with it
            cache.mkdir(parents=True, exist_ok=True)
        files = request.files.values() if request.source == "file" else ()
        return await self._ask(
            "prepare",
            request,
            PreparedDataset,
            "--cache",
            str(cache),
            reads=tuple(path for path in map(Path, files) if path.is_file()),
            writes=(cache,) if cache.is_dir() else (),
            network=request.source in ("hub", "kaggle"),
        )

    async def export(self, request: ExportRequest, to: Path) -> ExportedFiles | Failure:
        """`to`: an empty folder. Raises SetupError."""
        folders = (request.adapter, *([request.spec.model.folder] if request.spec.model.folder else []))
        reads = tuple(path for path in map(Path, folders) if path.is_dir())
        return await self._ask(
            "export", request, ExportedFiles, "--to", str(to), reads=reads, writes=(to,), network=False
        )

    async def _ask(
        self,
        verb: str,
        request: Any,
        kind: type[T],
        *options: str,
        reads: tuple[Path, ...] = (),
        writes: tuple[Path, ...] = (),
        network: bool,
    ) -> T | Failure:
        """One question: the request as a file in its folder, the answer as another."""
        name = getattr(request, "alias", None) or request.name
        folder = self._own_folder(verb)
        question, answer = folder / "question.json", folder / "answer.json"
        question.write_bytes(encode(request))
        environment: dict[str, str] = {}
        if network:
            around = outside(os.environ, folder)
            reads += around.reads + self._access.reads
            writes += around.writes
            environment = around.environment | self._access.environment
        arguments = (verb, str(question), "--out", str(answer), *options)
        asked = Question(arguments, folder, self._folder / LOCK, reads, writes, network, environment)
        for number in itertools.count():
            async with self._limit:
                ended = await self._executor.ask(asked)
            try:
                if ended.code == 0:
                    return read(answer, kind)
                failure = self._masked(read(answer, Failure), network)
            except (ContractError, FileNotFoundError):
                cause = _last_line(ended.err) or f"it ended with exit code {ended.code}"
                cause = self._access.masked(cause) if network else cause
                raise SetupError(f"the runner could not {verb} '{name}': {cause}", "run `moodbench doctor`") from None
            pause_s = backoff_s(failure.kind, number)
            if pause_s is None:
                return failure
            await asyncio.sleep(pause_s)
        raise AssertionError("endless")

    def _masked(self, failure: Failure, network: bool) -> Failure:
        """Error texts of libraries may quote what was sent."""
        if not network:
            return failure
        texts = {name: getattr(failure, name) or "" for name in ("message", "hint", "traceback")}
        return msgspec.structs.replace(failure, **{name: self._access.masked(text) for name, text in texts.items()})

    def _own_folder(self, verb: str) -> Path:
        folder = self._folder / f"{verb}-{next(self._numbers)}"
        with writing(folder):
            folder.mkdir(mode=0o700)
        return folder

    @cached_property
    def _access(self) -> Access:
        folder = self._folder / "access"
        with writing(folder):
            folder.mkdir(mode=0o700)
        return give_access(find_credentials(os.environ, Path.cwd()), folder, os.environ)


def prepared_cache() -> Path:
    return cache_folder() / "datasets"


def found_here(model: ModelSpec) -> ModelSpec:
    """A `package` model with the folder and version of this installation, if it has the package: an image has not, and
    both are to answer the same."""
    if model.package is None:
        return model
    folder = installed_folder(model.package)
    if folder is None:
        return model
    revision = model.revision or installed_version(model.name)
    return msgspec.structs.replace(model, folder=str(folder), revision=revision)


async def prepare_one(request: DatasetRequest) -> PreparedDataset:
    """One dataset. Raises InputError, SetupError."""
    executor = await executor_of_jobs()
    try:
        with scratch() as folder:
            answer = await Jobs(executor, folder).prepare_one(request)
    finally:
        await executor.close()
    if isinstance(answer, PreparedDataset):
        return answer
    raise problem_of(answer)


def problem_of(failure: Failure) -> MoodBenchError:
    """What a question's failure is to whoever asked."""
    problem = InputError if failure.kind in USER_FAULTS else SetupError
    return problem(failure.message, failure.hint)


@asynccontextmanager
async def all_or_none() -> AsyncIterator[asyncio.TaskGroup]:
    """Tasks that all have ended when the block is left, however it is left: a child process that is still being ended
    when the event loop closes would be nobody's. The first failure is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def stoppable(work: Coroutine[Any, Any, T]) -> T:
    """Until an engine takes the signals over: SIGTERM and SIGHUP end the work as Ctrl-C does, cleanly."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.remove_signal_handler(number)


def _last_line(err: bytes) -> str:
    lines = err.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
