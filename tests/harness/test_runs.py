from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import InputError
from harness.executors import Capacity
from harness.executors.native import NativeExecutor
from harness.runs import PIDS, RunOptions, limits_of
from runner.contract import Limits
from tests.harness.theatre import Theatre


class Containers(Theatre):
    name = "docker"

    def __init__(self, cores: int, memory_mb: int | None) -> None:
        super().__init__()
        self.capacity = Capacity(cores, memory_mb)


def options(**changes: object) -> RunOptions:
    return RunOptions(Path("results"), **changes)  # type: ignore[arg-type]


def test_native_cells_are_held_to_time_alone() -> None:
    assert limits_of(options(seconds=90.0, jobs=2), NativeExecutor()) == Limits(seconds=90.0)
    with pytest.raises(InputError) as caught:
        limits_of(options(memory_mb=100), NativeExecutor())
    assert "--executor docker" in caught.value.hint


@pytest.mark.parametrize(
    ("jobs", "memory_mb", "cpus"), [(1, 9000, 8.0), (2, 4500, 4.0), (3, 3000, 2.0), (16, 562, 1.0)]
)
def test_containers_share_what_the_engine_has(jobs: int, memory_mb: int, cpus: float) -> None:
    found = limits_of(options(jobs=jobs), Containers(8, 10_000))
    assert found == Limits(memory_mb=memory_mb, cpus=cpus, pids=PIDS)


def test_what_is_asked_for_stands() -> None:
    found = limits_of(options(memory_mb=200, seconds=60.0, jobs=2), Containers(8, 10_000))
    assert found == Limits(memory_mb=200, cpus=4.0, pids=PIDS, seconds=60.0)


def test_an_engine_that_does_not_say_what_it_has() -> None:
    assert limits_of(options(), Containers(4, None)).memory_mb is None
