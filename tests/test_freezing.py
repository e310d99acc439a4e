"""Cells that stand still: real processes, real containers, and hosts that are killed meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from harness.executors import Exit, Handle, native
from harness.executors.containers import (
    CELL_ENVIRONMENT,
    EXECUTOR_LABEL,
    ContainerSpec,
    cell_labels,
    cell_user,
    fresh_name,
)
from harness.executors.docker import DockerExecutor, DockerHandle, remove_container, stale_containers
from harness.executors.mounts import mounts
from harness.executors.native import NativeExecutor
from harness.images import BuiltImage
from harness.processes import MARK, members
from harness.run_lock import only_one
from harness.store import AttemptPaths, RunFolder
from runner.contract import CellSpec, Limits
from tests.harness.builders import cell

if TYPE_CHECKING:
    from docker import DockerClient

linux = pytest.mark.skipif(sys.platform != "linux", reason="the system lists no processes in files")

# Counts in a file; ends at SIGTERM with 7. `--fork`: one child in its group and one that leaves it do the same.
COUNTING = """
import os, pathlib, signal, sys, time
folder = pathlib.Path([a for a in sys.argv if a.startswith("/")][-1])
def count(name):
    (folder / (name + ".pid")).write_text(str(os.getpid()))
    for i in range(100_000):
        with open(folder / name, "w") as file:
            file.write(str(i))
        time.sleep(0.01)
signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
if FORKS:
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        count("child")
    if os.fork() == 0:
        if os.fork():
            os._exit(0)
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        count("apart")
    os.wait()
count("leader")
"""


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found


async def until(condition: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(wait_for, condition)


def content(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptPaths:
    folder = tmp_path / fresh_name("run") / "cells" / "c" / "attempt-001"
    folder.mkdir(parents=True)
    return AttemptPaths(folder=folder, number=1)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """counting(forks=True): the program above in the place of the runner."""

    def use(*, forks: bool) -> None:
        code = COUNTING.replace("FORKS", str(forks))
        monkeypatch.setattr(native, "runner_command", lambda *arguments: [sys.executable, "-c", code, *arguments])

    return use


def natively(attempt: AttemptPaths, work: Callable[[Handle], Awaitable[Any]], names: tuple[str, ...]) -> Any:
    """`work` on a cell that counts already; nothing of it is left afterwards."""

    async def whole() -> Any:
        executor = NativeExecutor()
        handle = await executor.start(attempt, cell())
        try:
            for name in names:
                await until(lambda name=name: content(attempt.folder / name))
            return await work(handle)
        finally:
            await handle.stop(0.0)
            await executor.close()
            assert all(gone(int(content(attempt.folder / f"{name}.pid"))) for name in names)

    return asyncio.run(whole())


def counts(attempt: AttemptPaths, names: tuple[str, ...]) -> list[str]:
    return [content(attempt.folder / name) for name in names]


ALL = ("leader", "child", "apart")


@linux
def test_a_frozen_cell_stands_still_with_all_it_forked(attempt: AttemptPaths, counting: Callable[..., None]) -> None:
    counting(forks=True)

    async def work(handle: Handle) -> None:
        assert await handle.freeze()
        still = counts(attempt, ALL)
        pids = [int(content(attempt.folder / f"{name}.pid")) for name in ALL]
        assert {psutil.Process(pid).status() for pid in pids} == {psutil.STATUS_STOPPED}
        await asyncio.sleep(0.2)
        assert counts(attempt, ALL) == still
        assert await handle.freeze()  # once more
        await handle.thaw()
        for name, before in zip(ALL, still, strict=True):
            await until(lambda name=name, before=before: content(attempt.folder / name) not in ("", before))

    natively(attempt, work, ALL)


def test_it_is_waited_for_while_it_stands(attempt: AttemptPaths, counting: Callable[..., None]) -> None:
    counting(forks=False)

    async def work(handle: Handle) -> Exit:
        await handle.thaw()  # it is not frozen
        assert await handle.freeze()
        waiting = asyncio.ensure_future(handle.wait())
        await asyncio.wait({waiting}, timeout=0.3)
        assert not waiting.done()
        await handle.stop(10.0)
        return await waiting

    started = time.monotonic()
    assert natively(attempt, work, ("leader",)) == Exit(7)  # it saw the signal, and was not killed
    assert time.monotonic() - started < 10.0


def test_what_has_ended_is_as_good_as_frozen(attempt: AttemptPaths, counting: Callable[..., None]) -> None:
    counting(forks=False)

    async def work(handle: Handle) -> None:
        waiting = asyncio.ensure_future(handle.wait())
        ending = asyncio.ensure_future(handle.stop(10.0))
        await asyncio.sleep(0)
        await handle.freeze()  # too late: it must not keep it from ending
        assert await waiting == Exit(7)
        await ending
        assert await handle.freeze()
        await handle.thaw()

    natively(attempt, work, ("leader",))


@linux
def test_what_left_its_group_ends_with_it(attempt: AttemptPaths, counting: Callable[..., None]) -> None:
    counting(forks=True)

    async def work(handle: Handle) -> None:
        os.kill(int(content(attempt.folder / "leader.pid")), signal.SIGKILL)
        assert await handle.wait() == Exit(None, 9)
        apart = int(content(attempt.folder / "apart.pid"))
        assert gone(apart)
        assert members(apart, str(attempt.folder)) == []

    natively(attempt, work, ALL)


def test_the_terminal_reaches_the_host_alone(attempt: AttemptPaths, counting: Callable[..., None]) -> None:
    counting(forks=False)

    async def work(handle: Handle) -> None:
        pid = int(content(attempt.folder / "leader.pid"))
        assert os.getpgid(pid) == pid
        assert os.getsid(pid) == os.getsid(0)  # the kernel wakes it when the host is gone

    natively(attempt, work, ("leader",))


# --- hosts that are killed ----------------------------------------------------------------------

HOST = """
import asyncio, sys, time
from pathlib import Path
from harness.executors import native
from harness.store import AttemptPaths
from tests.harness.builders import cell
code = sys.argv[2]
native.runner_command = lambda *arguments: [sys.executable, "-c", code, *arguments]

