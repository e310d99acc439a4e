"""How long a suite takes beside the shortest time in which it could be done, and what watching over it costs.

Why: cells that are started in the wrong order, or that wait for each other, leave cores idle, and nobody sees it.
Twelve real cells of three models, long and short, are run with `moodbench run` on this machine, one to a core. Timing
is kept as short beside training as it is where training takes hours: while one cell is timed, the others stand still.

The work of a cell is the wall time from its start to its end, without that in which it waited for the lease and that
for which the host had frozen it (journal, events, `frozen.json`). Two lower bounds follow from it:

    bound        max(work of all cells / cores, longest cell)
    with timing  the same, but a window of timing takes all cores, as it is meant to

Beside it the CPU time of the engine's process and of the display's (plain, to a pipe), children left out, as a share of
one core from the start of the first cell to the end of the last.

    .venv/bin/python benchmarks/packing.py [--rounds 3]

Needs the extra `demo`. The last lines of the output are a Markdown table of medians and ranges; the bars: makespan at
most 1.20 times the bound, engine and display at most 3 % of one core. Leave the machine alone meanwhile: 4 minutes a
round.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil

from harness.executors.machine import own_cores
from harness.journal import EventTail, tail_journal
from harness.state import CellFinished, CellStarted, LeaseEnded, LeaseGranted, RunFinished, RunStarted
from harness.store import RunFolder
from runner.contract import FROZEN_FILE, CellEvent, Event, LeaseReleased, LeaseWanted

SAMPLE_S = 0.5
SUITE = """
models: [MiniLM-L6, scratch-tiny, tfidf-logreg]
datasets: [starter-sentiment]
methods: [lora]
seeds: [1, 2, 3, 4]
training: {effective_batch_size: 16, epochs: 10, patience: 100}
evaluation: {latency_min_s: 0.5, latency_max_s: 1.5, throughput_batch_sizes: [1, 8, 32], throughput_texts: 100,
             throughput_min_s: 0.1, throughput_max_s: 0.5}
