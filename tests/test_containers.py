"""Cells in real containers: the same results, nothing within reach, nothing left behind, however it ends.

Each test uses a run folder of its own, so that the containers it looks at are its own too.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from harness.catalog import load_catalog
from harness.executors import Exit, Question
from harness.executors.containers import ATTEMPT_LABEL, CELL_LABEL, RUN_LABEL, fresh_name, host_id
from harness.executors.docker import DockerExecutor, DockerHandle
from harness.executors.native import runner_command
from harness.failures import conclude
from harness.images import BuiltImage
from harness.jobs import found_here
from harness.run_lock import only_one
from harness.scratch import LOCK, scratch
from harness.store import AttemptPaths, RunFolder
from runner.contract import CellSpec, Failure, Limits, ModelSpec, Phase, PreparedDataset, Result, encode, read
from tests.harness.builders import cell
from tests.support import COMMAND, World, reviews

if TYPE_CHECKING:
    from docker import DockerClient

pytestmark = pytest.mark.docker

TOKEN = "hf_ThisIsASecretThatMustNotBeFound"
SLOW = ["run", "demo", "--executor", "docker", "--models", "tfidf-logreg", "--seeds", "1,2,3", "--jobs", "3"]


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
    return found


def of_run(client: DockerClient, run: str, state: str | None = None) -> list[dict[str, Any]]:
    """The containers of a run, as the engine lists them."""
    found = client.api.containers(all=True, filters={"label": f"{RUN_LABEL}={run}"})
    return [one for one in found if state is None or one["State"] == state]


def cells_of(client: DockerClient, run: str) -> list[dict[str, Any]]:
    """Those of a run's containers that are running cells, not questions."""
    return [one for one in of_run(client, run, "running") if one["Labels"].get(ATTEMPT_LABEL)]


def owners(folder: Path) -> set[tuple[int, int]]:
    return {(path.lstat().st_uid, path.lstat().st_gid) for path in [folder, *folder.rglob("*")]}


PHASES: tuple[Phase, ...] = ("load", "tokenize", "train", "score")
changed = msgspec.structs.replace


# --- a cell by itself ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Lab:
    """One attempt at a small cell, in a place with an awkward name."""

    folder: Path
    attempt: AttemptPaths
    spec: CellSpec
    client: DockerClient

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.attempt.folder.parents[2])

    def use(self, work: Callable[[DockerExecutor], Awaitable[Any]]) -> Any:
        async def whole() -> Any:
            executor = await DockerExecutor.open("cpu", self.run)
            try:
                return await work(executor)
            finally:
                await executor.close()

        try:
            with only_one(self.run):  # else whoever starts meanwhile takes its containers for leftovers
                return asyncio.run(whole())
        finally:
            assert of_run(self.client, self.run.folder.name) == []

    async def probe(self, executor: DockerExecutor, code: str, spec: CellSpec | None = None) -> DockerHandle:
        """Python code where the cell would run, confined as the cell is."""
        container = await asyncio.to_thread(executor.cell_container, self.attempt, spec or self.spec)
        container = replace(container, entrypoint=("python", "-c"), command=(textwrap.dedent(code),))
        return await executor.begin(container, self.attempt)

    def run_probe(self, code: str, spec: CellSpec | None = None) -> Exit:
        async def work(executor: DockerExecutor) -> Exit:
            return await (await self.probe(executor, code, spec)).wait()

        return self.use(work)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("data, set: prepared")
    (folder / "reviews.csv").write_text(reviews())
    question, answer = folder / "request.json", folder / "answer.json"
    question.write_text(
        json.dumps({"name": "reviews", "source": "file", "files": {"all": str(folder / "reviews.csv")}})
    )
    command = runner_command("prepare", str(question), "--out", str(answer), "--cache", str(folder / "cache"))
    command.remove("--watch-stdin")
    subprocess.run(command, check=True, capture_output=True)
    return read(answer, PreparedDataset)


