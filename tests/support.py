"""The real command line in a child process, with its own cache and results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "harness.cli"]


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class World:
    """A folder of its own to work in. Nothing leaves it: results, cache, HOME."""

    folder: Path

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


def reviews(rows: int = 60, header: str = "review,sentiment") -> str:
    """A small CSV with two classes that words tell apart."""
    good = ["a warm and funny evening", "my favourite shop by far", "the soup was lovely", "works like a charm"]
    bad = ["cold food and rude staff", "it broke on day two", "a dull and endless film", "never got my parcel"]
    lines = [header]
    for i in range(rows):
        text = good[i // 2 % 4] if i % 2 else bad[i // 2 % 4]
        lines.append(f'"{text}, visit number {i}, row {i * 7}",{"good" if i % 2 else "bad"}')
    return "\n".join(lines) + "\n"