"""
CELLS = 12
FIGURES = {  # name -> bar
    "makespan, s": "",
    "work of all cells, s": "",
    "longest cell, s": "",
    "timing windows, s": "",
    "makespan over bound": "≤ 1.20",
    "makespan over bound with timing": "",
    "engine, % of one core": "",
    "plain display, % of one core": "",
    "engine and display, % of one core": "≤ 3",
}


# --- one run, and the processes that watch over it ----------------------------------------------


@dataclass
class Cpu:
    """CPU seconds of a process, as last seen while cells ran."""

    process: psutil.Process
    first: tuple[float, float] | None = None  # time, CPU seconds
    last: tuple[float, float] = (0.0, 0.0)

    def sample(self) -> None:
        times = self.process.cpu_times()
        self.last = (time.monotonic(), times.user + times.system)
        self.first = self.first or self.last

    @property
    def percent(self) -> float:
        assert self.first is not None, "no cell has run"
        return 100 * (self.last[1] - self.first[1]) / (self.last[0] - self.first[0])


@dataclass
class Watched:
    folder: RunFolder
    events: list[Event] = field(default_factory=list)  # of the journal
    engine: Cpu | None = None
    display: Cpu | None = None


def run(results: Path) -> Watched:
    suite = results / "packing.yaml"
    suite.write_text(SUITE)
    watched = Watched(RunFolder(results / "packing"))
    command = [sys.executable, "-m", "harness.cli", "run", str(suite), "--run", "packing", "--results", str(results)]
    command += ["--executor", "native", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        said: list[str] = []
        assert process.stderr is not None
        reader = threading.Thread(target=said.extend, args=(process.stderr,))
        reader.start()
        watched.display = Cpu(psutil.Process(process.pid))
        watch(watched, process)
        reader.join()
    assert process.returncode == 0, "".join(said[-20:])
    return watched


def watch(watched: Watched, process: subprocess.Popen[str]) -> None:
    """Until the display ends; processes are sampled from the first cell's start to the last one's end."""
    tail = tail_journal(watched.folder.journal)
    running: set[str] = set()
    while process.poll() is None:
        for event in tail.read():
            watched.events.append(event)
            if isinstance(event, RunStarted) and event.engine_pid:
                watched.engine = Cpu(psutil.Process(event.engine_pid))
            elif isinstance(event, CellStarted):
                running.add(event.cell)
            elif isinstance(event, CellFinished):
                running.discard(event.cell)
        if running and watched.engine and watched.display:
            with suppress(psutil.NoSuchProcess):  # the run was broken off
                watched.engine.sample()
                watched.display.sample()
        time.sleep(SAMPLE_S)
    watched.events += tail.read()


# --- its figures --------------------------------------------------------------------------------


@dataclass
class Work:
    """Seconds of one cell. `windows_s`: of its timing, granted to ended."""

    started: float = 0.0
    ended: float = 0.0
    waited_s: float = 0.0
    frozen_s: float = 0.0
    windows_s: float = 0.0

    @property
    def seconds(self) -> float:
        return self.ended - self.started - self.waited_s - self.frozen_s


def works(watched: Watched) -> dict[str, Work]:
    """Of each cell; each has one attempt."""
    cells: dict[str, Work] = defaultdict(Work)
    moments: dict[tuple[str, int, str], float] = {}  # cell, window, what happened
    for event in watched.events:
        if isinstance(event, CellStarted):
            assert event.cell not in cells, f"{event.cell} was tried again"
            cells[event.cell].started = event.t
        elif isinstance(event, CellFinished):
            cells[event.cell].ended = event.t
        elif isinstance(event, LeaseGranted):
            moments[event.cell, event.window, "granted"] = event.t
        elif isinstance(event, LeaseEnded):
            moments[event.cell, event.window, "ended"] = event.t
            cells[event.cell].windows_s += event.seconds
    for name, work in cells.items():
        attempt = watched.folder.attempt(name, 1)
        frozen = attempt.folder / FROZEN_FILE
        work.frozen_s = msgspec.json.decode(frozen.read_bytes(), type=float) if frozen.exists() else 0.0
        tail = EventTail(attempt.events, CellEvent)
        while found := tail.read():
            for event in found:
                if isinstance(event, LeaseWanted):
                    work.waited_s += moments[name, event.window, "granted"] - event.t
                elif isinstance(event, LeaseReleased):
                    work.waited_s += moments[name, event.window, "ended"] - event.t
    return cells


def figures_of(watched: Watched, cores: int) -> dict[str, float]:
    cells = works(watched)
    assert len(cells) == CELLS, f"{len(cells)} cells"
    assert watched.engine is not None and watched.display is not None
    started = next(event.t for event in watched.events if isinstance(event, RunStarted))
    ended = next(event.t for event in watched.events if isinstance(event, RunFinished))
    total, longest = sum(work.seconds for work in cells.values()), max(work.seconds for work in cells.values())
    timing = sum(work.windows_s for work in cells.values())
    for name, work in sorted(cells.items()):
        print(
            f"{name:50s} from {work.started - started:6.1f} s, worked {work.seconds:6.1f} s, "
            f"timed {work.windows_s:5.1f} s, waited {work.waited_s:5.1f} s, frozen {work.frozen_s:5.1f} s"
        )
    makespan = ended - started
    engine, display = watched.engine.percent, watched.display.percent
    values = (
        makespan,
        total,
        longest,
        timing,
        makespan / max(total / cores, longest),
        makespan / max(timing + (total - timing) / cores, longest),
        engine,
        display,
        engine + display,
    )
    return dict(zip(FIGURES, values, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    cores = len(own_cores())
    rounds: list[dict[str, float]] = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory(prefix="packing-") as folder:
            rounds.append(figures_of(run(Path(folder)), cores))
        print(", ".join(f"{name} {value:.2f}" for name, value in rounds[-1].items()), flush=True)
    print(
        f"\n{CELLS} cells, {cores} cores, {args.rounds} rounds\n\n| figure | median | range | bar |\n|---|---|---|---|"
    )
    for name, bar in FIGURES.items():
        values = [figures[name] for figures in rounds]
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f}–{max(values):.2f} | {bar} |")


if __name__ == "__main__":
    main()
