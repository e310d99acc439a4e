"""What MoodBench adds around a cell that does nothing, beside a bare `docker run` of the same image and command; and
what a rebuild costs after a change in runner/ alone.

    .venv/bin/python benchmarks/overhead.py [--rounds 9] [--base-image IMAGE]

The cell is the majority baseline on 50 texts. Both ways take turns; the table gives medians. Needs an engine and the
CPU image (`moodbench images build`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec

from harness.engine import Engine
from harness.executors.docker import DockerExecutor
from harness.images import connect, find_image
from harness.journal import Journal
from harness.load import LoadWatch
from harness.packing import Packer
from harness.resolve import plan_of
from harness.state import RunStarted
from harness.store import RunFolder
from runner.contract import CellSpec, encode, read

ROOT = Path(__file__).resolve().parent.parent
CLI = [sys.executable, "-m", "harness.cli"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--base-image", help="as given to `moodbench images build`")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        spec = cell_that_does_nothing(Path(folder))
        ways = {
            "bare `docker run`": lambda: bare(spec, Path(folder)),
            "MoodBench, native": lambda: through_the_engine(spec, Path(folder), None),
            "MoodBench, container": lambda: through_the_engine(spec, Path(folder), "cpu"),
        }
        seconds = interleaved(ways, args.rounds)
        rebuilds = [rebuild(Path(folder), number, args.base_image) for number in range(3)]
    base = statistics.median(seconds["bare `docker run`"])
    print(
        f"{args.rounds} rounds, {os.cpu_count()} cores\n\n| way | median s | range | beside bare |\n|---|---|---|---|"
    )
    for way, values in seconds.items():
        median = statistics.median(values)
        print(f"| {way} | {median:.2f} | {min(values):.2f}–{max(values):.2f} | {median - base:+.2f} |")
    spread = f"{min(rebuilds):.1f}–{max(rebuilds):.1f}"
    print(f"| rebuild after a change in runner/ | {statistics.median(rebuilds):.1f} | {spread} | |")


def interleaved(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round, by way; one round of each before the first that counts."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, measure in ways.items():
            taken = measure()
            if number:
                seconds[way].append(taken)
    return seconds


def cell_that_does_nothing(folder: Path) -> CellSpec:
    """Its specification, made by the real command."""
    command = [
        "run",
        "demo",
        "--models",
        "majority",
        "--smoke",
        "--executor",
        "docker",
        "--run",
        "spec",
        "--seeds",
        "1",
    ]
    subprocess.run([*CLI, *command, "--results", str(folder)], check=True, capture_output=True)
    [path] = folder.glob("spec/cells/*/attempt-001/spec.json")
    return read(path, CellSpec)


def through_the_engine(spec: CellSpec, folder: Path, kind: str | None) -> float:
    """From the decision to start the cell until its result has been read."""

    async def work() -> float:
        run = RunFolder(Path(tempfile.mkdtemp(dir=folder)))
        if kind is None:
            from harness.executors.native import NativeExecutor

            executor: DockerExecutor | NativeExecutor = NativeExecutor()
        else:
            executor = await DockerExecutor.open("cpu", run)
        packer = Packer(executor.capacity, 1, memory_mb=None)
        with closing(Journal(run.journal)) as journal:
            engine = Engine(run, executor, packer, LoadWatch(), tell=journal.append)
            start = RunStarted(run="overhead", suite="", folder=str(run.folder), jobs=1, cells=(plan_of(spec),))
            started = time.perf_counter()
            await engine.run(start, [spec])
            taken = time.perf_counter() - started
        assert engine.finished().outcome == "finished", engine.finished()
        await executor.close()
        return taken

    return asyncio.run(work())


def bare(spec: CellSpec, folder: Path) -> float:
    """The same image, command, mounts and limits; no host to grant a lease, so none is asked for."""
    out = Path(tempfile.mkdtemp(dir=folder))
    user = os.getuid() or 65532
    os.chown(out, user, -1)
    (out / "spec.json").write_bytes(encode(msgspec.structs.replace(spec, lease=False)))
    image = find_image(connect(), "cpu")
    assert image is not None and spec.limits.cpus
    command = [
        "docker",
        "run",
        "--rm",
        "--network",
        "none",
        "--user",
        f"{user}:{user}",
        "--cpus",
        str(spec.limits.cpus),
    ]
    for place, mode in ((str(out), ""), (spec.dataset.folder, ",readonly")):
        command += ["--mount", f"type=bind,source={place},target={place}{mode}"]
    command += [image.name, "run", str(out / "spec.json"), "--out", str(out)]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    json.loads((out / "result.json").read_bytes())
    return time.perf_counter() - started


def rebuild(folder: Path, number: int, base_image: str | None) -> float:
    """Seconds of `moodbench images build` in a copy of the source that differs in one line of runner/."""
    copy = folder / f"source-{number}"
    ignored = shutil.ignore_patterns(".git", ".venv", "results", "tests", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=ignored)
    with (copy / "runner" / "__init__.py").open("a") as file:
        file.write(f"# {time.time()}\n")
    base = ["--base-image", base_image] if base_image else []
    command = [*CLI, "images", "build", *base]
    started = time.perf_counter()
    built = subprocess.run(
        command, cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, check=False, capture_output=True, text=True
    )
    taken = time.perf_counter() - started
    assert built.returncode == 0, built.stderr[-2000:]
    subprocess.run(["docker", "image", "rm", built.stdout.split()[0]], check=True, capture_output=True)
    return taken


if __name__ == "__main__":
    main()
