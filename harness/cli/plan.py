"""`moodbench plan`."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from harness.cli.asked import Asked, suite_options

if TYPE_CHECKING:
    from harness.estimates import Estimate
    from harness.plan import PlanEntry
    from harness.prepare import Prepared
    from harness.state import PlannedCell
    from harness.suite import Suite

EPILOG = """\b
Examples:
  moodbench plan demo
  moodbench plan my-suite.yaml --run nightly --jobs 2
  moodbench plan --data reviews.csv --models MiniLM-L6 --method lora,full --json

Nothing is started and no run folder made; datasets are prepared and models looked up as for a run. Estimates are
computed, or measured: by finished cells of the same settings, or scaled from the same model on other data (similar).
Exit codes: 0 all cells can run; 1 some cell cannot; 2 usage or configuration; 3 environment.
"""
GPU_MEMORY = "GPU memory"
HEADINGS = ("model", "dataset", "method", "seed", "memory", GPU_MEMORY, "disk", "time", "basis", "where")
NUMBERS = ("seed", "memory", GPU_MEMORY, "disk", "time")


@click.command(epilog=EPILOG)
@suite_options
@click.option("--json", "as_json", is_flag=True, help="As data.")
def plan(asked: Asked, as_json: bool) -> int:
    """Show what each cell of SUITE needs, what fits where, and what cannot run and why."""
    from harness.errors import ExitCode

    prepared = asyncio.run(_prepared(asked, asked.wanted()))
    if as_json:
        from harness.cli.output import echo_json

        echo_json(as_data(prepared))
    else:
        _print(prepared)
    return int(ExitCode.OK if all_can_run(prepared) else ExitCode.CELL_FAILED)


async def _prepared(asked: Asked, suite: Suite) -> Prepared:
    from harness.executors.choice import choose_executor
    from harness.jobs import stoppable
    from harness.plan import without
    from harness.prepare import prepare
    from harness.request import RunRequest

    finished = _finished(asked)
    request = RunRequest(suites=(suite,), options=asked.options())
    executors = await stoppable(choose_executor(asked.executor, asked.device, None))
    try:
        prepared = await stoppable(prepare(request, executors, asked.results, _note))
    finally:
        await executors.close()
    return replace(prepared, plan=without(prepared.plan, finished, prepared.packer))


def _note(message: str) -> None:
    from harness.text import clean

    click.echo(clean(message), err=True)


def _finished(asked: Asked) -> frozenset[str]:
    """The cells that the run holds already. Raises InputError."""
    from harness.store import run_folder

    if asked.name is None:
        return frozenset()
    folder = run_folder(asked.results, asked.name)
    cells = folder.cell("")
    names = [path.name for path in cells.iterdir()] if cells.is_dir() else []
    return frozenset(name for name in names if folder.finished_attempt(name) is not None)


def all_can_run(prepared: Prepared) -> bool:
    return not (prepared.plan.refused or prepared.unavailable or prepared.plan.disk_problem)


# --- as data ----------------------------------------------------------------------------------


def as_data(prepared: Prepared) -> dict[str, Any]:
    """Sizes in MB (2**20 bytes), times in seconds."""
    plan = prepared.plan
    return {
        "cells": [_cell_data(entry) for entry in plan.cells],
        "unavailable": [
            {"cell": failure.cell, "kind": failure.kind, "reason": failure.message, "remedy": failure.hint}
            for _, failure in prepared.unavailable
        ],
        "jobs": prepared.packer.jobs,
        "makespan_s": round(plan.makespan_s, 1),
        "disk_mb": plan.disk_mb,
        "disk_free_mb": plan.disk_free_mb,
        "disk_problem": plan.disk_problem,
    }


def _cell_data(entry: PlanEntry) -> dict[str, Any]:
    spec, needs = entry.spec, entry.needs
    return {
        "cell": spec.cell,
        "model": spec.model.alias,
        "dataset": spec.dataset.name,
        "method": spec.method,
        "seed": spec.seed,
        "device": spec.device,
        "verdict": entry.verdict,
        "memory_mb": needs.memory_mb,
        "device_mb": needs.device_mb,
        "disk_mb": needs.disk_mb,
        "seconds": round(needs.seconds, 1),
        "timing_s": round(needs.timing_s, 1),
        "basis": needs.basis,
        "threads": spec.threads,
        "reason": entry.reason,
        "remedy": entry.remedy,
    }


# --- as a table -------------------------------------------------------------------------------


def _print(prepared: Prepared) -> None:
    from harness.cli.output import print_table
    from harness.display.words import duration
    from harness.plan import size_words
    from harness.resolve import plan_of

    plan = prepared.plan
    headings = [name for name in HEADINGS if name != GPU_MEMORY or any(e.needs.device_mb for e in plan.cells)]
    rows = [_row(entry.needs, plan_of(entry.spec), _where(entry)) for entry in plan.cells]
    rows += [_row(None, planned, "cannot run") for planned, _ in prepared.unavailable]
    print_table(headings, [[row[name] for name in headings] for row in rows], right=NUMBERS)
    free = f" of {size_words(plan.disk_free_mb)} free" if plan.disk_free_mb is not None else ""
    click.echo(f"\n{_counted(prepared)}")
    packer = prepared.packer
    threads = "1 thread" if packer.threads == 1 else f"{packer.threads} threads"
    click.echo(f"time: about {duration(plan.makespan_s)}; on the CPU {packer.jobs} at a time, {threads} each")
    click.echo(f"disk: about {size_words(plan.disk_mb)}{free}")
    _print_problems(prepared)


def _row(needs: Estimate | None, cell: PlannedCell, where: str) -> dict[str, str]:
    """By heading. `needs` None: not known, as the cell cannot run."""
    from harness.display.words import duration
    from harness.plan import size_words

    named = (cell.model, cell.dataset, cell.method, str(cell.seed))
    if needs is None:
        return dict(zip(HEADINGS, (*named, "", "", "", "", "", where), strict=True))
    device = size_words(needs.device_mb) if needs.device_mb else ""
    sizes = (size_words(needs.memory_mb), device, size_words(needs.disk_mb), duration(needs.seconds), needs.basis)
    return dict(zip(HEADINGS, (*named, *sizes, where), strict=True))


def _where(entry: PlanEntry) -> str:
    device = {"cpu": "CPU", "cuda": "GPU", "mps": "Apple GPU"}[entry.spec.device]
    return {"reused": "reused", "refused": "does not fit", "overcommitted": f"{device}, tight", "runs": device}[
        entry.verdict
    ]


def _counted(prepared: Prepared) -> str:
    from collections import Counter

    verdicts = Counter(entry.verdict for entry in prepared.plan.cells)
    counts = {
        "run": len(prepared.plan.started),
        "reused": verdicts["reused"],
        "too large": verdicts["refused"],
        "cannot run": len(prepared.unavailable),
    }
    total = "1 cell" if sum(counts.values()) == 1 else f"{sum(counts.values())} cells"
    return f"{total}: " + ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _print_problems(prepared: Prepared) -> None:
    """Each cause once, with the cells it keeps from running."""
    from collections import defaultdict

    from harness.text import clean

    cells: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in prepared.plan.cells:
        if entry.reason:
            cells[entry.reason, entry.remedy].append(entry.spec.cell)
    for planned, failure in prepared.unavailable:
        cells[failure.message, failure.hint].append(planned.cell)
    for (reason, remedy), names in cells.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        click.echo(f"\n{names[0]}{more}: {clean(reason)}\n  {clean(remedy)}")
    if prepared.plan.disk_problem:
        click.echo(f"\n{prepared.plan.disk_problem}\n  free some space, or choose another --results folder")
