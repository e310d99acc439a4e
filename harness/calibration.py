"""The noise floor of a host: how far speed figures of one and the same model differ when nothing about it changed.

The runner times one model in many windows (A/A). Any ten of them stand for two cells of five windows each: what the two
would have reported differs by noise alone, and the floor is what 95 % of such pairs stay below.
"""

from __future__ import annotations

import hashlib
import math
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from harness.errors import SetupError
from harness.executors import Answer, Executor, Question
from harness.jobs import Jobs
from harness.scratch import LOCK, cache_folder, scratch
from harness.store import writing
from runner.contract import (
    SCHEMA_VERSION,
    Base,
    ContractError,
    EvaluationSpec,
    ExecutorName,
    Failure,
    Throughput,
    Timing,
    Window,
    encode,
    read,
    write_atomic,
)

CELL_WINDOWS = EvaluationSpec().windows
LEAST_WINDOWS = 2 * CELL_WINDOWS  # two cells' worth
ENOUGH_WINDOWS = 4 * CELL_WINDOWS
THREADS = 1
QUANTILE = 95  # per cent of the pairs
WAYS = 2_000  # to choose a pair: all of them up to so many, else so many at random
SEED = 0
P99_REQUESTS = 662  # for its order-statistic bound at 99 % confidence
LARGE_FLOOR = 0.10


class Calibration(Base, frozen=True, kw_only=True):
    """Smaller differences than the three floors, as shares (0.021 is 2.1 %), are noise on this host. `when`: Unix
    seconds. The figures below them are those of the model that was timed, over all windows that count."""

    schema_version: int = SCHEMA_VERSION
    hostname_hash: str | None
    cpu_model: str | None
    executor: ExecutorName
    threads: int
    when: float
    windows: tuple[Window, ...]
    latency_p50: float
    latency_p99: float
    throughput: float
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    samples_per_s: float | None = None


# --- asking the runner ------------------------------------------------------------------------


async def calibrate(executor: Executor, windows: int) -> Calibration:
    """Time this host, and keep what was found. Raises SetupError."""
    with scratch() as folder:
        info = await Jobs(executor, folder).device_info()
        timed = await _time(executor, folder, windows)
    clean = len(sampled(timed))
    if clean < LEAST_WINDOWS:
        reasons = {reason for window in timed.windows for reason in window.reasons}
        raise SetupError(
            f"only {clean} of {windows} windows were undisturbed, and {LEAST_WINDOWS} are needed "
            f"({'; '.join(sorted(reasons)[:3])})",
            "end other programs and calibrate again; nothing was kept",
        )
    figures, floor = measured_and_floor(timed)
    found = Calibration(
        hostname_hash=host_hash(),
        cpu_model=info.cpu_model,
        executor=executor.name,
        threads=THREADS,
        when=time.time(),
        windows=timed.windows,
        latency_p50=floor.latency_p50,
        latency_p99=floor.latency_p99,
        throughput=floor.throughput,
        latency_p50_ms=figures.latency_p50,
        latency_p99_ms=figures.latency_p99,
        samples_per_s=figures.throughput,
    )
    keep(found)
    return found


async def _time(executor: Executor, folder: Path, windows: int) -> Timing:
    own = folder / "calibrate"
    with writing(own):
        own.mkdir(mode=0o700)
    out = own / "answer.json"
    arguments = ("calibrate", "--out", str(out), "--windows", str(windows))
    ended = await executor.ask(Question(arguments, own, folder / LOCK))
    try:
        if ended.code == 0:
            return read(out, Timing)
        failure = read(out, Failure)
    except (ContractError, FileNotFoundError) as error:
        raise SetupError(f"the runner could not calibrate: {_cause(ended, error)}", "run `moodbench doctor`") from None
    raise SetupError(failure.message, failure.hint)


def _cause(ended: Answer, error: Exception) -> str:
    if ended.code == 0:
        return str(error)
    lines = ended.err.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"it ended with exit code {ended.code}"


# --- the noise floor --------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """Latencies in ms and texts per second of a model; or the noise floor of each, as a share."""

    latency_p50: float
    latency_p99: float
    throughput: float


@dataclass(frozen=True)
class Sampled:
    """One window that counts."""

    samples_ms: Sequence[float]
    throughput: Sequence[Throughput]


def sampled(timed: Timing) -> list[Sampled]:
    """The pooled samples lie one window after the other."""
    found: list[Sampled] = []
    start = 0
    for window in timed.windows:
        if window.counted:
            end = start + window.requests
            if not window.contaminated:
                found.append(Sampled(timed.latency.samples_ms[start:end], window.throughput))
            start = end
    return found