@pytest.fixture
def lab(tmp_path: Path, dataset: PreparedDataset, docker_client: DockerClient, cpu_image: BuiltImage) -> Lab:
    name = f"ru,n {fresh_name('lab')}"
    folder = tmp_path / "resul,ts: ü" / name / "cells" / "c" / "attempt-001"
    folder.mkdir(parents=True)
    attempt = AttemptPaths(folder=folder, number=1)
    spec = cell(dataset=dataset, executor="docker", phases=PHASES)
    attempt.spec.write_bytes(encode(spec))
    return Lab(tmp_path, attempt, spec, docker_client)


def test_a_cell_leaves_its_result_and_no_container(lab: Lab) -> None:
    async def work(executor: DockerExecutor) -> Exit:
        exited = await (await executor.start(lab.attempt, lab.spec)).wait()
        await asyncio.to_thread(wait_for, lambda: not of_run(lab.client, lab.run.folder.name))
        return exited

    assert lab.use(work) == Exit(0), lab.attempt.log.read_text()
    assert isinstance(conclude(lab.spec.cell, lab.attempt, Exit(0), None), Result)
    assert owners(lab.attempt.folder) == {(os.getuid(), os.getgid())}


LOOK_AROUND = """
    import json, os, socket
    def reached(family, address):
        with socket.socket(family, socket.SOCK_STREAM) as door:
            door.settimeout(2)
            try:
                door.connect(address)
            except OSError:
                return False
            return True
    def writable(folder):
        path = os.path.join(folder, ".probe")
        try:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        except OSError:
            return False
        os.unlink(path)
        return True
    def opens(path):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True
    def outside_proc():
        for parent, folders, files in os.walk("/"):
            folders[:] = [name for name in folders if os.path.join(parent, name) != "/proc"]
            yield parent, files
    status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
    names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups")
    try:
        socket.getaddrinfo("pypi.org", 443)
        resolved = True
    except OSError:
        resolved = False
    everywhere = list(outside_proc())
    found = {
        "sockets": [a for a in ADDRESSES if reached(socket.AF_INET, tuple(a))] + [resolved] * resolved,
        "unix": [p for p in SOCKETS if os.path.exists(p)],
        "interfaces": [name for _, name in socket.if_nameindex()],
        "writable": [parent for parent, _ in everywhere if writable(parent)],
        "files": [p for parent, files in everywhere for p in (os.path.join(parent, f) for f in files)
                  if not p.startswith(("/dev/", "/tmp/.")) and opens(p)],
        "kernel": [p for p in ("/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/kernel/mm/ksm/run",
                   "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max") if opens(p)],
        "devices": [d.name for d in os.scandir("/dev") if not d.is_symlink() and opens(d.path)],
        "status": {name: status[name].split() for name in names},
        "environment": dict(os.environ),
        "hostname": socket.gethostname(),
        "processes": sum(name.isdigit() for name in os.listdir("/proc")),
        "secret": os.path.exists(SECRET),
    }
    json.dump(found, open(OUT, "w"))
"""


