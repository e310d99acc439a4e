"""Test examples and what a cell answered to each: texts, kept source columns, probabilities.

Texts lie in the prepared dataset, answers in the attempt's folder. They are laid side by side only where the ids and
labels of both agree throughout.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.entries import CellRecord
from harness.errors import InputError
from harness.predictions import DATASET_BYTES, PREDICTIONS_BYTES
from harness.scratch import cache_folder
from harness.statistics import FloatArray
from harness.store import AttemptPaths
from runner.contract import CellSpec, ContractError, PreparedDataset, open_plain, read

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SUM_TOLERANCE = 1e-3  # of a row of probabilities, kept as float32
PREPARE_AGAIN = "run the suite again, or `moodbench fetch SUITE`: either prepares the dataset anew"


def test_examples(record: CellRecord, columns: Sequence[str]) -> dict[str, list[str]]:
    """These columns of the prepared test split, in the order of the cell's predictions, as text ("" for null); `text`
    and `id` are always there to be had.

    Raises InputError where the prepared dataset is gone, is another than the cell saw, or lacks a column; ContractError
    where what the attempt left is not what the runner writes.
    """
    path = _test_split(record)
    with _remedied(record), _parquet(path, DATASET_BYTES, _rows_of(record)) as parquet:
        known = parquet.schema_arrow.names
        if absent := [name for name in columns if name not in known]:
            raise InputError(
                f"dataset '{record.dataset}' has no column '{absent[0]}' (it has {', '.join(known)})",
                f"name it in `keep_columns` of the dataset, as in `keep_columns: [{absent[0]}]`, and run again",
            )
        table = parquet.read(columns=list(dict.fromkeys(("id", "label", *columns))), use_threads=False)
        found = {name: _as_text(table[name]) for name in columns}
        ids, labels = table["id"].combine_chunks(), table["label"].to_numpy()
    if record.labels is None or not np.array_equal(labels, record.labels) or not _same_ids(record, ids):
        raise _another(record, path.parent)
    return found


test_examples.__test__ = False  # type: ignore[attr-defined]  # pytest, where a test imports it


def example_columns(record: CellRecord) -> tuple[str, ...]:
    """The columns of the prepared test split, kept source columns among them. Raises as `test_examples`."""
    path = _test_split(record)
    with _remedied(record), _parquet(path, DATASET_BYTES, _rows_of(record)) as parquet:
        return tuple(parquet.schema_arrow.names)


def probabilities(record: CellRecord) -> FloatArray:
    """(n, K), rows summing to 1 as closely as float32 does. Raises ContractError where the file is not what the runner
    writes, or not what the record was read from; InputError where the record has no such file."""
    path, answers = _attempt_of(record).predictions, np.arange(_rows_of(record))
    names = [f"p_{k}" for k in range(len(record.result.label_names))]
    with _predictions(record) as parquet:
        table = parquet.read(columns=names, use_threads=False)
        values: FloatArray = np.column_stack([table[name].to_numpy() for name in names]).astype(np.float64)
    sums = values.sum(axis=1)
    if not (values.min() >= 0 and np.abs(sums - 1).max() <= SUM_TOLERANCE):  # NaN is refused, too
        raise ContractError(f"{path}: its probabilities do not sum to 1")
    if (values[answers, record.predicted] < values.max(axis=1)).any():
        raise ContractError(f"{path}: its probabilities are not those of the predictions")
    return values


# --- where things lie ---------------------------------------------------------------------------


def _attempt_of(record: CellRecord) -> AttemptPaths:
    if record.attempt is None:
        raise InputError(
            f"{record.cell} is of a baseline file, which holds neither texts nor probabilities", "give the run itself"
        )
    return record.attempt


def _rows_of(record: CellRecord) -> int:
    if record.labels is None or record.predicted is None:
        raise InputError(f"{record.cell} has no predictions on the test split", "finish the run first")
    return len(record.predicted)


def _test_split(record: CellRecord) -> Path:
    """`test.parquet` of the dataset the cell saw. Raises InputError, ContractError."""
    folder = _prepared_folder(_attempt_of(record))
    with _remedied(record):
        prepared = read(folder / "prepared.json", PreparedDataset)
    if prepared.fingerprint != record.fingerprint:
        raise _another(record, folder)
    return folder / "test.parquet"


def _prepared_folder(attempt: AttemptPaths) -> Path:
    """Where the cell had its dataset from, or the cache has it now. Raises ContractError."""
    try:
        folder = Path(read(attempt.spec, CellSpec).dataset.folder)
        inside = Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(attempt.folder))
    except OSError as error:
        raise ContractError(f"{attempt.spec}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # a ContractError is one, too
        raise ContractError(f"{attempt.spec}: names no dataset ({error})") from None
    if inside:  # what it holds would be the cell's own word
        raise ContractError(f"{attempt.spec}: the dataset lies in the cell's own folder")
    moved = cache_folder() / "datasets" / folder.name
    return moved if not folder.is_dir() and moved.is_dir() else folder


def _another(record: CellRecord, folder: Path) -> InputError:
    return InputError(f"the dataset '{record.dataset}' in {folder} is another than {record.cell} saw", PREPARE_AGAIN)


# --- Parquet ------------------------------------------------------------------------------------


@contextmanager
def _remedied(record: CellRecord) -> Iterator[None]:
    """What is wrong with a prepared dataset can be put right."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        gone = Path(str(error.filename)).parent
        raise InputError(f"the prepared dataset '{record.dataset}' is gone from {gone}", PREPARE_AGAIN) from None
    except OSError as error:
        raise InputError(
            f"the prepared dataset '{record.dataset}' cannot be read: {error}", "make it readable"
        ) from None
    except ContractError as error:
        raise InputError(f"the prepared dataset '{record.dataset}' is damaged: {error}", PREPARE_AGAIN) from None


