"""Other work on this machine, as the host sees it: what could make a window of timing slower than it should be."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from harness.gpus import GpuState, state_of

SAMPLE_S = 0.05
QUIET_SHARE = 0.10  # of all cores, or of a GPU: what a system does by itself stays below ...
QUIET_CORES = 0.25  # ... and no more than so many cores are busy with it, however many there are
SWAPPED_BYTES = 2**20
ASLEEP_S = 0.05
GPU_REST_S = 2.0  # what a GPU tells of its use is a mean over up to a second ...
GPU_POLL_S = 0.25  # ... in which the cell itself, or one that is frozen now, may still have used it


@dataclass(frozen=True)
class Reading:
    """Counters since the machine was started, and the GPUs' state, by id."""

    throttled: int = 0  # times that a core has slowed down because it was too hot
    swapped_bytes: int = 0
    asleep_s: float = 0.0  # how long the machine was suspended
    gpus: Mapping[str, GpuState] = field(default_factory=dict)


@dataclass(frozen=True)
class CpuTime:
    """Seconds of all cores together."""

    busy_s: float
    total_s: float


class Machine(Protocol):
    def cpu_time(self) -> CpuTime: ...
    def reading(self, gpus: tuple[str, ...]) -> Reading: ...


class ThisMachine:
    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def cpu_time(self) -> CpuTime:
        times = psutil.cpu_times()._asdict()
        # Linux counts a guest's time as its host's, too.
        total = sum(seconds for name, seconds in times.items() if name not in ("guest", "guest_nice"))
        return CpuTime(total - times["idle"] - times.get("iowait", 0.0), total)

    def reading(self, gpus: tuple[str, ...]) -> Reading:
        return Reading(
            throttled=self._throttled(),
            swapped_bytes=self._swapped_bytes(),
            asleep_s=_asleep_s(),
            gpus={gpu: state_of(gpu) for gpu in gpus},
        )

    def _throttled(self) -> int:
        counts = 0
        for path in self._root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"):
            with suppress(OSError, ValueError):
                counts += int(path.read_text())
        return counts

    def _swapped_bytes(self) -> int:
        if sys.platform != "linux":
            swap = psutil.swap_memory()
            return int(swap.sin + swap.sout)
        pages = 0
        with suppress(OSError, ValueError):
            for line in (self._root / "proc/vmstat").read_text().splitlines():
                if line.startswith(("pswpin ", "pswpout ")):
                    pages += int(line.split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def _asleep_s() -> float:
    if sys.platform != "linux":
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class LoadWatch:
    def __init__(self, machine: Machine | None = None) -> None:
        self._machine = machine or ThisMachine()
        self._gpus: tuple[str, ...] = ()
        self._before = Reading()

    async def quiet(self, patience_s: float) -> None:
        """Wait until the machine has come to rest, for so long at most. Whether the window is quiet is then the
        holder's to say, who knows what is its own."""
        deadline = time.monotonic() + patience_s
        quiet_share = min(QUIET_SHARE, QUIET_CORES / (os.cpu_count() or 1))
        last = self._machine.cpu_time()
        while True:
            await asyncio.sleep(SAMPLE_S)
            now = self._machine.cpu_time()
            if busy_share(last, now) < quiet_share or time.monotonic() >= deadline:
                return
            last = now

    async def begin(self, gpus: tuple[str, ...]) -> None:
        self._gpus = gpus
        deadline = time.monotonic() + GPU_REST_S
        self._before = await self._read()
        while any(map(_is_busy, self._before.gpus.values())) and time.monotonic() < deadline:
            await asyncio.sleep(GPU_POLL_S)
            self._before = await self._read()

    async def end(self) -> tuple[str, ...]:
        """Why the window since `begin` was disturbed."""
        return disturbances(self._before, await self._read())

    async def _read(self) -> Reading:
        return await asyncio.to_thread(self._machine.reading, self._gpus)


def busy_share(before: CpuTime, after: CpuTime) -> float:
    total_s = after.total_s - before.total_s
    return max(0.0, (after.busy_s - before.busy_s) / total_s) if total_s > 0 else 0.0


def disturbances(before: Reading, after: Reading) -> tuple[str, ...]:
    """Between the two; each a clause for the user."""
    reasons = []
    if after.throttled > before.throttled:
        reasons.append("the processor was throttled (too hot)")
    if after.swapped_bytes - before.swapped_bytes > SWAPPED_BYTES:
        reasons.append("the machine was short of memory and swapped")
    if after.asleep_s - before.asleep_s > ASLEEP_S:
        reasons.append("the machine was suspended")
    for gpu, then in after.gpus.items():
        reasons += _on_gpu(before.gpus.get(gpu, GpuState()), then)
    return tuple(dict.fromkeys(reasons))


def _on_gpu(before: GpuState, after: GpuState) -> list[str]:
    """The holder itself, and what is frozen, was there from the beginning."""
    throttling = dict.fromkeys((*before.throttling, *after.throttling))
    reasons = [f"the GPU was throttled ({why})" for why in throttling]
    if _is_busy(before):
        reasons.append("the GPU was busy with something else")
    if after.processes - before.processes:
        reasons.append("another program began to use the GPU")
    return reasons


def _is_busy(gpu: GpuState) -> bool:
    return gpu.busy is not None and gpu.busy >= QUIET_SHARE
