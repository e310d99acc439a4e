"""Containers without an engine: their confinement, what their ends mean, and an engine of our own that misbehaves."""

from __future__ import annotations

import asyncio
import os
import queue
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
from docker.errors import APIError, NotFound

from harness.errors import ExecutorError
from harness.executors import Capacity, Exit, Gpu, Question, containers, docker, mounts
from harness.executors.containers import (
    ContainerSpec,
    End,
    cell_user,
    exit_of,
    facilities,
    fresh_name,
    host_id,
    refused,
)
from harness.executors.docker import DockerExecutor, stale_containers
from harness.executors.docker import handle as handles
from harness.executors.machine import oom_kills
from harness.executors.mounts import HostMount, cell_mounts, check_readable
from harness.images import BuiltImage
from harness.scratch import LOCK
from harness.store import AttemptPaths, RunFolder
from runner.contract import CellSpec, Limits, ModelSpec
from tests.harness.builders import cell, prepared

# --- how it ended -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "exited"),
    [
        (End(0), Exit(0)),
        (End(1), Exit(1)),
        (End(0, out_of_memory=True), Exit(0)),  # a child that it could do without
        (End(143), Exit(None, 15)),
        (End(139), Exit(None, 11)),
        (End(255), Exit(255)),
        (End(137), Exit(None, 9)),
        (End(137, killed_by_us=True, out_of_memory=True), Exit(None, 9)),
        (End(137, killed_by_us=True, machine_out_of_memory=True), Exit(None, 9)),
        (
            End(137, out_of_memory=True),
            Exit(None, 9, "out_of_memory", "the cell needed more than its limit of 200 MB of memory"),
        ),
        (
            End(3, out_of_memory=True),
            Exit(3, None, "out_of_memory", "the cell needed more than its limit of 200 MB of memory"),
        ),
        (
            End(137, machine_out_of_memory=True),
            Exit(None, 9, "out_of_memory", "the machine ran out of memory, and the system ended the cell"),
        ),
        (
            End(137, machine_out_of_memory=True, killed_outside=True),
            Exit(None, 9, "killed", "the cell's container was killed from outside (SIGKILL)"),
        ),
        (End(1, machine_out_of_memory=True), Exit(1)),
    ],
)
def test_what_an_end_means(end: End, exited: Exit) -> None:
    assert exit_of(end, 200) == exited


def test_without_a_limit_the_sentence_names_none() -> None:
    assert "MB" not in exit_of(End(137, out_of_memory=True), None).detail


def test_the_machines_own_count_of_killed_processes(tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    assert oom_kills(vmstat) == 0
    vmstat.write_text("pgfault 12\noom_kill 3\nother 1\n")
    assert oom_kills(vmstat) == 3


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("mkdir /var/lib/docker/overlay2/x: no space left on device", "disk_full"),
        ('could not select device driver "nvidia" with capabilities: [[gpu]]', "environment"),
        ("nvidia-container-cli: device error: 0: unknown device: unknown", "gpu_lost"),
        ("nvidia-container-cli: initialization error: nvml error: driver/library version mismatch", "gpu_lost"),
        ("invalid mount config for type bind: bind source path does not exist: /a", "environment"),
        ("dial unix /run/containerd/containerd.sock: connect: connection refused", "engine_gone"),
        ("something new", "environment"),
    ],
)
def test_what_the_engine_says(said: str, kind: str) -> None:
    error = refused(said)
    assert error.kind == kind
    assert said in error.message
    assert error.hint


