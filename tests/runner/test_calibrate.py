"""A/A windows of a real small model, with less to do in each than a cell has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import runner.__main__ as program
from runner import calibrate as calibration
from runner import timing
from runner.contract import EvaluationSpec, Failure, Latency, Timing, read
from runner.errors import RunnerError

QUICK = EvaluationSpec(
    windows=2,
    warmup_requests=1,
    min_requests=6,
    max_requests=6,
    latency_min_s=0.0,
    latency_max_s=0.0,
    throughput_batch_sizes=(1, 4),
    throughput_texts=8,
    throughput_min_s=0.0,
)


@pytest.fixture(autouse=True)
def _same_cores_afterwards() -> Iterator[None]:
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else this machine does."""
    monkeypatch.setattr(timing._ForeignLoad, "_read", staticmethod(lambda: (0.0, 0.0, 0.0)))


@pytest.mark.usefixtures("quiet")
def test_each_window_does_what_one_of_a_cell_does_on_the_same_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    read_texts: list[Sequence[str]] = []
    predict = calibration.TransformerPredictor.predict

    def watched(self: Any, texts: Sequence[str], *arguments: Any) -> Any:
        read_texts.append(tuple(texts))
        return predict(self, texts, *arguments)

    monkeypatch.setattr(calibration.TransformerPredictor, "predict", watched)
    timed = calibration.calibrate(3, QUICK)
    assert [(w.number, w.block, w.requests, w.counted) for w in timed.windows] == [
        (number, number, 3, True) for number in (1, 2, 3)
    ]
    assert timed.latency.requests == len(timed.latency.samples_ms) == 9
    assert [(t.batch_size, t.samples) for t in timed.throughput] == [(1, 12), (4, 12)]
    assert (timed.cold_start_s, timed.contaminated) == (None, None)
    per_window = 1 + 3 + (1 + 4) + (1 + 1)
    assert len(read_texts) == 3 * per_window
    assert read_texts[:per_window] == read_texts[per_window : 2 * per_window] == read_texts[2 * per_window :]
    assert len(set(read_texts[1:4])) == 3


@pytest.mark.usefixtures("quiet")
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system keeps no process on a core")
def test_it_runs_on_one_core_with_one_thread() -> None:
    import torch

    torch.set_num_threads(2)
    cores = os.sched_getaffinity(0)
    calibration.calibrate(1, QUICK)
    assert os.sched_getaffinity(0) == {max(cores)}
    assert torch.get_num_threads() == 1


def test_the_texts_are_those_that_come_with_the_program() -> None:
    train, test = calibration._texts("train"), calibration._texts("test")
    assert len(train) > len(test) > 100
    assert not set(train) & set(test)


def test_the_command_writes_the_timing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str]] = []
    timed = Timing(latency=Latency(requests=2, mean_ms=1.5, std_ms=0.7), throughput=(), cold_start_s=None)

    def calibrate(windows: int) -> Timing:
        asked.append((windows, os.environ["OMP_NUM_THREADS"]))
        return timed

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    assert program.main(["calibrate", "--out", str(tmp_path / "out.json"), "--windows", "7"]) == 0
    assert asked == [(7, "1")]
    assert read(tmp_path / "out.json", Timing) == timed


def test_a_failure_is_written_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(windows: int) -> Timing:
        raise RunnerError("environment", "torch is not here", "install it")

    monkeypatch.setattr(calibration, "calibrate", broken)
    assert program.main(["calibrate", "--out", str(tmp_path / "out.json"), "--windows", "7"]) == 1
    failure = read(tmp_path / "out.json", Failure)
    assert (failure.kind, failure.message) == ("environment", "torch is not here")
