"""The cell's own time, with a clock that a test moves and the file in which the host counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner import clock as clocks
from runner.clock import ActiveClock, per_second
from runner.contract import FROZEN_FILE, write_atomic


class Hand:
    """What `perf_counter` says."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Hand:
    hand = Hand()
    monkeypatch.setattr("runner.clock.time.perf_counter", hand)
    return hand


def freeze(folder: Path, content: str) -> None:
    write_atomic(folder / FROZEN_FILE, content.encode())


def test_frozen_seconds_do_not_count(tmp_path: Path, hand: Hand) -> None:
    clock = ActiveClock(tmp_path)
    hand.s += 5
    assert clock() == 5
    hand.s += 10
    freeze(tmp_path, "7.5")
    assert clock() == 7.5
    hand.s += 4
    freeze(tmp_path, "10")
    assert clock() == 9


def test_what_lay_there_before_is_no_part_of_its_time(tmp_path: Path, hand: Hand) -> None:
    freeze(tmp_path, "100.0")
    clock = ActiveClock(tmp_path)
    hand.s += 5
    assert clock() == 5
    hand.s += 5
    freeze(tmp_path, "103")
    assert clock() == 7


@pytest.mark.parametrize("garbage", ["", "seven", "null", '"7"', "-50", "1e999", "NaN", "[1]", "\xff", "1" * 100])
def test_garbage_counts_as_nothing(garbage: str, tmp_path: Path, hand: Hand) -> None:
    clock = ActiveClock(tmp_path)
    freeze(tmp_path, garbage)
    hand.s += 3
    assert clock() == 3
    freeze(tmp_path, "2")
    hand.s += 1
    assert clock() == 3  # 4 - 2 would go back
    freeze(tmp_path, garbage)
    hand.s += 5
    assert clock() == 7  # the 2 were told and stay


def test_a_link_is_not_followed(tmp_path: Path, hand: Hand) -> None:
    clock = ActiveClock(tmp_path)
    (tmp_path / "elsewhere").write_text("2")
    (tmp_path / FROZEN_FILE).symlink_to(tmp_path / "elsewhere")
    hand.s += 3
    assert clock() == 3


def test_it_never_goes_back(tmp_path: Path, hand: Hand) -> None:
    """Told late, that it was frozen for longer than it knew, or for longer than it has lived."""
    clock = ActiveClock(tmp_path)
    hand.s += 10
    assert clock() == 10
    freeze(tmp_path, "1000")
    hand.s += 1
    assert clock() == 10


def test_the_file_is_read_only_when_it_has_changed(tmp_path: Path, hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    real = clocks.open_plain
    monkeypatch.setattr(clocks, "open_plain", lambda path, limit: (opened.append(path), real(path, limit))[1])
    clock = ActiveClock(tmp_path)
    freeze(tmp_path, "1")
    for _ in range(5):
        clock()
    assert len(opened) == 1
    os.utime(tmp_path / FROZEN_FILE, ns=(0, 0))
    clock()
    assert len(opened) == 2


def test_a_rate_without_time_is_unknown() -> None:
    assert per_second(10, 4) == 2.5
    assert per_second(10, 0) is None
