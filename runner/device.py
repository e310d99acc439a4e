"""Devices: pick one, synchronise it, and choose number formats. Every choice comes with its reason."""

from __future__ import annotations

import contextlib
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
        packages=package_versions(),
    )


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
    torch.use_deterministic_algorithms(True, warn_only=True)


def grad_scaler(dtype: str) -> torch.amp.GradScaler:
    """Scales the loss in fp16 only; elsewhere it passes everything through."""
    import torch

    return torch.amp.GradScaler(enabled=dtype == "float16")
