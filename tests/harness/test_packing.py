"""Where cells go: slots, memory, GPUs, and the order."""

from __future__ import annotations

import pytest

from harness.estimates import Estimate
from harness.executors import Capacity, Gpu
from harness.packing import PASSED_OVER, Packer, Placed, Slot
from runner.contract import Device

FREE: dict[str, int] = {}


def packer(cores: int = 2, jobs: int | None = None, memory_mb: int | None = 1000, gpus: tuple[Gpu, ...] = ()) -> Packer:
    return Packer(Capacity(tuple(range(cores)), memory_mb, gpus), jobs, memory_mb=memory_mb)


def add(
    packer: Packer, cell: str, seconds: float = 1, memory: int = 100, device: Device = "cpu", on_gpu: int = 0
) -> None:
    packer.add(cell, device, Estimate(memory_mb=memory, device_mb=on_gpu, seconds=seconds))


def placed(packer: Packer, free: dict[str, int] = FREE) -> list[str]:
    """Everything that starts now."""
    started = []
    while (one := packer.place(free)) is not None:
        started.append(one.cell)
    return started


def test_one_single_threaded_cell_on_each_core_by_default() -> None:
    p = packer(cores=4)
    for name in "abcde":
        add(p, name)
    slots = [p.place(FREE) for _ in range(5)]
    assert slots == [Placed(name, Slot(1, (core,), 100)) for name, core in zip("abcd", range(4), strict=True)] + [None]
    assert (p.jobs, p.threads, len(p)) == (4, 1, 1)


@pytest.mark.parametrize(
    ("jobs", "threads", "cores"),
    [
        (1, 4, [(0, 1, 2, 3)]),
        (2, 2, [(0, 1), (2, 3)]),
        (3, 1, [(0,), (1,), (2,)]),  # equal, so that their speeds compare
        (6, 1, [(0,), (1,), (2,), (3,), (0,), (1,)]),
    ],
)
def test_threads_follow_the_slot(jobs: int, threads: int, cores: list[tuple[int, ...]]) -> None:
    p = packer(cores=4, jobs=jobs)
    for number in range(8):
        add(p, str(number))
    slots = []
    while (one := p.place(FREE)) is not None:
        slots.append(one.slot)
    assert [slot.threads for slot in slots] == [threads] * jobs
    assert sorted(slot.cores for slot in slots) == sorted(cores)


def test_the_longest_first_and_equals_in_order() -> None:
    p = packer(cores=9)
    for name, seconds in (("a", 1.0), ("b", 5.0), ("c", 3.0), ("d", 5.0)):
        add(p, name, seconds)
    assert placed(p) == ["b", "d", "c", "a"]


def test_a_released_slot_is_used_again() -> None:
    p = packer(cores=1)
    add(p, "a")
    add(p, "b")
    assert placed(p) == ["a"]
    p.release("a")
    assert p.place(FREE) == Placed("b", Slot(1, (0,), 100))


def test_memory_is_shared_and_smaller_cells_go_ahead() -> None:
    p = packer(cores=4, memory_mb=1000)
    add(p, "large", 9, memory=700)
    add(p, "too", 8, memory=400)
    add(p, "small", 1, memory=300)
    assert placed(p) == ["large", "small"]
    p.release("large")
    assert placed(p) == ["too"]


def test_a_cell_that_is_passed_over_often_gets_room() -> None:
    p = packer(cores=2, memory_mb=1000)
    add(p, "first", 9, memory=300)
    placed(p)
    add(p, "large", 8, memory=950)
    for number in range(PASSED_OVER):
        add(p, f"s{number}", 1, memory=100)
        assert placed(p) == [f"s{number}"]
        p.release(f"s{number}")
    add(p, "later", 1, memory=100)
    assert placed(p) == []
    p.release("first")
    assert placed(p) == ["large"]


