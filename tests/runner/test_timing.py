"""Speed figures, with predictors and a clock that do as they are told."""

from __future__ import annotations

import gc
import math
import os
from collections import namedtuple
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from runner import timing
from runner.contract import EvaluationSpec, Progress, Timing, Verdict
from runner.leases import Lease, Leases
from runner.pooling import PERCENTILE_BOUNDS, percentile
from runner.timing import ColdStart, cold_start, measure

TEXTS = [f"text {number} " + "word " * number for number in range(7)]
SPEC = EvaluationSpec(
    windows=1,
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

    CLOCK_BOOTTIME = 7

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

    def clock_gettime(self, clock: int) -> float:
        assert clock == self.CLOCK_BOOTTIME
        return self.now_ns / 1e9 + 1000.0


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


class Host(Leases):
    """Grants every window, and says of the first, second ... what it is told to say; of further ones nothing."""

    def __init__(self, clock: Clock, *reasons: tuple[str, ...]) -> None:
        super().__init__(Path(), lambda event: None, asked=True)
        self.clock, self.reasons = clock, list(reasons)
        self.open = False
        self.windows = 0

    @contextmanager
    def window(self) -> Iterator[Lease]:
        self.windows += 1
        self.clock.now_ns += 10**12  # waiting must not be timed
        self.open = True
        lease = Lease(self.windows)
        yield lease
        self.open = False
        lease.verdict = Verdict(reasons=self.reasons.pop(0) if self.reasons else ())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """With a machine of two cores whose load nobody knows."""
    clock = Clock()
    monkeypatch.setattr("runner.timing.os.cpu_count", lambda: 2)
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(timing._ForeignLoad, "_read", staticmethod(lambda: (0.0, 0.0, 0.0)))
    monkeypatch.setattr(timing.gc, "collect", lambda: 0)  # takes long among all that a test run holds
    return clock


def foreign(monkeypatch: pytest.MonkeyPatch, *shares: float | None) -> None:
    """The foreign load of each window, one after the other; the last for all that follow."""
    left = list(shares)

    def leave(self: Any, *_: object) -> None:
        self.share = left.pop(0) if len(left) > 1 else left[0]

    monkeypatch.setattr(timing._ForeignLoad, "__exit__", leave)


def run(predictor: Any, events: list[Any] | None = None, leases: Leases | None = None, **changes: Any) -> Timing:
    spec = msgspec.structs.replace(SPEC, **changes)
    emit = (lambda event: None) if events is None else events.append
    leases = leases or Leases(Path(), emit, asked=False)
    return measure(predictor, TEXTS, spec, leases=leases, cold=COLD, merged=True, emit=emit)


# --- percentiles ------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "bound"), [(50, 11), (90, 64), (95, 130), (99, 662)])
def test_a_percentile_is_withheld_below_its_bound(p: int, bound: int) -> None:
    assert PERCENTILE_BOUNDS[p] == bound
    samples = list(np.random.default_rng(0).exponential(size=bound))
    assert percentile(samples[:-1], p) is None
    assert percentile(samples, p) == pytest.approx(np.percentile(samples, p))


@pytest.mark.parametrize("n", [700, 701])
def test_equal_weights_change_no_percentile(n: int) -> None:
    samples = list(np.random.default_rng(n).exponential(size=n))
    for p in PERCENTILE_BOUNDS:
        assert percentile(samples, p, np.full(n, 0.2)) == pytest.approx(np.percentile(samples, p))


def test_a_sample_of_twice_the_weight_is_two_samples() -> None:
    samples = list(np.random.default_rng(1).exponential(size=5000))
    twice = percentile(samples, 90, np.array([2.0 if sample > 1 else 1.0 for sample in samples]))
    assert twice == pytest.approx(np.percentile(samples + [sample for sample in samples if sample > 1], 90), rel=1e-3)


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


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells when a process started")
def test_cold_start_lasts_from_the_start_of_the_process_whatever_the_time_of_day(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    stat = f"71 (a ) name) S {' '.join(['1'] * 18)} {round((clock.now_ns / 1e9 + 1000.0 - 7.0) * ticks)} 5 5"
    monkeypatch.setattr(timing.Path, "read_text", lambda path: {"/proc/self/stat": stat}[str(path)])
    monkeypatch.setattr(clock, "time", lambda: 1e15)
    predictor = Predictor(clock)
    assert cold_start(predictor, "one text") == ColdStart(seconds=pytest.approx(7.1), first_request_ms=100.0)
    assert predictor.calls == [["one text"]]


def test_the_age_of_this_process_agrees_with_what_psutil_knows() -> None:
    import time

    import psutil

    assert timing._process_age_s() == pytest.approx(time.time() - psutil.Process().create_time(), abs=1.0)


def test_cold_start_where_the_kernel_does_not_tell(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.delattr(Clock, "CLOCK_BOOTTIME")
    born = clock.time() - 7.0
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: born)
    assert cold_start(Predictor(clock), "one text").seconds == pytest.approx(7.1)
    assert cold_start(Predictor(clock), "one text", lambda: 5.0).seconds == pytest.approx(2.2)


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


def test_progress_is_told_after_each_block_and_not_timed(clock: Clock) -> None:
    events: list[Progress] = []
    host = Host(clock, ("disturbed",))

    def emit(event: Any) -> None:
        assert not host.open
        events.append(event)
        clock.now_ns += 3_000_000

    spec = msgspec.structs.replace(SPEC, windows=3)
    measure(Predictor(clock), TEXTS, spec, leases=host, cold=None, merged=False, emit=emit)
    assert host.windows == 4
    assert [(event.phase, event.step, event.steps) for event in events] == [("time", n, 3) for n in (1, 2, 3)]


# --- throughput -------------------------------------------------------------------------------


def test_throughput_counts_texts_and_their_own_tokens_in_full_batches(clock: Clock) -> None:
    predictor = Predictor(clock)
    one, four = run(predictor).throughput
    assert (one.batch_size, one.samples, four.batch_size, four.samples) == (1, 10, 4, 12)
    assert one.seconds == pytest.approx(0.1)  # 10 texts of 10 ms; the warm-up batch is not in it
    assert one.samples_per_s == pytest.approx(100)
    assert [len(call) for call in predictor.calls[-4:]] == [4, 4, 4, 4]
    stream = [text for call in predictor.calls[-3:] for text in call]
    first = [call[0] for call in predictor.calls[-14:-4]]
    assert stream == [*first, *first[:2]]
    assert four.tokens_per_s == pytest.approx(sum(len(text.split()) for text in stream) / 0.12)


def test_throughput_goes_through_the_texts_again_until_its_minimum(clock: Clock) -> None:
    predictor = Predictor(clock)
    one, four = run(predictor, throughput_min_s=0.95).throughput
    assert (one.samples, four.samples) == (95, 96)
    assert one.samples_per_s == pytest.approx(100)
    read = [text for call in predictor.calls[-24:] for text in call]
    assert four.tokens_per_s == pytest.approx(sum(len(text.split()) for text in read) / 0.96)


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
    ("wall", "busy", "own", "cores", "share", "contaminated"),
    [
        (10.0, 10.0, 10.0, 4, 0.0, False),  # this process alone
        (10.0, 12.0, 10.0, 2, 0.1, False),  # 2 s of foreign work in 10 s on 2 cores: at the limit of 10 %
        (10.0, 12.1, 10.0, 2, 0.105, True),
        (10.0, 12.5, 10.0, 4, 0.0625, False),  # at the limit of a quarter of a core
        (10.0, 12.6, 10.0, 4, 0.065, True),
        (10.0, 19.6, 10.0, 16, 0.06, True),  # one busy neighbour
        (10.0, 11.6, 10.0, 16, 0.01, False),  # what a quiet machine does by itself
        (10.0, 14.0, 10.0, 64, 0.0063, True),
        (10.0, 9.0, 10.0, 4, 0.0, False),  # the kernel counts in ticks: never below nothing
        (0.08, 0.1, 0.08, 4, None, None),  # two ticks, which may be nothing but rounding
        (0.08, 0.1, 0.08, 64, None, None),
        (0.1, 0.11, 0.1, 64, 0.0016, False),  # one of them
        (0.09, 0.1, 0.07, 2, None, None),
        (0.11, 0.14, 0.11, 2, 0.1364, True),
        (0.0, 0.0, 0.0, 4, None, None),
    ],
)
def test_foreign_load(
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    wall: float,
    busy: float,
    own: float,
    cores: int,
    share: float | None,
    contaminated: bool | None,
) -> None:
    import psutil

    monkeypatch.undo()
    # idle, iowait and guest (which user time holds already) move too, and must not count
    readings = iter([Times(0, 0, 0, 0, 0, 0), Times(busy, 0, 0, 50, 7, 9)])
    walls, owns = iter([100.0, 100.0 + wall]), iter([1.0, 1.0 + own])
    fake = SimpleNamespace(perf_counter=lambda: next(walls), process_time=lambda: next(owns))
    monkeypatch.setattr(psutil, "cpu_times", lambda: next(readings))
    monkeypatch.setattr("runner.timing.os.cpu_count", lambda: cores)
    monkeypatch.setattr(timing, "time", fake)
    with timing._ForeignLoad() as load:
        pass
    assert load.share == pytest.approx(share)
    # The same reading through `measure`.
    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(timing.gc, "collect", lambda: 0)
    monkeypatch.setattr(timing._ForeignLoad, "__enter__", lambda self: self)
    foreign(monkeypatch, load.share)
    timed = run(Predictor(clock))
    assert timed.cpu_share_foreign == pytest.approx(share)
    assert timed.contaminated is contaminated
    assert len(timed.windows) == (4 if contaminated else 1)


# --- windows ----------------------------------------------------------------------------------

FIVE = {"windows": 5, "throughput_texts": 20}


@pytest.mark.parametrize(
    ("ms", "changes", "requests"),
    [
        (10, {}, 665),  # five times 133, the part of 662
        (110, {}, 110),  # 12 s are up after five times 2.4 s
        (1000, {}, 100),
        (1, {}, 1000),
        (1, {"max_requests": 10**6}, 2000),  # five times 0.4 s
        (10, {"max_requests": 301}, 305),
        (10, {"min_requests": 801}, 805),
    ],
)
def test_the_blocks_together_reach_what_is_asked_for(
    clock: Clock, ms: float, changes: dict[str, Any], requests: int
) -> None:
    timed = run(Predictor(clock, lambda call: ms), **FIVE, **changes)
    assert len(timed.latency.samples_ms) == timed.latency.requests == requests
    assert [window.requests for window in timed.windows] == [requests // 5] * 5
    assert (timed.latency.p99_ms is None) is (requests < 662)


def test_figures_are_pooled_over_the_windows_and_each_window_keeps_its_own(clock: Clock) -> None:
    predictor = Predictor(clock)
    per_block = 4 + 20 + 1 + 4 + 1 + 1  # warm-up and requests, then a warm-up and the batches of 1 and of 4
    predictor.ms = lambda call: 10 * (1 + call // per_block)
    timed = run(predictor, **FIVE, min_requests=100, max_requests=100)
    assert len(predictor.calls) == 5 * per_block
    assert timed.latency.samples_ms == tuple(float(10 * block) for block in range(1, 6) for _ in range(20))
    assert (timed.latency.mean_ms, timed.latency.p50_ms) == (pytest.approx(30), pytest.approx(30))
    assert [(w.number, w.block, w.mean_ms, w.p50_ms) for w in timed.windows] == [
        (block, block, pytest.approx(10 * block), pytest.approx(10 * block)) for block in range(1, 6)
    ]
    assert [w.throughput[1].samples_per_s for w in timed.windows] == [
        pytest.approx(100 / block) for block in range(1, 6)
    ]
    one, four = timed.throughput
    assert (one.batch_size, one.samples, four.batch_size, four.samples) == (1, 20, 4, 20)
    assert (one.seconds, four.seconds) == (pytest.approx(0.6), pytest.approx(0.6))  # 40 ms times 1 + 2 + 3 + 4 + 5
    assert one.samples_per_s == pytest.approx(20 / 0.6)  # of all texts over all seconds: no mean of rates
    read = [text for block in range(5) for text in predictor.calls[(block + 1) * per_block - 1]]
    assert four.tokens_per_s == pytest.approx(sum(len(text.split()) for text in read) / 0.6)


def test_a_slow_window_weighs_as_much_as_any_other(clock: Clock) -> None:
    """Two windows of 500 requests of 2 ms, and one of 100 that take 80 ms, as its time is up."""
    predictor = Predictor(clock)
    waits = iter([2] * 10**6)
    predictor.ms = lambda call: 80 if clock.windows == 2 else next(waits)  # type: ignore[attr-defined]
    host = Host(clock)
    clock.windows = 0  # type: ignore[attr-defined]
    real = host.window

    @contextmanager
    def window() -> Iterator[Lease]:
        clock.windows += 1  # type: ignore[attr-defined]
        with real() as lease:
            yield lease

    host.window = window  # type: ignore[method-assign]
    changes = {"min_requests": 300, "max_requests": 1500, "latency_min_s": 3.0, "latency_max_s": 6.0}
    timed = run(predictor, leases=host, windows=3, **changes)
    assert [one.requests for one in timed.windows] == [500, 100, 500]
    assert timed.latency.requests == len(timed.latency.samples_ms) == 1100
    assert timed.latency.mean_ms == timed.latency.p50_ms == pytest.approx((2 + 80 + 2) / 3)
    assert (timed.latency.p90_ms, timed.latency.p99_ms) == (80, 80)  # 9 % of the samples, a third of the weight
    assert timed.latency.std_ms == pytest.approx(math.sqrt(2 / 9) * 78, rel=0.01)


def test_the_median_is_withheld_below_its_bound_also_of_several_windows(clock: Clock) -> None:
    changes = {"latency_min_s": 0.0, "latency_max_s": 0.0}
    assert run(Predictor(clock), windows=5, min_requests=10, max_requests=10, **changes).latency.p50_ms is None
    assert run(Predictor(clock), windows=5, min_requests=15, max_requests=15, **changes).latency.p50_ms == 10


def test_each_block_reads_other_texts_as_far_as_there_are(clock: Clock) -> None:
    predictor = Predictor(clock)
    texts = [f"text {number}" for number in range(100)]
    spec = msgspec.structs.replace(SPEC, windows=5, max_requests=100, throughput_texts=100, throughput_batch_sizes=(1,))
    nobody = Leases(Path(), lambda event: None, asked=False)
    measure(predictor, texts, spec, leases=nobody, cold=None, merged=False, emit=lambda event: None)
    per_block = 4 + 20 + 1 + 20
    blocks = [[call[0] for call in predictor.calls[n * per_block : (n + 1) * per_block]] for n in range(5)]
    assert sorted(text for block in blocks for text in block[4:24]) == sorted(texts)
    assert sorted(text for block in blocks for text in block[25:]) == sorted(texts)


def test_within_a_window_nothing_but_predictions_takes_time(clock: Clock) -> None:
    """Counting tokens and waiting for the lease take 1,000 s each here."""
    host = Host(clock)
    predictor = Predictor(clock)
    predictor.predict = _checked(predictor.predict, lambda: host.open)  # type: ignore[method-assign]
    predictor.token_counts = _checked(predictor.token_counts, lambda: not host.open)  # type: ignore[method-assign]
    timed = run(predictor, leases=host, **FIVE)
    assert all(window.seconds < 10 for window in timed.windows)
    begun = [window.t for window in timed.windows]
    assert np.diff(begun) == pytest.approx([2000 + window.seconds for window in timed.windows[:-1]])


def _checked(function: Any, holds: Any) -> Any:
    def checked(*arguments: Any) -> Any:
        assert holds()
        return function(*arguments)

    return checked


def test_a_disturbed_block_is_repeated_and_the_clean_window_counts(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(monkeypatch, 0.02, 0.142, 0.03, 0.01)
    host = Host(clock, (), (), ("it was throttled",), ())
    predictor = Predictor(clock)
    timed = run(predictor, leases=host, **FIVE, max_requests=100)
    assert [(w.number, w.block, w.counted, w.contaminated) for w in timed.windows] == [
        (1, 1, True, False),
        (2, 2, False, True),
        (3, 2, False, True),
        (4, 2, True, False),
        (5, 3, True, False),
        (6, 4, True, False),
        (7, 5, True, False),
    ]
    assert timed.windows[1].reasons == ("other work took 0.28 cores, 14.2 % of this machine",)
    assert timed.windows[2].reasons == ("it was throttled",)
    assert (timed.latency.requests, timed.throughput[0].samples) == (100, 20)
    assert (timed.cpu_share_foreign, timed.contaminated) == (0.02, False)
    assert predictor.calls[31:62] == predictor.calls[62:93]  # the same texts again


def test_a_block_that_never_is_clean_counts_at_its_least_disturbed(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(monkeypatch, 0.5, 0.3, 0.2, 0.4, 0.05)
    timed = run(Predictor(clock), leases=Host(clock, (), (), ("throttled",)), **FIVE)
    assert [(w.block, w.counted, w.cpu_share_foreign) for w in timed.windows[:5]] == [
        (1, False, 0.5),
        (1, True, 0.3),
        (1, False, 0.2),  # throttled too
        (1, False, 0.4),
        (2, True, 0.05),
    ]
    assert timed.windows[2].reasons == ("other work took 0.40 cores, 20.0 % of this machine", "throttled")
    assert len(timed.windows) == 8
    assert (timed.cpu_share_foreign, timed.contaminated) == (0.3, True)


@pytest.mark.parametrize(
    ("shares", "reasons", "counted"),
    [
        ((0.3, 0.2), ((), ()), 2),
        ((0.0, 0.0), (("one", "two"), ("one",)), 2),
        ((0.9, 0.02), (("90 % of the machine went to others",), ("warm", "throttled")), 2),
        ((0.9, 0.02), ((), ("warm", "throttled")), 2),  # the host missed what the cell saw
        ((0.15, 0.08), ((), ("throttled",)), 1),
        ((0.05, 0.05), (("one",), ("two",)), 1),  # the first of equals
    ],
)
def test_which_of_two_disturbed_windows_counts(
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    shares: tuple[float, ...],
    reasons: tuple[tuple[str, ...], ...],
    counted: int,
) -> None:
    foreign(monkeypatch, *shares)
    timed = run(Predictor(clock), leases=Host(clock, *reasons), repeats=1)
    assert [window.number for window in timed.windows if window.counted] == [counted]
    assert timed.contaminated


def test_a_host_that_saw_nothing_vouches_for_a_window_too_short_to_tell(clock: Clock) -> None:
    timed = run(Predictor(clock), leases=Host(clock))
    assert (timed.cpu_share_foreign, timed.contaminated) == (None, False)


def test_an_unknown_load_is_null(clock: Clock) -> None:
    timed = run(Predictor(clock))
    assert timed.cpu_share_foreign is None
    assert timed.contaminated is None
    assert [(w.cpu_share_foreign, w.contaminated, w.counted) for w in timed.windows] == [(None, None, True)]


@pytest.mark.parametrize(("largest", "sizes"), [(None, (1, 4, 8)), (8, (1, 4, 8)), (7, (1, 4)), (1, (1,))])
def test_batches_that_do_not_fit_into_memory_are_left_out(
    clock: Clock, largest: int | None, sizes: tuple[int, ...]
) -> None:
    assert _sizes_timed(clock, (1, 4, 8), largest) == sizes


def test_where_none_fits_the_largest_that_does_is_timed(clock: Clock) -> None:
    assert _sizes_timed(clock, (16, 32), 4) == (4,)


def _sizes_timed(clock: Clock, sizes: tuple[int, ...], largest: int | None) -> tuple[int, ...]:
    spec = msgspec.structs.replace(SPEC, throughput_batch_sizes=sizes)
    nobody = Leases(Path(), lambda event: None, asked=False)
    timed = measure(
        Predictor(clock), TEXTS, spec, leases=nobody, cold=None, merged=False, emit=lambda event: None,
        largest_batch=largest,
    )  # fmt: skip
    return tuple(throughput.batch_size for throughput in timed.throughput)


@pytest.mark.parametrize("repeats", [0, 1])
def test_how_often_a_disturbed_block_is_repeated_can_be_set(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, repeats: int
) -> None:
    foreign(monkeypatch, *[0.5] * 20)
    timed = run(Predictor(clock), **FIVE, repeats=repeats)
    assert [window.block for window in timed.windows] == [1] * repeats + [1, 2, 3, 4, 5]
    assert timed.contaminated


def test_after_a_block_that_never_was_clean_one_try_is_enough_until_one_is(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(monkeypatch, *[0.5] * 4, 0.5, 0.01, 0.5, 0.01, 0.01)
    timed = run(Predictor(clock), **FIVE)
    assert [(w.block, w.contaminated) for w in timed.windows] == [
        *[(1, True)] * 4, (2, True), (3, False), (4, True), (4, False), (5, False),
    ]  # fmt: skip
