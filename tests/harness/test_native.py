"""Real child processes: `python -m runner` on the majority baseline, and stand-ins for the rest."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from harness.errors import SetupError
from harness.executors import Exit, Gpu, native
from harness.executors.machine import memory_mb
from harness.executors.native import NativeExecutor, cell_environment, runner_command
from harness.store import AttemptPaths
from runner.contract import (
    CellSpec,
    EvaluationSpec,
    Failure,
    PreparedDataset,
    Result,
    Verdict,
    encode,
    read,
    usable_cores,
    verdict_file,
)
from tests.harness.builders import cell

QUICK = EvaluationSpec(
    windows=1, warmup_requests=1, min_requests=11, max_requests=11, latency_min_s=0.0, latency_max_s=0.0,
    throughput_batch_sizes=(1,), throughput_texts=4, throughput_max_s=0.1,
)  # fmt: skip


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptPaths:
    folder = tmp_path / "attempt-001"
    folder.mkdir()
    return AttemptPaths(folder=folder, number=1)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """stand_in(code): Python code in the place of the runner."""

    def use(code: str) -> None:
        monkeypatch.setattr(native, "runner_command", lambda *arguments: [sys.executable, "-c", code, *arguments])

    return use


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def run(attempt: AttemptPaths, *, stop_when: Callable[[], bool] | None = None, grace_s: float = 5.0) -> Exit:
    async def work() -> Exit:
        handle = await NativeExecutor().start(attempt, cell())
        if stop_when is not None:
            await asyncio.to_thread(wait_for, stop_when)
            await handle.stop(grace_s)
        return await handle.wait()

    return asyncio.run(work())


def test_the_environment_has_no_secrets() -> None:
    secrets = (
        "HF_TOKEN", "HUGGINGFACEHUB_API_TOKEN", "KAGGLE_KEY", "KAGGLE_USERNAME", "AWS_SECRET_ACCESS_KEY",
        "MLFLOW_TRACKING_PASSWORD", "OPENAI_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS",
    )  # fmt: skip
    made = cell_environment(dict.fromkeys(secrets, "secret") | {"PATH": "/bin", "HF_HUB_OFFLINE": "0"})
    assert "secret" not in made.values()
    assert made["PATH"] == "/bin"
    assert (made["HF_HUB_OFFLINE"], made["PYTHONHASHSEED"]) == ("1", "0")


def test_memory_is_what_the_tightest_group_leaves(tmp_path: Path) -> None:
    own, groups = tmp_path / "cgroup", tmp_path / "groups"
    everything = psutil.virtual_memory().total // 2**20
    assert memory_mb(groups, own) == everything
    own.write_text("0::/user.slice/session\n")
    for folder, limit in {"user.slice/session": "max", "user.slice": str(300 * 2**20), "": str(400 * 2**20)}.items():
        (groups / folder).mkdir(parents=True, exist_ok=True)
        (groups / folder / "memory.max").write_text(limit + "\n")
    assert memory_mb(groups, own) == 300
    own.write_text("9:name=systemd:/\n4:memory:/not/here\n1:cpu,cpuacct:/\n")
    (groups / "memory").mkdir()
    (groups / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert memory_mb(groups, own) == everything
    (groups / "memory" / "memory.limit_in_bytes").write_text(str(200 * 2**20))
    assert memory_mb(groups, own) == 200


def test_what_cells_can_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "list_gpus", lambda: (Gpu("GPU-a", "H200", 1),))
    found = NativeExecutor().capacity
    assert len(found.cores) == usable_cores() and list(found.cores) == sorted(found.cores)
    assert found.memory_mb == memory_mb()
    assert [gpu.id for gpu in found.gpus] == ["GPU-a"]
    assert not found.confines


def test_the_child_has_that_environment_and_its_output_is_the_log(
    attempt: AttemptPaths, stand_in: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret-token")
    stand_in("import os, sys; print(sorted(os.environ.values()), sys.argv); sys.stderr.write('and this')")
    assert run(attempt) == Exit(code=0)
    log = attempt.log.read_text()
    assert "secret-token" not in log
    assert str(attempt.spec) in log
    assert "--watch-stdin" in runner_command("run")
    assert "and this" in log


@pytest.mark.parametrize(
    ("code", "exited"),
    [("raise SystemExit(7)", Exit(code=7)), ("import os; os.kill(os.getpid(), 9)", Exit(code=None, signal=9))],
)
def test_how_it_ended(attempt: AttemptPaths, stand_in: Callable[[str], None], code: str, exited: Exit) -> None:
    stand_in(code)
    assert run(attempt) == exited


FORKING = """
import pathlib, signal, subprocess, sys, time
deaf = {deaf!r}
if deaf:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"],
    stdout=subprocess.PIPE)
