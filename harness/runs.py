"""One execution of a suite, from its selection to its leaderboard: what `moodbench run` and later displays call."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from harness.display import Display
from harness.engine import Engine
from harness.errors import InputError, SetupError
from harness.executors import Capacity, Executor
from harness.executors.choice import AskedExecutor, Executors, choose_executor
from harness.jobs import stoppable
from harness.leaderboard import Standing, standing_of, write_leaderboard
from harness.preflight import Preflight, preflight
from harness.scratch import LOCK, sweep
from harness.state import PlannedCell, RunFinished, RunState
from harness.store import RunFolder, fresh_name, run_folder, storage_problem
from harness.suite import CellPlace, Job, Suite, as_mapping, jobs_of, resolve_cell
from runner.contract import CellSpec, CodeVersion, Event, Failure, Limits, cell_stem

MEMORY_SHARE = 0.9  # of the engine's memory, for all cells together
PIDS = 512  # processes and threads; a cell on 64 cores has about 200


@dataclass(frozen=True)
class RunOptions:
    results: Path
    name: str | None = None  # None: a fresh one from the time and the suite
    device: str = "auto"
    jobs: int = 1
    executor: AskedExecutor = "auto"
    memory_mb: int | None = None  # per cell; None: an equal share of what the containers' engine has
    seconds: float | None = None  # per cell; None: no limit


@dataclass(frozen=True)
class RunOutcome:
    folder: RunFolder
    finished: RunFinished
    standing: Standing


async def execute(suite: Suite, options: RunOptions, display: Display) -> RunOutcome:
    """Prepare, run and rank. Raises InputError before anything starts, SetupError also later."""
    folder = run_folder(options.results, options.name or fresh_name(suite.name))
    check_writable(folder)
    with only_one(folder):
        return await _execute(suite, options, folder, display)


async def _execute(suite: Suite, options: RunOptions, folder: RunFolder, display: Display) -> RunOutcome:
    sweep()
    executors = await stoppable(choose_executor(options.executor, options.device, folder))
    try:
        return await _execute_on(executors, suite, options, folder, display)
    finally:
        await executors.close()


async def _execute_on(
    executors: Executors, suite: Suite, options: RunOptions, folder: RunFolder, display: Display
) -> RunOutcome:
    executor = executors.cells
    display.note(f"executor: {executor.name} ({executors.reason})")
    limits = limits_of(options, executor)
    ready = await stoppable(preflight(suite, options.device, executors, display.note))
    display.note(f"device: {ready.device.value} ({ready.device.reason})")
    specs, unavailable = resolve(suite, ready, executors, limits, threads=_threads(executor.capacity, options.jobs))
    folder.extend(folder.folder.name, dict(as_mapping(suite)), specs, [failure for _, failure in unavailable])
    state = RunState()

    def watch(event: Event) -> None:
        state.apply(event)
        display.show(event, state)

    ranking = _RankingFirst(folder, watch)
    engine = Engine(folder, executor, jobs=options.jobs, watch=ranking.tell)
    try:
        finished = await engine.run(suite.name, specs, unavailable)
    except BrokenPipeError:  # a display's reader is gone: no problem of the run folder
        raise
    except OSError as error:
        raise storage_problem(error, folder.folder) from error
    assert ranking.standing is not None  # a run that returns has told `run_finished`
    return RunOutcome(folder=folder, finished=finished, standing=ranking.standing)


@contextmanager
def only_one(folder: RunFolder) -> Iterator[None]:
    """Hold the run folder: two processes that fill one run would do its cells twice. Raises InputError. A folder that
    did not become a run is removed again."""
    path = folder.folder / LOCK
    with path.open("a") as lock:
        if not _locked(lock):
            raise InputError(
                f"another moodbench is filling the run '{folder.folder.name}'",
                "wait for it, or give another --run name",
            )
        try:
            yield
        finally:
            if not folder.record_path.exists():
                path.unlink(missing_ok=True)
                with suppress(OSError):  # something else lies there: not ours to remove
                    folder.folder.rmdir()


def _locked(lock: IO[str]) -> bool:
    """Take the lock, unless another process keeps it; one that only looks whether it is held (`moodbench clean`, the
    start of another run) has it for a moment."""
    for _ in range(5):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return True
    return False


class _RankingFirst:
    """`run_finished` is the last thing told, so the leaderboard is on disk before it."""

    def __init__(self, folder: RunFolder, watch: Callable[[Event], None]) -> None:
        self._folder = folder
        self._watch = watch
        self.standing: Standing | None = None

    def tell(self, event: Event) -> None:
        if isinstance(event, RunFinished) and event.outcome != "broken":
            self.standing = standing_of(self._folder)
            write_leaderboard(self._folder, self.standing)
        self._watch(event)


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


def limits_of(options: RunOptions, executor: Executor) -> Limits:
    """What each of `jobs` cells may use. A share of the memory stays with the host, so that a cell that takes too much
    is ended, not the machine. Raises InputError."""
    if executor.name == "native":
        if options.memory_mb is not None:
            raise InputError(
                "--memory holds only in containers, and cells run natively here",
                "leave --memory out, or use --executor docker (`moodbench doctor` says what it needs)",
            )
        return Limits(seconds=options.seconds)
    capacity = executor.capacity
    share = int(capacity.memory_mb * MEMORY_SHARE / options.jobs) if capacity.memory_mb else None
    return Limits(
        memory_mb=options.memory_mb or share,
        cpus=float(_threads(capacity, options.jobs)),
        pids=PIDS,
        seconds=options.seconds,
    )


def _threads(capacity: Capacity, jobs: int) -> int:
    return max(1, capacity.cores // jobs)


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


def check_writable(folder: RunFolder) -> None:
    """Before any work: the run folder can be made and written. Raises SetupError."""
    probe = folder.folder / ".writable"
    try:
        folder.folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x" * 4096)
    except OSError as error:
        raise storage_problem(error, folder.folder) from error
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    free = os.statvfs(folder.folder)
    if free.f_bavail * free.f_frsize < 50 * 2**20:
        raise SetupError(
            f"less than 50 MB are free where {folder.folder} lies",
            "free some space, or choose another --results folder",
        )
