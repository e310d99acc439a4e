"""What this machine offers to MoodBench: each finding is fine, worth a note, or to be fixed before a cell can run."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import msgspec

from harness.credentials import hub_token_source
from harness.errors import MoodBenchError
from harness.executors.native import NativeExecutor
from harness.jobs import Jobs
from harness.run_lock import check_writable
from harness.scratch import cache_folder, scratch
from harness.store import RunFolder
from runner.contract import usable_cores

LITTLE_DISK_GB = 5


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    subject: str
    state: Literal["ok", "note", "fix"]
    finding: str
    remedy: str | None = None


async def examine(results: Path) -> list[Finding]:
    import psutil

    memory_gb = psutil.virtual_memory().total / 2**30
    native, containers = await asyncio.gather(_runner(), _containers())
    cells_run = any(all(finding.state != "fix" for finding in way) for way in (native, containers))
    return [
        _python(),
        Finding(subject="machine", state="ok", finding=f"{usable_cores()} cores, {memory_gb:.1f} GB of memory"),
        *(_one_way_is_enough(finding) if cells_run else finding for finding in [*native, *containers]),
        _gpu(),
        _folder("results folder", results.resolve()),
        _folder("cache", cache_folder()),
        _disk(results.resolve()),
        _token(),
        await asyncio.to_thread(_leftovers, results),
    ]


def _one_way_is_enough(finding: Finding) -> Finding:
    """Cells run natively or in containers; while one way is open, what the other lacks is only worth a note."""
    return msgspec.structs.replace(finding, state="note") if finding.state == "fix" else finding


def _python() -> Finding:
    where = f"{platform.system()} {platform.machine()}"
    return Finding(subject="Python", state="ok", finding=f"{platform.python_version()} on {where}")


async def _runner() -> list[Finding]:
    """The packages that native cells need, and the devices they find."""
    try:
        with tempfile.TemporaryDirectory(prefix="moodbench-") as folder:
            info = await Jobs(NativeExecutor(), Path(folder)).device_info()
    except MoodBenchError as error:
        return [Finding(subject="runner", state="fix", finding=error.message, remedy=error.hint)]
    if info.missing:
        return [
            Finding(
                subject="runner",
                state="fix",
                finding=f"cells cannot run natively: {', '.join(info.missing)} not installed",
                remedy="pip install 'moodbench[runner]'",
            )
        ]
    versions = ", ".join(f"{name} {info.packages[name]}" for name in ("torch", "transformers", "peft"))
    devices = ", ".join([*info.available, *info.gpus])
    return [
        Finding(subject="runner", state="ok", finding=versions),
        Finding(
            subject="device", state="ok", finding=f"auto picks {info.device} ({info.device_reason}); found {devices}"
        ),
    ]


async def _containers() -> list[Finding]:
    """The engine and its images; the current CPU image has to answer."""
    from harness.executors.docker import DockerExecutor

    try:
        engine = await asyncio.to_thread(_engine)
    except MoodBenchError as error:
        return [Finding(subject="engine", state="fix", finding=error.message, remedy=error.hint)]
    try:
        executor = await DockerExecutor.open("cpu", None)
    except MoodBenchError as error:
        return [engine, Finding(subject="images", state="fix", finding=error.message, remedy=error.hint)]
    try:
        with _leaving_no_folder(cache_folder()), scratch() as folder:
            info = await Jobs(executor, folder).device_info()
    except MoodBenchError as error:
        return [engine, Finding(subject="images", state="fix", finding=error.message, remedy=error.hint)]
    finally:
        await executor.close()
    found = f"the CPU image is built and answers (torch {info.packages.get('torch')})"
    return [engine, Finding(subject="images", state="ok", finding=found)]


def _engine() -> Finding:
    from harness.images import connect

    client = connect()
    try:
        info = client.info()
    finally:
        client.close()
    memory_gb = info["MemTotal"] / 2**30
    words = f"Docker {info['ServerVersion']}, {info['NCPU']} cores, {memory_gb:.1f} GB of memory, {info['Driver']}"
    return Finding(subject="engine", state="ok", finding=words)


def _gpu() -> Finding:
    """What the driver lists; whether cells can use it is what `device` says."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding(subject="GPU", state="ok", finding="no NVIDIA driver, none expected")
    asked = [tool, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader"]
    try:
        listed = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(
            subject="GPU",
            state="note",
            finding=f"nvidia-smi does not answer: {error}",
            remedy="check the driver, or use --device cpu",
        )
    return Finding(subject="GPU", state="ok", finding="; ".join(line for line in listed.splitlines() if line.strip()))


def _leftovers(results: Path) -> Finding:
    from harness.clean import find_leftovers

    found = find_leftovers(results).found
    if found:
        return Finding(
            subject="leftovers",
            state="note",
            finding=f"{len(found)} of runs that were killed",
            remedy="moodbench clean",
        )
    return Finding(subject="leftovers", state="ok", finding="none")


@contextmanager
def _leaving_no_folder(folder: Path) -> Iterator[None]:
    """What is made of `folder`, the scratch folders in it and its parents meanwhile is removed again if it is empty."""
    made = [place for place in (folder / "scratch", folder, *folder.parents) if not place.exists()]
    try:
        yield
    finally:
        for place in made:
            with suppress(OSError):
                place.rmdir()


def _folder(subject: str, folder: Path) -> Finding:
    try:
        with _leaving_no_folder(folder):
            check_writable(RunFolder(folder))
    except MoodBenchError as error:
        return Finding(subject=subject, state="fix", finding=error.message, remedy=error.hint)
    return Finding(subject=subject, state="ok", finding=f"{folder} can be written")


def _disk(results: Path) -> Finding:
    place = next(p for p in (results, *results.parents) if p.exists())
    free_gb = shutil.disk_usage(place).free / 2**30
    if free_gb < LITTLE_DISK_GB:
        return Finding(
            subject="disk", state="note", finding=f"{free_gb:.1f} GB free", remedy="large models need more: free some"
        )
    return Finding(subject="disk", state="ok", finding=f"{free_gb:.0f} GB free")


def _token() -> Finding:
    try:
        found = hub_token_source(os.environ, Path.cwd())
    except MoodBenchError as error:
        return Finding(subject="HF_TOKEN", state="fix", finding=error.message, remedy=error.hint)
    if found:
        return Finding(
            subject="HF_TOKEN",
            state="ok",
            finding=f"from {found}; it reaches the fetching of models and datasets alone",
        )
    return Finding(
        subject="HF_TOKEN", state="note", finding="not set", remedy="only gated models need it, such as Gemma-3-270m"
    )