def test_a_cell_reaches_nothing_and_may_do_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("SOME_HOST_VARIABLE", "x")
    secret = lab.folder / "secret"
    secret.touch()
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        constants = {
            "ADDRESSES": [("127.0.0.1", port), ("172.17.0.1", port), ("1.1.1.1", 53)],
            "SOCKETS": ["/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock"],
            "SECRET": str(secret),
            "OUT": str(lab.attempt.folder / "found.json"),
        }
        code = "\n".join(f"{name} = {value!r}" for name, value in constants.items()) + textwrap.dedent(LOOK_AROUND)
        assert lab.run_probe(code) == Exit(0), lab.attempt.log.read_text()
    found = json.loads((lab.attempt.folder / "found.json").read_text())
    assert (found["sockets"], found["unix"], found["interfaces"]) == ([], [], ["lo"])
    assert set(found["writable"]) == {"/tmp", str(lab.attempt.folder)}  # /tmp is memory, and gone with the container
    assert {str(Path(path).parent) for path in found["files"]} == {str(lab.attempt.folder)}
    assert found["kernel"] == []
    assert set(found["devices"]) <= {"full", "null", "ptmx", "random", "tty", "urandom", "zero"}
    status = found["status"]
    assert {int(status[name][0], 16) for name in status if name.startswith("Cap")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == (["1"], ["2"])
    expected = (os.getuid(), os.getgid()) if os.getuid() != 0 else (65532, 65532)
    assert (set(status["Uid"]), set(status["Gid"])) == ({str(expected[0])}, {str(expected[1])})
    assert TOKEN not in json.dumps(found) and "SOME_HOST_VARIABLE" not in found["environment"]
    assert found["environment"]["HF_HUB_OFFLINE"] == "1"
    assert found["hostname"] == socket.gethostname()[:63]
    assert found["processes"] == 2  # its init and itself
    assert not found["secret"]


def test_the_token_is_nowhere(lab: Lab, cpu_image: BuiltImage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "KAGGLE_KEY"):
        monkeypatch.setenv(name, TOKEN)

    async def work(executor: DockerExecutor) -> str:
        handle = await lab.probe(executor, "import os, time; print(os.environ, flush=True); time.sleep(60)")
        await asyncio.to_thread(wait_for, lambda: "HF_HUB_OFFLINE" in lab.attempt.log.read_text())
        inspected = await asyncio.to_thread(lab.client.api.inspect_container, handle.container_id)
        await handle.stop(0.0)
        await handle.wait()
        return json.dumps(inspected)

    inspected = lab.use(work)
    assert "HF_HUB_OFFLINE=1" in inspected
    image = json.dumps([lab.client.api.inspect_image(cpu_image.name), lab.client.api.history(cpu_image.name)])
    written = "".join(path.read_text() for path in lab.attempt.folder.iterdir())
    assert "HF_HUB_OFFLINE" in written
    for text in (inspected, image, written):
        assert TOKEN not in text


def test_a_hub_snapshot_of_links_can_be_read_and_not_written(lab: Lab) -> None:
    snapshot, blobs = lab.folder / "h,ub" / "snapshots" / "abc", lab.folder / "h,ub" / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    (lab.folder / "shared").write_text("weights")
    (lab.folder / "shared").chmod(0o666)
    (blobs / "1").symlink_to(lab.folder / "shared")
    (snapshot / "model.safetensors").symlink_to("../../blobs/1")
    (blobs / "2").write_text("not asked for")
    model = ModelSpec(alias="m", kind="hub", name="o/m", folder=str(snapshot))
    code = f"""
        import os
        shown = open({str(snapshot / "model.safetensors")!r}).read(), os.listdir({str(snapshot.parent.parent)!r})
        print("%s %s" % shown, flush=True)
        open({str(snapshot / "model.safetensors")!r}, "a")
    """
    assert lab.run_probe(code, changed(lab.spec, model=model)).code == 1
    log = lab.attempt.log.read_text()  # its output and its errors come in no fixed order
    assert "weights ['snapshots']\n" in log
    assert "Read-only file system" in log


def test_what_root_alone_may_read_takes_its_own_cells_out(
    docker_client: DockerClient, cpu_image: BuiltImage, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if os.getuid() != 0:
        pytest.skip("cells of other users run with their own ids")
    world = World(tmp_path_factory.mktemp("closed"))
    carried = found_here(load_catalog().model("MiniLM-L6").spec()).folder
    assert carried is not None
    mine = world.folder / "mine"
    mine.mkdir()
    for file in Path(carried).iterdir():
        if file.is_file():
            (mine / file.name).symlink_to(file) if file.suffix == ".safetensors" else shutil.copy(file, mine)
    (mine / "config.json").chmod(0o600)
    command = ["run", "demo", "--models", f"majority,path:{mine}", "--smoke", "--seeds", "1", "--executor", "docker"]
    outcome = world.moodbench(*command, "--run", "r")
    assert outcome.code == 1, outcome.err
    assert [result["model"] for result in world.results("r").values()] == ["majority"]
    assert f"a cell may not read {mine / 'config.json'}" in outcome.err
    assert "chmod -R o+rX" in outcome.err
    (mine / "config.json").chmod(0o644)
    outcome = world.moodbench(*command, "--run", "r")
    assert outcome.code == 0, outcome.err
    assert sorted(result["model"] for result in world.results("r").values()) == ["majority", "mine"]


def test_limits_hold(lab: Lab) -> None:
    limits = Limits(memory_mb=300, cpus=0.5, pids=20)
    code = """
        import os, threading, time
        started, ran = time.monotonic(), time.process_time()
        while time.monotonic() - started < 1.5:
            pass
        print("share", (time.process_time() - ran) / (time.monotonic() - started))
        try:
            for _ in range(40):
                threading.Thread(target=time.sleep, args=(2,), daemon=True).start()
        except RuntimeError:
            print("threads", threading.active_count(), flush=True)
        try:
            with open("/tmp/big", "wb") as big:
                for _ in range(300):
                    big.write(bytes(2**20))
        except OSError as error:
            print("tmp", error.strerror)
    """
    assert lab.run_probe(code, changed(lab.spec, limits=limits)) == Exit(0), lab.attempt.log.read_text()
    figures = dict(line.split(" ", 1) for line in lab.attempt.log.read_text().splitlines())
    assert float(figures["share"]) < 0.65
    assert int(figures["threads"]) < 20
    assert figures["tmp"] == "No space left on device"


@pytest.mark.parametrize("who", ["itself", "its child"])
def test_too_much_memory_has_a_class_of_its_own(lab: Lab, who: str) -> None:
    eat = "held = []\nwhile True: held.append(bytearray(10**6))"
    child = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {eat!r}]).returncode and 3)"
    exited = lab.run_probe(eat if who == "itself" else child, changed(lab.spec, limits=Limits(memory_mb=200)))
    failure = conclude(lab.spec.cell, lab.attempt, exited, None)
    assert isinstance(failure, Failure)
    assert failure.kind == "out_of_memory"
    assert "200 MB" in failure.message
    assert failure.traceback is None


