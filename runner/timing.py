"""Speed of a trained classifier, as a user would deploy it.

Timing is cut into blocks, which lie apart in time: what differs between them is what a single stretch could not know.
Each block is one window under a lease of its own; a window that was disturbed is repeated. Within a window come
latency (single requests at batch 1 and the text's own length, tokenization included, warm-up apart) and then
throughput (a stream of texts in arrival order, per batch size). Both read the clock only when the device is done
(`predict` returns host memory). Raw samples are kept.
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from runner.contract import EvaluationSpec, Event, Progress, Throughput, Timing, Window
from runner.leases import Leases
from runner.pooling import PERCENTILE_BOUNDS, Measured, pooled
from runner.scoring import Predictor

T = TypeVar("T")
FOREIGN_SHARE_LIMIT = 0.10  # of the machine's CPU time in the window, above which the figures are marked ...
FOREIGN_CORES_LIMIT = 0.25  # ... or so much of a core: one busy neighbour of sixteen cores is no more than 6 %
REASON_WEIGHT = 2.0  # a reason of the host's, in multiples of the limit on foreign load
KERNEL_TICKS_S = 0.02  # CPU time is counted in ticks of 10 ms, user and system each
SHUFFLE_SEED = 0  # the same request order for every model


def measure(
    predictor: Predictor,
    texts: Sequence[str],
    spec: EvaluationSpec,
    *,
    leases: Leases,
    cold: ColdStart | None,
    merged: bool,
    emit: Callable[[Event], None],
    largest_batch: int | None = None,
) -> Timing:
    """All speed figures of the warm model; `cold` was taken when it had just been loaded. `largest_batch`: larger ones
    do not fit into memory."""
    requests = shuffled(texts)
    stretches = [_from(requests, len(requests) * block // spec.windows) for block in range(spec.windows)]
    timed = measure_blocks(predictor, stretches, spec, leases=leases, emit=emit, largest_batch=largest_batch)
    return msgspec.structs.replace(
        timed,
        cold_start_s=cold.seconds if cold else None,
        first_request_ms=cold.first_request_ms if cold else None,
        merged=merged,
    )


def shuffled(texts: Sequence[str]) -> list[str]:
    return [texts[i] for i in np.random.default_rng(SHUFFLE_SEED).permutation(len(texts))]


def _from(requests: Sequence[str], start: int) -> list[str]:
    return [*requests[start:], *requests[:start]]


# --- cold start -------------------------------------------------------------------------------


@dataclass(frozen=True)
class ColdStart:
    """`seconds` from the start of the process to its first answer; `first_request_ms`: that request alone."""

    seconds: float
    first_request_ms: float


def cold_start(predictor: Predictor, text: str, frozen_s: Callable[[], float] = lambda: 0.0) -> ColdStart:
    """Ask a model that has just been loaded for its first answer. The process must have done nothing else before, but
    for being kept stopped for `frozen_s`."""
    first_ms = request_ms(predictor, text)
    return ColdStart(seconds=_process_age_s() - frozen_s(), first_request_ms=first_ms)


def _process_age_s() -> float:
    """By the kernel's own clock, which nobody sets; where there is none, by the time of day."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()  # the name before may hold anything
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")  # starttime
    except (OSError, AttributeError, IndexError, ValueError):
        import psutil

        return time.time() - psutil.Process().create_time()


# --- blocks and windows -----------------------------------------------------------------------


@dataclass(frozen=True)
class Share:
    """What one of the blocks that an EvaluationSpec is cut into has to do: its part, rounded up, so that all of them
    together reach what is asked for."""

    repeats: int  # of the block, where it is disturbed
    warmup_requests: int
    min_requests: int
    max_requests: int
    sure_requests: int  # of those that a p99 needs
    latency_min_s: float
    latency_max_s: float
    batch_sizes: tuple[int, ...]
    texts: int
    throughput_min_s: float
    throughput_max_s: float

    @classmethod
    def of(cls, spec: EvaluationSpec, largest_batch: int | None = None) -> Share:
        def part(whole: int) -> int:
            return math.ceil(whole / spec.windows)

        sizes = spec.throughput_batch_sizes
        if largest_batch is not None:
            sizes = tuple(size for size in sizes if size <= largest_batch) or (largest_batch,)
        return cls(
            repeats=spec.repeats,
            warmup_requests=spec.warmup_requests,
            min_requests=part(spec.min_requests),
            max_requests=part(spec.max_requests),
            sure_requests=part(PERCENTILE_BOUNDS[99]),
            latency_min_s=spec.latency_min_s / spec.windows,
            latency_max_s=spec.latency_max_s / spec.windows,
            batch_sizes=sizes,
            texts=part(spec.throughput_texts),
            throughput_min_s=spec.throughput_min_s / spec.windows,
            throughput_max_s=spec.throughput_max_s / spec.windows,
        )

    def enough(self, requests: int, seconds: float) -> bool:
        if requests >= self.max_requests:
            return True
        if requests < self.min_requests or seconds < self.latency_min_s:
            return False
        return requests >= self.sure_requests or seconds >= self.latency_max_s


def measure_blocks(
    predictor: Predictor,
    stretches: Sequence[Sequence[str]],
    spec: EvaluationSpec,
    *,
    leases: Leases,
    emit: Callable[[Event], None],
    largest_batch: int | None = None,
) -> Timing:
    """One block for each stretch of texts, pooled. A block does 1/`spec.windows` of what `spec` says, however many
    stretches there are."""
    share = Share.of(spec, largest_batch)
    tried: list[Measured] = []
    repeats = share.repeats
    for block, requests in enumerate(stretches, 1):
        windows = _block(predictor, requests, share, block, leases, repeats)
        tried += windows
        # What disturbs all windows of a block goes on: no more than one of the next is tried, until one is clean.
        repeats = 0 if all(one.window.contaminated for one in windows) else share.repeats
        emit(Progress(phase="time", step=block, steps=len(stretches)))
    return pooled(tried)