def test_what_an_engine_offers() -> None:
    info = {"OSType": "linux", "NCPU": 8, "MemTotal": 2**34, "SecurityOptions": ["name=seccomp,profile=default"]}
    assert facilities(info) == containers.Facilities(cores=8, memory_mb=2**14)
    nvidia = facilities(info | {"Runtimes": {"nvidia": {}, "runc": {}}})
    assert (nvidia.gpu, nvidia.cdi) == (True, False)
    assert facilities(info, hook=True).gpu
    cdi = facilities(info | {"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]})
    assert (cdi.gpu, cdi.cdi, cdi.cdi_ids) == (True, True, False)
    both = [{"Source": "cdi", "ID": f"nvidia.com/gpu={name}"} for name in ("0", "GPU-1a2b", "all")]
    assert facilities(info | {"DiscoveredDevices": both}).cdi_ids
    assert facilities(info | {"SecurityOptions": ["name=selinux"]}).selinux


@pytest.mark.parametrize(
    "info", [{"SecurityOptions": ["name=rootless"]}, {"SecurityOptions": ["name=userns"]}, {"OSType": "windows"}]
)
def test_engines_that_would_give_results_to_somebody_else_are_refused(info: dict[str, Any]) -> None:
    with pytest.raises(ExecutorError, match="cannot be used") as raised:
        facilities(info)
    assert "--executor native" in raised.value.hint


# --- how it is confined -------------------------------------------------------------------------


def container(**changes: Any) -> ContainerSpec:
    spec = ContainerSpec(
        name="n", image="i", command=("run",), labels={}, user="1:1", mounts=(), environment={}, tmp_mb=64
    )
    return replace(spec, **changes)


def test_nothing_is_allowed_that_is_not_needed() -> None:
    config = container(limits=Limits(memory_mb=200, cpus=1.5, pids=99)).config()
    host = config["HostConfig"]
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["CapDrop"]) == ("none", True, ["ALL"])
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert (host["Memory"], host["MemorySwap"]) == (200 * 2**20, 200 * 2**20)
    assert (host["NanoCpus"], host["PidsLimit"]) == (1_500_000_000, 99)
    assert host["LogConfig"] == {"Type": "none"}
    assert host["Init"]
    assert set(host["Tmpfs"]) == {"/tmp", "/dev/shm", "/dev/mqueue"}
    assert host["Tmpfs"]["/dev/shm"].startswith("ro,")
    assert (config["OpenStdin"], config["StdinOnce"]) == (True, True)
    assert (config["Env"], host["DeviceRequests"]) == ([], [])


def test_gpus_are_given_by_id() -> None:
    [request] = container(gpus=("0",)).config()["HostConfig"]["DeviceRequests"]
    assert request == {"Driver": "nvidia", "DeviceIDs": ["0"], "Capabilities": [["gpu"]]}
    [request] = container(gpus=("1",), cdi=True).config()["HostConfig"]["DeviceRequests"]
    assert request == {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=1"]}


def test_results_may_lie_in_shared_memory() -> None:
    results = HostMount(Path("/dev/shm/x"), Path("/dev/shm/x"), writable=True)
    assert "/dev/shm" not in container(mounts=(results,)).config()["HostConfig"]["Tmpfs"]


def test_names_can_be_read_and_differ() -> None:
    name = fresh_name("majority--my data,:--s1", "2")
    assert name.startswith("moodbench-majority--my-data---s1-2-")
    assert name != fresh_name("majority--my data,:--s1", "2")


def test_the_host_keeps_its_name() -> None:
    assert host_id() == host_id()
    assert len(host_id()) == 16


# --- mounts -------------------------------------------------------------------------------------


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptPaths:
    folder = tmp_path / "res: ults" / "my,run" / "cells" / "c" / "attempt-001"
    folder.mkdir(parents=True)
    return AttemptPaths(folder=folder, number=1)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    folder.mkdir(mode=0o755)
    (folder / "train.parquet").touch(mode=0o644)
    return folder


def test_a_cell_writes_to_its_attempt_alone(attempt: AttemptPaths, dataset: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "abc", tmp_path / "hub" / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    (blobs / "1").touch()
    (tmp_path / "elsewhere").touch()
    (blobs / "2").symlink_to(tmp_path / "elsewhere")  # as caches that are shared do it
    (snapshot / "config.json").symlink_to("../../blobs/1")
    (snapshot / "model.safetensors").symlink_to("../../blobs/2")
    (snapshot / "tokenizer.json").symlink_to("config.json")
    (snapshot / "broken").symlink_to("../../blobs/3")
    assert cell_mounts(attempt, with_model(dataset, snapshot)) == [
        HostMount(dataset, dataset),
        HostMount(blobs / "1", snapshot / "config.json"),
        HostMount(tmp_path / "elsewhere", snapshot / "model.safetensors"),
        HostMount(blobs / "1", snapshot / "tokenizer.json"),
        HostMount(attempt.folder, attempt.folder, writable=True),
    ]


def with_model(dataset: Path, folder: Path) -> CellSpec:
    model = ModelSpec(alias="m", kind="path", name="m", folder=str(folder))
    return msgspec.structs.replace(cell(dataset=prepared(folder=str(dataset))), model=model)


def test_a_models_folder_opens_nothing_else(attempt: AttemptPaths, dataset: Path, tmp_path: Path) -> None:
    """Whoever made the folder chose its links, and it may be a folder of the user's that holds more."""
    model, secrets, other = tmp_path / "model", tmp_path / "home", tmp_path / "other.safetensors"
    for folder in (model, secrets):
        folder.mkdir()
    (model / "config.json").touch()
    other.touch()
    (secrets / "credentials.json").write_text("secret")
    (model / ".env").write_text("HF_TOKEN=secret")
    (model / "id_rsa").write_text("secret")
    (model / ".ssh").mkdir()
    (model / "nested.json").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(secrets / "s.txt"))
        links = {
            "engine.txt": secrets / "s.txt",
            "all.json": secrets,
            "root.model": Path("/"),
            "broken.json": Path("no"),
        }
        links |= {"creds.json": secrets / "credentials.json", "ring.json": model / "ring.json"}
        links |= {"weights.safetensors": other, "fake.safetensors": secrets / "credentials.json"}
        for name, target in links.items():
            (model / name).symlink_to(target)
        found = {mount.target.name: mount.source for mount in cell_mounts(attempt, with_model(dataset, model))}
        asked = mounts.mounts([model], [])
    assert found == {
        "dataset": dataset,
        "config.json": model / "config.json",
        "weights.safetensors": other,
        attempt.folder.name: attempt.folder,
    }
    assert asked == [HostMount(model, model), HostMount(other, other)]


def test_a_folder_behind_a_link_is_there_under_the_name_it_is_asked_for(tmp_path: Path, dataset: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(dataset.parent)
    assert mounts.mounts([link / "dataset"], []) == [HostMount(dataset, link / "dataset")]


def test_what_is_read_and_written_is_writable(dataset: Path, tmp_path: Path) -> None:
    assert mounts.mounts([dataset, tmp_path / "absent"], [dataset]) == [HostMount(dataset, dataset, writable=True)]


def test_a_dataset_that_is_gone(attempt: AttemptPaths) -> None:
    with pytest.raises(ExecutorError, match="there is no /nowhere"):
        cell_mounts(attempt, cell())


@pytest.mark.parametrize("closed", ["folder", "file"])
def test_what_only_root_may_read_is_named_with_a_remedy(dataset: Path, closed: str) -> None:
    mount = HostMount(dataset, dataset)
    (dataset / "notes.pdf").touch(mode=0o600)  # no cell reads it
    check_readable([mount])
    (dataset if closed == "folder" else dataset / "train.parquet").chmod(0o700)
    with pytest.raises(ExecutorError, match="may not read") as raised:
        check_readable([mount])
    assert "chmod -R o+rX" in raised.value.hint
    check_readable([replace(mount, writable=True)])


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_what_roots_cells_write_comes_back_to_root(attempt: AttemptPaths, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "theirs").touch()
    os.chown(outside, mounts.NOBODY, mounts.NOBODY)
    os.chown(outside / "theirs", mounts.NOBODY, mounts.NOBODY)
    attempt.spec.touch()
    mounts.hand_over(attempt.folder)
    assert attempt.spec.stat().st_uid == attempt.folder.stat().st_uid == mounts.NOBODY
    folder, program = attempt.folder / "adapter", attempt.folder / "adapter" / "program"
    folder.mkdir()
    program.touch()
    (folder / "link").symlink_to(outside)
    (folder / "file-link").symlink_to(outside / "theirs")
    for path in (folder, program, folder / "link", folder / "file-link"):
        os.lchown(path, mounts.NOBODY, mounts.NOBODY)
    program.chmod(0o4755)
    others = attempt.folder / "others"
    others.touch()
    os.chown(others, 1234, 1234)
    mounts.take_back(attempt.folder)
    mounts.take_back(attempt.folder / "absent")
    assert {path.lstat().st_uid for path in attempt.folder.rglob("*")} == {0, 1234}
    assert attempt.folder.stat().st_uid == 0
    assert program.stat().st_mode & 0o7777 == 0o755
    assert outside.stat().st_uid == (outside / "theirs").stat().st_uid == mounts.NOBODY


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_however_deep_a_cell_nests_folders_its_own_comes_back(attempt: AttemptPaths) -> None:
    inner = attempt.folder
    try:
        for _ in range(1500):
            inner = inner / "d"
            inner.mkdir()
        mounts.hand_over(attempt.folder)
        assert inner.stat().st_uid == mounts.NOBODY
        mounts.take_back(attempt.folder)
        assert attempt.folder.stat().st_uid == inner.stat().st_uid == 0
    finally:  # pytest's own removal recurses
        subprocess.run(["rm", "-rf", attempt.folder / "d"], check=True)


def test_a_cell_is_never_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(os, "getgid", lambda: 50)
    assert cell_user() == "1000:50"
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert cell_user() == "65532:65532"


# --- an engine of our own -----------------------------------------------------------------------


class FakeEngine:
    """What the executor uses of docker.APIClient. A container prints `frames`, then stays until it is killed or, with
    `code`, ends."""

    def __init__(self, frames: list[tuple[int, bytes]] | None = None, code: int | None = None) -> None:
        self.timeout = 1.0
        self.frames = frames or []
        self.code = code
        self.oom_after_s: float | None = None
        self.signals: list[str] = []
        self.paused = False
        self.made: dict[str, dict[str, Any]] = {}
        self.silent = False  # takes calls and never answers
        self.gone = False
        self.failing: dict[str, Exception] = {}
        self._ended = threading.Event()
        self._ended_at = 0.0
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._ours: list[socket.socket] = []

    def _answer(self, call: str) -> None:
        if call in self.failing:
            raise self.failing[call]
        if self.gone:
            raise requests.ConnectionError("refused")
        if self.silent:
            time.sleep(self.timeout)
            raise requests.ReadTimeout("timed out")

    def create_container_from_config(self, config: dict[str, Any], name: str) -> dict[str, str]:
        self._answer("create")
        self.made[name] = config
        return {"Id": name}

    def attach_socket(self, container: str, params: Mapping[str, int]) -> socket.SocketIO:
        self._answer("attach")
        ours, theirs = socket.socketpair()
        self._ours.append(ours)
        theirs.settimeout(0.01)  # the SDK's leftover
        return socket.SocketIO(theirs, "rb")

    def start(self, container: str) -> None:
        self._answer("start")
        threading.Thread(target=self._print, daemon=True).start()

    def _print(self) -> None:
        for stream, data in self.frames:
            self._ours[-1].sendall(struct.pack(">BxxxL", stream, len(data)) + data)
        if self.code is not None:
            self.end(self.code)

    def end(self, code: int) -> None:
        self.code = code
        self._ended_at = time.monotonic()
        self._ended.set()
        self._ours[-1].close()

    def kill(self, container: str, signal: str) -> None:
        self._answer("kill")
        self.signals.append(signal)
        if signal == "SIGKILL" and not self._ended.is_set():
            self.end(137)

    def pause(self, container: str) -> None:
        self._answer("pause")
        if self.paused or self._ended.is_set():
            raise api_error(409, "is already paused, or not running")
        self.paused = True
        self.signals.append("pause")

    def unpause(self, container: str) -> None:
        self._answer("unpause")
        if not self.paused:
            raise api_error(500, "is not paused")
        self.paused = False
        self.signals.append("unpause")

    def wait(self, container: str, timeout: float) -> dict[str, int | None]:
        self._answer("wait")
        if not self._ended.wait(timeout):
            raise requests.ReadTimeout("timed out")
        return {"StatusCode": self.code}

    def inspect_container(self, container: str) -> dict[str, Any]:
        self._answer("inspect")
        told = self.oom_after_s is not None and time.monotonic() - self._ended_at >= self.oom_after_s
        return {"State": {"OOMKilled": told, "Paused": self.paused, "Running": not self._ended.is_set()}}

    def remove_container(self, container: str, force: bool, v: bool) -> None:
        self._answer("remove")
        self.made.pop(container, None)

    def containers(self, all: bool, filters: Mapping[str, str]) -> list[dict[str, Any]]:
        self._answer("list")
        name, _, value = filters["label"].partition("=")
        labelled = {id_: config for id_, config in self.made.items() if config["Labels"].get(name) == value}
        return [{"Id": id_, "Names": [f"/{id_}"], "State": "exited"} | config for id_, config in labelled.items()]

    def events(self, filters: Any, decode: bool) -> Iterator[dict[str, Any]]:
        self._answer("events")
        return iter(self._events.get, None)

    def tell(self, container: str, action: str, **attributes: str) -> None:
        self._events.put({"id": container, "Action": action, "Actor": {"Attributes": attributes}})

    def restart(self) -> None:
        self._events.put(None)


class FakeClient:
    def __init__(self, api: FakeEngine) -> None:
        self.api = api

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"END_S": 0.5, "STOP_CALL_S": 0.3, "FREEZE_CALL_S": 0.3, "OOM_TOLD_S": 0.5}.items():
        monkeypatch.setattr(handles, name, value)
    for name, value in {"END_S": 0.5, "API_TIMEOUT_S": 1.0}.items():
        monkeypatch.setattr(docker, name, value)
    monkeypatch.setattr(handles, "oom_kills", lambda: 0)
    monkeypatch.setattr(docker, "check_readable", lambda mounted: None)  # pytest's folders are closed to others


IMAGE = BuiltImage(name="image", kind="cpu", digest="sha256:1", size_bytes=1, created="", current=True)


def carry_out(
    engine: FakeEngine,
    attempt: AttemptPaths,
    dataset: Path,
    meanwhile: Callable[[docker.DockerHandle], object] = lambda handle: None,
    *,
    stop_grace_s: float | None = None,
) -> Exit:
    async def work() -> Exit:
        run = RunFolder(attempt.folder.parents[2])
        executor = DockerExecutor(FakeClient(engine), IMAGE, facilities({}), run)
        try:
            handle = await executor.start(attempt, cell(dataset=prepared(folder=str(dataset))))
            meanwhile(handle)
            if stop_grace_s is not None:
                await asyncio.wait_for(handle.stop(stop_grace_s), 5)
            return await asyncio.wait_for(handle.wait(), 5)
        finally:
            await executor.close()

    return asyncio.run(work())


def api_error(status: int, said: str) -> APIError:
    response = requests.Response()
    response.status_code = status
    kind = NotFound if status == 404 else APIError
    return kind("error", response=response, explanation=said)


def test_what_it_prints_is_the_log_and_nothing_is_left(attempt: AttemptPaths, dataset: Path) -> None:
    engine = FakeEngine([(1, b"one\ntw"), (2, b"\x1b[31mred\n"), (1, b"o" * 100_000)], code=0)
    assert carry_out(engine, attempt, dataset) == Exit(0)
    assert attempt.log.read_text().startswith("one\ntwred\nooo")
    assert engine.made == {}


def test_the_container_says_whose_it_is(attempt: AttemptPaths, dataset: Path) -> None:
    engine = FakeEngine(code=0)
    engine.failing["remove"] = api_error(500, "cannot")
    carry_out(engine, attempt, dataset)
    [(name, config)] = engine.made.items()
    labels = config["Labels"]
    assert labels["dev.moodbench.run"] == "my,run"
    assert labels["dev.moodbench.cell"] in name
    assert labels["dev.moodbench.attempt"] == "1"
    assert labels["dev.moodbench.lock"] == str(attempt.folder.parents[2] / LOCK)
    assert config["Cmd"] == ["--watch-stdin", "run", str(attempt.spec), "--out", str(attempt.folder)]


@pytest.mark.parametrize("how", ["event", "state"])
def test_the_engine_tells_late_that_memory_ran_out(attempt: AttemptPaths, dataset: Path, how: str) -> None:
    engine = FakeEngine()

    def run_out(handle: docker.DockerHandle) -> None:
        if how == "state":
            engine.oom_after_s = 0.2
        else:
            threading.Timer(0.2, engine.tell, (handle.container_id, "oom")).start()
        engine.end(137)

    assert carry_out(engine, attempt, dataset, run_out).cause == "out_of_memory"


def test_a_kill_from_outside_is_none_of_ours(attempt: AttemptPaths, dataset: Path) -> None:
    engine = FakeEngine()

    def kill(handle: docker.DockerHandle) -> None:
        engine.tell(handle.container_id, "kill", signal="9")
        engine.end(137)

    assert carry_out(engine, attempt, dataset, kill).cause == "killed"


def test_a_kill_that_nobody_explains(attempt: AttemptPaths, dataset: Path) -> None:
    assert carry_out(FakeEngine(code=137), attempt, dataset) == Exit(None, 9)


def test_the_machine_ran_out(attempt: AttemptPaths, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([4, 5, 5])
    monkeypatch.setattr(handles, "oom_kills", lambda: next(counts))
    assert carry_out(FakeEngine(code=137), attempt, dataset).cause == "out_of_memory"


@pytest.mark.parametrize(("grace_s", "signals"), [(0.2, ["SIGTERM", "SIGKILL"]), (0.0, ["SIGKILL"])])
def test_a_stop_asks_then_kills(attempt: AttemptPaths, dataset: Path, grace_s: float, signals: list[str]) -> None:
    engine = FakeEngine()
    assert carry_out(engine, attempt, dataset, stop_grace_s=grace_s) == Exit(None, 9)
    assert engine.signals == signals


def test_a_stop_after_the_end_does_nothing(attempt: AttemptPaths, dataset: Path) -> None:
    engine = FakeEngine(code=0)
    assert carry_out(engine, attempt, dataset, lambda handle: time.sleep(0.3), stop_grace_s=1.0) == Exit(0)
    assert engine.signals == []


@pytest.mark.parametrize("how", ["gone", "silent"])
def test_a_stop_does_not_wait_for_an_engine_that_does_not_answer(
    attempt: AttemptPaths, dataset: Path, how: str
) -> None:
    engine = FakeEngine()
    with pytest.raises(ExecutorError, match="stopped answering") as raised:
        carry_out(engine, attempt, dataset, lambda handle: setattr(engine, how, True), stop_grace_s=0.5)
    assert raised.value.kind == "engine_gone"


@pytest.mark.parametrize("how", ["refused", "restarted", "forgotten"])
def test_an_engine_that_went_is_not_the_cells_fault(attempt: AttemptPaths, dataset: Path, how: str) -> None:
    engine = FakeEngine()

    def go(handle: docker.DockerHandle) -> None:
        if how == "refused":
            engine.gone = True
        elif how == "restarted":
            engine.restart()
            time.sleep(0.1)
        else:
            engine.failing["wait"] = api_error(404, "No such container")
        engine.end(143)

    with pytest.raises(ExecutorError, match="stopped answering") as raised:
        carry_out(engine, attempt, dataset, go)
    assert raised.value.kind == "engine_gone"


def test_a_cell_that_finished_is_finished_whatever_the_engine_did_since(attempt: AttemptPaths, dataset: Path) -> None:
    engine = FakeEngine()

    def go(handle: docker.DockerHandle) -> None:
        engine.restart()
        time.sleep(0.1)
        engine.end(0)

    assert carry_out(engine, attempt, dataset, go) == Exit(0)


def test_a_container_that_somebody_removed(attempt: AttemptPaths, dataset: Path) -> None:
    engine = FakeEngine()

    def remove(handle: docker.DockerHandle) -> None:
        engine.tell(handle.container_id, "destroy")
        engine.failing["wait"] = api_error(404, "No such container")
        time.sleep(0.1)
        engine.end(137)

    assert carry_out(engine, attempt, dataset, remove).cause == "killed"


def test_a_container_that_prints_no_more_but_stays_is_ended(attempt: AttemptPaths, dataset: Path) -> None:
    engine = FakeEngine()
    exited = carry_out(engine, attempt, dataset, lambda handle: engine._ours[-1].shutdown(socket.SHUT_RDWR))
    assert exited == Exit(None, 9)


@pytest.mark.parametrize("call", ["create", "attach", "start"])
def test_what_cannot_be_started_leaves_nothing(attempt: AttemptPaths, dataset: Path, call: str) -> None:
    engine = FakeEngine()
    engine.failing[call] = api_error(500, "write /x: no space left on device")
    with pytest.raises(ExecutorError, match="disk") as raised:
        carry_out(engine, attempt, dataset)
    assert raised.value.kind == "disk_full"
    assert engine.made == {}
    assert attempt.folder.stat().st_uid == os.getuid()


def test_an_image_that_was_removed_meanwhile(attempt: AttemptPaths, dataset: Path) -> None:
    from docker.errors import ImageNotFound

    engine = FakeEngine()
    engine.failing["create"] = ImageNotFound("e", response=requests.Response(), explanation="No such image: x")
    with pytest.raises(ExecutorError) as raised:
        carry_out(engine, attempt, dataset)
    assert raised.value.kind == "image_missing"
    assert "moodbench images build" in raised.value.hint


# --- standing still -----------------------------------------------------------------------------


def handled(
    engine: FakeEngine, attempt: AttemptPaths, dataset: Path, work: Callable[[docker.DockerHandle], Awaitable[Any]]
) -> Any:
    async def whole() -> Any:
        executor = DockerExecutor(FakeClient(engine), IMAGE, facilities({}), RunFolder(attempt.folder.parents[2]))
        try:
            return await work(await executor.start(attempt, cell(dataset=prepared(folder=str(dataset)))))
        finally:
            engine.silent = engine.gone = False
            await executor.close()

    return asyncio.run(whole())


def test_freezing_and_thawing(attempt: AttemptPaths, dataset: Path) -> None:
    engine = FakeEngine()

    async def work(handle: docker.DockerHandle) -> None:
        await handle.thaw()
        assert await handle.freeze()
        assert await handle.freeze()
        await handle.thaw()
        await handle.thaw()
        assert await handle.freeze()
        await handle.stop(0.1)
        assert await handle.freeze()  # it has ended

    handled(engine, attempt, dataset, work)
    assert engine.signals == ["pause", "unpause", "pause", "SIGTERM", "unpause", "SIGKILL"]


@pytest.mark.parametrize("how", ["gone", "silent", "failing"])
def test_what_cannot_be_frozen_runs_on(attempt: AttemptPaths, dataset: Path, how: str) -> None:
    engine = FakeEngine()

    async def work(handle: docker.DockerHandle) -> None:
        if how == "failing":
            engine.failing["pause"] = api_error(500, "cgroup is gone")
        else:
            setattr(engine, how, True)
        assert not await handle.freeze()
        assert not engine.paused

    handled(engine, attempt, dataset, work)


def test_a_pause_that_comes_too_late_is_taken_back(
    attempt: AttemptPaths, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, slow = FakeEngine(), threading.Event()
    pause = engine.pause

    def pause_slowly(container: str) -> None:
        slow.wait(5)
        pause(container)

    monkeypatch.setattr(engine, "pause", pause_slowly)

    async def work(handle: docker.DockerHandle) -> None:
        freezing = asyncio.ensure_future(handle.freeze())
        await asyncio.sleep(0.05)
        freezing.cancel()  # whoever wanted it has gone
        thawing = asyncio.ensure_future(handle.thaw())
        await asyncio.sleep(0.05)
        slow.set()
        await thawing
        assert not handle._container.pause()  # one that had to wait for a thread
        assert engine.signals == ["pause", "unpause"]

    handled(engine, attempt, dataset, work)


def test_it_is_not_frozen_while_it_ends(attempt: AttemptPaths, dataset: Path) -> None:
    engine = FakeEngine()

    async def work(handle: docker.DockerHandle) -> None:
        ending = asyncio.ensure_future(handle.stop(0.2))
        await asyncio.sleep(0.05)
        assert not await handle.freeze()
        await ending

    handled(engine, attempt, dataset, work)
    assert engine.signals == ["SIGTERM", "SIGKILL"]


def test_one_that_stands_is_not_taken_for_one_that_hangs(attempt: AttemptPaths, dataset: Path) -> None:
    """It printed its last line, then was frozen before it could end."""
    engine = FakeEngine()

    async def work(handle: docker.DockerHandle) -> Exit:
        assert await handle.freeze()
        engine._ours[-1].shutdown(socket.SHUT_RDWR)
        waiting = asyncio.ensure_future(handle.wait())
        await asyncio.wait({waiting}, timeout=0.8)
        assert not waiting.done() and engine.signals == ["pause"]
        engine.end(0)
        return await waiting

    assert handled(engine, attempt, dataset, work) == Exit(0)


def test_its_place(attempt: AttemptPaths, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    executor = DockerExecutor(FakeClient(FakeEngine()), IMAGE, facilities({}), RunFolder(attempt.folder.parents[2]))
    made = prepared(folder=str(dataset))

    def host(**changes: Any) -> Any:
        spec = cell(dataset=made, limits=Limits(cpus=2.0), **changes)
        return executor.cell_container(attempt, spec).config()["HostConfig"]

    asyncio.run(executor.close())
    pinned = host(cores=(1, 3))
    assert (pinned["CpusetCpus"], pinned["NanoCpus"]) == ("1,3", 0)
    assert (host()["CpusetCpus"], host()["NanoCpus"]) == ("", 2_000_000_000)
    assert host()["DeviceRequests"] == []
    assert host(device="cuda")["DeviceRequests"][0]["DeviceIDs"] == ["3"]
    assert host(device="cuda", gpus=("GPU-a",))["DeviceRequests"][0]["DeviceIDs"] == ["GPU-a"]


def test_what_cells_can_share(attempt: AttemptPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu("GPU-a", "H200", 1)
    offers = facilities({"NCPU": 4, "MemTotal": 8 * 2**30})
    executor = DockerExecutor(FakeClient(FakeEngine()), IMAGE, offers, None, (gpu,))
    asyncio.run(executor.close())
    monkeypatch.setattr(docker, "affinity_of_this_process", lambda: {3, 1})
    assert executor.capacity == Capacity((1, 3), 8192, (gpu,), confines=True)
    monkeypatch.setattr(docker, "affinity_of_this_process", lambda: {7, 8})  # the engine's machine is another
    assert executor.capacity.cores == (0, 1, 2, 3)


# --- questions and leftovers --------------------------------------------------------------------


def ask(engine: FakeEngine, question: Question, patience_s: float = 5.0) -> Any:
    async def work() -> Any:
        executor = DockerExecutor(FakeClient(engine), IMAGE, facilities({}), None)
        try:
            return await asyncio.wait_for(executor.ask(question), patience_s)
        finally:
            await executor.close()

    return asyncio.run(work())


def test_an_answer_keeps_output_and_errors_apart(tmp_path: Path) -> None:
    engine = FakeEngine([(1, b"out"), (2, b"err"), (1, b"put")], code=3)
    engine.failing["remove"] = api_error(500, "cannot")
    question = Question(
        ("fetch", "x"), tmp_path, tmp_path / ".lock", writes=(tmp_path / "new",), network=True, environment={"A": "1"}
    )
    answer = ask(engine, question)
    assert (answer.code, answer.out, answer.err) == (3, b"output", b"err")
    [config] = engine.made.values()
    assert config["Env"] == ["A=1"]
    assert config["HostConfig"]["NetworkMode"] == "bridge"
    assert config["Labels"]["dev.moodbench.lock"] == str(tmp_path / LOCK)
    assert (tmp_path / "new").is_dir()


def test_an_answer_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "ANSWER_BYTES", 10)
    assert (
        ask(FakeEngine([(1, b"x" * 1000), (1, b"y")], code=0), Question(("info",), tmp_path, tmp_path / ".lock")).out
        == b"x" * 10
    )


def test_a_question_ends_with_its_asker(tmp_path: Path) -> None:
    engine = FakeEngine()
    with pytest.raises(TimeoutError):
        ask(engine, Question(("info",), tmp_path, tmp_path / ".lock"), patience_s=0.3)
    assert engine.signals == ["SIGKILL"]
    assert engine.made == {}


def test_only_this_hosts_containers_whose_lock_is_free_are_stale(tmp_path: Path) -> None:
    engine = FakeEngine()

    def made(name: str, **labels: str) -> None:
        engine.made[name] = {"Labels": {f"dev.moodbench.{key}": value for key, value in labels.items()}}

    held, free = tmp_path / "held" / LOCK, tmp_path / "free" / LOCK
    for lock in (held, free):
        lock.parent.mkdir()
        lock.touch()
    made("living", host=host_id(), lock=str(held), run="held", cell="a")
    made("orphan", host=host_id(), lock=str(free), run="free", cell="b")
    made("gone", host=host_id(), lock=str(tmp_path / "absent"), run="x", cell="fetch")
    made("foreign", host="0" * 16, lock=str(free))
    made("unlabelled")
    with held.open("a") as file:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
        found = stale_containers(FakeClient(engine))
        assert {(one.name, one.run, one.cell) for one in found} == {("orphan", "free", "b"), ("gone", "x", "fetch")}
        own = stale_containers(FakeClient(engine), own=held)
        assert {one.name for one in own} == {"living", "orphan", "gone"}
