"""Which cell starts next, and where: slots for cores, memory and each GPU's memory. Pure: nothing asks the machine.

One queue per kind of device, the longest cell first, so that no long one is left alone at the end. Cells on the CPU and
cells on a GPU have slots of their own: neither waits behind the other, but they share the memory of the machine.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.estimates import Estimate
from harness.executors import Capacity
from runner.contract import Device

LOOKED_AT = 64  # cells of a queue, when the first does not fit
PASSED_OVER = 32  # so often smaller cells may start before one that waits for memory; then room is made for it
GPU_THREADS = 8  # at most: what feeds a GPU gains nothing from more
GPU_SPARE = 1.05  # free memory wanted, over what is estimated

FreeMemory = Mapping[str, int]  # MB free by GPU id, as the driver says now; a GPU that lacks is not known


@dataclass(frozen=True)
class Slot:
    """Where a cell runs. `cores`: it is kept on these; (): on any. `memory_mb`, `device_mb`: what is set aside."""

    threads: int
    cores: tuple[int, ...] = ()
    memory_mb: int = 0
    gpu: str | None = None
    device_mb: int = 0


@dataclass(frozen=True)
class Placed:
    cell: str
    slot: Slot


@dataclass(order=True)
class _Waiting:
    rank: tuple[float, int]
    cell: str = field(compare=False)
    needs: Estimate = field(compare=False)
    passed_over: int = field(default=0, compare=False)

    @property
    def is_starved(self) -> bool:
        return self.passed_over >= PASSED_OVER


class Packer:
    """Takes cells and hands out places. `jobs`: at a time on the CPU; None: one for each core, as many as memory takes.

    Where cells cannot be held to a memory limit, or no memory is known, what they are estimated to need is set aside.
    """

    def __init__(self, capacity: Capacity, jobs: int | None, *, memory_mb: int | None) -> None:
        """`memory_mb`: of all cells together; None: not limited."""
        cores = capacity.cores
        self.jobs = jobs or len(cores)
        self.threads = max(1, len(cores) // self.jobs)
        self._groups = [_group(cores, number, self.threads) for number in range(self.jobs)][::-1]
        self._memory_mb = memory_mb
        self._gpus = {gpu.id: gpu.memory_mb for gpu in capacity.gpus}
        self._gpu_threads = max(1, min(GPU_THREADS, len(cores) // max(1, len(capacity.gpus))))
        self._gpu_jobs = jobs
        self._queues: dict[Device, list[_Waiting]] = {"cuda": [], "mps": [], "cpu": []}
        self._placed: dict[str, tuple[Device, Slot]] = {}
        self._settled: set[str] = set()
        self._added = 0

    def __len__(self) -> int:
        """Cells that wait for a place."""
        return sum(map(len, self._queues.values()))

    @property
    def waits_for_a_gpu(self) -> bool:
        return bool(self._queues["cuda"])

    def add(self, cell: str, device: Device, needs: Estimate) -> None:
        self._added += 1
        insort(self._queues[device], _Waiting((-needs.seconds, self._added), cell, needs))

    def clear(self) -> None:
        for queue in self._queues.values():
            queue.clear()

    def place(self, free_mb: FreeMemory) -> Placed | None:
        """The next cell that can start now, its slot taken; None where none can. Cells that memory alone keeps waiting
        may be overtaken, by those of any queue, but not for ever."""
        fitting: list[tuple[Device, _Waiting, Slot]] = []  # the first of each queue
        short: list[_Waiting] = []  # of memory
        for device, queue in self._queues.items():
            for waiting in queue[:LOOKED_AT]:
                slot = self._slot(device, waiting.needs, free_mb)
                if slot is None:
                    continue
                if self._has_memory(slot.memory_mb):
                    fitting.append((device, waiting, slot))
                    break
                short.append(waiting)
        if not fitting or any(waiting.is_starved for waiting in short):
            return None
        device, chosen, slot = max(fitting, key=lambda one: one[1].is_starved)
        self._queues[device].remove(chosen)
        for waiting in short:
            waiting.passed_over += 1
        self._placed[chosen.cell] = (device, slot)
        if device == "cpu":
            self._groups.remove(slot.cores)
        return Placed(chosen.cell, slot)

    def settle(self, cell: str) -> None:
        """It has taken the memory that it needs: from now on the driver counts it."""
        self._settled.add(cell)

    def release(self, cell: str) -> None:
        device, slot = self._placed.pop(cell)
        self._settled.discard(cell)
        if device == "cpu":
            self._groups.append(slot.cores)
            self._groups.sort(reverse=True)

    def _slot(self, device: Device, needs: Estimate, free_mb: FreeMemory) -> Slot | None:
        """Without regard to the machine's memory."""
        if device == "cpu":
            return Slot(self.threads, self._groups[-1], needs.memory_mb) if self._groups else None
        running = {cell: slot for cell, (kind, slot) in self._placed.items() if kind == device}
        if self._gpu_jobs is not None and len(running) >= self._gpu_jobs:
            return None
        if device == "mps":
            return Slot(self._gpu_threads, memory_mb=needs.memory_mb) if not running else None
        gpu = self._gpu_for(needs, running, free_mb)
        return Slot(self._gpu_threads, (), needs.memory_mb, gpu, needs.device_mb) if gpu is not None else None

    def _has_memory(self, wanted_mb: int) -> bool:
        """A cell that runs alone is let try, whatever is estimated: what cannot fit was refused before."""
        taken = sum(slot.memory_mb for _, slot in self._placed.values())
        return self._memory_mb is None or not self._placed or taken + wanted_mb <= self._memory_mb

    def _gpu_for(self, needs: Estimate, running: Mapping[str, Slot], free_mb: FreeMemory) -> str | None:
        """The GPU with the most room, if the cell fits there by plan and by what the driver says is free, of which
        those that have just been placed will take theirs yet. Where nothing is known of a GPU's memory it takes one
        cell."""
        best: tuple[int, str] | None = None
        for gpu, total_mb in self._gpus.items():
            there = {cell: slot.device_mb for cell, slot in running.items() if slot.gpu == gpu}
            if total_mb is None or not needs.device_mb:
                if not there:
                    return gpu
                continue
            room = total_mb - sum(there.values())
            if gpu in free_mb:
                room = min(room, free_mb[gpu] - sum(mb for cell, mb in there.items() if cell not in self._settled))
            alone = not there and gpu not in free_mb
            if (alone or room >= needs.device_mb * GPU_SPARE) and (best is None or room > best[0]):
                best = (room, gpu)
        return best[1] if best else None


def _group(cores: tuple[int, ...], number: int, size: int) -> tuple[int, ...]:
    """The cores of one slot: apart from those of others, as long as there are enough."""
    start = number * size
    return tuple(cores[(start + i) % len(cores)] for i in range(size))