def measured_and_floor(timed: Timing) -> tuple[Figures, Figures]:
    """The figures over all windows, and the noise floor of what a cell reports."""
    windows = sampled(timed)
    pairs = [
        (figures([windows[i] for i in first]), figures([windows[i] for i in second]))
        for first, second in halves(len(windows), min(CELL_WINDOWS, len(windows) // 2))
    ]
    return figures(windows), noise_floor(pairs)


def figures(windows: Sequence[Sampled]) -> Figures:
    """What a cell of these windows would report: the mean of their medians, the p99 of all their requests, and the
    throughput at the best batch size."""
    import numpy as np

    p50 = np.mean([np.median(window.samples_ms) for window in windows])
    p99 = np.percentile(np.concatenate([np.asarray(window.samples_ms) for window in windows]), 99)
    by_size = zip(*(window.throughput for window in windows), strict=True)
    best = max(sum(part.samples for part in parts) / sum(part.seconds for part in parts) for parts in by_size)
    return Figures(float(p50), float(p99), best)


def halves(count: int, half: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Pairs of `half` windows each out of `count`: every way to choose them, or WAYS of these, always the same."""
    if math.comb(count, half) * math.comb(count - half, half) // 2 <= WAYS:
        for first in combinations(range(count), half):
            rest = [i for i in range(count) if i not in first]
            yield from ((first, second) for second in combinations(rest, half) if first < second)
        return
    import numpy as np

    generator = np.random.default_rng(SEED)
    for _ in range(WAYS):
        chosen = generator.permutation(count)[: 2 * half].tolist()
        yield tuple(chosen[:half]), tuple(chosen[half:])


def noise_floor(pairs: Sequence[tuple[Figures, Figures]]) -> Figures:
    """What QUANTILE per cent of the differences, each as a share of the pair's mean, stay below."""
    import numpy as np

    def floor(name: str) -> float:
        both = np.array([(getattr(a, name), getattr(b, name)) for a, b in pairs])
        return float(np.percentile(np.abs(both[:, 0] - both[:, 1]) / both.mean(axis=1), QUANTILE))

    return Figures(floor("latency_p50"), floor("latency_p99"), floor("throughput"))


# --- what speaks against it -------------------------------------------------------------------


def criticisms(found: Calibration) -> list[str]:
    """Sentences for the user: why these figures may be worse than they look."""
    counted = [window for window in found.windows if window.counted]
    clean = [window for window in counted if not window.contaminated]
    return [*_disturbances(counted), *_too_few(clean), *_drift(found, clean), *_large(found)]


def _disturbances(counted: Sequence[Window]) -> Iterator[str]:
    disturbed = [window for window in counted if window.contaminated]
    if disturbed:
        worst = max(disturbed, key=lambda window: window.cpu_share_foreign or 0.0)
        yield (
            f"{len(disturbed)} of {len(counted)} windows never were undisturbed ({'; '.join(worst.reasons)}) and are "
            "left out: better end other programs and calibrate again"
        )
    if all(window.contaminated is None for window in counted):
        yield "nothing here could tell whether other work disturbed the windows: make sure that none ran"


def _too_few(counted: Sequence[Window]) -> Iterator[str]:
    if len(counted) < ENOUGH_WINDOWS:
        yield f"{len(counted)} windows are few: the floor itself is uncertain; give --windows {ENOUGH_WINDOWS} or more"
    half = min(CELL_WINDOWS, len(counted) // 2)
    requests = half * min(window.requests for window in counted)
    if requests < P99_REQUESTS:
        yield (
            f"the p99 of {half} windows rests on {requests} requests, and needs {P99_REQUESTS}: take its floor as a "
            "rough one"
        )


def _drift(found: Calibration, counted: Sequence[Window]) -> Iterator[str]:
    """The ways to choose pairs mix early and late windows; what changes over time shows between the ends alone."""
    middle = len(counted) // 2
    early, late = (sum(window.p50_ms for window in part) / len(part) for part in (counted[:middle], counted[-middle:]))
    change = late / early - 1
    if abs(change) > max(found.latency_p50, 0.01):
        word = "slower" if change > 0 else "faster"
        yield (
            f"the machine became {percent(abs(change))} {word} from the first half of the windows to the second: "
            "calibrate again when it has reached its working temperature"
        )


def _large(found: Calibration) -> Iterator[str]:
    if found.latency_p50 > LARGE_FLOOR or found.throughput > LARGE_FLOOR:
        yield "this machine is too noisy to tell models of similar speed apart"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


# --- keeping it -------------------------------------------------------------------------------


def host_hash() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:12]


def calibration_file(executor: ExecutorName, threads: int) -> Path:
    """Of this host."""
    return cache_folder() / "calibration" / f"{host_hash()}-{executor}-t{threads}.json"


def keep(found: Calibration) -> None:
    """Raises SetupError."""
    path = calibration_file(found.executor, found.threads)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, encode(found))


def calibration_for(executor: ExecutorName, threads: int, cpu_model: str | None = None) -> Calibration | None:
    """What is known of this host for cells of this kind. None: nothing, or it cannot be read, or it was found on
    another CPU than `cpu_model`."""
    try:
        found = read(calibration_file(executor, threads), Calibration)
    except (ContractError, OSError):
        return None
    known = (found.hostname_hash, found.executor, found.threads) == (host_hash(), executor, threads)
    same_cpu = cpu_model is None or found.cpu_model == cpu_model
    return found if known and same_cpu else None
