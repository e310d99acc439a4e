"""What fits where, how long it takes, and what cannot fit: decided on estimates, before anything starts. Pure."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from msgspec.structs import replace as changed

from harness.estimates import Estimate, estimate_of
from harness.executors import Capacity
from harness.packing import GPU_SPARE, Packer
from runner.contract import CellSpec, Failure, LoraSpec, Method

MEMORY_SHARE = 0.9  # for all cells together, so that one that takes too much is ended, not the host
LIMIT_SPARE = 1.25  # how far a cell may go beyond its estimate
SHORTER = (256, 128, 64)  # tokens
CHEAPER: Mapping[Method, tuple[Method, ...]] = {"full": ("lora", "frozen"), "lora": ("frozen",)}

# overcommitted: estimated not to fit, and started all the same. reused: finished before.
Verdict = Literal["runs", "overcommitted", "refused", "reused"]
Variant = tuple[str, CellSpec]


@dataclass(frozen=True)
class PlanEntry:
    """One cell. `reason`: why it does not fit, in one sentence; `remedy`: the nearest setting that would."""

    spec: CellSpec
    needs: Estimate
    verdict: Verdict = "runs"
    reason: str = ""
    remedy: str = ""

    @property
    def failure(self) -> Failure | None:
        """Of a refused cell, which never starts."""
        if self.verdict != "refused":
            return None
        return Failure(cell=self.spec.cell, kind="out_of_memory", message=self.reason, hint=self.remedy)


@dataclass(frozen=True)
class Plan:
    """`makespan_s`: from the first cell's start to the last one's end. `disk_problem`: a sentence, where the disk is
    too small."""

    cells: tuple[PlanEntry, ...]
    makespan_s: float = 0.0
    disk_mb: int = 0
    disk_free_mb: int | None = None
    disk_problem: str | None = None

    @property
    def started(self) -> tuple[PlanEntry, ...]:
        return tuple(entry for entry in self.cells if entry.verdict in ("runs", "overcommitted"))

    @property
    def refused(self) -> tuple[PlanEntry, ...]:
        return tuple(entry for entry in self.cells if entry.verdict == "refused")


@dataclass(frozen=True)
class _Room:
    """What one cell can have at most, in MB; None: not known."""

    memory_mb: int | None
    device_mb: int | None

    def holds(self, needs: Estimate) -> bool:
        return self.lacking(needs) is None

    def lacking(self, needs: Estimate) -> str | None:
        """One sentence."""
        for what, wanted_mb, room_mb in (
            ("a GPU's memory", needs.device_mb, self.device_mb),
            ("memory", needs.memory_mb, self.memory_mb),
        ):
            if room_mb is not None and wanted_mb > room_mb:
                return f"needs about {size_words(wanted_mb)} of {what}, and {size_words(room_mb)} can be had"
        return None


def make_plan(
    specs: Sequence[CellSpec],
    capacity: Capacity,
    estimates: Mapping[str, Estimate],
    *,
    jobs: int | None,
    disk_free_mb: int | None,
    overcommit: bool = False,
    estimate: Callable[[CellSpec], Estimate] = estimate_of,
) -> Plan:
    """`estimates`: by cell's name. `estimate`: of what is tried in place of a cell that does not fit."""
    cells = []
    advice: dict[object, str] = {}  # the same for every seed
    for spec in specs:
        needs, room = estimates[spec.cell], _room(spec, capacity)
        lacking = room.lacking(needs)
        if lacking is None:
            cells.append(PlanEntry(spec, needs))
            continue
        key = (spec.model.alias, spec.dataset.fingerprint, spec.method, spec.device, needs.memory_mb, needs.device_mb)
        if key not in advice:
            advice[key] = _nearest(spec, needs, room, estimate)
        cells.append(PlanEntry(spec, needs, "overcommitted" if overcommit else "refused", lacking, advice[key]))
    return _totalled(Plan(tuple(cells), disk_free_mb=disk_free_mb), packer_of(capacity, jobs))


def packer_of(capacity: Capacity, jobs: int | None) -> Packer:
    """An empty one, with what all cells together may take of the machine's memory."""
    return Packer(capacity, jobs, memory_mb=memory_for_cells(capacity))


def memory_for_cells(capacity: Capacity) -> int | None:
    """In MB; None: it is not known what there is."""
    return int(capacity.memory_mb * MEMORY_SHARE) if capacity.memory_mb else None


def without(plan: Plan, finished: Collection[str], packer: Packer) -> Plan:
    """The plan of what is left of a run. `packer` has to be empty, and is again."""
    cells = (replace(e, verdict="reused", reason="", remedy="") if e.spec.cell in finished else e for e in plan.cells)
    return _totalled(replace(plan, cells=tuple(cells)), packer)


def _totalled(plan: Plan, packer: Packer) -> Plan:
    disk_mb = _disk_mb(plan.started, packer.jobs)
    problem = _disk_problem(disk_mb, plan.disk_free_mb)
    return replace(plan, makespan_s=makespan_s(plan.started, packer), disk_mb=disk_mb, disk_problem=problem)


def memory_needed(estimate: Estimate, capacity: Capacity, jobs: int) -> int | None:
    """The limit of a cell's memory in MB: an equal share, or what it needs and some to spare; None: none is known."""
    if capacity.memory_mb is None:
        return None
    most = capacity.memory_mb * MEMORY_SHARE
    return int(min(most, max(most / jobs, LIMIT_SPARE * estimate.memory_mb)))