child.stdout.readline()
pathlib.Path(sys.argv[-1]).joinpath("child").write_text(str(child.pid))
time.sleep({sleep})
"""


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(("deaf", "number"), [(False, signal.SIGTERM), (True, signal.SIGKILL)])
def test_stopping_ends_the_whole_group(
    attempt: AttemptPaths, stand_in: Callable[[str], None], deaf: bool, number: int
) -> None:
    stand_in(FORKING.format(deaf=deaf, sleep=60))
    child = attempt.folder / "child"
    exited = run(attempt, stop_when=lambda: child.exists() and child.read_text() != "", grace_s=0.2 if deaf else 5.0)
    assert exited == Exit(code=None, signal=number)
    wait_for(lambda: gone(int(child.read_text())))


def test_what_it_forked_ends_with_it(attempt: AttemptPaths, stand_in: Callable[[str], None]) -> None:
    stand_in(FORKING.format(deaf=False, sleep=0))
    assert run(attempt) == Exit(code=0)
    wait_for(lambda: gone(int((attempt.folder / "child").read_text())))


def test_what_left_the_group_does_not_hold_its_end_up(
    attempt: AttemptPaths, stand_in: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "OUTPUT_GRACE_S", 0.2)
    stand_in(
        "import subprocess; print('before', flush=True); "
        "subprocess.Popen(['sleep', '20'], start_new_session=True, stdin=subprocess.DEVNULL, env={})"
    )
    started = time.monotonic()
    assert run(attempt) == Exit(code=0)
    assert time.monotonic() - started < 10
    assert attempt.log.read_text() == "before\n"


KILLS_ITSELF = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize(("kills", "cause"), [((3, 4), "out_of_memory"), ((3, 3), None)])
def test_a_cell_that_the_system_killed_for_memory(
    attempt: AttemptPaths,
    stand_in: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    kills: tuple[int, int],
    cause: str | None,
) -> None:
    counts = iter(kills)
    monkeypatch.setattr(native, "oom_kills", lambda: next(counts))
    stand_in(KILLS_ITSELF)
    exited = run(attempt)
    assert (exited.signal, exited.cause) == (signal.SIGKILL, cause)


def test_the_log_is_plain_text(attempt: AttemptPaths, stand_in: Callable[[str], None]) -> None:
    stand_in(r"print('\x1b[31mred\x1b[0m', end='\n 1%\r 2%\n')")
    assert run(attempt) == Exit(code=0)
    assert attempt.log.read_text() == "red\n 2%\n"


def test_a_program_that_is_not_there(attempt: AttemptPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "runner_command", lambda *arguments: ["/absent/python"])
    with pytest.raises(SetupError, match="cannot start a process"):
        run(attempt)


def test_a_folder_named_runner_does_not_take_its_place(tmp_path: Path) -> None:
    (tmp_path / "runner").mkdir()
    (tmp_path / "runner" / "__init__.py").touch()
    (tmp_path / "runner" / "__main__.py").write_text("raise SystemExit('the wrong runner')")
    done = subprocess.run(runner_command("--help"), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "prepare" in done.stdout) == (0, True)


# --- the real runner --------------------------------------------------------------------------


@pytest.fixture
def spec(tmp_path: Path, attempt: AttemptPaths) -> CellSpec:
    """A majority cell on a small file, its spec.json written, that asks for the lease."""
    source = tmp_path / "reviews.csv"
    rows = [f"text number {i} is {'good' if i % 2 else 'bad'},{'good' if i % 2 else 'bad'}" for i in range(60)]
    source.write_text("\n".join(["text,label", *rows]))
    question, answer = tmp_path / "request.json", tmp_path / "answer.json"
    question.write_text(f'{{"name": "reviews", "source": "file", "files": {{"all": "{source}"}}}}')
    command = runner_command("prepare", str(question), "--out", str(answer), "--cache", str(tmp_path / "cache"))
    command.remove("--watch-stdin")
    subprocess.run(command, check=True, capture_output=True)
    made = cell(dataset=read(answer, PreparedDataset), evaluation=QUICK)
    attempt.spec.write_bytes(encode(made))
    return made


def wants_lease(attempt: AttemptPaths) -> bool:
    return attempt.events.exists() and b"lease_wanted" in attempt.events.read_bytes()


def test_a_real_cell_waits_for_the_lease_and_succeeds(attempt: AttemptPaths, spec: CellSpec) -> None:
    async def work() -> Exit:
        handle = await NativeExecutor().start(attempt, spec)
        await asyncio.to_thread(wait_for, lambda: wants_lease(attempt))
        assert not attempt.result.exists()
        for window in range(1, 9):  # on a busy machine it asks again
            attempt.grant(window)
            attempt.tell(verdict_file(window), Verdict())
        return await handle.wait()

    assert asyncio.run(work()) == Exit(code=0), attempt.log.read_text()
    assert read(attempt.result, Result).cell == spec.cell


def test_a_real_cell_that_is_stopped_says_so(attempt: AttemptPaths, spec: CellSpec) -> None:
    assert run(attempt, stop_when=lambda: wants_lease(attempt)) == Exit(code=1)
    assert read(attempt.failure, Failure).kind == "interrupted"
    assert not attempt.result.exists()


def test_a_cell_ends_when_its_host_is_gone(attempt: AttemptPaths, spec: CellSpec) -> None:
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(attempt.folder)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert host.stdout is not None
    pid = int(host.stdout.readline())
    wait_for(lambda: wants_lease(attempt))
    assert not gone(pid)
    host.kill()
    host.wait()
    host.stdout.close()
    wait_for(lambda: gone(pid))


HOST = """
import asyncio, sys
from pathlib import Path
from harness.executors.native import NativeExecutor
from harness.store import AttemptPaths
from runner.contract import CellSpec, read

async def work():
    attempt = AttemptPaths(folder=Path(sys.argv[1]), number=1)
    handle = await NativeExecutor().start(attempt, read(attempt.spec, CellSpec))
    print(handle._process.pid, flush=True)
    await handle.wait()

asyncio.run(work())
"""