def test_alone_a_cell_may_take_more_than_there_is() -> None:
    """Whoever overcommits asked for it; nothing waits for ever."""
    p = packer(memory_mb=1000)
    add(p, "huge", memory=5000)
    add(p, "small", memory=10)
    assert placed(p) == ["huge"]


def test_cpu_cells_do_not_wait_behind_gpu_cells_nor_the_reverse() -> None:
    p = packer(cores=1, gpus=(Gpu("g", "card", 1000),))
    for number in range(3):
        add(p, f"gpu{number}", 9, device="cuda", on_gpu=900, memory=10)
        add(p, f"cpu{number}", 1, memory=10)
    assert sorted(placed(p)) == ["cpu0", "gpu0"]


def test_several_cells_on_a_gpu_where_they_fit_and_the_emptiest_first() -> None:
    p = packer(cores=4, memory_mb=None, gpus=(Gpu("a", "card", 1000), Gpu("b", "card", 2000)))
    for number in range(4):
        add(p, str(number), device="cuda", on_gpu=900, memory=1)
    slots = []
    while (one := p.place(FREE)) is not None:
        slots.append(one.slot.gpu)
    assert sorted(filter(None, slots)) == ["a", "b", "b"]
    assert slots[0] == "b"


def test_what_the_driver_says_is_free_counts() -> None:
    p = packer(gpus=(Gpu("a", "card", 1000), Gpu("b", "card", 1000)))
    add(p, "x", device="cuda", on_gpu=500)
    assert placed(p, {"a": 100, "b": 400}) == []
    one = p.place({"a": 100, "b": 900})
    assert one is not None
    assert (one.slot.gpu, one.slot.cores, one.slot.device_mb) == ("b", (), 500)


def test_a_gpu_of_unknown_memory_takes_one_cell() -> None:
    p = packer(gpus=(Gpu("a", "card", None),))
    add(p, "x", device="cuda", on_gpu=500)
    add(p, "y", device="cuda", on_gpu=1)
    assert placed(p) == ["x"]
    p.release("x")
    assert placed(p) == ["y"]


def test_jobs_limit_gpu_cells_and_metal_takes_one() -> None:
    p = packer(jobs=1, gpus=(Gpu("a", "card", 9000),))
    for name in "xy":
        add(p, name, device="cuda", on_gpu=10)
    assert placed(p) == ["x"]
    p = packer()
    for name in "xy":
        add(p, name, device="mps")
    assert placed(p) == ["x"]


def test_memory_that_others_have_yet_to_take_is_not_given_twice() -> None:
    """80 GB, of which something else uses 40: one cell of 30 fits, however often the driver is asked."""
    p = packer(cores=4, memory_mb=None, gpus=(Gpu("a", "card", 80_000),))
    for name in "xyz":
        add(p, name, device="cuda", on_gpu=30_000, memory=1)
    assert placed(p, {"a": 40_000}) == ["x"]
    assert placed(p, {"a": 40_000}) == []
    p.settle("x")
    assert placed(p, {"a": 10_000}) == []
    assert placed(p, {"a": 45_000}) == ["y"], "the other program went away, and x has what it needs"


def test_a_cell_of_one_queue_does_not_starve_behind_another_queue() -> None:
    p = packer(cores=1, memory_mb=10_000, gpus=(Gpu("g", "card", None), Gpu("h", "card", None)))
    for number in range(3 * PASSED_OVER):
        add(p, f"gpu{number}", 9, device="cuda", on_gpu=10, memory=5000)
    running = placed(p)
    add(p, "cpu", 1, memory=6000)
    started = list(running)
    while "cpu" not in started:
        p.release(running.pop(0))
        running += (now := placed(p))
        started += now
        assert running, "something always runs"
    assert len(started) <= PASSED_OVER + 4


def test_a_queue_can_be_emptied() -> None:
    p = packer(cores=1)
    add(p, "a")
    p.clear()
    assert len(p) == 0
