"""Speed figures, with predictors and a clock that do as they are told."""

from __future__ import annotations

import gc
from collections import namedtuple
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from runner import timing
from runner.contract import EvaluationSpec, Progress, Timing
from runner.timing import PERCENTILE_BOUNDS, ColdStart, cold_start, measure, percentile

TEXTS = [f"text {number} " + "word " * number for number in range(7)]
SPEC = EvaluationSpec(
    warmup_requests=4,
    min_requests=100,
    max_requests=1000,
    latency_min_s=2.0,
    latency_max_s=12.0,
    throughput_batch_sizes=(1, 4),
    throughput_texts=10,
    throughput_min_s=0.0,
    throughput_max_s=4.0,
)
COLD = ColdStart(seconds=3.1, first_request_ms=100.0)


class Clock:
    """Stands for the module `time`; moves only when told."""

    def __init__(self) -> None:
        self.now_ns = 5_000_000_000

    def perf_counter_ns(self) -> int:
        return self.now_ns

    def perf_counter(self) -> float:
        return self.now_ns / 1e9

    def time(self) -> float:
        return self.now_ns / 1e9

    def process_time(self) -> float:
        return 0.0


class Predictor:
    """Takes 100 ms for its first call and then `ms(call)` a text; reads as many tokens as words."""

    def __init__(self, clock: Clock, ms: Any = lambda call: 10) -> None:
        self.clock, self.ms = clock, ms
        self.calls: list[list[str]] = []
        self.collecting: list[bool] = []

    def predict(self, texts: Sequence[str], batch_size: int) -> NDArray[np.float64]:
        assert len(texts) <= batch_size
        ms = 100 if not self.calls else self.ms(len(self.calls)) * len(texts)
        self.calls.append(list(texts))
        self.collecting.append(gc.isenabled())
        self.clock.now_ns += int(ms * 1e6)
        return np.full((len(texts), 2), 0.5)

    def token_counts(self, texts: Sequence[str]) -> list[int] | None:
        self.clock.now_ns += 10**12  # counting must not be timed
        return [len(text.split()) for text in texts]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    return clock


def run(predictor: Any, events: list[Any] | None = None, **changes: Any) -> Timing:
    spec = msgspec.structs.replace(SPEC, **changes)
    emit = (lambda event: None) if events is None else events.append
    return measure(predictor, TEXTS, spec, cold=COLD, merged=True, emit=emit)


# --- percentiles ------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "bound"), [(50, 11), (90, 64), (95, 130), (99, 662)])
def test_a_percentile_is_withheld_below_its_bound(p: int, bound: int) -> None:
    assert PERCENTILE_BOUNDS[p] == bound
    samples = list(np.random.default_rng(0).exponential(size=bound))
    assert percentile(samples[:-1], p) is None
    assert percentile(samples, p) == pytest.approx(np.percentile(samples, p))


def test_latency_names_each_percentile_rightly(clock: Clock) -> None:
    latency = run(Predictor(clock, ms=lambda call: call % 100), latency_min_s=0.0, latency_max_s=99.0).latency
    assert latency.requests == 662
    found = (latency.p50_ms, latency.p90_ms, latency.p95_ms, latency.p99_ms)
    assert found == tuple(pytest.approx(np.percentile(latency.samples_ms, p)) for p in (50, 90, 95, 99))
    assert list(found) == sorted(set(found))


# --- latency ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ms", "changes", "requests"),
    [
        (10, {}, 662),  # 6.6 s: what a p99 needs is reached before latency_max_s
        (110, {}, 110),  # 12 s are up
        (1000, {}, 100),  # min_requests are a promise, however slow
        (1, {}, 1000),  # 1 s: max_requests before latency_min_s
        (1, {"max_requests": 10**6}, 2000),  # latency_min_s after the p99 is sure
        (10, {"max_requests": 300}, 300),
        (10, {"latency_max_s": 2.0}, 200),
        (10, {"min_requests": 800}, 800),
        (10, {"min_requests": 800, "max_requests": 50}, 50),
    ],
)
def test_when_requests_stop(clock: Clock, ms: float, changes: dict[str, Any], requests: int) -> None:
    latency = run(Predictor(clock, lambda call: ms), **changes).latency
    assert latency.requests == len(latency.samples_ms) == requests
    assert latency.mean_ms == pytest.approx(ms)