@contextmanager
def _parquet(path: Path, limit: int, rows: int) -> Iterator[pq.ParquetFile]:
    """A file of so many rows and at most `limit` bytes. Raises ContractError, also for what the body stumbles over;
    OSError where it cannot be opened."""
    import pyarrow.parquet as pq

    with open_plain(path, limit) as file:
        try:
            with pq.ParquetFile(file, read_dictionary=["id"]) as parquet:
                if parquet.metadata.num_rows != rows:  # before so much is read
                    raise ContractError(f"{path}: {parquet.metadata.num_rows} rows instead of {rows}")
                yield parquet
        except (ContractError, InputError):
            raise
        except Exception as error:  # noqa: BLE001 - what a parser of hostile bytes raises is not to be foreseen
            raise ContractError(f"{path}: not what the runner writes ({str(error)[:500]})") from None


@contextmanager
def _predictions(record: CellRecord) -> Iterator[pq.ParquetFile]:
    """Raises ContractError."""
    path = _attempt_of(record).predictions
    try:
        with _parquet(path, PREDICTIONS_BYTES, _rows_of(record)) as parquet:
            yield parquet
    except OSError as error:
        raise ContractError(f"{path}: cannot be read ({error.strerror})") from None


def _as_text(column: pa.ChunkedArray) -> list[str]:
    import pyarrow as pa

    values: list[str | None] = column.cast(pa.string()).to_pylist()
    return ["" if value is None else value for value in values]


def _same_ids(record: CellRecord, ids: pa.DictionaryArray) -> bool:
    """Whether the predictions are of the examples with these ids, in this order. An id is compared where it stands in
    the file's dictionary: were they written out, a small file could repeat a long one until memory ends. Raises
    ContractError."""
    import pyarrow.compute as pc

    with _predictions(record) as parquet:
        theirs = parquet.read(columns=["id"], use_threads=False)["id"].combine_chunks()
        places = pc.index_in(theirs.dictionary, value_set=ids.dictionary).take(theirs.indices)
        return bool(places.equals(ids.indices))
