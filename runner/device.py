"""Devices: pick one, synchronise it, and choose number formats. Every choice comes with its reason."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from runner.contract import Choice, Device, DeviceInfo
from runner.errors import RunnerError

if TYPE_CHECKING:
    import torch

REQUIRED_PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "sklearn")
DISTRIBUTIONS = (
    "torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "datasets", "scikit-learn",
    "numpy", "pyarrow", "bitsandbytes",
)  # fmt: skip


def package_versions() -> dict[str, str | None]:
    """Installed versions of what decides a result; None where a package is absent."""
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, str | None] = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def info() -> DeviceInfo:
    """What this environment offers. Works without the runner's packages: then `missing` names them."""
    from importlib.util import find_spec

    missing = tuple(name for name in REQUIRED_PACKAGES if find_spec(name) is None)
    if missing:
        return DeviceInfo(
            device="cpu",
            device_reason="the runner's packages are not installed",
            available=(),
            cpu_model=cpu_model(),
            packages=package_versions(),
            missing=missing,
        )
    import torch

    available = tuple(_available())
    choice = pick(None)
    gpus = tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) if "cuda" in available else ()
    return DeviceInfo(
        device=choice.value,  # type: ignore[arg-type]
        device_reason=choice.reason,
        available=available,
        gpus=gpus,
        cpu_model=cpu_model(),
        packages=package_versions(),
    )


def cpu_model() -> str | None:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or None


def keep_on(cores: tuple[int, ...]) -> Choice:
    """Keep this process on these cores, or on any where they cannot be had. Threads that exist already stay where they
    are: this comes before the numeric libraries. The choice's value is None where the process is on any core."""
    if not hasattr(os, "sched_setaffinity"):
        return Choice(value=None, reason="this system cannot keep a process on some cores: it runs on any")
    before = os.sched_getaffinity(0)
    names = ",".join(map(str, cores))
    with contextlib.suppress(OSError, ValueError, OverflowError):
        os.sched_setaffinity(0, cores)
        if os.sched_getaffinity(0) == set(cores):  # the kernel leaves out those it does not have
            return Choice(value=names, reason="given by the host")
    os.sched_setaffinity(0, before)
    return Choice(value=None, reason=f"not all of the cores {names} can be had here: it runs on any")


def _available() -> list[Device]:
    import torch

    devices: list[Device] = ["cpu"]
    if torch.cuda.is_available():
        devices.append("cuda")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


def pick(requested: Device | None) -> Choice:
    """The device to use. Raises RunnerError(environment) where the requested one is absent."""
    import torch

    available = _available()
    if requested is not None:
        if requested not in available:
            raise RunnerError(
                "environment",
                f"device '{requested}' was asked for, but this machine offers {', '.join(available)}",
                "use --device auto, or install a torch build for that device",
            )
        return Choice(value=requested, reason="asked for")
    if "cuda" in available:
        return Choice(value="cuda", reason=f"found {torch.cuda.get_device_name(0)}")
    if "mps" in available:
        return Choice(value="mps", reason="Apple GPU found")
    return Choice(value="cpu", reason="no GPU that torch can use was found")


def compute_dtype(device: Device) -> Choice:
    """Number format of the matrix products: bf16 where a CUDA card has it, else fp16 with loss scaling."""
    import torch

    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice(value="bfloat16", reason="the card computes in bf16")
        return Choice(value="float16", reason="the card lacks bf16; fp16 with loss scaling")
    return Choice(value="float32", reason=f"{device}: fp32 unless measured faster and equal")


def autocast(device: Device, dtype: str) -> contextlib.AbstractContextManager[object]:
    """Mixed precision for a block; does nothing for float32."""
    import torch

    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device_type=device, dtype=getattr(torch, dtype))


def synchronize(device: Device) -> None:
    """Wait until the device has finished, so that a clock read afterwards is true."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def make_deterministic(seed: int, threads: int) -> None:
    """Same seed, same machine, same predictions."""
    import random

    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)  # libraries draw from the global stream
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    with contextlib.suppress(
        RuntimeError
    ):  # only the first cell of a process can; nothing here runs operations side by side
        torch.set_num_interop_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)


def random_states(device: Device) -> dict[str, torch.Tensor]:
    """The streams that dropout draws from: uint8 tensors on the CPU."""
    import torch

    states = {"cpu": torch.get_rng_state()}
    if device == "cuda":
        states["cuda"] = torch.cuda.get_rng_state()
    elif device == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_states(states: dict[str, torch.Tensor]) -> None:
    import torch

    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
    if "mps" in states:
        torch.mps.set_rng_state(states["mps"])


def grad_scaler(dtype: str) -> torch.amp.GradScaler:
    """Scales the loss in fp16 only; elsewhere it passes everything through."""
    import torch

    return torch.amp.GradScaler(enabled=dtype == "float16")
