"""Read a prepared dataset, with pyarrow only: what training and scoring import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.contract import PreparedDataset, Split
from runner.errors import RunnerError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

PREPARED_JSON = "prepared.json"
STANDARD_COLUMNS = ("id", "text", "label")


@dataclass(frozen=True)
class Rows:
    """One split: parallel sequences of equal length; `labels` int64, indexes into `PreparedDataset.label_names`."""

    ids: list[str]
    texts: list[str]
    labels: npt.NDArray[np.int64]
    columns: dict[str, list[Any]]  # kept source columns: strings or numbers, None where the source has nothing

    def __len__(self) -> int:
        return len(self.ids)


def split_file(folder: Path, split: Split) -> Path:
    """Where a split's rows lie."""
    return folder / f"{split}.parquet"


def split_is_whole(prepared: PreparedDataset, split: Split) -> bool:
    """Whether the split's file is there, is Parquet and has the rows that `prepared.json` promises."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(split_file(Path(prepared.folder), split))
    except (OSError, pa.ArrowException):
        return False
    return bool(metadata.num_rows == prepared.splits[split].rows)


def read_split(prepared: PreparedDataset, split: Split, columns: Sequence[str] | None = None) -> Rows:
    """The rows of one split; `columns`: kept columns to read, None for all of them.

    Raises RunnerError (`data`) when the file is missing, damaged, or not what `prepared` says, and
    (`configuration`) when a column was not kept.
    """
    import numpy as np

    path = split_file(Path(prepared.folder), split)
    table = _read_table(path, columns)
    if split not in prepared.splits or table.num_rows != prepared.splits[split].rows:
        raise _damaged(path, f"it has {table.num_rows:,} rows, not those recorded")
    if any(table[name].null_count for name in STANDARD_COLUMNS):
        raise _damaged(path, "it holds rows without id, text or label")
    labels = np.array(table["label"].to_pylist(), dtype=np.int64)  # Arrow's own to_numpy imports pandas
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(prepared.label_names)):
        raise _damaged(path, "it holds labels outside the label names")
    return Rows(
        ids=table["id"].to_pylist(),
        texts=table["text"].to_pylist(),
        labels=labels,
        columns={name: table[name].to_pylist() for name in table.column_names if name not in STANDARD_COLUMNS},
    )


def _read_table(path: Path, columns: Sequence[str] | None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:  # not read_table, which imports pandas
            names = file.schema_arrow.names
            _check_schema(path, file.schema_arrow)
            kept = [name for name in names if name not in STANDARD_COLUMNS]
            wanted = kept if columns is None else list(columns)
            _check_kept(wanted, kept)
            return file.read(columns=[*STANDARD_COLUMNS, *wanted])
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, str(error).splitlines()[0]) from error


def _check_kept(wanted: Sequence[str], kept: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in kept]
    if missing:
        raise RunnerError(
            "configuration",
            f"column {missing[0]!r} was not kept when the dataset was prepared (kept: {', '.join(kept) or 'none'})",
            "add it to the dataset's keep_columns",
        )


def _check_schema(path: Path, schema: pa.Schema) -> None:
    import pyarrow as pa

    expected = {"id": pa.string(), "text": pa.string(), "label": pa.int64()}
    for name, kind in expected.items():
        if name not in schema.names or schema.field(name).type != kind:
            raise _damaged(path, f"it has no column {name!r} of type {kind}")


def _damaged(path: Path, why: str) -> RunnerError:
    return RunnerError(
        "data",
        f"the prepared split {path} cannot be used: {why}",
        f"delete {path.parent} and prepare the dataset again",
    )
