"""What every cell may use, and its memory and time by its estimate."""

from __future__ import annotations

import pytest

from harness.errors import InputError
from harness.executors import Capacity
from harness.executors.native import NativeExecutor
from harness.request import NO_LIMIT, RunOptions
from harness.resolve import PIDS, limits_of
from runner.contract import Limits
from tests.harness.theatre import Theatre


class Containers(Theatre):
    name = "docker"
    capacity = Capacity(tuple(range(8)), 10_000, confines=True)


def test_native_cells_are_held_to_time_alone() -> None:
    options = RunOptions(seconds=90.0, phase_seconds={"train": 60.0})
    assert limits_of(options, NativeExecutor(), 1) == Limits(seconds=90.0, phase_seconds={"train": 60.0})
    with pytest.raises(InputError) as caught:
        limits_of(RunOptions(memory_mb=100), NativeExecutor(), 1)
    assert "--executor docker" in caught.value.hint


def test_containers_are_held_to_cores_and_processes_too() -> None:
    assert limits_of(RunOptions(), Containers(), 2) == Limits(cpus=2.0, pids=PIDS)
    asked = RunOptions(memory_mb=200, seconds=NO_LIMIT)
    assert limits_of(asked, Containers(), 1) == Limits(memory_mb=200, cpus=1.0, pids=PIDS)
