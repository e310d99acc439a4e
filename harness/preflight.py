"""Before anything starts: which device, which files are each model's, and every dataset in canonical form.

Each question is answered by a child process of the runner (`info`, `fetch`, `prepare`), because the host imports
neither torch nor datasets. What is wrong with the user's own input ends the run before it begins; what is missing in
this environment (a model that is not fetched, say) takes only its own cells out.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from harness.errors import InputError, SetupError
from harness.executors.native import runner_command
from harness.suite import Suite
from runner.contract import (
    Choice,
    ContractError,
    DatasetRequest,
    DeviceInfo,
    Failure,
    ModelSpec,
    PreparedDataset,
    encode,
    read,
)

T = TypeVar("T")
USER_FAULTS = ("data", "configuration", "model")
CHILDREN_AT_ONCE = 2


@dataclass
class Preflight:
    """What the cells can be built from, and why a model (by alias) or a dataset (by name) cannot be had."""

    info: DeviceInfo
    device: Choice
    models: dict[str, ModelSpec] = field(default_factory=dict)
    datasets: dict[str, PreparedDataset] = field(default_factory=dict)
    missing_models: dict[str, Failure] = field(default_factory=dict)
    missing_datasets: dict[str, Failure] = field(default_factory=dict)

    @property
    def failures(self) -> list[Failure]:
        return [*self.missing_models.values(), *self.missing_datasets.values()]

    def missing(self, model: str, dataset: str) -> Failure | None:
        """Why a cell of these two cannot be had; None if it can."""
        return self.missing_models.get(model) or self.missing_datasets.get(dataset)


def cache_folder() -> Path:
    """Prepared datasets live here: $MOODBENCH_CACHE, else `moodbench` in the user's cache folder."""
    own = os.environ.get("MOODBENCH_CACHE")
    if own:
        return Path(own).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "moodbench"


async def device_info() -> DeviceInfo:
    """Devices and packages of this environment. Raises SetupError."""
    code, out, err = await _child("info")
    if code != 0:
        raise SetupError(
            f"the runner does not start: {_last_line(err)}", "install it again: pip install 'moodbench[runner]'"
        )
    try:
        return msgspec.json.decode(out, type=DeviceInfo)
    except msgspec.DecodeError as error:
        raise SetupError(
            f"the runner's answer cannot be read: {error}", "run `python -m runner info` to see what else prints there"
        ) from None


async def preflight(suite: Suite, device: str, notify: Callable[[str], None]) -> Preflight:
    """Answer everything at once. Raises InputError, SetupError."""
    limit = asyncio.Semaphore(CHILDREN_AT_ONCE)
    with tempfile.TemporaryDirectory(prefix="moodbench-") as folder:
        async with _all_or_none() as group:
            asking = group.create_task(device_info())
            fetching = group.create_task(fetch_all([model.spec() for model in suite.models], Path(folder), limit))
            preparing = group.create_task(prepare_all(suite.requests, Path(folder), limit))
    info, models, datasets = asking.result(), fetching.result(), preparing.result()
    if info.missing:
        raise SetupError(
            f"cells cannot run here: {', '.join(info.missing)} not installed", "pip install 'moodbench[runner]'"
        )
    found = Preflight(info=info, device=choose_device(device, info))
    for entry, model in zip(suite.models, models, strict=True):
        if isinstance(model, Failure):
            found.missing_models[entry.alias] = model
        else:
            found.models[entry.alias] = model
    for request, dataset in zip(suite.requests, datasets, strict=True):
        if isinstance(dataset, Failure):
            found.missing_datasets[request.name] = dataset
            continue
        found.datasets[request.name] = dataset
        for note in dataset.notes:
            notify(f"{request.name}: {note}")
    _refuse(found)
    return found


def _refuse(found: Preflight) -> None:
    """End the run where the user's own input is at fault, or where nothing can run."""
    faults = [failure for failure in found.failures if failure.kind in USER_FAULTS]
    if faults:
        raise InputError("; ".join(f.message for f in faults), faults[0].hint)
    if not (found.models and found.datasets):
        raise SetupError("; ".join(f.message for f in found.failures), found.failures[0].hint)


def choose_device(asked: str, info: DeviceInfo) -> Choice:
    if asked == "auto":
        return Choice(value=info.device, reason=info.device_reason)
    if asked not in info.available:
        raise SetupError(
            f"device '{asked}' was asked for, but this machine offers {', '.join(info.available)}", "use --device auto"
        )
    return Choice(value=asked, reason="asked for")


async def fetch_all(models: Sequence[ModelSpec], folder: Path, limit: asyncio.Semaphore) -> list[ModelSpec | Failure]:
    async with _all_or_none() as group:
        tasks = [
            group.create_task(_ask(limit, "fetch", m, ModelSpec, folder / f"model-{i}")) for i, m in enumerate(models)
        ]
    return [task.result() for task in tasks]


async def prepare_all(
    requests: Sequence[DatasetRequest], folder: Path, limit: asyncio.Semaphore
) -> list[PreparedDataset | Failure]:
    cache = str(cache_folder() / "datasets")
    async with _all_or_none() as group:
        tasks = [
            group.create_task(_ask(limit, "prepare", r, PreparedDataset, folder / f"dataset-{i}", "--cache", cache))
            for i, r in enumerate(requests)
        ]
    return [task.result() for task in tasks]


@asynccontextmanager
async def _all_or_none() -> AsyncIterator[asyncio.TaskGroup]:
    """Tasks that all have ended when the block is left, however it is left: a child process that is still being ended
    when the event loop closes would be nobody's. The first failure is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def prepare_one(request: DatasetRequest) -> PreparedDataset:
    """One dataset. Raises InputError, SetupError."""
    with tempfile.TemporaryDirectory(prefix="moodbench-") as folder:
        answer = (await prepare_all([request], Path(folder), asyncio.Semaphore(1)))[0]
    if isinstance(answer, PreparedDataset):
        return answer
    problem = InputError if answer.kind in USER_FAULTS else SetupError
    raise problem(answer.message, answer.hint)


async def _ask(
    limit: asyncio.Semaphore, verb: str, request: Any, kind: type[T], file: Path, *options: str
) -> T | Failure:
    """One question to the runner: the request as `file`.json, the answer as `file`.answer.json."""
    name = getattr(request, "alias", None) or request.name
    question, answer = file.with_name(f"{file.name}.json"), file.with_name(f"{file.name}.answer.json")
    question.write_bytes(encode(request))
    async with limit:
        code, _, err = await _child(verb, str(question), "--out", str(answer), *options)
    try:
        return read(answer, kind) if code == 0 else read(answer, Failure)
    except (ContractError, FileNotFoundError):
        raise SetupError(
            f"the runner could not {verb} '{name}': {_last_line(err) or f'it ended with exit code {code}'}",
            "run `moodbench doctor`",
        ) from None


async def _child(*arguments: str) -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        *runner_command(*arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    try:  # not communicate(): it would close the standard input that tells the child that its host lives
        out, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
        await process.wait()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    return process.returncode or 0, out, err


def _last_line(err: bytes) -> str:
    lines = err.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
