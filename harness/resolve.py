"""From a suite's cells to their full specifications, once it is known what is here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec

from harness.errors import InputError
from harness.executors import Executor
from harness.executors.choice import Executors
from harness.preflight import Preflight
from harness.request import RunOptions
from harness.state import PlannedCell
from harness.suite import CellPlace, Job, Suite, jobs_of, resolve_cell
from runner.contract import CellSpec, CodeVersion, Failure, Limits, cell_stem

PIDS = 512  # processes and threads; a cell on 64 cores has about 200


def resolve(
    suite: Suite, ready: Preflight, executors: Executors, limits: Limits, *, threads: int
) -> tuple[list[CellSpec], list[tuple[PlannedCell, Failure]]]:
    """Every cell of the suite: its specification, or why it cannot be had here."""
    code = code_version()
    place = CellPlace(executors.cells.name, executors.reason, executors.cells.image_digest, limits, threads)
    specs: list[CellSpec] = []
    unavailable: list[tuple[PlannedCell, Failure]] = []
    for job in jobs_of(suite):
        alias, dataset = job.model.alias, job.request.name
        failure = ready.missing(alias, dataset)
        if failure is None:
            spec = resolve_cell(
                job,
                suite,
                model=ready.models[alias],
                dataset=ready.datasets[dataset],
                device=ready.device,
                place=place,
                code=code,
            )
            failure = executors.cells.refusal(spec)
        if failure is None:
            specs.append(spec)
        else:
            plan = _plan(job, ready)
            unavailable.append((plan, msgspec.structs.replace(failure, cell=plan.cell)))
    return specs, unavailable


def limits_of(options: RunOptions, executor: Executor, threads: int) -> Limits:
    """What every cell may use, but for the memory and time that its own estimate sets. Raises InputError."""
    limits = Limits(seconds=options.seconds or None, phase_seconds=options.phase_seconds)
    if executor.capacity.confines:
        return msgspec.structs.replace(limits, memory_mb=options.memory_mb, cpus=float(threads), pids=PIDS)
    if options.memory_mb is not None:
        raise InputError(
            "--memory holds only in containers, and cells run natively here",
            "leave --memory out, or use --executor docker (`moodbench doctor` says what it needs)",
        )
    return limits


def _plan(job: Job, ready: Preflight) -> PlannedCell:
    alias, dataset = job.model.alias, job.request.name
    return PlannedCell(
        cell=cell_stem(alias, dataset, job.method, job.seed),
        model=alias,
        dataset=dataset,
        method=job.method,
        seed=job.seed,
        device=str(ready.device.value),
    )


def plan_of(spec: CellSpec) -> PlannedCell:
    return PlannedCell(
        cell=spec.cell,
        model=spec.model.alias,
        dataset=spec.dataset.name,
        method=spec.method,
        seed=spec.seed,
        device=spec.device,
    )


def code_version() -> CodeVersion:
    """The commit of MoodBench's own source, where it runs from a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return CodeVersion(reason="installed from a package, not a git checkout")
    try:
        commit = _git(root, "rev-parse", "HEAD")
        dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError) as error:
        return CodeVersion(reason=f"git did not answer: {error}")
    return CodeVersion(commit=commit, dirty=dirty)


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
