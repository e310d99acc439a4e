"""NVIDIA's GPUs, as nvidia-smi tells of them. Where it is not, or does not answer, there are none.

Every question blocks for as long as nvidia-smi takes (0.05 to 1 s); what it answers is read by pure functions.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from harness.executors import Gpu

PATIENCE_S = 10.0
# Bits of the mask of clocks_event_reasons that mean less speed than the card gives when it is well. That it is idle
# (0x1), was set to lower clocks (0x2, 0x10, 0x100), or has reached its ordinary power limit (0x4) is its normal work.
THROTTLING = {
    0x08: "slowed down by its hardware",
    0x20: "too hot",
    0x40: "too hot",
    0x80: "short of power",
}


@dataclass(frozen=True)
class GpuState:
    """`busy` is the share of the last moments in which anything ran there; None: not told."""

    busy: float | None = None
    throttling: tuple[str, ...] = ()
    processes: frozenset[int] = frozenset()


def list_gpus(*, by_index: bool = False) -> tuple[Gpu, ...]:
    """Those that CUDA_VISIBLE_DEVICES lets this process see. Their ids: what is unique to each card, or else its
    number."""
    found = parse_list(_ask("--query-gpu=index,uuid,name,memory.total"))
    seen = visible(found, os.environ.get("CUDA_VISIBLE_DEVICES"))
    return tuple(Gpu(one.index if by_index and one.index else one.id, one.name, one.memory_mb) for one in seen)


def free_mb() -> dict[str, int]:
    """Free memory by id and by number; a GPU that does not tell is left out."""
    return parse_free(_ask("--query-gpu=index,uuid,memory.free"))


def state_of(gpu: str) -> GpuState:
    busy = _ask("--query-gpu=utilization.gpu", gpu)
    # The older name first meets drivers that know no other; newer ones know both.
    reasons = _ask("--query-gpu=clocks_throttle_reasons.active", gpu) or _ask(
        "--query-gpu=clocks_event_reasons.active", gpu
    )
    return GpuState(
        busy=parse_share(busy),
        throttling=parse_throttling(reasons),
        processes=parse_processes(_ask("--query-compute-apps=pid", gpu)),
    )


def _ask(query: str, gpu: str | None = None) -> str:
    """CSV without a header; empty where there is no answer."""
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits", *(["-i", gpu] if gpu else [])]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace")


# --- what it says --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listed:
    index: str
    id: str
    name: str
    memory_mb: int | None


def parse_list(text: str) -> tuple[Listed, ...]:
    return tuple(Listed(index, id_, name, _number(memory)) for index, id_, name, memory in _rows(text, 4))


def visible(listed: tuple[Listed, ...], wanted: str | None) -> tuple[Listed, ...]:
    """As CUDA reads CUDA_VISIBLE_DEVICES: numbers or beginnings of ids, in that order, up to the first that is none. A
    part of a card (MIG) is taken as it is: nothing is known of its memory."""
    if wanted is None:
        return listed
    found: list[Listed] = []
    for entry in map(str.strip, wanted.split(",")):
        if entry.startswith("MIG-"):
            found.append(Listed("", entry, "a part of a GPU (MIG)", None))
            continue
        fitting = [one for one in listed if one.index == entry or (entry.startswith("GPU-") and _begins(one, entry))]
        if len(fitting) != 1:
            break
        found.append(fitting[0])
    return tuple(dict.fromkeys(found))


def _begins(one: Listed, entry: str) -> bool:
    return one.id.lower().startswith(entry.lower())


def parse_free(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for index, id_, memory in _rows(text, 3):
        free = _number(memory)
        if free is not None:
            found |= {index: free, id_: free}
    return found


def parse_share(text: str) -> float | None:
    percent = next((_number(row[0]) for row in _rows(text, 1)), None)
    return percent / 100 if percent is not None else None


def parse_processes(text: str) -> frozenset[int]:
    return frozenset(pid for row in _rows(text, 1) if (pid := _number(row[0])) is not None)


def parse_throttling(text: str) -> tuple[str, ...]:
    """Of a hexadecimal mask."""
    try:
        mask = int(text.strip(), 16)
    except ValueError:  # not supported, not told
        return ()
    return tuple(dict.fromkeys(why for bit, why in THROTTLING.items() if mask & bit))


def _rows(text: str, columns: int) -> Iterator[list[str]]:
    """A line that is none of a table (a warning, "No devices were found") is passed over."""
    for line in text.splitlines():
        row = [cell.strip() for cell in line.split(",")]
        if len(row) == columns and row[0]:
            yield row


def _number(cell: str) -> int | None:
    """None for "[N/A]", "[Not Supported]" and the like."""
    return int(cell) if cell.isascii() and cell.isdecimal() else None