@pytest.mark.parametrize("how", ["docker kill", "docker rm", "process"])
def test_killed_from_outside(lab: Lab, how: str) -> None:
    async def work(executor: DockerExecutor) -> Exit:
        handle = await lab.probe(executor, "import time; print('up', flush=True); time.sleep(60)")
        await asyncio.to_thread(wait_for, lambda: lab.attempt.log.read_text() == "up\n")
        api = lab.client.api
        if how == "docker kill":
            await asyncio.to_thread(api.kill, handle.container_id)
        elif how == "docker rm":
            await asyncio.to_thread(api.remove_container, handle.container_id, force=True)
        else:
            state = await asyncio.to_thread(api.inspect_container, handle.container_id)
            os.kill(state["State"]["Pid"], signal.SIGKILL)
        return await asyncio.wait_for(handle.wait(), 20)

    if how == "process" and os.getuid() != 0:
        pytest.skip("needs root")
    exited = lab.use(work)
    assert exited.signal == signal.SIGKILL
    assert exited.cause == (None if how == "process" else "killed")  # a signal to the process is not told of
    failure = conclude(lab.spec.cell, lab.attempt, exited, None)
    assert isinstance(failure, Failure)
    assert failure.kind == "killed"


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGSEGV, "code"), (signal.SIGKILL, "killed")])
def test_its_own_signals(lab: Lab, number: signal.Signals, kind: str) -> None:
    exited = lab.run_probe(f"import os; os.kill(os.getpid(), {int(number)})")
    assert exited == Exit(None, number)
    failure = conclude(lab.spec.cell, lab.attempt, exited, None)
    assert isinstance(failure, Failure)
    assert failure.kind == kind


def test_a_real_cell_that_is_stopped_says_so(lab: Lab) -> None:
    lasting = cell(dataset=lab.spec.dataset, lease=True)
    lab.attempt.spec.write_bytes(encode(lasting))

    async def work(executor: DockerExecutor) -> Exit:
        handle = await executor.start(lab.attempt, lasting)
        events = lab.attempt.events
        await asyncio.to_thread(wait_for, lambda: events.exists() and "lease_wanted" in events.read_text())
        await asyncio.gather(handle.stop(10.0), handle.stop(10.0))
        exited = await handle.wait()
        await handle.stop(1.0)
        return exited

    assert lab.use(work) == Exit(1)
    assert read(lab.attempt.failure, Failure).kind == "interrupted"


