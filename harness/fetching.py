"""Everything with network, done beforehand: models into the caches of their libraries, datasets into canonical form."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from harness.catalog import ModelEntry
from harness.errors import InputError
from harness.executors.choice import executor_of_jobs
from harness.jobs import Jobs, all_or_none, prepared_cache, stoppable
from harness.scratch import scratch, sweep
from harness.suite import Selection, chosen_models, chosen_requests
from runner.contract import DatasetRequest, Failure, FetchedModel, PreparedDataset

State = Literal["fetched", "was here", "failed"]


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one model or dataset. `digest`: of a model's weights (of their digests, where there are several
    files), of a dataset's content and settings."""

    what: Literal["model", "dataset"]
    name: str
    source: str
    state: State
    revision: str | None = None
    size_bytes: int | None = None
    digest: str | None = None
    folder: str | None = None
    notes: tuple[str, ...] = ()
    reason: str | None = None
    remedy: str | None = None


@dataclass(frozen=True)
class Wanted:
    models: tuple[ModelEntry, ...]
    requests: tuple[DatasetRequest, ...]


def wanted(suite: str | None, selections: Sequence[Selection]) -> Wanted:
    """What a suite names, or what is chosen in its place; without a suite what is chosen and nothing else. A run takes
    one file of data, so each further one is a selection of its own. Raises InputError."""
    models = chosen_models(suite, selections[0])
    requests: list[DatasetRequest] = []
    for selection in selections:
        requests += [request for request in chosen_requests(suite, selection) if request not in requests]
    if not (models or requests):
        raise InputError("nothing to fetch was named", "name a suite, or give --models, --datasets or --data")
    return Wanted(models, tuple(requests))


async def fetch_everything(things: Wanted, tell: Callable[[Fetched], None]) -> list[Fetched]:
    """`tell` hears of each as it is done; the answer is in the order asked for. Raises InputError, SetupError."""
    return await stoppable(_fetch_everything(things, tell))


async def _fetch_everything(things: Wanted, tell: Callable[[Fetched], None]) -> list[Fetched]:
    sweep()
    executor = await executor_of_jobs()

    async def model(entry: ModelEntry) -> Fetched:
        found = _model(entry, await jobs.fetch_one(entry.spec()))
        tell(found)
        return found

    async def dataset(request: DatasetRequest) -> Fetched:
        found = _dataset(request, await jobs.prepare_one(request), before)
        tell(found)
        return found

    try:
        with scratch() as folder:
            jobs = Jobs(executor, folder)
            before = {path.name for path in prepared_cache().glob("*")}
            async with all_or_none() as group:
                tasks = [group.create_task(model(entry)) for entry in things.models]
                tasks += [group.create_task(dataset(request)) for request in things.requests]
    finally:
        await executor.close()
    return [task.result() for task in tasks]


def _model(entry: ModelEntry, answer: FetchedModel | Failure) -> Fetched:
    source = entry.kind if entry.kind in ("scratch", "baseline") else f"{entry.kind}: {entry.source}"
    if isinstance(answer, Failure):
        return _failed("model", entry.alias, source, answer)
    model = answer.model
    return Fetched(
        what="model",
        name=entry.alias,
        source=source,
        state="fetched" if answer.downloaded else "was here",
        revision=model.revision,
        size_bytes=_size_bytes(model.folder),
        digest=_digest(model.weights_sha256),
        folder=model.folder,
        notes=answer.notes,
    )


def _dataset(request: DatasetRequest, answer: PreparedDataset | Failure, before: set[str]) -> Fetched:
    place = request.location if request.source != "file" else ", ".join(request.files.values())
    source = f"{request.source}: {place}"
    if isinstance(answer, Failure):
        return _failed("dataset", request.name, source, answer)
    return Fetched(
        what="dataset",
        name=request.name,
        source=source,
        state="was here" if Path(answer.folder).name in before else "fetched",
        revision=answer.revision,
        size_bytes=_size_bytes(answer.folder),
        digest=answer.fingerprint,
        folder=answer.folder,
        notes=answer.notes,
    )


def _failed(what: Literal["model", "dataset"], name: str, source: str, failure: Failure) -> Fetched:
    return Fetched(what=what, name=name, source=source, state="failed", reason=failure.message, remedy=failure.hint)


def _size_bytes(folder: str | None) -> int | None:
    """None also where only an image has the folder."""
    if folder is None or not Path(folder).is_dir():
        return None
    return sum(path.stat().st_size for path in Path(folder).iterdir() if path.is_file())


def _digest(weights: dict[str, str]) -> str | None:
    if len(weights) <= 1:
        return next(iter(weights.values()), None)
    return hashlib.sha256("".join(f"{weights[name]}  {name}\n" for name in sorted(weights)).encode()).hexdigest()
