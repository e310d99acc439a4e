"""Labels and predictions from Parquet files, which whoever wrote them may not be trusted with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner.contract import ContractError, PreparedDataset, open_plain

if TYPE_CHECKING:
    from harness.statistics import IntArray

PREDICTIONS_BYTES = 256 * 2**20  # a million rows of ten classes
DATASET_BYTES = 16 * 2**30


def read_integers(path: Path, names: Sequence[str], rows: int | None, limit: int) -> list[IntArray]:
    """The columns `names`, each an int64 (rows,); `rows` None: as many as there are. Raises ContractError, OSError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_plain(path, limit) as file:
        try:
            with pq.ParquetFile(file) as parquet:
                found = parquet.metadata.num_rows  # before so much is read
                if rows is not None and found != rows:
                    raise ContractError(f"{path}: {found} rows instead of {rows}")
                for name in names:
                    if parquet.schema_arrow.field(name).type != pa.int64():
                        raise ContractError(f"{path}: the column '{name}' holds no whole numbers")
                table = parquet.read(columns=list(names), use_threads=False)
            columns = [table[name] for name in names]
            if any(column.null_count or len(column) != found for column in columns):
                raise ContractError(f"{path}: values are missing")
            return [column.to_numpy() for column in columns]
        except ContractError:
            raise
        except Exception as error:  # noqa: BLE001 - what a parser of hostile bytes raises is not to be foreseen
            raise ContractError(f"{path}: not a Parquet file of predictions ({str(error)[:500]})") from None


def read_predictions(
    path: Path, classes: int, rows: int | None, labels_sha256: str | None
) -> tuple[IntArray, IntArray]:
    """Labels and predictions, each int16 (rows,) and within the `classes`; None: not known. Raises ContractError,
    OSError."""
    labels, predicted = read_integers(path, ("label", "predicted"), rows, PREDICTIONS_BYTES)
    for name, values in (("label", labels), ("predicted", predicted)):
        if values.size == 0 or values.min() < 0 or values.max() >= min(classes, 2**15):
            raise ContractError(f"{path}: the column '{name}' is not within the {classes} labels")
    if labels_sha256 is not None and sha256_of(labels) != labels_sha256:
        raise ContractError(f"{path}: the labels are not those of the test split")
    return labels.astype("i2"), predicted.astype("i2")


def true_labels_sha256(dataset: PreparedDataset) -> str | None:
    """Of the true labels in their order, by which every cell's are checked; None where they cannot be read."""
    path = Path(dataset.folder) / "test.parquet"
    try:
        (labels,) = read_integers(path, ("label",), dataset.splits["test"].rows, DATASET_BYTES)
    except (ContractError, OSError):
        return None
    return sha256_of(labels)


def sha256_of(labels: IntArray) -> str:
    return hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()
