"""What finished cells on disk say of those to come: other seeds of the same cell, or the same model on other data.

Of each cell only its folder's name is looked at until it is asked for, and of each group only the newest few are read:
a run of 10,000 cells costs one listing.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from harness.entries import batch_was_reduced
from harness.estimates import CONTEXT_MB, Estimate, epochs_of, estimate_of, start_s
from harness.shapes import lengths_of
from harness.store import RunFolder
from runner.contract import (
    FILE_BYTES,
    PHASES,
    CellSpec,
    Choice,
    ContractError,
    Memory,
    Phase,
    open_plain,
    phase_reason,
    slug,
)

READ_AT_MOST = 3  # results of a group
LOOKED_AT = 100  # cells of a group, for as many that are finished
GREATEST = 1e9  # of any figure taken from a result: whoever wrote it may have written anything
SETTINGS = ("batch_size", "accumulation", "max_length", "epochs")

Group = tuple[str, str | None, str, str]  # model, dataset (None: any), method, device


class _Training(msgspec.Struct, frozen=True):
    samples_seen: float


class _Quality(msgspec.Struct, frozen=True):
    rows: float


class _Throughput(msgspec.Struct, frozen=True):
    samples_per_s: float
    tokens_per_s: float | None = None


class _Timing(msgspec.Struct, frozen=True):
    throughput: tuple[_Throughput, ...] = ()


class _Where(msgspec.Struct, frozen=True):
    dataset_fingerprint: str
    threads: int = 1


class Past(msgspec.Struct, frozen=True):
    """What a `Result` says of what the cell took. All else in it is passed over."""

    provenance: _Where
    memory: Memory = Memory()
    phases: dict[Phase, float] = {}
    reasons: dict[str, str] = {}
    requested: dict[str, Any] = {}
    effective: dict[str, Choice] = {}
    training: _Training | None = None
    quality: _Quality | None = None
    timing: _Timing | None = None

    @property
    def tells(self) -> bool:
        """Whether all of it was done at the place that it names, else some of its phases' seconds are left out; and
        with the batches that were asked for, else it took less memory than another seed would."""
        elsewhere = any(phase_reason(phase) in self.reasons for phase in PHASES)
        return not elsewhere and not batch_was_reduced(self.requested, self.effective)

    @property
    def host_mb(self) -> float:
        """The larger of the resident peaks; 0 where not both are known."""
        training, inference = self.memory.rss_peak_training_mb, self.memory.rss_peak_inference_mb
        return 0.0 if training is None or inference is None else _sane(max(training, inference))

    @property
    def device_mb(self) -> float:
        reserved = self.memory.device_reserved_mb
        return _sane(reserved) + CONTEXT_MB if reserved else 0.0

    @property
    def seconds(self) -> dict[Phase, float]:
        """The runner leaves out what a cell waits for others."""
        return {phase: _sane(seconds) for phase, seconds in self.phases.items()}

    @property
    def tokens(self) -> float | None:
        """Of a test text, on average; None where no throughput of tokens was measured."""
        for rate in self.timing.throughput if self.timing else ():
            if rate.tokens_per_s and rate.samples_per_s > 0:
                return max(1.0, _sane(rate.tokens_per_s / rate.samples_per_s))
        return None


def estimates_for(specs: Iterable[CellSpec], results: Path) -> dict[str, Estimate]:
    """By cell's name. `results`: the folder that holds all runs."""
    history = History(results)
    found: dict[Hashable, Estimate] = {}
    estimates = {}
    for spec in specs:
        key = _all_but_the_seed(spec)
        if key not in found:
            found[key] = history.improve(spec, estimate_of(spec))
        estimates[spec.cell] = found[key]
    return estimates


def _all_but_the_seed(spec: CellSpec) -> Hashable:
    """What an estimate depends on."""
    model, dataset = spec.model, spec.dataset
    return (
        (model.alias, model.name, model.folder, dataset.name, dataset.fingerprint, dataset.max_length, spec.method),
        (spec.lora, spec.training, spec.evaluation, spec.phases, spec.fallback, spec.device, spec.threads),
    )


class History:
    """The finished cells under `results`. What cannot be read is passed over."""

    def __init__(self, results: Path) -> None:
        self._cells = _listed(results)
        self._read: dict[Group, list[Past]] = {}

    def improve(self, spec: CellSpec, estimate: Estimate) -> Estimate:
        """The estimate as earlier results correct it: those of the same cell, of whatever seed, else those of the same
        model on other data."""
        model, method = slug(spec.model.alias), slug(spec.method)
        same = [past for past in self._of((model, slug(spec.dataset.name), method, spec.device)) if _same(past, spec)]
        if same:
            return _measured(same, spec, estimate)
        similar = [past for past in self._of((model, None, method, spec.device)) if _scales(past, spec)]
        return _scaled(similar, spec, estimate) if similar else estimate

    def _of(self, group: Group) -> list[Past]:
        if group not in self._read:
            self._read[group] = list(islice(_finished(self._cells.get(group, [])), READ_AT_MOST))
        return self._read[group]


