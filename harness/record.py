"""What a run consists of, as `run.json` keeps it, and how it is extended."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from harness.errors import InputError
from harness.predictions import true_labels_sha256
from runner.contract import SCHEMA_VERSION, CellSpec, Device, Failure, Method


class CellEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One cell of a run, as `run.json` lists it, and what its predictions are checked by: nothing of it is the cell's
    own word."""

    cell: str
    identity: str
    model: str
    dataset: str
    fingerprint: str
    method: Method
    seed: int
    device: Device
    label_names: tuple[str, ...] = ()  # () in runs from before this was kept
    test_rows: int | None = None
    test_labels_sha256: str | None = None  # None: also where the dataset could not be read
    architecture: str | None = None  # as the catalogue has it

    @property
    def key(self) -> tuple[str, str, str, int, str]:
        return (self.model, self.dataset, self.method, self.seed, self.device)


class RunRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`run.json`. `suites`: every suite run into this folder, oldest first. `unavailable`: cells whose model or
    dataset could not be had when last asked for; their names lack the hash, as there are no settings to take it of."""

    schema_version: int = SCHEMA_VERSION
    name: str
    created: float
    version: str
    suites: tuple[dict[str, Any], ...] = ()
    cells: tuple[CellEntry, ...] = ()
    unavailable: tuple[Failure, ...] = ()


def extended(
    record: RunRecord, suite: dict[str, Any], specs: Sequence[CellSpec], unavailable: Iterable[Failure]
) -> RunRecord:
    """With these cells: one whose settings changed takes its predecessor's place, and one that can be had now is
    unavailable no more. Raises InputError where the run holds another version of a dataset."""
    cells = {entry.key: entry for entry in record.cells}
    fingerprints = {entry.dataset: entry.fingerprint for entry in record.cells}
    planned = _entries_of(specs)
    for entry in planned:
        if fingerprints.setdefault(entry.dataset, entry.fingerprint) != entry.fingerprint:
            raise InputError(
                f"run '{record.name}' holds results on another version of '{entry.dataset}' (other rows or split "
                "sizes)",
                "give another --run name",
            )
        cells[entry.key] = entry
    stems = {stem for entry in planned for stem in _stems(entry.cell)}
    still = (old for old in record.unavailable if old.cell not in stems)
    return msgspec.structs.replace(
        record,
        suites=record.suites if suite in record.suites else (*record.suites, suite),
        cells=tuple(cells.values()),
        unavailable=tuple({failure.cell: failure for failure in (*still, *unavailable)}.values()),
    )


def _stems(cell: str) -> list[str]:
    """`a--b--c` -> `a`, `a--b`: the names that it may have had before it was resolved."""
    parts = cell.split("--")
    return ["--".join(parts[:count]) for count in range(1, len(parts))]


def _entries_of(specs: Sequence[CellSpec]) -> list[CellEntry]:
    """Each dataset's labels are read once, however many cells it has."""
    datasets = {spec.dataset.fingerprint: spec.dataset for spec in specs}
    labels = {fingerprint: true_labels_sha256(dataset) for fingerprint, dataset in datasets.items()}
    return [_entry_of(spec, labels[spec.dataset.fingerprint]) for spec in specs]


def _entry_of(spec: CellSpec, labels_sha256: str | None) -> CellEntry:
    return CellEntry(
        cell=spec.cell,
        identity=spec.identity,
        model=spec.model.alias,
        dataset=spec.dataset.name,
        fingerprint=spec.dataset.fingerprint,
        method=spec.method,
        seed=spec.seed,
        device=spec.device,
        label_names=spec.dataset.label_names,
        test_rows=spec.dataset.splits["test"].rows,
        test_labels_sha256=labels_sha256,
        architecture=spec.model.architecture,
    )
