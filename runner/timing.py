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
from dataclasses import dataclass

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
    cold: ColdStart | None,
    merged: bool,
    emit: Callable[[Event], None],
) -> Timing:
    """All speed figures of the warm model; `cold` was taken when it had just been loaded."""
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(texts))
    requests = [texts[i] for i in order]
    with _quiet_collector(), _ForeignLoad() as foreign:
        latency = _latency(predictor, requests, spec, emit)
        throughput = tuple(_throughput(predictor, requests, size, spec) for size in spec.throughput_batch_sizes)
    return Timing(
        latency=latency,
        throughput=throughput,
        cold_start_s=cold.seconds if cold else None,
        first_request_ms=cold.first_request_ms if cold else None,
        cpu_share_foreign=foreign.share,
        contaminated=None if foreign.share is None else foreign.share > FOREIGN_SHARE_LIMIT,
        merged=merged,
    )


@dataclass(frozen=True)
class ColdStart:
    """`seconds` from the start of the process to its first answer; `first_request_ms`: that request alone."""

    seconds: float
    first_request_ms: float


def cold_start(predictor: Predictor, text: str) -> ColdStart:
    """Ask a model that has just been loaded for its first answer. The process must have done nothing else before."""
    import psutil

    first_ms = request_ms(predictor, text)
    return ColdStart(seconds=time.time() - psutil.Process().create_time(), first_request_ms=first_ms)


def percentile(samples_ms: Sequence[float], p: int) -> float | None:
    """The percentile, or None below the number of samples that its bound needs."""
    if len(samples_ms) < PERCENTILE_BOUNDS[p]:
        return None
    return float(np.percentile(samples_ms, p))


def _latency(
    predictor: Predictor, requests: Sequence[str], spec: EvaluationSpec, emit: Callable[[Event], None]
) -> Latency:
    for i in range(spec.warmup_requests):
        predictor.predict([requests[i % len(requests)]], 1)
    samples: list[float] = []
    started = reported = time.perf_counter()
    while not _enough(len(samples), time.perf_counter() - started, spec):
        samples.append(request_ms(predictor, requests[len(samples) % len(requests)]))
        if time.perf_counter() - reported > 1.0:
            reported = time.perf_counter()
            emit(Progress(phase="time", step=len(samples), steps=max(len(samples), PERCENTILE_BOUNDS[99])))
    return Latency(
        requests=len(samples),
        mean_ms=float(np.mean(samples)),
        std_ms=float(np.std(samples, ddof=1)) if len(samples) > 1 else 0.0,
        p50_ms=percentile(samples, 50),
        p90_ms=percentile(samples, 90),
        p95_ms=percentile(samples, 95),
        p99_ms=percentile(samples, 99),
        samples_ms=tuple(round(s, 4) for s in samples),
    )


def _enough(requests: int, seconds: float, spec: EvaluationSpec) -> bool:
    if requests >= spec.max_requests:
        return True
    if requests < spec.min_requests or seconds < spec.latency_min_s:
        return False
    return requests >= PERCENTILE_BOUNDS[99] or seconds >= spec.latency_max_s


def request_ms(predictor: Predictor, text: str) -> float:
    """One request at batch 1, in milliseconds."""
    begin = time.perf_counter_ns()
    predictor.predict([text], 1)
    return (time.perf_counter_ns() - begin) / 1e6


def _throughput(predictor: Predictor, texts: Sequence[str], batch_size: int, spec: EvaluationSpec) -> Throughput:
    """Texts per second at one batch size. The texts are gone through, again and again until the minimum time is
    reached, and broken off at the maximum."""
    wanted = [texts[i % len(texts)] for i in range(spec.throughput_texts)]
    batches = [wanted[i : i + batch_size] for i in range(0, len(wanted), batch_size)]
    predictor.predict(batches[0], batch_size)  # warm-up at this shape
    done = 0
    seconds = 0.0
    started = time.perf_counter()
    while seconds < spec.throughput_max_s and (done < len(batches) or seconds < spec.throughput_min_s):
        predictor.predict(batches[done % len(batches)], batch_size)
        done += 1
        seconds = time.perf_counter() - started
    samples = _repeated_sum([len(batch) for batch in batches], done)
    tokens = predictor.token_counts(wanted)
    tokens_done = None
    if tokens is not None:
        per_batch = [sum(tokens[i : i + batch_size]) for i in range(0, len(tokens), batch_size)]
        tokens_done = _repeated_sum(per_batch, done)
    return Throughput(
        batch_size=batch_size,
        samples=samples,
        seconds=seconds,
        samples_per_s=samples / seconds,
        tokens_per_s=None if tokens_done is None else tokens_done / seconds,
    )


def _repeated_sum(sizes: Sequence[int], count: int) -> int:
    """Sum of the first `count` of `sizes` gone through again and again."""
    rounds, rest = divmod(count, len(sizes))
    return rounds * sum(sizes) + sum(sizes[:rest])


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
