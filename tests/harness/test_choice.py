"""Which executor is taken, and why. The engine is a stand-in."""

from __future__ import annotations

import asyncio
import platform
import shutil
from pathlib import Path

import pytest

from harness.errors import ExecutorError, SetupError
from harness.executors import choice
from harness.executors.choice import Executors, choose_executor, executor_of_jobs
from harness.executors.docker import DockerExecutor
from harness.executors.native import NativeExecutor
from harness.store import RunFolder


class Opened:
    """In the place of DockerExecutor.open: notes the image asked for, or refuses."""

    def __init__(self, problem: ExecutorError | None = None) -> None:
        self.problem = problem
        self.kinds: list[str] = []

    async def __call__(self, kind: str, run: RunFolder | None) -> DockerExecutor:
        self.kinds.append(kind)
        if self.problem is not None:
            raise self.problem
        return object.__new__(DockerExecutor)


NO_IMAGE = ExecutorError("image_missing", "the image has not been built", "moodbench images build")


def choose(monkeypatch: pytest.MonkeyPatch, engine: Opened, asked: str = "auto", device: str = "auto") -> Executors:
    monkeypatch.setattr(DockerExecutor, "open", engine)
    return asyncio.run(choose_executor(asked, device, RunFolder(Path("r"))))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def linux_without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(shutil, "which", lambda name: None)


def test_auto_takes_containers_where_they_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Opened()
    chosen = choose(monkeypatch, engine)
    assert isinstance(chosen.cells, DockerExecutor)
    assert isinstance(chosen.jobs, NativeExecutor)  # the runner's packages are installed here
    assert engine.kinds == ["cpu"]
    assert "the image" in chosen.reason


def test_auto_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = choose(monkeypatch, Opened(NO_IMAGE))
    assert isinstance(chosen.cells, NativeExecutor)
    assert chosen.reason == "no containers: the image has not been built"


def test_what_was_asked_for_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExecutorError, match="has not been built"):
        choose(monkeypatch, Opened(NO_IMAGE), asked="docker")


def test_native_does_not_ask_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Opened()
    assert isinstance(choose(monkeypatch, engine, asked="native").cells, NativeExecutor)
    assert engine.kinds == []


@pytest.mark.parametrize(
    ("device", "gpu", "kind"), [("cuda", False, "cuda"), ("auto", True, "cuda"), ("cpu", True, "cpu")]
)
def test_the_device_decides_the_image(monkeypatch: pytest.MonkeyPatch, device: str, gpu: bool, kind: str) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi" if gpu else None)
    engine = Opened()
    choose(monkeypatch, engine, device=device)
    assert engine.kinds == [kind]


def test_apple_silicon_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    engine = Opened()
    chosen = choose(monkeypatch, engine)
    assert isinstance(chosen.cells, NativeExecutor)
    assert "Apple's GPU" in chosen.reason
    with pytest.raises(SetupError, match="Apple's GPU"):
        choose(monkeypatch, engine, asked="docker")
    choose(monkeypatch, engine, asked="docker", device="cpu")  # on its processor they can
    assert engine.kinds == ["cpu"]


def test_jobs_go_into_a_container_where_the_host_lacks_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "runs_natively", lambda: False)
    chosen = choose(monkeypatch, Opened())
    assert chosen.jobs is chosen.cells
    monkeypatch.setattr(DockerExecutor, "open", Opened(NO_IMAGE))
    with pytest.raises(SetupError, match="packages are not installed, and the image has not been built") as failed:
        asyncio.run(executor_of_jobs())
    assert "moodbench images build" in failed.value.hint