def _block(
    predictor: Predictor, requests: Sequence[str], share: Share, block: int, leases: Leases, repeats: int
) -> list[Measured]:
    """Its windows: one, or more where it was disturbed. The first clean one counts, else the least disturbed."""
    tried: list[Measured] = []
    while len(tried) <= repeats:
        tried.append(_window(predictor, requests, share, block, leases))
        if not tried[-1].window.contaminated:
            break
    best = min(tried, key=lambda one: _disturbance(one.window))
    return [Measured(msgspec.structs.replace(one.window, counted=one is best), one.samples_ms) for one in tried]


def _disturbance(window: Window) -> float:
    """Foreign load in multiples of its limit, and what the host saw: a heavy load is worse than several light
    matters."""
    share = window.cpu_share_foreign or 0.0
    by_host = len(window.reasons) - _is_busy(share)
    return share / _foreign_limit() + REASON_WEIGHT * by_host


def _foreign_limit() -> float:
    """As a share of the machine's CPU time."""
    return min(FOREIGN_SHARE_LIMIT, FOREIGN_CORES_LIMIT / _machine_cores())


def _is_busy(share: float | None) -> bool:
    return share is not None and share > _foreign_limit()


def _machine_cores() -> int:
    return os.cpu_count() or 1


def _window(predictor: Predictor, requests: Sequence[str], share: Share, block: int, leases: Leases) -> Measured:
    wanted = [requests[i % len(requests)] for i in range(share.texts)]
    tokens = predictor.token_counts(wanted)
    foreign = _ForeignLoad()
    with _quiet_collector(), leases.window() as lease:
        begun, started = time.time(), time.perf_counter()
        with foreign:
            samples = _latency(predictor, requests, share)
            throughput = tuple(_throughput(predictor, wanted, tokens, size, share) for size in share.batch_sizes)
        seconds = time.perf_counter() - started
    reasons = lease.verdict.reasons
    if foreign.share is not None and _is_busy(foreign.share):
        cores = foreign.share * _machine_cores()
        reasons = (f"other work took {cores:.2f} cores, {100 * foreign.share:.1f} % of this machine", *reasons)
    unwatched = foreign.share is None and not leases.asked
    window = Window(
        number=lease.number,
        block=block,
        t=begun,
        seconds=seconds,
        requests=len(samples),
        mean_ms=float(np.mean(samples)),
        p50_ms=float(np.median(samples)),
        throughput=throughput,
        cpu_share_foreign=foreign.share,
        contaminated=None if unwatched else bool(reasons),
        reasons=reasons,
    )
    return Measured(window, samples)


# --- within a window --------------------------------------------------------------------------


def _latency(predictor: Predictor, requests: Sequence[str], share: Share) -> list[float]:
    """Milliseconds of single requests."""
    for i in range(share.warmup_requests):
        predictor.predict([requests[i % len(requests)]], 1)
    samples: list[float] = []
    started = time.perf_counter()
    while not share.enough(len(samples), time.perf_counter() - started):
        samples.append(request_ms(predictor, requests[len(samples) % len(requests)]))
    return samples


def request_ms(predictor: Predictor, text: str) -> float:
    """One request at batch 1, in milliseconds."""
    begin = time.perf_counter_ns()
    predictor.predict([text], 1)
    return (time.perf_counter_ns() - begin) / 1e6


def _throughput(
    predictor: Predictor, texts: Sequence[str], tokens: Sequence[int] | None, batch_size: int, share: Share
) -> Throughput:
    """Texts per second at one batch size. The texts are gone through, again and again until the minimum time is
    reached, and broken off at the maximum. A last batch that they do not fill takes the first ones again: a smaller
    batch would be another figure."""
    batches = _filled(texts, batch_size)
    predictor.predict(batches[0], batch_size)  # warm-up at this shape
    done = 0
    seconds = 0.0
    started = time.perf_counter()
    while seconds < share.throughput_max_s and (done < len(batches) or seconds < share.throughput_min_s):
        predictor.predict(batches[done % len(batches)], batch_size)
        done += 1
        seconds = time.perf_counter() - started
    samples = done * batch_size
    tokens_done = None if tokens is None else _repeated_sum(list(map(sum, _filled(tokens, batch_size))), done)
    return Throughput(
        batch_size=batch_size,
        samples=samples,
        seconds=seconds,
        samples_per_s=samples / seconds,
        tokens_per_s=None if tokens_done is None else tokens_done / seconds,
    )


def _filled(items: Sequence[T], batch_size: int) -> list[list[T]]:
    """All items in batches of that size."""
    return [
        [items[i % len(items)] for i in range(start, start + batch_size)] for start in range(0, len(items), batch_size)
    ]


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
    """CPU time in the window that was not this process's, as a share of the machine's; None where unknown, as it is of
    a window so short that the kernel's own rounding could make up a share above the limit."""

    share: float | None = None

    def __enter__(self) -> _ForeignLoad:
        self._before = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        wall, busy, own = (after - before for after, before in zip(self._read(), self._before, strict=True))
        machine_s = wall * _machine_cores()
        if machine_s * _foreign_limit() > KERNEL_TICKS_S:
            self.share = round(max(0.0, busy - own) / machine_s, 4)

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
