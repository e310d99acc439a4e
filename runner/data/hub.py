"""Datasets of the Hugging Face hub, from its local cache where they are there."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

from runner.contract import DatasetRequest, Split
from runner.data.files import arrow_columns, select
from runner.data.sources import Source, SourceTable, choose_splits, table_of, wanted_columns
from runner.errors import RunnerError
from runner.transient import is_transient


def read_hub(request: DatasetRequest) -> Source:
    """Tables of a hub dataset. Raises RunnerError (`environment`, `disk_full`, `data`, `configuration`)."""
    if not request.location:
        raise RunnerError("configuration", f"dataset {request.name!r} has no hub id", "name it with hub: OWNER/NAME")
    loaded = _load(request)
    chosen = choose_splits(request, list(loaded), f"{request.location} on the hub")
    tables: dict[Split, SourceTable] = {
        split: _table(name, loaded[name], wanted_columns(request)) for split, name in chosen.items()
    }
    unused = [name for name in loaded if name not in chosen.values()]
    notes = (f"Splits of the source that are not used: {', '.join(unused)}.",) if unused else ()
    return Source(tables, notes=notes, revision=_commit(loaded))


def _commit(loaded: Any) -> str | None:
    """The commit that the files came from, which the library's cache names: .../CONFIG/VERSION/COMMIT/FILE.arrow."""
    files = [Path(file["filename"]) for dataset in loaded.values() for file in dataset.cache_files]
    found = {file.parent.name for file in files if re.fullmatch("[0-9a-f]{40}", file.parent.name)}
    return found.pop() if len(found) == 1 else None


def _load(request: DatasetRequest) -> Any:
    """The DatasetDict. The hub's own library decides between network and cache and honours HF_HUB_OFFLINE."""
    try:
        import datasets  # type: ignore[import-untyped]
        from datasets.exceptions import (  # type: ignore[import-untyped]
            DatasetNotFoundError,
            DatasetsError,
        )
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx's, under any name the hub bundles
    except ImportError as error:
        raise RunnerError(
            "environment", f"the package {error.name!r} is missing", "pip install 'moodbench[runner]'"
        ) from error
    what = f"dataset {request.name!r} ({request.location} on the Hugging Face hub)"
    try:
        return datasets.load_dataset(request.location, request.config, revision=request.revision)
    except DatasetNotFoundError as error:
        raise RunnerError(
            "data",
            f"{what} does not exist, or is private or gated",
            "check the spelling; for a gated one accept its terms on its page and set HF_TOKEN",
        ) from error
    except (OSError, HTTPError) as error:
        raise _unreachable(request, what, error) from error
    except DatasetsError as error:
        raise RunnerError(
            "data",
            f"{what} cannot be built: {_first_line(error)}",
            "give another revision, or the files themselves: train: FILE and test: FILE in place of hub",
        ) from error
    except (ValueError, RuntimeError) as error:  # an unknown configuration; a dataset that is a script
        raise RunnerError(
            "configuration", f"{what} cannot be loaded: {_first_line(error)}", "check its config and revision"
        ) from error


def _unreachable(request: DatasetRequest, what: str, error: Exception) -> RunnerError:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunnerError(
            "disk_full", f"there is no space left to download {what}", "free some space, or move HF_HOME elsewhere"
        )
    if isinstance(error, PermissionError):
        return RunnerError(
            "environment", f"the hub's cache is not yours to write: {error}", "set HF_HOME to a folder that is"
        )
    if is_transient(error):
        return RunnerError(
            "network",
            f"{what}: the download broke off ({type(error).__name__})",
            "run the same command again: what has come is kept",
        )
    return RunnerError(
        "environment",
        f"{what} is not in the local cache and the hub cannot be reached",
        f"connect to the internet and run `moodbench fetch --datasets {request.name}` once; then it works offline, "
        "or give the files in place of hub: train: FILE and test: FILE, or one file: FILE that is yet to be split",
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _table(name: str, dataset: Any, wanted: frozenset[str]) -> SourceTable:
    selected = select(wanted, dataset.column_names)
    if selected is not None:
        dataset = dataset.select_columns(selected)
    columns = arrow_columns(name, dataset.with_format("arrow")[:])
    class_names = {}
    for column, feature in dataset.features.items():
        kind = getattr(feature, "feature", feature)  # a list of class labels: the class label inside
        if hasattr(kind, "names"):
            class_names[column] = tuple(kind.names)
    return table_of(name, f"the {name} split", columns, class_names)
