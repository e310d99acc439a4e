"""What a cell will need: memory, disk, time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Basis = Literal["measured", "similar", "computed"]


@dataclass(frozen=True)
class Estimate:
    """Peaks of one cell in MB (2**20 bytes), and seconds from its start to its result. `device_mb`: on the GPU; 0 on
    the CPU. `disk_mb`: while it runs. `basis`: results of the same cell (of another seed), of similar ones, or none."""

    memory_mb: int = 0
    device_mb: int = 0
    disk_mb: int = 0
    seconds: float = 0.0
    basis: Basis = "computed"
