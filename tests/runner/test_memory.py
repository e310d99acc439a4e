"""Memory figures: real ones for this process, small fakes for GPUs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from runner import memory
from runner.memory import MB, PeakMeter, rss_mb

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's high-water mark can be reset on Linux only")
BLOCK_MB = 96


def _touch(megabytes: int) -> None:
    np.ones(megabytes * MB, dtype=np.uint8).sum()


def test_resident_memory_is_in_megabytes() -> None:
    import psutil

    before = rss_mb()
    block = np.ones(BLOCK_MB * MB, dtype=np.uint8)
    assert rss_mb() - before == pytest.approx(BLOCK_MB, abs=24)
    assert rss_mb() == pytest.approx(psutil.Process().memory_info().rss / 2**20, rel=0.05)
    del block


@linux
def test_the_peak_is_that_since_the_last_reset() -> None:
    meter = PeakMeter("cpu")
    meter.reset()
    if meter.reason:
        pytest.skip(meter.reason)
    start = rss_mb()
    _touch(BLOCK_MB)
    peak = meter.peak_rss_mb()
    assert peak is not None
    assert peak - start > BLOCK_MB * 0.75
    assert rss_mb() < peak - BLOCK_MB * 0.5  # given back by now
    meter.reset()
    fresh = meter.peak_rss_mb()
    assert fresh is not None
    assert fresh < peak - BLOCK_MB * 0.5


def test_a_peak_that_cannot_be_reset_is_null_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "missing" / "clear_refs")
    meter = PeakMeter("cpu")
    meter.reset()
    assert meter.peak_rss_mb() is None
    assert "cannot reset" in str(meter.reason)


@pytest.mark.parametrize(("status", "peak"), [("VmRSS:\t 9 kB\nVmHWM:\t 2048 kB\n", 2.0), ("Name:\tx\n", None)])
def test_reading_the_kernels_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, peak: float | None
) -> None:
    (tmp_path / "status").write_text(status)
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "clear_refs")
    meter = PeakMeter("cpu")
    meter.reset()
    assert (tmp_path / "clear_refs").read_text() == "5"
    assert meter.peak_rss_mb() == peak
    assert (meter.reason is None) is (peak is not None)


def test_cpu_has_no_device_memory() -> None:
    meter = PeakMeter("cpu")
    assert (meter.device_allocated_mb(), meter.device_peak_mb(), meter.device_reserved_mb()) == (None, None, None)


def test_cuda_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    resets: list[int] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: resets.append(1))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 3 * MB)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5 * MB)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 7 * MB)
    meter = PeakMeter("cuda")
    meter.reset()
    assert resets == [1]
    assert (meter.device_allocated_mb(), meter.device_peak_mb(), meter.device_reserved_mb()) == (3, 5, 7)


def test_metal_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 3 * MB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 7 * MB)
    meter = PeakMeter("mps")
    assert (meter.device_allocated_mb(), meter.device_peak_mb(), meter.device_reserved_mb()) == (3, None, 7)
