"""Memory of this process and its device, in MB (2**20 bytes)."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path

import msgspec

from runner.contract import Device, Memory

MB = 2**20
_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def rss_mb() -> float:
    """Resident memory now."""
    import psutil

    return float(psutil.Process().memory_info().rss) / MB


def give_back() -> None:
    """Return freed memory to the system, so that what training left behind is not counted as inference's. The C
    library keeps it otherwise; only glibc can be asked."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def larger(one: Memory, other: Memory) -> Memory:
    """Of each figure; one that is not known of both is not known."""
    both = zip(msgspec.structs.asdict(one).items(), msgspec.structs.astuple(other), strict=True)
    return Memory(**{name: max(a, b) for (name, a), b in both if a is not None and b is not None})


class PeakMeter:
    """Peaks since the last `reset`. Resident peaks come from the kernel's own high-water mark, which Linux lets a
    process reset (proc(5), clear_refs 5); elsewhere they are unknown, and `reason` says so."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.reason: str | None = None

    def reset(self) -> None:
        try:
            _CLEAR_REFS.write_text("5")
        except OSError as error:
            self.reason = f"this system cannot reset a process's peak memory ({error.strerror})"
        if self.device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()

    def peak_rss_mb(self) -> float | None:
        if self.reason is not None:
            return None
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024  # the kernel counts in KiB
        self.reason = "this kernel does not report VmHWM"
        return None

    def device_allocated_mb(self) -> float | None:
        if self.device == "cuda":
            import torch

            return torch.cuda.memory_allocated() / MB
        if self.device == "mps":
            import torch

            return torch.mps.current_allocated_memory() / MB
        return None

    def device_peak_mb(self) -> float | None:
        """CUDA only: Metal keeps no peak."""
        if self.device != "cuda":
            return None
        import torch

        return torch.cuda.max_memory_allocated() / MB

    def training(self) -> Memory:
        """The peaks, as those of training."""
        return Memory(
            rss_peak_training_mb=self.peak_rss_mb(),
            device_peak_training_mb=self.device_peak_mb(),
            device_reserved_mb=self.device_reserved_mb(),
        )

    def device_reserved_mb(self) -> float | None:
        if self.device == "cuda":
            import torch

            return torch.cuda.max_memory_reserved() / MB
        if self.device == "mps":
            import torch

            return torch.mps.driver_allocated_memory() / MB
        return None