def test_cold_start_and_warm_up_stand_apart(clock: Clock) -> None:
    predictor = Predictor(clock, lambda call: 500 if call <= 3 else 10)  # the warm-up is slow
    timed = run(predictor)
    assert (timed.cold_start_s, timed.first_request_ms) == (3.1, 100.0)
    assert set(timed.latency.samples_ms) == {10.0}
    assert timed.merged is True


def test_cold_start_lasts_from_the_start_of_the_process(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    born = clock.time() - 7.0
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: born)
    predictor = Predictor(clock)
    assert cold_start(predictor, "one text") == ColdStart(seconds=pytest.approx(7.1), first_request_ms=100.0)
    assert predictor.calls == [["one text"]]


def test_without_warm_up_the_first_request_counts(clock: Clock) -> None:
    latency = run(Predictor(clock), warmup_requests=0).latency
    assert latency.samples_ms[0] == 100
    assert max(latency.samples_ms[1:]) == 10


def test_requests_are_single_texts_in_one_shuffled_order_for_every_model(clock: Clock) -> None:
    first, second = Predictor(clock), Predictor(clock, lambda call: 20)
    for predictor in (first, second):
        run(predictor, min_requests=14, max_requests=14, throughput_texts=1)
    assert first.calls[:18] == second.calls[:18]
    assert all(len(call) == 1 for call in first.calls[:18])
    timed = [call[0] for call in first.calls[4:18]]
    assert timed[:7] == timed[7:]  # each text as often as any other
    assert sorted(timed[:7]) == sorted(TEXTS)
    assert timed[:7] != TEXTS


def test_spread_is_that_of_a_sample(clock: Clock) -> None:
    changes = {"min_requests": 12, "max_requests": 12}
    latency = run(Predictor(clock, lambda call: 10 + call % 3), **changes).latency
    assert latency.std_ms == pytest.approx(np.std(latency.samples_ms, ddof=1))
    assert run(Predictor(clock), min_requests=1, max_requests=1).latency.std_ms == 0.0


def test_progress_is_told_once_a_second_and_not_timed(clock: Clock) -> None:
    events: list[Progress] = []

    def emit(event: Any) -> None:
        events.append(event)
        clock.now_ns += 3_000_000

    latency = measure(Predictor(clock, lambda call: 100), TEXTS, SPEC, cold=None, merged=False, emit=emit).latency
    assert [event.step for event in events][:2] == [11, 21]
    assert {(event.phase, event.steps) for event in events} == {("time", 662)}
    assert set(latency.samples_ms) == {100.0}


# --- throughput -------------------------------------------------------------------------------


def test_throughput_counts_texts_and_their_own_tokens(clock: Clock) -> None:
    predictor = Predictor(clock)
    one, four = run(predictor).throughput
    assert (one.batch_size, one.samples, four.batch_size, four.samples) == (1, 10, 4, 10)
    assert one.seconds == pytest.approx(0.1)  # 10 texts of 10 ms; the warm-up batch is not in it
    assert one.samples_per_s == pytest.approx(100)
    stream = [text for call in predictor.calls[-3:] for text in call]  # 4 + 4 + 2
    assert [len(call) for call in predictor.calls[-4:]] == [4, 4, 4, 2]
    assert four.tokens_per_s == pytest.approx(sum(len(text.split()) for text in stream) / 0.1)