def test_a_deaf_cell_is_killed(lab: Lab) -> None:
    async def work(executor: DockerExecutor) -> Exit:
        code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
        handle = await lab.probe(executor, code)
        await asyncio.to_thread(wait_for, lambda: lab.attempt.log.read_text() == "deaf\n")
        await handle.stop(0.3)
        return await handle.wait()

    assert lab.use(work) == Exit(None, signal.SIGKILL)


def test_a_hostile_log_stays_small_and_plain(lab: Lab) -> None:
    code = r"""
        import os
        os.write(1, b"\x1b[2J\x1b]0;owned\x07\x1b[31mred\x1b[0m \x9b\xff \xe2\x80\xae")
        block = b"A" * 2**20
        for _ in range(1024):
            left = memoryview(block)
            while left:
                left = left[os.write(1, left):]
        os.write(1, b"\nthe end\n")
    """
    written = 0

    async def work(executor: DockerExecutor) -> Exit:
        nonlocal written
        handle = await lab.probe(executor, code)
        state = await asyncio.to_thread(lab.client.api.inspect_container, handle.container_id)
        assert state["LogPath"] == ""
        return await asyncio.wait_for(handle.wait(), 120)

    assert lab.use(work) == Exit(0)
    log = lab.attempt.log.read_bytes()
    assert len(log) < 12 * 2**20
    assert log.startswith("red \ufffd\ufffd ".encode()) and b"\x1b" not in log
    assert max(map(len, log.splitlines())) <= 4096 + 20
    assert log.endswith(b"\nthe end\n")
    assert log.count(b"are left out here") == 1


# --- questions ----------------------------------------------------------------------------------


def test_a_question_is_answered_from_a_container(cpu_image: BuiltImage, docker_client: DockerClient) -> None:
    async def work() -> bytes:
        executor = await DockerExecutor.open("cpu", None)
        try:
            with scratch() as folder:
                answer = await executor.ask(Question(("info",), folder, folder / ".lock"))
                assert answer.code == 0, answer.err
                return answer.out
        finally:
            await executor.close()

    assert json.loads(asyncio.run(work()))["device"] == "cpu"


def test_a_dataset_prepared_in_a_container_belongs_to_the_user(
    tmp_path: Path, cpu_image: BuiltImage, dataset: PreparedDataset
) -> None:
    source, cache = tmp_path / "reviews.csv", tmp_path / "ca,che"
    source.write_text(reviews())

    async def work() -> int:
        executor = await DockerExecutor.open("cpu", None)
        try:
            with scratch() as folder:
                question, answer = folder / "q.json", folder / "a.json"
                question.write_text(json.dumps({"name": "reviews", "source": "file", "files": {"all": str(source)}}))
                arguments = ("prepare", str(question), "--out", str(answer), "--cache", str(cache))
                ended = await executor.ask(
                    Question(arguments, folder, folder / ".lock", reads=(source,), writes=(cache,))
                )
                assert ended.code == 0, ended.err
                prepared = read(answer, PreparedDataset)
                assert prepared.fingerprint == dataset.fingerprint
                return ended.code
        finally:
            await executor.close()

    asyncio.run(work())
    assert len(list(cache.rglob("*.parquet"))) == 3
    assert owners(cache) == {(os.getuid(), os.getgid())}


@pytest.mark.parametrize("state", ["created", "running"])
def test_a_question_ends_with_its_asker(
    cpu_image: BuiltImage, docker_client: DockerClient, tmp_path: Path, state: str
) -> None:
    fifo = tmp_path / "request.json"
    os.mkfifo(fifo)  # the runner waits for it

    def asked() -> list[dict[str, Any]]:
        found = docker_client.api.containers(all=True, filters={"label": f"{CELL_LABEL}=fetch"})
        return [one for one in found if str(fifo) in one["Command"] or str(tmp_path) in json.dumps(one["Mounts"])]

    async def work() -> None:
        executor = await DockerExecutor.open("cpu", None)
        try:
            arguments = ("fetch", str(fifo), "--out", str(tmp_path / "a.json"))
            task = asyncio.ensure_future(executor.ask(Question(arguments, tmp_path, own / LOCK)))
            await asyncio.to_thread(wait_for, lambda: [one for one in asked() if state in ("created", one["State"])])
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 20)
            await asyncio.to_thread(wait_for, lambda: not asked())
        finally:
            await executor.close()

    with scratch() as own:
        asyncio.run(work())


