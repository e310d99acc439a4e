"""What the engine itself costs, where cells cost nothing.

Why: a night's run has thousands of cells, and every millisecond that the host spends on one is taken from the cores
that train. So an executor in this process leaves a finished `result.json` (of real size: 1,000 latency samples, five
windows) and nothing else; what that alone takes is measured and taken off. Everything else is the real thing: folders,
specs, journal, results read back and checked. Three questions, each in a fresh process, so that peak memory is its own:

    run      10,000 cells from the queue to the journal, beside a plain loop that leaves the same files: what the disk
             takes is in both
    resume   the same folder again, all finished: run.json and journal read, every result read and checked. What the
             command does besides (starting Python, asking for devices, models and datasets, ranking) is not in it
    events   10 million events of the same cells, followed in pieces and reduced to the state that a display shows; and
             a journal of 1 million that grows in ten parts, each followed as it comes: the last part must cost what
             the first one did

    .venv/bin/python benchmarks/engine.py [--rounds 3] [--cells 10000] [--events 10000000] [--folder DIR]

The questions take turns. The last lines of the output are a Markdown table of medians and ranges. Cells are written
below DIR: it decides which disk is measured. It takes three minutes a round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import msgspec
from samples import a_cell, a_result, events_of_a_cell

from harness.engine import Engine
from harness.estimates import Estimate
from harness.executors import Capacity, Exit
from harness.journal import EventTail, Journal, tail_journal
from harness.load import LoadWatch
from harness.packing import Packer
from harness.resolve import plan_of
from harness.runs import left_fallbacks
from harness.state import CellFinished, CellStarted, Notice, RunStarted, RunState
from harness.store import AttemptPaths, RunFolder
from runner.contract import CellEvent, CellSpec, Result, encode, read, write_atomic

PARTS = 10  # that a journal grows in
Figures = dict[str, float]
UNITS = {
    "engine, of a cell": "ms",
    "a plain loop that leaves the same files, of a cell": "ms",
    "the executor, of a cell (taken off)": "ms",
    "peak memory, run": "MB",
    "resume of the finished run": "s",
    "peak memory, resume": "MB",
    "events of cells, followed and reduced": "events/s",
    "peak memory, events": "MB",
    "an event appended to the journal": "µs",
    "an event of the journal, followed and reduced": "µs",
    "the same, last part over first": "×",
}
BARS = {
    "engine, of a cell": "≤ 3",
    "peak memory, run": "≤ 300",
    "resume of the finished run": "≤ 3",
    "peak memory, resume": "≤ 300",
    "peak memory, events": "≤ 300",
}


# --- the executor that does nothing -----------------------------------------------------------


class Ended:
    """A cell that was done before it began."""

    async def wait(self) -> Exit:
        return Exit(code=0)

    async def stop(self, grace_s: float) -> None:
        pass

    async def freeze(self) -> bool:
        return True

    async def thaw(self) -> None:
        pass


class NoWork:
    """Leaves each cell's result; `spent_s` is what that took."""

    name = "native"
    image_digest = None
    capacity = Capacity(cores=(0, 1))

    def __init__(self, result: Result) -> None:
        self._result = result
        self.spent_s = 0.0

    async def start(self, attempt: AttemptPaths, spec: CellSpec) -> Ended:
        self.leave(attempt, spec)
        return Ended()

    def leave(self, attempt: AttemptPaths, spec: CellSpec) -> None:
        started = time.perf_counter()
        result = msgspec.structs.replace(self._result, cell=spec.cell, identity=spec.identity, seed=spec.seed)
        attempt.result.write_bytes(encode(result))
        self.spent_s += time.perf_counter() - started


# --- run, resume ------------------------------------------------------------------------------


