"""Attempts with a prepared dataset and predictions as the runner leaves them, without a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from harness.entries import CellRecord
from harness.store import AttemptPaths
from runner.contract import PreparedDataset, SplitInfo, encode
from runner.scoring import write_predictions
from tests.harness import builders

NAMES = ("negative", "positive")


def prepare(
    folder: Path,
    labels: Sequence[int],
    kept: Mapping[str, Sequence[Any]],
    *,
    names: tuple[str, ...] = NAMES,
    dataset: str = "park",
) -> PreparedDataset:
    """A prepared test split on disk: texts are "text 0", ids "all-0" and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = range(len(labels))
    columns: dict[str, Any] = {
        "id": [f"all-{i}" for i in rows],
        "text": [f"text {i}" for i in rows],
        "label": pa.array(labels, pa.int64()),
    }
    pq.write_table(pa.table(columns | dict(kept)), folder / "test.parquet", compression="zstd")
    classes = {name: list(labels).count(code) for code, name in enumerate(names)}
    split = SplitInfo(rows=len(labels), classes=classes, sha256="0" * 64)
    prepared = builders.prepared(
        dataset,
        fingerprint=f"{dataset}-fingerprint",
        folder=str(folder),
        label_names=names,
        splits={"train": split, "validation": split, "test": split},
    )
    (folder / "prepared.json").write_bytes(encode(prepared))
    return prepared


def answered(
    folder: Path, dataset: PreparedDataset, probabilities: npt.ArrayLike, *, model: str = "majority", seed: int = 1
) -> CellRecord:
    """A finished attempt in `folder` that gave these probabilities (n, K)."""
    spec = builders.cell(model, seed=seed, dataset=dataset)
    attempt = AttemptPaths(folder=folder / spec.cell / "attempt-001", number=1)
    attempt.folder.mkdir(parents=True)
    attempt.spec.write_bytes(encode(spec))
    values = np.asarray(probabilities, dtype=np.float64)
    table = pq.read_table(Path(dataset.folder) / "test.parquet")
    labels = table["label"].to_numpy()
    write_predictions(attempt.predictions, table["id"].to_pylist(), labels, values)
    return CellRecord(
        cell=spec.cell,
        model=model,
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        method=spec.method,
        seed=seed,
        device=spec.device,
        result=builders.result(spec),
        labels=labels.astype(np.int16),
        predicted=values.argmax(axis=1).astype(np.int16),
        attempt=attempt,
    )


def respecified(record: CellRecord, **changes: Any) -> None:
    """Change the dataset that the attempt's `spec.json` names."""
    assert record.attempt is not None
    spec = msgspec.json.decode(record.attempt.spec.read_bytes())
    spec["dataset"] |= changes
    record.attempt.spec.write_bytes(msgspec.json.encode(spec))