@contextmanager
def hosting(world: World, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A `moodbench` that runs meanwhile."""
    with subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=world.folder,
        env=world.environment | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as host:
        try:
            yield host
        finally:
            host.kill()


# --- through the command line -------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path, cpu_image: BuiltImage) -> World:
    return World(tmp_path)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, cpu_image: BuiltImage) -> World:
    """The demo in smoke mode, natively and in containers, with a token in the host's environment."""
    world = World(tmp_path_factory.mktemp("both"))
    for executor in ("native", "docker"):
        options = ("--smoke", "--seeds", "1", "--executor", executor, "--run", f"both-{executor}")
        outcome = world.moodbench("run", "demo", *options, HF_TOKEN=TOKEN)
        assert outcome.code == 0, outcome.err
        assert f"executor: {executor} (asked for)" in outcome.err + outcome.out
    return world


def test_the_same_predictions_natively_and_in_a_container(both: World) -> None:
    native, container = both.results("both-native"), both.results("both-docker")
    assert len(container) == 4
    assert set(native) == set(container)  # a cell's identity leaves out where it runs
    for name in container:
        a, b = (
            pq.read_table(next((both.folder / "results" / run / "cells" / name).glob("*/predictions.parquet")))
            for run in ("both-native", "both-docker")
        )
        assert a.column_names == b.column_names
        for column in a.column_names:
            left, right = a[column].to_pylist(), b[column].to_pylist()
            if column in ("id", "label", "predicted"):
                assert left == right, (name, column)
            else:  # another build of Python, and perhaps other instructions in its libraries
                np.testing.assert_allclose(np.array(left), np.array(right), rtol=0, atol=1e-6)


def test_results_say_where_they_come_from(both: World, cpu_image: BuiltImage) -> None:
    native, container = both.results("both-native"), both.results("both-docker")
    for name, result in container.items():
        where = result["provenance"]
        assert (where["executor"], where["image_digest"]) == ("docker", cpu_image.digest)
        assert where["hostname_hash"] == native[name]["provenance"]["hostname_hash"]
        assert where["limits"]["memory_mb"] > 500


def test_results_belong_to_the_user_and_hold_no_token(both: World, docker_client: DockerClient) -> None:
    results = both.folder / "results"
    assert owners(results) == {(os.getuid(), os.getgid())}
    assert [path for path in results.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()] == []
    assert [log.read_text() for log in results.glob("*docker/**/log.txt") if "warn" in log.read_text().lower()] == []
    assert of_run(docker_client, "both-docker") == []


def test_a_cell_that_needs_more_than_its_memory(world: World) -> None:
    options = ("--smoke", "--seeds", "1", "--models", "MiniLM-L6", "--executor", "docker", "--memory", "200m")
    refused = world.moodbench("run", "demo", *options, "--run", "small")
    assert (refused.code, world.attempts("small")) == (1, [])
    assert "of memory, and 200 MB can be had" in refused.err
    outcome = world.moodbench("run", "demo", *options, "--run", "small", "--overcommit")
    assert outcome.code == 1
    [attempt] = world.attempts("small")
    failure = read(attempt / "failure.json", Failure)
    assert failure.kind == "out_of_memory"
    assert failure.traceback is None and "200 MB" in failure.message
    assert "Traceback" not in outcome.err + outcome.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_runs_leave_no_container(world: World, docker_client: DockerClient, number: signal.Signals) -> None:
    run = fresh_name("interrupted")
    with hosting(world, *SLOW, "--run", run) as host:
        wait_for(lambda: len(cells_of(docker_client, run)) == 3)
        host.send_signal(number)
        _, err = host.communicate(timeout=60)
    assert host.returncode == 130, err
    assert of_run(docker_client, run) == []
    assert owners(world.folder / "results") == {(os.getuid(), os.getgid())}


def test_a_killed_engine_leaves_no_container(world: World, docker_client: DockerClient) -> None:
    run = fresh_name("killed")
    with hosting(world, *SLOW, "--run", run):
        wait_for(lambda: len(cells_of(docker_client, run)) == 3)
        time.sleep(1)
        world.engine(run).kill()
    wait_for(lambda: not of_run(docker_client, run))  # they end by themselves, and the guard removes them
    folder = world.run_folder(run)

    async def next_start() -> None:
        await (await DockerExecutor.open("cpu", folder)).close()

    with only_one(folder):
        asyncio.run(next_start())
    assert owners(world.folder / "results") == {(os.getuid(), os.getgid())}


def test_two_runs_do_not_touch_each_other(world: World, docker_client: DockerClient) -> None:
    names = [fresh_name("beside") for _ in range(2)]
    options = ("run", "demo", "--smoke", "--executor", "docker", "--models", "tfidf-logreg,majority")
    with ExitStack() as hosts:
        started = []
        for name in names:  # the second starts, and sweeps, while the first one's cells run
            host = hosting(world, *options, "--seeds", "1,2,3", "--jobs", "2", "--run", name)
            started.append(hosts.enter_context(host))
            wait_for(lambda name=name: cells_of(docker_client, name))
        for host in started:
            _, err = host.communicate(timeout=300)
            assert host.returncode == 0, err
    for name in names:
        assert len(world.attempts(name)) == len(world.results(name)) == 6
        assert of_run(docker_client, name) == []


def test_another_machines_containers_are_left_alone(lab: Lab) -> None:
    """Only what carries this host's id and a lock that nobody holds is removed."""
    labels = {RUN_LABEL: "foreign", ATTEMPT_LABEL: "1", "dev.moodbench.lock": "/nowhere"}
    api = lab.client.api
    image = lab.client.api.images(filters={"label": "dev.moodbench.image"})[0]["Id"]
    ours = api.create_container(image, labels=labels | {"dev.moodbench.host": host_id()})["Id"]
    theirs = api.create_container(image, labels=labels | {"dev.moodbench.host": "another"})["Id"]
    try:
        assert lab.run_probe("") == Exit(0)
        left = {one["Id"] for one in api.containers(all=True)}
        assert theirs in left and ours not in left
    finally:
        api.remove_container(theirs, force=True)


# --- an engine that ends ------------------------------------------------------------------------


class OwnEngine:
    """A second dockerd, which may be ended. It has a network of its own: one without a bridge takes away the bridge
    that the machine's own engine uses."""

    def __init__(self, folder: Path) -> None:
        self.address = f"unix://{folder}/d.sock"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            "unshare", "--net", "dockerd", "--data-root", self._folder / "data", "--exec-root", self._folder / "exec",
            "-H", self.address, "--pidfile", self._folder / "pid", "--iptables=false", "--bridge=none",
        ]  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_for(self._answers)

    def _answers(self) -> bool:
        from harness.errors import SetupError
        from harness.images import connect

        assert self._process is not None and self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
        address, os.environ["DOCKER_HOST"] = os.environ.get("DOCKER_HOST"), self.address
        try:
            connect().close()
        except SetupError:
            return False
        finally:
            del os.environ["DOCKER_HOST"]
            if address is not None:
                os.environ["DOCKER_HOST"] = address
        return True

    def client(self) -> DockerClient:
        import docker

        return docker.DockerClient(base_url=self.address)

    def end(self, number: signal.Signals) -> None:
        """And wait until its containerd is gone too. Process 1 of some machines leaves zombies, whose pid files would
        then keep the engine from starting again."""
        if self._process is None or self._process.poll() is not None:
            return
        below = psutil.Process(self._process.pid).children()
        self._process.send_signal(number)
        self._process.wait(60)
        wait_for(lambda: all(not one.is_running() or one.status() == psutil.STATUS_ZOMBIE for one in below))
        for name in ("pid", "exec/containerd/containerd.pid"):
            (self._folder / name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Also what an engine that never came back left mounted."""
        self.end(signal.SIGTERM)
        mounted = [part.mountpoint for part in psutil.disk_partitions(all=True)]
        for path in sorted((path for path in mounted if Path(path).is_relative_to(self._folder)), reverse=True):
            subprocess.run(["umount", "-l", path], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture(scope="module")
def own_engine(docker_client: DockerClient, cpu_image: BuiltImage) -> Iterator[OwnEngine]:
    import tempfile

    if os.getuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("only root can start an engine of its own")
    folder = Path(tempfile.mkdtemp(prefix="mb-", dir="/var/tmp"))  # a socket's path has at most 107 characters
    engine = OwnEngine(folder)
    try:
        engine.start()
        client = engine.client()
        client.images.load(docker_client.images.get(cpu_image.name).save(named=True))
        client.close()
        yield engine
    finally:
        engine.remove()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_waits_for_a_container_engine_that_comes_back(
    world: World, own_engine: OwnEngine, number: signal.Signals
) -> None:
    run = fresh_name("stopped")
    client = own_engine.client()
    journal = world.folder / "results" / run / "journal.jsonl"
    options = (*SLOW[:-1], "1", "--smoke", "--run", run)
    with hosting(world, *options, DOCKER_HOST=own_engine.address) as host:
        wait_for(lambda: cells_of(client, run))
        time.sleep(1)
        own_engine.end(number)
        wait_for(lambda: '"cell_retried"' in journal.read_text())
        own_engine.start()
        out, err = host.communicate(timeout=180)
    assert host.returncode == 0, err
    assert "the container engine stopped" in err
    assert "Traceback" not in out + err
    failures = [attempt / "failure.json" for attempt in world.attempts(run)]
    assert {read(failure, Failure).kind for failure in failures if failure.exists()} == {"engine_gone"}
    assert of_run(client, run) == []
    client.close()
    assert len(world.results(run)) == 3
    assert owners(world.folder / "results") == {(os.getuid(), os.getgid())}


# --- somebody else than root --------------------------------------------------------------------

AS_USER = """
import asyncio, os, sys
from pathlib import Path
import harness.executors.docker, harness.images, docker.models.images, requests, urllib3.util, encodings.idna
from docker.context import ContextAPI
from harness.executors.docker import DockerExecutor
from harness.store import AttemptPaths, RunFolder
from runner.contract import CellSpec, read
uid, group, folder, image = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
harness.executors.docker.find_image = lambda client, kind: harness.images._built(image, client.images.get(image).attrs)
os.setgroups([group])
os.setgid(uid)
os.setuid(uid)
async def work():
    attempt = AttemptPaths(folder=folder, number=1)
    executor = await DockerExecutor.open("cpu", RunFolder(folder.parents[2]))
    try:
        handle = await executor.start(attempt, read(attempt.spec, CellSpec))
        print(await handle.wait())
    finally:
        await executor.close()
asyncio.run(work())
"""


def test_a_user_of_the_group_docker(lab: Lab, cpu_image: BuiltImage, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Root becomes that user once everything is imported, because its Python may lie where nobody else can go."""
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    group = Path(address.removeprefix("unix://")).stat().st_gid
    if os.getuid() != 0 or group == 0:
        pytest.skip("needs root, and an engine that a group may use")
    shutil.copytree(lab.spec.dataset.folder, lab.folder / "dataset")
    dataset = changed(lab.spec.dataset, folder=str(lab.folder / "dataset"))
    lab.attempt.spec.write_bytes(encode(cell(dataset=dataset, phases=PHASES)))
    for path in (lab.folder, *lab.folder.rglob("*")):
        os.chown(path, 4321, 4321)
        path.chmod(0o700 if path.is_dir() else 0o600)
    for parent in lab.folder.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(0o711)
    command = [sys.executable, "-c", AS_USER, "4321", str(group), str(lab.attempt.folder), cpu_image.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "code=0" in done.stdout, done.stderr
    assert lab.attempt.result.exists()
    assert owners(lab.run.folder) == {(4321, 4321)}
    assert of_run(lab.client, lab.run.folder.name) == []
