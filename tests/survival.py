"""What tests of survival share: whatever was started in a world, how to kill it, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from harness.control import is_alive
from harness.engine import Engine
from harness.executors import Executor
from harness.executors.containers import RUN_LABEL
from harness.journal import Journal
from harness.packing import Packer
from harness.processes import MARK
from harness.resolve import plan_of
from harness.state import RunFinished, RunStarted
from harness.store import RunFolder
from runner.contract import CellEvent, CellSpec, Event, Phase, PhaseFinished, PhaseStarted
from tests.harness.theatre import StillHost
from tests.support import World, wait_until

if TYPE_CHECKING:
    from docker import DockerClient

GONE_S = 30.0  # what a killed host leaves has ended within
SCRATCH = {"hidden_size": 32, "layers": 2, "heads": 2, "intermediate_size": 64, "vocab_size": 300}
TINY = {"alias": "tiny", "scratch": SCRATCH}  # as a suite writes it


@dataclass(frozen=True)
class Site:
    """One run in a world, seen from outside. `client`: of the container engine, where its cells are containers."""

    world: World
    run: str
    client: DockerClient | None = None

    @property
    def folder(self) -> RunFolder:
        return self.world.run_folder(self.run)

    def processes(self) -> list[psutil.Process]:
        """Those of the world that live: its folder stands in their environment or on their command line."""
        return [process for process, words in _all_processes() if f"{self.world.folder}/" in words]

    def cells(self) -> list[psutil.Process]:
        """Those of the run's native cells, with what they have forked."""
        mark = f"{MARK}={self.folder.folder}/"
        return [process for process, words in _all_processes() if mark in words]

    def containers(self, state: str | None = None) -> list[dict[str, Any]]:
        """As the container engine lists them."""
        if self.client is None:
            return []
        found = self.client.api.containers(all=True, filters={"label": f"{RUN_LABEL}={self.run}"})
        return [one for one in found if state is None or one["State"] == state]

    def phases(self) -> dict[str, Phase]:
        """By attempt's folder: the phase that each unfinished attempt was in when it last said so."""
        found: dict[str, Phase] = {}
        for attempt in self.world.attempts(self.run):
            if not (attempt / "result.json").exists() and not (attempt / "failure.json").exists():
                phase = _phase(attempt / "events.jsonl")
                if phase is not None:
                    found[str(attempt)] = phase
        return found

    def has_saved(self) -> bool:
        """A cell is within its training, and a later attempt could go on from there."""
        return bool(list(self.folder.folder.glob("cells/*/*/checkpoint/training.json")))

    def resumed_within_training(self) -> int:
        """So many attempts began their training with a later step than the first."""
        first = [_first_step(attempt / "events.jsonl") for attempt in self.world.attempts(self.run)]
        return sum(step > 1 for step in first)

    def finished(self) -> set[str]:
        paths = (self.folder.folder / "cells").glob("*/attempt-*/result.json")
        return {path.parent.parent.name for path in paths}

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.world.journal(self.run) if event["event"] == name]

    def kill_engine(self) -> None:
        process = self.world.engine(self.run)
        kill(process)
        wait_until(lambda: not is_alive(self.folder))

    def everything_is_gone(self) -> None:
        """Of a run whose engine has ended; a killed engine's guard takes its time."""
        wait_until(lambda: not self.processes() and not self.containers(), GONE_S)

    def clear(self) -> None:
        """After the test, however it went."""
        for process in self.processes():
            with suppress(psutil.Error):
                process.resume()
            kill(process)
        if self.client is not None:
            import docker.errors

            for one in self.containers():
                with suppress(docker.errors.APIError):
                    self.client.api.remove_container(one["Id"], force=True)


def kill(process: psutil.Process) -> bool:
    """Whether it was there to be killed."""
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    return True


def predictions(site: Site) -> dict[str, bytes]:
    """By cell, of the one attempt that has a result. Fails where a cell has several."""
    found: dict[str, bytes] = {}
    for attempt in site.world.attempts(site.run):
        if (attempt / "result.json").exists():
            cell = attempt.parent.name
            assert cell not in found, f"{cell} was done twice"
            found[cell] = (attempt / "predictions.parquet").read_bytes()
            assert not (attempt / "checkpoint").exists()
            assert not list(attempt.rglob("*.tmp"))
    return found


def journal_is_whole(site: Site) -> None:
    """Every line is JSON, the numbers only grow, and no cell is told to have finished twice."""
    events = site.world.journal(site.run)
    numbers = [event["seq"] for event in events]
    assert numbers == sorted(set(numbers))
    done = [event["cell"] for event in events if event["event"] == "cell_finished" and not event.get("reused")]
    assert len(done) == len(set(done))


def suite(models: Sequence[Any], seeds: Sequence[int], methods: Sequence[str] = ("full",), **training: Any) -> str:
    """With several evaluations, and so checkpoints, in each of a few epochs, and timed for a moment only."""
    settings = {"epochs": 8, "min_steps": 0, "batch_size": 8, "effective_batch_size": 16, "patience": 100} | training
    evaluation = {
        "windows": 2, "warmup_requests": 1, "min_requests": 12, "max_requests": 12, "latency_min_s": 0,
        "latency_max_s": 0.2, "throughput_batch_sizes": [8], "throughput_texts": 8, "throughput_min_s": 0,
        "throughput_max_s": 0.2,
    }  # fmt: skip
    whole = {
        "models": models, "datasets": [{"name": "mine", "file": "reviews.csv"}], "methods": methods, "seeds": seeds,
        "training": settings, "evaluation": evaluation,
    }  # fmt: skip
    return msgspec.json.encode(whole).decode()


async def carried_out(
    run: RunFolder, executor: Executor, specs: Sequence[CellSpec], told: list[Event], *, jobs: int, seconds: float
) -> RunFinished:
    """The engine in this process, on a machine where nothing else happens."""
    with closing(Journal(run.journal)) as journal:
        packer = Packer(executor.capacity, jobs, memory_mb=None)
        engine = Engine(run, executor, packer, StillHost(), tell=journal.append, watch=told.append)
        plans = tuple(map(plan_of, specs))
        start = RunStarted(run="run", suite="suite", folder=str(run.folder), jobs=jobs, cells=plans)
        await asyncio.wait_for(engine.run(start, specs), seconds)
        return engine.finished()


def _all_processes() -> Iterator[tuple[psutil.Process, str]]:
    """With the words of their environment and command line; this process and what has ended are left out."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                environment = (f"{name}={value}" for name, value in process.environ().items())
                yield process, "\n".join([*environment, *process.cmdline()])


def _first_step(events: Path) -> int:
    """Of training; 0: none was told."""
    lines = events.read_bytes().splitlines() if events.exists() else []
    told = [msgspec.json.decode(line) for line in lines if line.startswith(b'{"event":"progress"')]
    return next((event["step"] for event in told if event["phase"] == "train"), 0)


def _phase(events: Path) -> Phase | None:
    with suppress(OSError):
        for line in reversed(events.read_bytes().splitlines()):
            with suppress(msgspec.DecodeError):
                event: CellEvent = msgspec.json.decode(line, type=CellEvent)
                if isinstance(event, PhaseStarted):
                    return event.phase
                if isinstance(event, PhaseFinished):
                    return None
    return None