def test_throughput_goes_through_the_texts_again_until_its_minimum(clock: Clock) -> None:
    predictor = Predictor(clock)
    one, four = run(predictor, throughput_min_s=0.95).throughput
    assert (one.samples, four.samples) == (95, 98)  # nine passes of 10 texts, then 5 texts or two batches of 4
    assert one.samples_per_s == pytest.approx(100)
    read = [text for call in predictor.calls[-29:] for text in call]
    assert len(read) == 98
    assert four.tokens_per_s == pytest.approx(sum(len(text.split()) for text in read) / 0.98)


def test_throughput_stops_when_its_time_is_up(clock: Clock) -> None:
    predictor = Predictor(clock, lambda call: 110)
    one, four = run(predictor, throughput_texts=1000).throughput
    assert (one.samples, four.samples) == (37, 40)  # the batch that crosses the 4 s is finished and counted
    assert one.samples_per_s == pytest.approx(1 / 0.11)
    assert four.seconds == pytest.approx(4.4)
    read = [text for call in predictor.calls[-10:] for text in call]  # only texts that were read are counted
    assert four.tokens_per_s == pytest.approx(sum(len(text.split()) for text in read) / 4.4)


def test_tokens_are_null_without_a_tokenizer(clock: Clock) -> None:
    predictor = Predictor(clock)
    predictor.token_counts = lambda texts: None  # type: ignore[method-assign]
    assert [t.tokens_per_s for t in run(predictor).throughput] == [None, None]


# --- surroundings -----------------------------------------------------------------------------


@pytest.mark.parametrize("before", [True, False])
def test_nothing_is_collected_within_the_window(clock: Clock, before: bool) -> None:
    predictor = Predictor(clock)
    was = gc.isenabled()
    try:
        gc.enable() if before else gc.disable()
        run(predictor)
        assert gc.isenabled() is before
    finally:
        gc.enable() if was else gc.disable()
    assert set(predictor.collecting) == {False}


Times = namedtuple("Times", "user nice system idle iowait guest")


@pytest.mark.parametrize(
    ("busy", "own", "cores", "share", "contaminated"),
    [
        (10.0, 10.0, 4, 0.0, False),  # this process alone
        (14.0, 10.0, 4, 0.1, False),  # 4 s of foreign work in 10 s on 4 cores: at the limit
        (15.0, 10.0, 4, 0.125, True),
        (9.0, 10.0, 4, 0.0, False),  # the kernel counts in ticks: never below nothing
    ],
)
def test_foreign_load(
    monkeypatch: pytest.MonkeyPatch, busy: float, own: float, cores: int, share: float, contaminated: bool
) -> None:
    import psutil

    # idle, iowait and guest (which user time holds already) move too, and must not count
    readings = iter([Times(0, 0, 0, 0, 0, 0), Times(busy - 1, 0.5, 0.5, 50, 7, 9)])
    clock = Clock()
    walls, owns = iter([100.0, 110.0]), iter([1.0, 1.0 + own])
    fake = SimpleNamespace(perf_counter=lambda: next(walls), process_time=lambda: next(owns))
    monkeypatch.setattr(psutil, "cpu_times", lambda: next(readings))
    monkeypatch.setattr("runner.timing.os.cpu_count", lambda: cores)
    monkeypatch.setattr(timing, "time", fake)
    with timing._ForeignLoad() as foreign:
        pass
    assert foreign.share == pytest.approx(share)
    # The same reading through `measure`.
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(timing._ForeignLoad, "__enter__", lambda self: foreign)
    monkeypatch.setattr(timing._ForeignLoad, "__exit__", lambda self, *_: None)
    timed = run(Predictor(clock))
    assert timed.cpu_share_foreign == pytest.approx(share)
    assert timed.contaminated is contaminated


def test_an_unknown_load_is_null(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing._ForeignLoad, "_read", staticmethod(lambda: (0.0, 0.0, 0.0)))
    timed = run(Predictor(clock))
    assert timed.cpu_share_foreign is None
    assert timed.contaminated is None