def run(folder: RunFolder, cells: int, events: int) -> Figures:
    specs = [a_cell(seed) for seed in range(cells)]
    executor = NoWork(a_result(specs[0]))
    plain_s = loop(RunFolder(folder.folder / "plain"), specs[: max(1, cells // 10)], executor)
    executor.spent_s = 0.0
    seconds = carry_out(folder, specs, executor)
    return {
        "engine, of a cell": 1e3 * (seconds - executor.spent_s) / cells,
        "a plain loop that leaves the same files, of a cell": 1e3 * plain_s / max(1, cells // 10),
        "the executor, of a cell (taken off)": 1e3 * executor.spent_s / cells,
        "peak memory, run": peak_mb(),
    }


def resume(folder: RunFolder, cells: int, events: int) -> Figures:
    specs = [a_cell(seed) for seed in range(cells)]
    executor = NoWork(a_result(specs[0]))
    seconds = carry_out(folder, specs, executor)
    assert executor.spent_s == 0.0, "a finished cell was done again"
    return {"resume of the finished run": seconds, "peak memory, resume": peak_mb()}


def carry_out(folder: RunFolder, specs: list[CellSpec], executor: NoWork) -> float:
    """Seconds that the engine takes from the cells' specifications to the last event on the disk."""
    started = time.perf_counter()
    folder.extend("bench", {"name": "bench"}, specs)
    fallbacks = left_fallbacks(folder)
    packer = Packer(executor.capacity, None, memory_mb=None)
    with closing(Journal(folder.journal)) as journal:
        engine = Engine(folder, executor, packer, LoadWatch(), tell=journal.append)
        estimates = {spec.cell: Estimate(seconds=1.0) for spec in specs}
        asyncio.run(engine.run(run_started(specs), specs, estimates=estimates, fallbacks=fallbacks))
        finished = engine.finished()
        journal.append(finished)
    assert finished.outcome == "finished", finished
    return time.perf_counter() - started


def loop(folder: RunFolder, specs: list[CellSpec], executor: NoWork) -> float:
    """Seconds without an engine: a folder, a spec and a result for each cell, read back."""
    started = time.perf_counter()
    for spec in specs:
        attempt = folder.attempt(spec.cell, 1)
        attempt.folder.mkdir(parents=True)
        write_atomic(attempt.spec, encode(spec), durable=False)
        executor.leave(attempt, spec)
        read(attempt.result, Result)
    return time.perf_counter() - started - executor.spent_s


def run_started(specs: Iterable[CellSpec]) -> RunStarted:
    cells = tuple(plan_of(spec) for spec in specs)
    return RunStarted(run="bench", suite="bench", folder=".", jobs=2, cells=cells)


# --- events -----------------------------------------------------------------------------------


def events(folder: RunFolder, cells: int, events: int) -> Figures:
    specs = [a_cell(seed) for seed in range(cells)]
    state = RunState()
    state.apply(run_started(specs))
    rate = of_cells(folder, specs, state, events)
    return {
        "events of cells, followed and reduced": rate,
        **of_the_journal(folder, specs, state, events // 10),
        "peak memory, events": peak_mb(),
    }


def of_cells(folder: RunFolder, specs: list[CellSpec], state: RunState, events: int) -> float:
    """Events a second. One file stands for those of all cells, and is followed anew for each of them."""
    told = [msgspec.json.encode(event) + b"\n" for event in events_of_a_cell(max(1, events // len(specs)))]
    path = folder.folder / "events.jsonl"
    path.write_bytes(b"".join(told))
    summary = a_result(specs[0]).summary
    count, started = 0, time.perf_counter()
    for spec in specs:
        state.apply(CellStarted(cell=spec.cell, attempt=1))
        tail = EventTail(path, CellEvent)
        while found := tail.read():
            for event in found:
                state.apply(msgspec.structs.replace(event, cell=spec.cell))
            count += len(found)
        state.apply(CellFinished(cell=spec.cell, summary=summary, seconds=1.0))
    rate = count / (time.perf_counter() - started)
    assert count == len(specs) * len(told)
    assert state.count("done") == len(specs)
    return rate


def of_the_journal(folder: RunFolder, specs: list[CellSpec], state: RunState, events: int) -> Figures:
    """It grows by a tenth at a time, and is followed to its end each time."""
    path = folder.folder / "growing.jsonl"
    appended_s: list[float] = []
    followed_s: list[float] = []
    part = events // PARTS
    tail = tail_journal(path)
    with closing(Journal(path)) as journal:
        for _ in range(PARTS):
            started = time.perf_counter()
            for number in range(part):
                cell = specs[number % len(specs)].cell
                journal.append(CellStarted(cell=cell, attempt=1) if number % 2 else Notice(message=f"about {cell}"))
            appended_s.append(time.perf_counter() - started)
            started, count = time.perf_counter(), 0
            while found := tail.read():
                for event in found:
                    state.apply(event)
                count += len(found)
            followed_s.append(time.perf_counter() - started)
            assert count == part
    return {
        "an event appended to the journal": 1e6 * sum(appended_s) / (part * PARTS),
        "an event of the journal, followed and reduced": 1e6 * sum(followed_s) / (part * PARTS),
        "the same, last part over first": followed_s[-1] / followed_s[0],
    }


# --- in turn, and the table -------------------------------------------------------------------

QUESTIONS: dict[str, Callable[[RunFolder, int, int], Figures]] = {"run": run, "resume": resume, "events": events}


def peak_mb() -> float:
    """Of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def asked(question: str, folder: Path, args: argparse.Namespace) -> Figures:
    """In a process of its own."""
    command = [sys.executable, __file__, "--ask", question, "--folder", str(folder)]
    command += ["--cells", str(args.cells), "--events", str(args.events)]
    figures: Figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    print(f"{question}: " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items()), flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="where the runs are written; default: the temporary folder")
    parser.add_argument("--ask", choices=QUESTIONS, help="only this, once, in this process; prints JSON")
    args = parser.parse_args()
    if args.ask:
        print(json.dumps(QUESTIONS[args.ask](RunFolder(args.folder), args.cells, args.events)))
        return
    rounds: list[Figures] = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory(prefix="engine-", dir=args.folder) as folder:
            answers = [asked(question, Path(folder), args) for question in QUESTIONS]
        rounds.append({name: value for figures in answers for name, value in figures.items()})
    print(f"\n{args.cells} cells, {args.events} events, {args.rounds} rounds\n")
    print("| figure | median | range | bar |\n|---|---|---|---|")
    for name, unit in UNITS.items():
        values = [figures[name] for figures in rounds]
        spread = f"{shown(min(values))}–{shown(max(values))}"
        print(f"| {name} | {shown(statistics.median(values))} {unit} | {spread} | {BARS.get(name, '')} |")


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


if __name__ == "__main__":
    main()
