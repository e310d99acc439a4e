"""Which executor carries out the cells, and why."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from dataclasses import dataclass
from typing import Literal

from harness.errors import MoodBenchError, SetupError
from harness.executors import Executor
from harness.executors.native import NativeExecutor
from harness.store import RunFolder

AskedExecutor = Literal["auto", "docker", "native"]
# Without these no model can be fetched, no dataset prepared and no cell run natively.
NATIVE_PACKAGES = ("torch", "transformers", "peft", "datasets", "sklearn")


@dataclass(frozen=True)
class Executors:
    """`cells` run there, for that reason; `jobs` fetch and prepare: natively where that is possible, because then the
    user's own caches and packages are at hand, else in a container with network."""

    cells: Executor
    jobs: Executor
    reason: str

    async def close(self) -> None:
        await self.cells.close()


async def choose_executor(asked: AskedExecutor, device: str, run: RunFolder | None) -> Executors:
    """`auto` takes containers where they can be had for this device, else child processes. `run` None: for questions
    only. Raises SetupError where what was asked for cannot be had."""
    if asked == "native":
        return _native("asked for")
    refusal = _never_in_containers(device)
    if refusal is None:
        try:
            return await _docker(device, run, "asked for" if asked == "docker" else "the engine and the image are here")
        except MoodBenchError as error:
            if asked == "docker":
                raise
            refusal = error.message
    elif asked == "docker":
        raise SetupError(f"containers cannot be used: {refusal}", "use --executor native, or another --device")
    return _native(f"no containers: {refusal}")


async def executor_of_jobs() -> Executor:
    """For fetching and preparing alone. Raises SetupError where neither way is open."""
    if runs_natively():
        return NativeExecutor()
    from harness.executors.docker import DockerExecutor

    try:
        return await DockerExecutor.open("cpu", None)
    except MoodBenchError as error:
        raise SetupError(
            f"models and datasets cannot be had: the runner's packages are not installed, and {error.message}",
            f"pip install 'moodbench[runner]', or: {error.hint}",
        ) from None


def runs_natively() -> bool:
    return all(importlib.util.find_spec(name) for name in NATIVE_PACKAGES)


def _native(reason: str) -> Executors:
    native = NativeExecutor()
    return Executors(native, native, reason)


def _never_in_containers(device: str) -> str | None:
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    if device == "mps":
        return "they cannot use Apple's GPU"
    if device == "auto" and apple:
        return "they cannot use Apple's GPU, which native cells can"
    return None


async def _docker(device: str, run: RunFolder | None, reason: str) -> Executors:
    from harness.executors.docker import DockerExecutor

    gpu = device == "cuda" or (device == "auto" and shutil.which("nvidia-smi") is not None)
    docker = await DockerExecutor.open("cuda" if gpu else "cpu", run)
    return Executors(docker, NativeExecutor() if runs_natively() else docker, reason)
