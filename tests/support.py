"""The real command line in a child process, with its own cache and results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from harness.control import engine_pid, is_alive
from harness.store import RunFolder

COMMAND = [sys.executable, "-m", "harness.cli"]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


WORLDS: list[World] = []  # of this process: no engine of theirs may outlive a test


@dataclass(frozen=True)
class World:
    """A folder of its own to work in. Nothing leaves it: results, cache, HOME."""

    folder: Path

    def __post_init__(self) -> None:
        WORLDS.append(self)

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MOODBENCH_", "HF_"))}
        return kept | {
            "MOODBENCH_CACHE": str(self.folder / "cache"),
            "HOME": str(self.folder / "home"),
            "MOODBENCH_EXECUTOR": "native",  # auto would depend on the machine; containers have tests of their own
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "160",
        }

    def moodbench(self, *arguments: str | Path, **environment: str) -> Outcome:
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run_folder(self, run: str) -> RunFolder:
        return RunFolder(self.folder / "results" / run)

    def engine(self, run: str) -> psutil.Process:
        """The process that works on a run."""
        pid = engine_pid(self.run_folder(run))
        assert pid is not None, f"no engine works on {run}"
        return psutil.Process(pid)

    def status(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.moodbench("status", run, "--json").out)
        return found

    def journal(self, run: str) -> list[dict[str, Any]]:
        path = self.run_folder(run).journal
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def end_engines(self) -> list[str]:
        """Kill what still works here; the names of those runs."""
        left = []
        for lock in (self.folder / "results").glob("*/.lock"):
            run = RunFolder(lock.parent)
            pid = engine_pid(run)
            if pid is None or pid == os.getpid():
                continue
            left.append(lock.parent.name)
            processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
            for process in processes:
                os.kill(process.pid, signal.SIGKILL)
            wait_until(lambda run=run: not is_alive(run))  # type: ignore[misc]
        return left

    def write(self, name: str, text: str, encoding: str = "utf-8") -> Path:
        path = self.folder / name
        path.write_text(text, encoding=encoding)
        return path

    def results(self, run: str) -> dict[str, dict[str, Any]]:
        """Every result of a run, by cell."""
        paths = (self.folder / "results" / run / "cells").glob("*/attempt-*/result.json")
        return {path.parent.parent.name: json.loads(path.read_text()) for path in paths}

    def attempts(self, run: str) -> list[Path]:
        return sorted((self.folder / "results" / run / "cells").glob("*/attempt-*"))


def wait_until(holds: Callable[[], object], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def reviews(rows: int = 60, header: str = "review,sentiment") -> str:
    """A small CSV with two classes that words tell apart."""
    good = ["a warm and funny evening", "my favourite shop by far", "the soup was lovely", "works like a charm"]
    bad = ["cold food and rude staff", "it broke on day two", "a dull and endless film", "never got my parcel"]
    lines = [header]
    for i in range(rows):
        text = good[i // 2 % 4] if i % 2 else bad[i // 2 % 4]
        lines.append(f'"{text}, visit number {i}, row {i * 7}",{"good" if i % 2 else "bad"}')
    return "\n".join(lines) + "\n"
