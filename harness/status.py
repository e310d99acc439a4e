"""What state a run is in, by its journal and by whether an engine works on it."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from harness.control import engine_pid, engine_status, is_alive
from harness.errors import unknown
from harness.follow import Follower
from harness.launch import REQUEST
from harness.state import ACTIVE, RunState
from harness.store import RunFolder

# preparing: the engine has begun, but no cell yet; killed: its engine is gone without a word.
State = Literal["preparing", "running", "stopping", "finished", "failed", "interrupted", "broken", "killed"]


class CellCounts(msgspec.Struct, frozen=True, kw_only=True):
    """`total` is the sum of the others. `queued`: also what was stopped and goes on next time."""

    total: int
    done: int
    failed: int
    running: int
    queued: int
    reused: int


class RunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Of a run's latest execution. `started`: Unix seconds; `eta_s`: None while nothing tells how long cells take."""

    run: str
    folder: str
    engine_pid: int | None
    state: State
    cells: CellCounts
    started: float | None = None
    eta_s: float | None = None
    timed: str | None = None  # the cell that has the machine to itself now
    message: str = ""  # what broke it
    hint: str = ""


def status_of(folder: RunFolder) -> RunStatus:
    alive = is_alive(folder)
    engine = engine_status(folder) if alive else None
    state = RunState()
    for event in Follower(folder).catch_up():
        state.apply(event)
    name: State
    if not alive:
        name = _ended(folder, state)
    elif engine is not None and engine.stopping:
        name = "stopping"
    elif engine.preparing if engine is not None else state.finished is not None or not state.cells:
        name = "preparing"
    else:
        name = "running"
    ended = state.finished if not alive else None
    return RunStatus(
        run=folder.folder.name,
        folder=str(folder.folder),
        engine_pid=engine.pid if engine is not None else engine_pid(folder),
        state=name,
        cells=_counts(state, alive),
        started=state.started,
        eta_s=state.eta_s(time.time()) if name == "running" else None,
        timed=state.holder if name == "running" else None,
        message=ended.message if ended else "",
        hint=ended.hint if ended else "",
    )


def _ended(folder: RunFolder, state: RunState) -> State:
    if state.finished is not None:
        return state.finished.outcome
    return "killed" if folder.journal.exists() or not folder.record_path.exists() else "interrupted"


def _counts(state: RunState, alive: bool) -> CellCounts:
    total = len(state.cells)
    done, failed, reused = state.count("done"), state.count("failed"), state.count("reused")
    running = state.count(*ACTIVE) if alive else 0
    return CellCounts(
        total=total,
        done=done,
        failed=failed,
        running=running,
        queued=total - done - failed - reused - running,
        reused=reused,
    )


def known_runs(results: Path) -> list[RunFolder]:
    """Every run, also those that are still being prepared or never came further; oldest first."""
    folders = {path.parent for name in ("run.json", REQUEST) for path in results.glob(f"*/{name}")}
    return [RunFolder(folder) for folder in sorted(folders, key=lambda folder: (_begun(folder), folder))]


def find_any_run(given: str, results: Path) -> RunFolder:
    """One of `known_runs`, by folder or by name. Raises InputError with the nearest name."""
    for folder in (Path(given), results / given):
        if any((folder / name).is_file() for name in ("run.json", REQUEST)):
            return RunFolder(folder)
    known = [run.folder.name for run in known_runs(results)]
    remedy = (
        f"runs there: {', '.join(known[-8:])}" if known else "start one with `moodbench run demo --run demo --detach`"
    )
    raise unknown("run", given, known, remedy)


def _begun(folder: Path) -> float:
    times = []
    for name in ("run.json", REQUEST):
        with suppress(OSError):
            times.append((folder / name).stat().st_mtime)
    return min(times, default=0.0)
