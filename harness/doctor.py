"""What this machine offers to MoodBench: each finding is fine, worth a note, or to be fixed before a cell can run."""

from __future__ import annotations

import os
import platform
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from harness.errors import MoodBenchError
from harness.executors.native import NativeExecutor
from harness.jobs import Jobs
from harness.runs import check_writable
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
    return [
        _python(),
        Finding(subject="machine", state="ok", finding=f"{usable_cores()} cores, {memory_gb:.1f} GB of memory"),
        *await _runner(),
        _folder("results folder", results.resolve()),
        _folder("cache", cache_folder()),
        _disk(results.resolve()),
        _token(),
    ]


def _python() -> Finding:
    where = f"{platform.system()} {platform.machine()}"
    return Finding(subject="Python", state="ok", finding=f"{platform.python_version()} on {where}")


async def _runner() -> list[Finding]:
    """The packages that cells need, and the devices they find."""
    try:
        with scratch() as folder:
            info = await Jobs(NativeExecutor(), folder).device_info()
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


def _folder(subject: str, folder: Path) -> Finding:
    created = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        check_writable(RunFolder(folder))
    except MoodBenchError as error:
        return Finding(subject=subject, state="fix", finding=error.message, remedy=error.hint)
    finally:
        with suppress(OSError):
            for place in created:
                place.rmdir()
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
    if os.environ.get("HF_TOKEN"):
        return Finding(subject="HF_TOKEN", state="ok", finding="set; it reaches the fetching of models alone")
    return Finding(
        subject="HF_TOKEN", state="note", finding="not set", remedy="only gated models need it, such as Gemma-3-270m"
    )
