"""From a request to a plan: everything is looked up, estimated and checked, nothing is started. `run` carries the plan
out, `plan` shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from harness.estimates import Estimate
from harness.executors.choice import Executors
from harness.history import estimates_for
from harness.packing import Packer
from harness.plan import Plan, make_plan, memory_needed, packer_of
from harness.preflight import preflight
from harness.request import NO_LIMIT, RunOptions, RunRequest
from harness.resolve import limits_of, resolve
from harness.run_lock import free_mb
from harness.state import PlannedCell
from runner.contract import CellSpec, DeviceInfo, Failure

TIMEOUT_SPARE = 20.0  # how far an estimate of time may be wrong before a cell is taken to hang ...
LEAST_TIMEOUT_S = 3600.0  # ... and how long it is let run at least


@dataclass(frozen=True)
class Prepared:
    """`unavailable`: cells whose model or dataset cannot be had here."""

    plan: Plan
    unavailable: tuple[tuple[PlannedCell, Failure], ...]
    info: DeviceInfo
    packer: Packer


async def prepare(request: RunRequest, executors: Executors, results: Path, notify: Callable[[str], None]) -> Prepared:
    """`results`: where earlier runs lie, whose figures improve the estimates. Raises InputError, SetupError."""
    options, capacity = request.options, executors.cells.capacity
    packer = packer_of(capacity, options.jobs)
    limits = limits_of(options, executors.cells, packer.threads)
    specs: dict[str, CellSpec] = {}
    unavailable: dict[str, tuple[PlannedCell, Failure]] = {}
    for suite in request.suites:
        ready = await preflight(suite, options.device, executors, notify)
        found, missing = resolve(suite, ready, executors, limits, threads=packer.threads)
        specs |= {spec.cell: spec for spec in found}
        unavailable |= {planned.cell: (planned, failure) for planned, failure in missing}
    notify(f"device: {ready.device.value} ({ready.device.reason})")
    estimates = estimates_for(specs.values(), results)
    plan = make_plan(
        [_limited(spec, estimates[spec.cell], options) for spec in specs.values()],
        capacity,
        estimates,
        jobs=options.jobs,
        disk_free_mb=_free_mb(results),
        overcommit=options.overcommit,
    )
    if capacity.confines:
        plan = _confined(plan, lambda needs: memory_needed(needs, capacity, packer.jobs))
    return Prepared(plan, tuple(unavailable.values()), ready.info, packer)


def set_aside(plan: Plan) -> dict[str, Estimate]:
    """What is kept free for each cell that starts: its limit of memory, as it may take that, else what it needs."""
    return {
        entry.spec.cell: replace(entry.needs, memory_mb=entry.spec.limits.memory_mb or entry.needs.memory_mb)
        for entry in plan.started
    }


def _free_mb(results: Path) -> int | None:
    there = next((folder for folder in (results, *results.absolute().parents) if folder.is_dir()), None)
    return free_mb(there) if there else None


def _limited(spec: CellSpec, needs: Estimate, options: RunOptions) -> CellSpec:
    """With the limit on time that follows from its estimate, unless one was asked for."""
    limit: float | None = max(LEAST_TIMEOUT_S, TIMEOUT_SPARE * needs.seconds)
    if options.seconds is not None:
        limit = None if options.seconds == NO_LIMIT else options.seconds
    return msgspec.structs.replace(spec, limits=msgspec.structs.replace(spec.limits, seconds=limit))


def _confined(plan: Plan, limit_mb: Callable[[Estimate], int | None]) -> Plan:
    """Each cell with its limit of memory, unless one was asked for."""
    entries = []
    for entry in plan.cells:
        limits = entry.spec.limits
        memory_mb = limits.memory_mb or limit_mb(entry.needs)
        spec = msgspec.structs.replace(entry.spec, limits=msgspec.structs.replace(limits, memory_mb=memory_mb))
        entries.append(replace(entry, spec=spec))
    return replace(plan, cells=tuple(entries))
