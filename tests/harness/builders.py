"""Small whole things of the contract, for tests: a prepared dataset, a cell, its result, a recorded run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.state import CellFailed, CellFinished, CellStarted, PlannedCell, RunFinished, RunStarted
from harness.store import AttemptPaths
from runner.contract import (
    CellSpec,
    CodeVersion,
    Event,
    LeaseReleased,
    LeaseWanted,
    Metrics,
    ModelSpec,
    PhaseFinished,
    PhaseStarted,
    PreparedDataset,
    Progress,
    Provenance,
    Quality,
    Result,
    SplitInfo,
    Summary,
    Warned,
    cell_name,
    encode,
    identity_of,
    write_atomic,
)


def prepared(name: str = "reviews", fingerprint: str = "f" * 64, rows: int = 4, **changes: Any) -> PreparedDataset:
    split = SplitInfo(rows=rows, classes={"bad": rows // 2, "good": rows // 2}, sha256="0" * 64)
    fields: dict[str, Any] = {
        "name": name, "folder": "/nowhere", "fingerprint": fingerprint, "label_names": ("bad", "good"),
        "splits": {"train": split, "validation": split, "test": split}, "text_column": "text", "label_column": "label",
    }  # fmt: skip
    return PreparedDataset(**(fields | changes))


def cell(model: str = "majority", seed: int = 1, dataset: PreparedDataset | None = None, **changes: Any) -> CellSpec:
    fields: dict[str, Any] = {
        "model": ModelSpec(alias=model, kind="baseline", name=model), "method": "none",
        "dataset": dataset or prepared(), "seed": seed, "lease": True,
    }  # fmt: skip
    spec = CellSpec(**(fields | changes))
    identity = identity_of(spec)
    return CellSpec(**(fields | changes | {"identity": identity, "cell": cell_name(spec, identity)}))


def summary(model: str = "majority", accuracy: float = 0.75) -> Summary:
    return Summary(
        model_name=model,
        accuracy=accuracy,
        f1=0.7,
        latency_median_ms=2.5,
        throughput_samples_per_sec=400.0,
        memory_allocated_mb=100.0,
    )


def result(spec: CellSpec, accuracy: float = 0.75) -> Result:
    return Result(
        cell=spec.cell,
        identity=spec.identity,
        model=spec.model.alias,
        dataset=spec.dataset.name,
        method=spec.method,
        seed=spec.seed,
        device=spec.device,
        label_names=spec.dataset.label_names,
        summary=summary(spec.model.alias, accuracy),
        quality=Quality(rows=4, metrics={"accuracy": accuracy, "f1": 0.7}),
        provenance=Provenance(
            started=100.0, finished=107.0, hostname_hash=None, os="Linux", cpu_model="cpu", cores=2, threads=1,
            ram_mb=1.0, gpu_model=None, python="3.11", packages={}, code=CodeVersion(), model_revision=None,
            weights_sha256={}, dataset_fingerprint=spec.dataset.fingerprint, seed=spec.seed,
        ),
    )  # fmt: skip


def write_result(attempt: AttemptPaths, spec: CellSpec, labels: Sequence[int], predicted: Sequence[int]) -> None:
    """`result.json` and `predictions.parquet`, as the runner leaves them."""
    pq.write_table(pa.table({"label": pa.array(labels), "predicted": pa.array(predicted)}), attempt.predictions)
    right = sum(a == b for a, b in zip(labels, predicted, strict=True))
    write_atomic(attempt.result, encode(result(spec, right / len(labels))))


def planned(name: str, model: str = "majority", seed: int = 1, method: str = "none") -> PlannedCell:
    return PlannedCell(cell=name, model=model, dataset="reviews", method=method, seed=seed, device="cpu")


def recorded_run(folder: Path = Path("results/demo")) -> list[Event]:
    """Three cells, two at a time: one reused, one trained and timed, one failed."""
    plans = (planned("a"), planned("b", "MiniLM-L6", method="lora"), planned("c", "Broken"))
    return [
        RunStarted(t=100.0, run="demo", suite="demo", folder=str(folder), jobs=2, cells=plans),
        CellFinished(t=100.1, cell="a", summary=summary(), seconds=7.0, reused=True),
        CellStarted(t=101.0, cell="b", attempt=2),
        CellStarted(t=101.0, cell="c", attempt=1),
        PhaseStarted(t=102.0, cell="b", phase="train"),
        Progress(
            t=112.0, cell="b", phase="train", step=40, steps=120, loss=0.512, samples_per_s=143.4, eta_s=32.0
        ),
        Metrics(t=112.5, cell="b", phase="train", split="validation", step=40, values={"f1": 0.8}),
        Warned(t=113.0, cell="b", message="the machine was busy"),
        CellFailed(t=114.0, cell="c", kind="model", message="no weights", hint="fetch them", log="c/log.txt"),
        PhaseFinished(t=120.0, cell="b", phase="train", seconds=18.0),
        LeaseWanted(t=121.0, cell="b"),
        PhaseStarted(t=122.0, cell="b", phase="time"),
        PhaseFinished(t=124.0, cell="b", phase="time", seconds=2.0),
        LeaseReleased(t=124.0, cell="b"),
        CellFinished(t=125.0, cell="b", summary=summary("MiniLM-L6", 0.9), seconds=24.0),
        RunFinished(
            t=126.0, outcome="failed", exit_code=1, total=3, done=1, reused=1, failed=1, left=0, seconds=26.0,
            folder=str(folder),
        ),
    ]  # fmt: skip