async def work():
    folder = Path(sys.argv[1])
    executor = native.NativeExecutor()
    handle = await executor.start(AttemptPaths(folder=folder, number=1), cell())
    while not all((folder / name).exists() for name in sys.argv[3].split(",")):
        await asyncio.sleep(0.02)
    await handle.freeze()
    print(executor._guard.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(work())
"""


@contextmanager
def frozen_by_a_host(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A host that has frozen its cell, and what it prints."""
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as host:
        try:
            assert host.stdout is not None
            yield host, int(host.stdout.readline())
        finally:
            host.kill()


@linux
@pytest.mark.parametrize("guarded", [True, False])
def test_a_frozen_cell_is_gone_soon_after_its_host(attempt: AttemptPaths, guarded: bool) -> None:
    """By the guard, or where that is gone too, by the kernel, which knows a group only by its host."""
    names = ALL if guarded else ("leader", "child")
    code = COUNTING.replace("FORKS", "True")
    with frozen_by_a_host("-c", HOST, str(attempt.folder), code, ",".join(ALL)) as (host, guard):
        pids = {name: int(content(attempt.folder / f"{name}.pid")) for name in ALL}
        assert all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in pids.values())
        if not guarded:
            os.kill(guard, signal.SIGKILL)
        host.kill()
        wait_for(lambda: all(gone(pids[name]) for name in names), 20)
        wait_for(lambda: gone(guard), 20)
    for member in members(-1, str(attempt.folder)):
        member.signal(signal.SIGKILL)


# --- containers ---------------------------------------------------------------------------------


def container(attempt: AttemptPaths, executor: DockerExecutor, image: str, **changes: Any) -> ContainerSpec:
    """The program above, without children, confined as a cell is."""
    spec = ContainerSpec(
        name=fresh_name("frozen"),
        image=image,
        entrypoint=("python", "-c"),
        command=(COUNTING.replace("FORKS", "False"), str(attempt.folder)),
        labels=cell_labels(attempt, cell(), run_of(attempt)) | {EXECUTOR_LABEL: executor._id},
        user=cell_user(),
        mounts=tuple(mounts([], [attempt.folder])),
        environment=CELL_ENVIRONMENT,
        tmp_mb=16,
        limits=Limits(memory_mb=128, pids=64),
    )
    return replace(spec, **changes)


def run_of(attempt: AttemptPaths) -> RunFolder:
    return RunFolder(attempt.folder.parents[2])