def makespan_s(cells: Sequence[PlanEntry], packer: Packer) -> float:
    """List scheduling as the engine does it. While one cell is timed all others stand still, so that the seconds of
    timing add up."""
    left = {entry.spec.cell: max(0.0, entry.needs.seconds - entry.needs.timing_s) for entry in cells}
    for entry in cells:
        packer.add(entry.spec.cell, entry.spec.device, entry.needs)
    running: list[tuple[float, str]] = []
    now = 0.0
    while len(packer) or running:
        while (placed := packer.place({})) is not None:
            heapq.heappush(running, (now + left.pop(placed.cell), placed.cell))
        if not running:  # nothing is known of the GPUs: one after the other
            now += sum(left.values())
            packer.clear()
            break
        now, cell = heapq.heappop(running)
        packer.release(cell)
    return now + sum(entry.needs.timing_s for entry in cells)


def _room(spec: CellSpec, capacity: Capacity) -> _Room:
    """A limit that the user set counts where it is lower."""
    known = [spec.limits.memory_mb] if spec.limits.memory_mb else []
    if (for_cells := memory_for_cells(capacity)) is not None:
        known.append(for_cells)
    sizes = [gpu.memory_mb for gpu in capacity.gpus]
    device_mb = None
    if spec.device == "cuda" and sizes and None not in sizes:
        device_mb = int(max(size for size in sizes if size is not None) / GPU_SPARE)
    return _Room(min(known, default=None), device_mb)


# --- the nearest setting that would fit -------------------------------------------------------


def _nearest(spec: CellSpec, needs: Estimate, room: _Room, estimate: Callable[[CellSpec], Estimate]) -> str:
    """In one sentence. Where a cell was measured, what is computed of its variants is corrected in proportion."""
    was = estimate(spec)
    for what, variant in _variants(spec):
        then = estimate(variant)
        memory_mb = _in_proportion(then.memory_mb, needs.memory_mb, was.memory_mb)
        device_mb = _in_proportion(then.device_mb, needs.device_mb, was.device_mb)
        if room.holds(replace(then, memory_mb=memory_mb, device_mb=device_mb)):
            return f"{what} would fit"
    return "no batch size, length or method would make it fit: choose a smaller model, or a machine with more memory"


def _in_proportion(then: int, needs: int, was: int) -> int:
    return math.ceil(then * needs / was) if was else then


def _variants(spec: CellSpec) -> Iterator[Variant]:
    """One setting changed, the smallest change first; then batches of one, alone and with each of the others."""
    if spec.model.kind == "baseline":
        return
    for changes in (_smaller_batches, _smaller_evaluation, _shorter_texts, _cheaper_methods):
        yield from changes(spec)
    least, names = spec, []
    for smaller in (_smaller_batches, _smaller_evaluation):
        for name, variant in list(smaller(least))[-1:]:
            least = variant
            names.append(name)
    if names:
        yield " and ".join(names), least
        for name, variant in (*_shorter_texts(least), *_cheaper_methods(least)):
            yield " and ".join([*names, name]), variant


def _smaller_batches(spec: CellSpec) -> Iterator[Variant]:
    """One optimiser step sees as many examples as before."""
    batch = spec.training.batch_size
    effective = batch * spec.training.accumulation
    while batch > 1:
        batch //= 2
        training = changed(spec.training, batch_size=batch, accumulation=math.ceil(effective / batch))
        name = f"training.batch_size {batch} with effective_batch_size {effective}"
        yield name, changed(spec, training=training)


def _smaller_evaluation(spec: CellSpec) -> Iterator[Variant]:
    batch = spec.evaluation.batch_size
    while batch > 1:
        batch //= 2
        sizes = tuple(size for size in spec.evaluation.throughput_batch_sizes if size <= batch) or (1,)
        evaluation = changed(spec.evaluation, batch_size=batch, throughput_batch_sizes=sizes)
        name = f"evaluation.batch_size {batch} with throughput_batch_sizes up to {max(sizes)}"
        yield name, changed(spec, evaluation=evaluation)


def _shorter_texts(spec: CellSpec) -> Iterator[Variant]:
    for length in SHORTER:
        if length < spec.dataset.max_length:
            yield f"max_length {length} of the dataset", changed(spec, dataset=changed(spec.dataset, max_length=length))


def _cheaper_methods(spec: CellSpec) -> Iterator[Variant]:
    for method in () if spec.model.kind == "scratch" else CHEAPER.get(spec.method, ()):
        yield f"method {method}", changed(spec, method=method, lora=LoraSpec() if method == "lora" else None)


# --- in words ---------------------------------------------------------------------------------


def _disk_mb(cells: Sequence[PlanEntry], at_once: int) -> int:
    """What all of them leave, and what the greediest that run together take beyond that."""
    passing = heapq.nlargest(at_once, (entry.needs.disk_mb - entry.needs.kept_mb for entry in cells))
    return sum(entry.needs.kept_mb for entry in cells) + sum(passing)


def _disk_problem(wanted_mb: int, free_mb: int | None) -> str | None:
    if free_mb is None or wanted_mb <= free_mb:
        return None
    return f"the run needs about {size_words(wanted_mb)} of disk, and {size_words(free_mb)} are free"


def size_words(megabytes: int) -> str:
    return f"{megabytes} MB" if megabytes < 1000 else f"{megabytes / 1024:.1f} GB"
