"""Questions to the runner that need no run: which devices are there, where a model's files lie, a dataset in canonical
form. The latter two may need the network and the user's credentials, which nothing else gets.

They are answered by a process or container of the runner (`info`, `fetch`, `prepare`), because the host imports neither
torch nor datasets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from harness.errors import InputError, SetupError
from harness.executors import Executor, Question
from harness.executors.choice import executor_of_jobs
from harness.scratch import cache_folder, scratch
from runner.contract import (
    ContractError,
    DatasetRequest,
    DeviceInfo,
    Failure,
    FailureKind,
    ModelSpec,
    PreparedDataset,
    encode,
    read,
)

T = TypeVar("T")
USER_FAULTS: tuple[FailureKind, ...] = ("data", "configuration", "model")
AT_ONCE = 2


class Jobs:
    """Asks `executor`; `folder` is a scratch folder of the caller."""

    def __init__(self, executor: Executor, folder: Path) -> None:
        self._executor = executor
        self._folder = folder
        self._limit = asyncio.Semaphore(AT_ONCE)

    async def device_info(self) -> DeviceInfo:
        """Devices and packages where the executor's cells would run. Raises SetupError."""
        answer = await self._executor.ask(Question(("info",), self._folder))
        if answer.code != 0:
            raise SetupError(
                f"the runner does not start: {_last_line(answer.err)}",
                "install it again: pip install 'moodbench[runner]'",
            )
        try:
            return msgspec.json.decode(answer.out, type=DeviceInfo)
        except msgspec.DecodeError as error:
            raise SetupError(
                f"the runner's answer cannot be read: {error}",
                "run `python -m runner info` to see what else prints there",
            ) from None

    async def fetch(self, models: Sequence[ModelSpec]) -> list[ModelSpec | Failure]:
        async with all_or_none() as group:
            tasks = [
                group.create_task(self._ask("fetch", model, ModelSpec, f"model-{i}")) for i, model in enumerate(models)
            ]
        return [task.result() for task in tasks]

    async def prepare(self, requests: Sequence[DatasetRequest]) -> list[PreparedDataset | Failure]:
        cache = str(cache_folder() / "datasets")
        async with all_or_none() as group:
            tasks = [
                group.create_task(self._ask("prepare", request, PreparedDataset, f"dataset-{i}", "--cache", cache))
                for i, request in enumerate(requests)
            ]
        return [task.result() for task in tasks]

    async def _ask(self, verb: str, request: Any, kind: type[T], stem: str, *options: str) -> T | Failure:
        """One question: the request as `stem`.json in the folder, the answer as `stem`.answer.json."""
        name = getattr(request, "alias", None) or request.name
        question, answer = self._folder / f"{stem}.json", self._folder / f"{stem}.answer.json"
        question.write_bytes(encode(request))
        arguments = (verb, str(question), "--out", str(answer), *options)
        async with self._limit:
            ended = await self._executor.ask(Question(arguments, self._folder, network=True))
        try:
            return read(answer, kind) if ended.code == 0 else read(answer, Failure)
        except (ContractError, FileNotFoundError):
            raise SetupError(
                f"the runner could not {verb} '{name}': "
                f"{_last_line(ended.err) or f'it ended with exit code {ended.code}'}",
                "run `moodbench doctor`",
            ) from None


async def prepare_one(request: DatasetRequest) -> PreparedDataset:
    """One dataset. Raises InputError, SetupError."""
    executor = await executor_of_jobs()
    try:
        with scratch() as folder:
            answer = (await Jobs(executor, folder).prepare([request]))[0]
    finally:
        await executor.close()
    if isinstance(answer, PreparedDataset):
        return answer
    problem = InputError if answer.kind in USER_FAULTS else SetupError
    raise problem(answer.message, answer.hint)


@asynccontextmanager
async def all_or_none() -> AsyncIterator[asyncio.TaskGroup]:
    """Tasks that all have ended when the block is left, however it is left: a child process that is still being ended
    when the event loop closes would be nobody's. The first failure is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


def _last_line(err: bytes) -> str:
    lines = err.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
