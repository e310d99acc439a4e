"""Choosing a device and a number format; the GPUs that this machine lacks are small fakes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest
import torch

from runner import device as devices
from runner.contract import Device, DeviceInfo, encode
from runner.errors import RunnerError

Machine = Callable[..., list[str]]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """machine("cuda", bf16=False): pretend that torch finds these devices."""

    def pretend(*found: Device, bf16: bool = True) -> list[str]:
        calls: list[str] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in found)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 if "cuda" in found else 0)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=0: f"Card {index}")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or bf16)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("cuda"))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in found)
        monkeypatch.setattr(torch.mps, "synchronize", lambda: calls.append("mps"))
        return calls

    return pretend


@pytest.mark.parametrize(
    ("found", "expected", "why"),
    [
        ((), "cpu", "no GPU"),
        (("cuda",), "cuda", "Card 0"),
        (("mps",), "mps", "Apple"),
        (("cuda", "mps"), "cuda", "0"),
    ],
)
def test_the_best_device_is_picked_with_a_reason(
    machine: Machine, found: Sequence[Device], expected: str, why: str
) -> None:
    machine(*found)
    choice = devices.pick(None)
    assert choice.value == expected
    assert why in choice.reason


@pytest.mark.parametrize("wanted", ["cpu", "cuda", "mps"])
def test_a_device_asked_for_is_used_or_refused(machine: Machine, wanted: Device) -> None:
    machine("cuda", "mps")
    assert devices.pick(wanted).value == wanted
    machine()
    if wanted != "cpu":
        with pytest.raises(RunnerError, match=f"'{wanted}' was asked for, but this machine offers cpu") as caught:
            devices.pick(wanted)
        assert caught.value.kind == "environment"


@pytest.mark.parametrize(
    ("device", "bf16", "expected"),
    [("cpu", True, "float32"), ("mps", True, "float32"), ("cuda", True, "bfloat16"), ("cuda", False, "float16")],
)
def test_number_format(machine: Machine, device: Device, bf16: bool, expected: str) -> None:
    machine("cuda", bf16=bf16)  # emulated bf16 would be slow: it does not count
    choice = devices.compute_dtype(device)
    assert choice.value == expected
    assert choice.reason


@pytest.mark.parametrize(("dtype", "inside"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_autocast_changes_matrix_products_only_where_asked(dtype: str, inside: torch.dtype) -> None:
    matrix = torch.ones(2, 2)
    with devices.autocast("cpu", dtype):
        assert (matrix @ matrix).dtype == inside
    assert (matrix @ matrix).dtype == torch.float32


@pytest.mark.parametrize(("device", "waited"), [("cpu", []), ("cuda", ["cuda"]), ("mps", ["mps"])])
def test_synchronize_waits_for_its_own_device(machine: Machine, device: Device, waited: list[str]) -> None:
    calls = machine("cuda", "mps")
    devices.synchronize(device)
    assert calls == waited


def test_info_names_devices_and_packages(machine: Machine) -> None:
    machine("cuda", "mps")
    info = devices.info()
    assert info.available == ("cpu", "cuda", "mps")
    assert (info.device, info.gpus, info.missing) == ("cuda", ("Card 0", "Card 1"), ())
    assert info.packages["torch"] is not None
    assert msgspec.json.decode(encode(info), type=DeviceInfo) == info
    machine()
    assert (devices.info().available, devices.info().gpus) == (("cpu",), ())


def test_info_works_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "REQUIRED_PACKAGES", ("torch", "no_such_package"))
    monkeypatch.setattr(devices, "DISTRIBUTIONS", ("numpy", "no-such-package"))
    info = devices.info()
    assert (info.device, info.available, info.missing) == ("cpu", (), ("no_such_package",))
    assert info.packages == {"numpy": np.__version__, "no-such-package": None}


def test_one_seed_one_stream() -> None:
    def draws(seed: int) -> tuple[object, ...]:
        devices.make_deterministic(seed, 1)
        return random.random(), float(np.random.random()), float(torch.rand(()))

    first, again, other = draws(1), draws(1), draws(2)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("dtype", "enabled"), [("float32", False), ("bfloat16", False), ("float16", True)])
def test_only_fp16_is_scaled(monkeypatch: pytest.MonkeyPatch, dtype: str, enabled: bool) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *, enabled: asked.append(enabled))
    devices.grad_scaler(dtype)
    assert asked == [enabled]