def contained(
    attempt: AttemptPaths, image: BuiltImage, work: Callable[[DockerHandle], Awaitable[Any]], **changes: Any
) -> Any:
    async def whole() -> Any:
        executor = await DockerExecutor.open("cpu", run_of(attempt))
        try:
            handle = await executor.begin(container(attempt, executor, image.digest, **changes), attempt)
            await until(lambda: content(attempt.folder / "leader"))
            return await work(handle)
        finally:
            await executor.close()

    with only_one(run_of(attempt)):
        return asyncio.run(whole())


@pytest.mark.docker
def test_a_frozen_container_stands_still(
    attempt: AttemptPaths, cpu_image: BuiltImage, docker_client: DockerClient
) -> None:
    async def work(handle: DockerHandle) -> Exit:
        await handle.thaw()
        assert await handle.freeze()
        assert await handle.freeze()
        still = content(attempt.folder / "leader")
        waiting = asyncio.ensure_future(handle.wait())
        await asyncio.sleep(0.2)
        assert docker_client.api.inspect_container(handle.container_id)["State"]["Paused"]
        assert content(attempt.folder / "leader") == still
        await handle.thaw()
        await until(lambda: content(attempt.folder / "leader") not in ("", still))
        assert await handle.freeze()
        await handle.stop(10.0)  # asked to end while it stands, it ends by itself
        assert await handle.freeze()
        await handle.thaw()
        return await waiting

    assert contained(attempt, cpu_image, work) == Exit(7)


@pytest.mark.docker
def test_a_container_is_kept_on_its_cores(
    attempt: AttemptPaths, cpu_image: BuiltImage, docker_client: DockerClient
) -> None:
    async def work(handle: DockerHandle) -> str:
        return str(docker_client.api.inspect_container(handle.container_id)["HostConfig"]["CpusetCpus"])

    core = max(os.sched_getaffinity(0))
    limits = Limits(memory_mb=128, cpus=1.0)
    assert contained(attempt, cpu_image, work, cores=(core,), limits=limits) == str(core)


DOCKER_HOST = """
import asyncio, sys
from pathlib import Path
from harness.executors.docker import DockerExecutor
from harness.run_lock import only_one
from tests.test_freezing import AttemptPaths, container, content, run_of

async def work():
    attempt = AttemptPaths(folder=Path(sys.argv[1]), number=1)
    with only_one(run_of(attempt)):
        executor = await DockerExecutor.open("cpu", run_of(attempt))
        handle = await executor.begin(container(attempt, executor, sys.argv[2], name=sys.argv[3]), attempt)
        while not content(attempt.folder / "leader"):
            await asyncio.sleep(0.02)
        await handle.freeze()
        print(executor._guard.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(work())
"""


@pytest.mark.docker
def test_a_frozen_container_is_gone_soon_after_its_host(
    attempt: AttemptPaths, cpu_image: BuiltImage, docker_client: DockerClient
) -> None:
    name = fresh_name("orphan")
    with frozen_by_a_host("-c", DOCKER_HOST, str(attempt.folder), cpu_image.digest, name) as (host, guard):
        assert docker_client.api.inspect_container(name)["State"]["Paused"]
        host.kill()
        wait_for(lambda: not docker_client.api.containers(all=True, filters={"name": name}))
        wait_for(lambda: gone(guard))


@pytest.mark.docker
def test_what_stayed_paused_is_removed_like_any_other(
    attempt: AttemptPaths, cpu_image: BuiltImage, docker_client: DockerClient
) -> None:
    name = fresh_name("orphan")
    with frozen_by_a_host("-c", DOCKER_HOST, str(attempt.folder), cpu_image.digest, name) as (host, guard):
        os.kill(guard, signal.SIGKILL)
        wait_for(lambda: gone(guard))
        host.kill()
        host.wait()
        [stale] = [one for one in stale_containers(docker_client) if one.name == name]
        assert stale.state == "paused"
        assert remove_container(docker_client, stale)
        assert not docker_client.api.containers(all=True, filters={"name": name})


def test_the_mark_is_its_folder(attempt: AttemptPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"import os; print(os.environ['{MARK}'], os.environ.get('CUDA_VISIBLE_DEVICES'))"
    monkeypatch.setattr(native, "runner_command", lambda *arguments: [sys.executable, "-c", code])

    async def printed(spec: CellSpec) -> str:
        await (await NativeExecutor().start(attempt, spec)).wait()
        return attempt.log.read_text()

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert asyncio.run(printed(cell())) == f"{attempt.folder} None\n"
    assert asyncio.run(printed(cell(gpus=("GPU-a", "GPU-b")))) == f"{attempt.folder} GPU-a,GPU-b\n"
