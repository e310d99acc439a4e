"""How long an attempt has taken, and what it is told of its own standing still."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from harness.attempts import Clock, Running
from harness.executors import Exit
from harness.store import AttemptPaths
from runner.contract import FROZEN_FILE, Limits
from tests.harness.builders import cell


class Now:
    """A monotonic clock that tests move."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    clock = Now()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def ran_out(clock: Clock, *, standing: bool = False) -> bool:
    clock.advance(standing=standing)
    return clock.has_run_out()


def test_the_whole_and_each_phase_have_limits(now: Now) -> None:
    clock = Clock(Limits(seconds=100, phase_seconds={"train": 50}))
    clock.enter("load")
    now.s += 60
    assert not ran_out(clock, standing=False)
    clock.enter("train")
    now.s += 30
    assert not ran_out(clock, standing=False)
    now.s += 11
    assert ran_out(clock, standing=False)
    assert clock.over is not None
    assert (clock.over.cause, "100 s" in clock.over.detail) == ("timeout", True)
    assert not ran_out(clock, standing=False), "told once"


def test_a_phase_has_its_own_time(now: Now) -> None:
    clock = Clock(Limits(phase_seconds={"train": 50}))
    clock.enter("train")
    now.s += 49
    assert not ran_out(clock, standing=False)
    clock.enter("train")  # of the next attempt, say
    now.s += 51
    assert ran_out(clock, standing=False)
    assert clock.over is not None
    assert "'train'" in clock.over.detail


def test_standing_still_does_not_count(now: Now) -> None:
    clock = Clock(Limits(seconds=10))
    now.s += 9
    assert not ran_out(clock, standing=False)
    now.s += 1000
    assert not ran_out(clock, standing=True)
    now.s += 2
    assert ran_out(clock, standing=False)


def test_no_limits_no_end(now: Now) -> None:
    clock = Clock(Limits())
    now.s += 1e9
    assert not ran_out(clock, standing=False)


class Still:
    """A handle that can be frozen, or not."""

    def __init__(self, works: bool = True) -> None:
        self.works, self.frozen, self.seen_at_thaw = works, False, -1.0
        self.folder = Path()

    async def wait(self) -> Exit:
        return Exit(code=0)

    async def stop(self, grace_s: float) -> None: ...

    async def freeze(self) -> bool:
        self.frozen = self.works
        return self.works

    async def thaw(self) -> None:
        self.seen_at_thaw = msgspec.json.decode((self.folder / FROZEN_FILE).read_bytes())
        self.frozen = False


def test_a_cell_is_told_how_long_it_stood_still_before_it_goes_on(tmp_path: Path, now: Now) -> None:
    handle = Still()
    handle.folder = tmp_path
    one = Running(cell(limits=Limits(seconds=5)), AttemptPaths(tmp_path, 1), handle)

    async def twice() -> None:
        for seconds in (3.0, 4.0):
            assert await one.freeze()
            assert one.is_frozen
            now.s += seconds
            await one.thaw()
            assert not one.is_frozen

    asyncio.run(twice())
    assert handle.seen_at_thaw == 7.0
    assert not ran_out(one.clock), "7 s of 5 s, all of them frozen"


def test_what_cannot_be_frozen_is_not_frozen(tmp_path: Path) -> None:
    one = Running(cell(), AttemptPaths(tmp_path, 1), Still(works=False))
    assert not asyncio.run(one.freeze())
    assert not one.is_frozen


def test_a_limit_that_is_passed_just_before_it_is_frozen_is_not_lost(tmp_path: Path, now: Now) -> None:
    handle = Still()
    handle.folder = tmp_path
    one = Running(cell(limits=Limits(seconds=5)), AttemptPaths(tmp_path, 1), handle)

    async def freeze_late() -> None:
        now.s += 6.0
        await one.freeze()
        await one.thaw()

    asyncio.run(freeze_late())
    assert ran_out(one.clock)
