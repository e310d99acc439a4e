"""Prepare a dataset once: a folder of canonical splits in a cache, keyed by the request and the content of its files.

    <cache>/<slug(name)>-<12 hex of key>/{train,validation,test}.parquet + prepared.json

The folder is built under a temporary name beside its place and renamed when whole, so that a half-made one is never
taken for whole. Of several processes that want the same thing at once one builds it while the others wait; should two
build it all the same, where the file system has no locks, the first to rename wins.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runner.contract import (
    ContractError,
    DatasetRequest,
    PreparedDataset,
    Split,
    SplitInfo,
    encode,
    read,
    slug,
    write_atomic,
)
from runner.data.embedded import rewrite_embedded
from runner.data.files import sha256_of
from runner.data.prepared import PREPARED_JSON, split_file, split_is_whole
from runner.errors import RunnerError
from runner.locks import alone

if TYPE_CHECKING:
    import pyarrow as pa

    from runner.data.build import Built

PREPARE_VERSION = 1  # part of the key: raise it when the same request gives other rows than before


def prepare(request: DatasetRequest, cache: Path) -> PreparedDataset:
    """The dataset in canonical form, from the cache where it is there already.

    Raises RunnerError: `data` (the source cannot be used), `configuration` (the request contradicts itself),
    `environment` (network, package, permission), `disk_full`.
    """
    request = rewrite_embedded(request)
    folder = cache.absolute() / f"{slug(request.name)}-{request_key(request)[:12]}"
    ready = _read_whole(folder)
    if ready is not None:
        return ready
    from runner.data.build import build

    with alone(folder.parent / ".locks" / folder.name):
        return _read_whole(folder) or _publish(build(request), request, folder)  # made while this one waited


def request_key(request: DatasetRequest) -> str:
    """sha256 over the request, with the content of local files in the place of their paths.

    Raises RunnerError (`data`) when a file cannot be read.
    """
    files: dict[str, Any] = dict(request.files)
    if request.source == "file":
        files = {split: [Path(path).suffix.lower(), sha256_of(Path(path))] for split, path in request.files.items()}
    parts = {
        "version": PREPARE_VERSION,
        "request": msgspec.structs.replace(request, files={}, label_rule={}),
        "files": files,
        "label_rule": list(request.label_rule.items()),  # a list: the first match wins, so the order counts
    }
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def _read_whole(folder: Path) -> PreparedDataset | None:
    """The prepared dataset of `folder`, or None when there is none or a file of it is missing or damaged."""
    try:
        prepared = read(folder / PREPARED_JSON, PreparedDataset)
    except (OSError, ContractError):
        return None
    prepared = msgspec.structs.replace(prepared, folder=str(folder))  # the cache may have been moved
    return prepared if all(split_is_whole(prepared, split) for split in prepared.splits) else None


# --- writing ----------------------------------------------------------------------------------


def _publish(built: Built, request: DatasetRequest, folder: Path) -> PreparedDataset:
    """Write everything under a temporary name, then give it its place."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    with explained_writing(folder.parent):
        try:
            temporary.mkdir(parents=True)
            tables = built.tables()
            for split, table in tables.items():
                _write_parquet(split_file(temporary, split), table)
            prepared = _describe(built, request, folder, tables)
            write_atomic(temporary / PREPARED_JSON, encode(prepared))
            return _take_place(temporary, folder, prepared)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _take_place(temporary: Path, folder: Path, prepared: PreparedDataset) -> PreparedDataset:
    """Rename `temporary` to `folder`; where another process was faster, what it made stands. Raises OSError."""
    for _ in range(3):
        try:
            temporary.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            return prepared
        other = _read_whole(folder)
        if other is not None:
            return other
        _move_damaged_aside(folder)
    raise FileExistsError(errno.EEXIST, "a damaged folder keeps coming back", str(folder))


def _move_damaged_aside(folder: Path) -> None:
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.damaged")
    try:
        folder.rename(aside)
    except FileNotFoundError:
        return  # another process moved it
    if aside.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink()


def _write_parquet(path: Path, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    with path.open("wb") as file:  # through a Python file, so that errors keep their errno
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())


def _describe(built: Built, request: DatasetRequest, folder: Path, tables: dict[Split, pa.Table]) -> PreparedDataset:
    splits = {
        split: SplitInfo(rows=table.num_rows, classes=built.class_counts(split), sha256=content_sha256(table))
        for split, table in tables.items()
    }
    settings = {
        "task": "classification",
        "label_names": built.label_names,
        "slice_columns": built.slice_columns,
        "splits": {split: info.sha256 for split, info in splits.items()},
    }
    return PreparedDataset(
        name=request.name,
        folder=str(folder),
        fingerprint=hashlib.sha256(msgspec.json.encode(settings, order="deterministic")).hexdigest(),
        label_names=built.label_names,
        splits=splits,
        text_column=built.text_column,
        label_column=built.label_column,
        revision=built.revision,
        slice_columns=built.slice_columns,
        max_length=request.max_length,
        dropped=built.dropped,
        notes=built.notes,
    )


def content_sha256(table: pa.Table) -> str:
    """sha256 over names and values, column by column; independent of how Parquet stores them."""
    digest = hashlib.sha256()
    for name in table.column_names:
        digest.update(msgspec.json.encode([name, table[name].to_pylist()]))
    return digest.hexdigest()


@contextmanager
def explained_writing(place: Path) -> Iterator[None]:
    """Turn an OSError while writing below `place` into a RunnerError: `disk_full` or `environment`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunnerError(
                "disk_full",
                f"there is no space left to write the prepared dataset below {place}",
                "free some space, or give another cache folder",
            ) from error
        raise RunnerError(
            "environment",
            f"the prepared dataset cannot be written below {place}: {error.strerror or error}",
            "check that the folder exists and is yours to write, or give another cache folder",
        ) from error