def _listed(results: Path) -> dict[Group, list[Path]]:
    """The folders of all cells, by group: each of them in that of its dataset and in that of any."""
    found: dict[Group, list[Path]] = defaultdict(list)
    for cells in results.glob("*/cells"):
        with suppress(OSError):
            for folder in cells.iterdir():
                model, dataset, method, *rest = [*folder.name.split("--"), "", ""]
                device = rest[1] if len(rest) == 5 else "cpu"
                for data in (dataset, None):
                    found[model, data, method, device].append(folder)
    return found


def _finished(cells: list[Path]) -> Iterator[Past]:
    """Newest first."""
    for cell in heapq.nlargest(LOOKED_AT, cells, key=_changed):
        attempt = RunFolder(cell.parent.parent).finished_attempt(cell.name)
        past = _past(attempt.result) if attempt else None
        if past is not None and past.tells:
            yield past


def _past(result: Path) -> Past | None:
    try:
        with open_plain(result, FILE_BYTES) as file:
            return msgspec.json.decode(file.read(FILE_BYTES), type=Past)
    except (ContractError, OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _changed(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _same(past: Past, spec: CellSpec) -> bool:
    asked = (spec.training.batch_size, spec.training.accumulation, spec.dataset.max_length, spec.training.epochs)
    settings = tuple(past.requested.get(name) for name in SETTINGS)
    where = past.provenance
    return (where.dataset_fingerprint, where.threads, settings) == (spec.dataset.fingerprint, spec.threads, asked)


def _scales(past: Past, spec: CellSpec) -> bool:
    """Whether it is known how much work that cell did. A baseline's is not."""
    known = past.training is not None and past.training.samples_seen > 0 and past.quality is not None
    return known and past.provenance.threads == spec.threads and past.tokens is not None


def _measured(same: list[Past], spec: CellSpec, estimate: Estimate) -> Estimate:
    """Means of seconds, the largest peaks."""
    return replace(
        estimate,
        memory_mb=math.ceil(max(past.host_mb for past in same)) or estimate.memory_mb,
        device_mb=math.ceil(max(past.device_mb for past in same)) or estimate.device_mb,
        seconds=start_s(spec) + fmean(sum(past.seconds.values()) for past in same),
        timing_s=fmean(past.seconds.get("time", 0.0) for past in same),
        basis="measured",
    )


def _scaled(similar: list[Past], spec: CellSpec, estimate: Estimate) -> Estimate:
    """Seconds by rows, epochs and length of the texts; memory as computed, but no less than a smaller cell took."""
    smaller = [past for past in similar if _no_larger(past, spec)]
    seconds = [_scaled_seconds(past, spec) for past in similar]
    return replace(
        estimate,
        memory_mb=max([estimate.memory_mb, *(math.ceil(past.host_mb) for past in smaller)]),
        device_mb=max([estimate.device_mb, *(math.ceil(past.device_mb) for past in smaller)]),
        seconds=start_s(spec) + fmean(sum(each.values()) for each in seconds),
        timing_s=fmean(each.get("time", 0.0) for each in seconds),
        basis="similar",
    )


def _no_larger(past: Past, spec: CellSpec) -> bool:
    batch, length = past.requested.get("batch_size"), past.requested.get("max_length")
    if not isinstance(batch, int) or not isinstance(length, int):
        return False
    return batch <= spec.training.batch_size and length <= lengths_of(spec.dataset).longest


def _scaled_seconds(past: Past, spec: CellSpec) -> dict[Phase, float]:
    assert past.training is not None and past.quality is not None and past.tokens is not None
    longer = lengths_of(spec.dataset).mean / past.tokens
    rows = {name: split.rows for name, split in spec.dataset.splits.items()}
    seconds = dict(past.seconds)
    seconds["train"] = seconds.get("train", 0.0) * longer * epochs_of(spec) * rows["train"] / past.training.samples_seen
    seconds["score"] = seconds.get("score", 0.0) * longer * rows["test"] / max(1.0, past.quality.rows)
    return {phase: min(each, GREATEST) for phase, each in seconds.items()}


def _sane(value: float) -> float:
    return min(max(value, 0.0), GREATEST)
