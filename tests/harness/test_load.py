"""What disturbed a window, from readings of the machine; a machine of our own, and this one."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from harness import load
from harness.gpus import GpuState
from harness.load import CpuTime, LoadWatch, Reading, ThisMachine, busy_share, disturbances

BEFORE = Reading(throttled=3, swapped_bytes=10, asleep_s=5.0, gpus={"0": GpuState(0.0, (), frozenset({1, 2}))})


def on_gpu(**changes: object) -> Reading:
    return replace(BEFORE, gpus={"0": replace(BEFORE.gpus["0"], **changes)})


@pytest.mark.parametrize(
    ("after", "reasons"),
    [
        (BEFORE, ()),
        (replace(BEFORE, throttled=4), ("the processor was throttled (too hot)",)),
        (replace(BEFORE, swapped_bytes=10 + 2**20), ()),
        (replace(BEFORE, swapped_bytes=11 + 2**20), ("the machine was short of memory and swapped",)),
        (replace(BEFORE, asleep_s=5.01), ()),
        (replace(BEFORE, asleep_s=65.0), ("the machine was suspended",)),
        (on_gpu(throttling=("too hot",)), ("the GPU was throttled (too hot)",)),
        (on_gpu(busy=1.0), ()),  # by the cell
        (on_gpu(processes=frozenset({2})), ()),  # another has ended
        (on_gpu(processes=frozenset({1, 2, 3})), ("another program began to use the GPU",)),
    ],
)
def test_what_disturbs(after: Reading, reasons: tuple[str, ...]) -> None:
    assert disturbances(BEFORE, after) == reasons


def test_a_gpu_that_was_unwell_before(monkeypatch: pytest.MonkeyPatch) -> None:
    before = on_gpu(busy=0.5, throttling=("too hot",))
    assert disturbances(before, BEFORE) == (
        "the GPU was throttled (too hot)",
        "the GPU was busy with something else",
    )


def test_the_share_of_all_cores() -> None:
    assert busy_share(CpuTime(10.0, 100.0), CpuTime(10.5, 102.0)) == 0.25
    assert busy_share(CpuTime(10.0, 100.0), CpuTime(10.0, 100.0)) == 0.0  # no tick between them


class PlayedMachine:
    """Busy so far in each step; GPU "0" as it is told."""

    def __init__(self, shares: list[float] | None = None, gpu: list[float] | None = None) -> None:
        self.shares = shares or []
        self.gpu = gpu or []
        self.asked: list[tuple[str, ...]] = []
        self._time = CpuTime(0.0, 0.0)

    def cpu_time(self) -> CpuTime:
        now = self._time
        share = self.shares.pop(0) if self.shares else 0.9
        self._time = CpuTime(now.busy_s + share, now.total_s + 1.0)
        return now

    def reading(self, gpus: tuple[str, ...]) -> Reading:
        self.asked.append(gpus)
        return Reading(gpus={gpu: GpuState(self.gpu.pop(0) if self.gpu else 0.0) for gpu in gpus})


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SAMPLE_S", "GPU_POLL_S"):
        monkeypatch.setattr(load, name, 0.001)


def test_it_waits_until_the_machine_is_quiet() -> None:
    machine = PlayedMachine([0.9, 0.5, 0.1, 0.09])
    asyncio.run(LoadWatch(machine).quiet(5.0))
    assert machine.shares == []


def test_on_many_cores_one_that_is_busy_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    machine = PlayedMachine([0.06, 0.06, 0.01, 0.5, 0.5])
    asyncio.run(LoadWatch(machine).quiet(5.0))
    assert machine.shares == [0.5]


def test_it_does_not_wait_for_ever() -> None:
    asyncio.run(asyncio.wait_for(LoadWatch(PlayedMachine()).quiet(0.01), 5))


def window(machine: PlayedMachine, *gpus: str) -> tuple[str, ...]:
    async def work() -> tuple[str, ...]:
        watch = LoadWatch(machine)
        await watch.begin(gpus)
        return await watch.end()

    return asyncio.run(work())


def test_a_gpu_is_let_come_to_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = PlayedMachine(gpu=[0.9, 0.4, 0.0, 1.0])
    assert window(machine, "0") == ()
    assert machine.asked == [("0",)] * 4
    monkeypatch.setattr(load, "GPU_REST_S", 0.01)
    assert window(PlayedMachine(gpu=[0.9] * 1000), "0") == ("the GPU was busy with something else",)


def test_gpus_are_asked_only_for_cells_that_have_one() -> None:
    machine = PlayedMachine()
    assert window(machine) == ()
    assert machine.asked == [(), ()]


def test_where_the_system_counts(tmp_path: Path) -> None:
    for core, count in enumerate(("2\n", "3\n", "broken")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{core}/thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(count)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/vmstat").write_text("pswpin 2\npgfault 5\npswpout 1\n")
    found = ThisMachine(tmp_path).reading(())
    assert found.throttled == 5
    assert found.swapped_bytes == 3 * load.os.sysconf("SC_PAGE_SIZE")


def test_this_machine_can_be_read() -> None:
    machine = ThisMachine()
    first = machine.cpu_time()
    assert 0.0 < first.busy_s < first.total_s
    reading = machine.reading(())
    assert disturbances(reading, reading) == ()
