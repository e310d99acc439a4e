"""Speed of a trained classifier, as a user would deploy it.

Latency: single requests at batch 1 and the text's own length, tokenization included, warm-up apart, until enough
requests and enough time have passed. Throughput: a stream of texts in arrival order, per batch size. Both read the
clock only when the device is done (`predict` returns host memory). Raw samples are kept.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from runner.contract import EvaluationSpec, Event, Latency, Progress, Throughput, Timing
from runner.scoring import Predictor

# Samples an order-statistic bound needs so that the percentile lies inside it with 99 % confidence.
PERCENTILE_BOUNDS = {50: 11, 90: 64, 95: 130, 99: 662}
FOREIGN_SHARE_LIMIT = 0.10  # of the machine's CPU time in the window, above which the figures are marked
SHUFFLE_SEED = 0  # the same request order for every model


def measure(
    predictor: Predictor,
    texts: Sequence[str],
    spec: EvaluationSpec,
    *,
    load_s: float,
    merged: bool,
    emit: Callable[[Event], None],
) -> Timing:
    """All speed figures. `load_s`: seconds of the load phase, for the cold start."""
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(texts))
    requests = [texts[i] for i in order]
    with _quiet_collector(), _ForeignLoad() as foreign:
        latency = _latency(predictor, requests, spec, emit)
        throughput = tuple(_throughput(predictor, requests, size, spec) for size in spec.throughput_batch_sizes)
    first_s = (latency.first_request_ms or 0.0) / 1000
    return Timing(
        latency=latency,
        throughput=throughput,
        cold_start_s=load_s + first_s,
        cpu_share_foreign=foreign.share,
        contaminated=None if foreign.share is None else foreign.share > FOREIGN_SHARE_LIMIT,
        merged=merged,
    )


def percentile(samples_ms: Sequence[float], p: int) -> float | None:
    """The percentile, or None below the number of samples that its bound needs."""
    if len(samples_ms) < PERCENTILE_BOUNDS[p]:
        return None
    return float(np.percentile(samples_ms, p))


def _latency(
    predictor: Predictor, requests: Sequence[str], spec: EvaluationSpec, emit: Callable[[Event], None]
) -> Latency:
    first_ms = _request_ms(predictor, requests[0])
    for i in range(spec.warmup_requests):
        predictor.predict([requests[i % len(requests)]], 1)
    samples: list[float] = []
    started = reported = time.perf_counter()
    while not _enough(len(samples), time.perf_counter() - started, spec):
        samples.append(_request_ms(predictor, requests[len(samples) % len(requests)]))
        if time.perf_counter() - reported > 1.0:
            reported = time.perf_counter()
            emit(Progress(phase="time", step=len(samples), steps=spec.max_requests))
    return Latency(
        requests=len(samples),
        mean_ms=float(np.mean(samples)),
        std_ms=float(np.std(samples, ddof=1)) if len(samples) > 1 else 0.0,
        p50_ms=percentile(samples, 50),
        p90_ms=percentile(samples, 90),
        p95_ms=percentile(samples, 95),
        p99_ms=percentile(samples, 99),
        samples_ms=tuple(round(s, 4) for s in samples),
        first_request_ms=first_ms,
    )


def _enough(requests: int, seconds: float, spec: EvaluationSpec) -> bool:
    if requests >= spec.max_requests:
        return True
    if requests < spec.min_requests or seconds < spec.latency_min_s:
        return False
    return requests >= PERCENTILE_BOUNDS[99] or seconds >= spec.latency_max_s


def _request_ms(predictor: Predictor, text: str) -> float:
    begin = time.perf_counter_ns()
    predictor.predict([text], 1)
    return (time.perf_counter_ns() - begin) / 1e6


def _throughput(predictor: Predictor, texts: Sequence[str], batch_size: int, spec: EvaluationSpec) -> Throughput:
    """Texts per second at one batch size, until all texts are done or the time is up."""
    wanted = [texts[i % len(texts)] for i in range(spec.throughput_texts)]
    predictor.predict(wanted[:batch_size], batch_size)  # warm-up at this shape
    done = 0
    started = time.perf_counter()
    while done < len(wanted):
        done += len(predictor.predict(wanted[done : done + batch_size], batch_size))
        if time.perf_counter() - started > spec.throughput_max_s:
            break
    seconds = time.perf_counter() - started
    tokens = predictor.token_counts(wanted[:done])
    return Throughput(
        batch_size=batch_size,
        samples=done,
        seconds=seconds,
        samples_per_s=done / seconds,
        tokens_per_s=None if tokens is None else sum(tokens) / seconds,
    )


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """No garbage collection inside a window: it would be charged to whichever request it fell on."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _ForeignLoad:
    """CPU time in the window that was not this process's, as a share of the machine's; None where unknown."""

    share: float | None = None

    def __enter__(self) -> _ForeignLoad:
        self._before = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        wall, busy, own = (after - before for after, before in zip(self._read(), self._before, strict=True))
        if wall > 0:
            self.share = round(max(0.0, busy - own) / (wall * (os.cpu_count() or 1)), 4)

    @staticmethod
    def _read() -> tuple[float, float, float]:
        import psutil

        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        own = time.process_time()
        return time.perf_counter(), sum(_busy_fields(times)) - idle, own


def _busy_fields(times: object) -> list[float]:
    """All CPU states; guest time is already inside user time on Linux, so it is left out."""
    return [value for name, value in times._asdict().items() if not name.startswith("guest")]  # type: ignore[attr-defined]
