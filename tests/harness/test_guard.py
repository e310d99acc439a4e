"""The guard: as a process beside real processes, and its questions to an engine of our own."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness import guard
from harness.guard import ContainerGuard, Guard, Ward, finish
from harness.processes import MARK, members


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


@pytest.fixture
def watching() -> Iterator[Guard]:
    made = Guard(os.environ)
    yield made
    made.close()


@pytest.fixture
def sleeping() -> Iterator[Callable[[str], tuple[subprocess.Popen[bytes], Ward]]]:
    """sleeping(mark): a process that stands still, and how the guard knows it."""
    begun: list[subprocess.Popen[bytes]] = []

    def begin(mark: str) -> tuple[subprocess.Popen[bytes], Ward]:
        process = subprocess.Popen(["sleep", "60"], process_group=0, env=dict(os.environ) | {MARK: mark})
        begun.append(process)
        process.send_signal(signal.SIGSTOP)
        return process, Ward("processes", mark, str(process.pid))

    yield begin
    for process in begun:
        process.kill()
        process.wait()


Sleeping = Callable[[str], tuple[subprocess.Popen[bytes], Ward]]


def test_what_it_holds_ends_with_its_host(watching: Guard, sleeping: Sleeping) -> None:
    held, ward = sleeping("/held")
    ended, other = sleeping("/released")
    watching.hold(ward)
    watching.hold(other)
    watching.release(other)
    watching.close()
    assert held.wait(5) == -signal.SIGKILL
    assert ended.poll() is None
    assert watching.pid is None


@pytest.mark.skipif(sys.platform != "linux", reason="the system lists no processes in files")
def test_it_finds_what_left_its_group(watching: Guard, sleeping: Sleeping) -> None:
    apart, _ = sleeping("/apart")
    other, _ = sleeping("/apart/not")
    watching.hold(Ward("processes", "/apart", str(2**22 + 1)))  # no such group
    watching.close()
    assert apart.wait(5) == -signal.SIGKILL
    assert other.poll() is None


def test_it_begins_with_the_first_and_again_when_it_is_killed(watching: Guard, sleeping: Sleeping) -> None:
    assert watching.pid is None
    (first, ward), (second, another) = sleeping("/first"), sleeping("/second")
    watching.hold(ward)
    assert watching.pid is not None
    old = psutil.Process(watching.pid)
    assert os.getsid(old.pid) == old.pid  # a terminal's signals do not reach it
    old.kill()
    wait_for(lambda: old.status() == psutil.STATUS_ZOMBIE)
    watching.hold(another)
    assert watching.pid != old.pid
    watching.close()
    assert first.wait(5) == second.wait(5) == -signal.SIGKILL


def test_a_guard_that_takes_nothing_is_replaced(watching: Guard) -> None:
    ward = Ward("processes", "/" + "x" * 1000, "4194303")
    watching.hold(ward)
    assert watching.pid is not None
    old = watching.pid
    os.kill(old, signal.SIGSTOP)
    for _ in range(1000):  # a pipe holds less
        watching.hold(ward)
        if watching.pid != old:
            break
    assert watching.pid != old
    watching.release(ward)


def test_it_imports_next_to_nothing() -> None:
    code = "import sys, harness.guard; print(len(sys.modules), 'msgspec' in sys.modules, 'docker' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1:] == ["False", "False"]


def test_whoever_cannot_start_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/absent/python")
    made = Guard({})
    made.hold(Ward("processes", "/x", "1"))
    made.release(Ward("processes", "/x", "1"))
    made.close()


# --- containers ---------------------------------------------------------------------------------


class Engine:
    """Answers over a socket as Docker's does. Its container runs until it has been let go on so many times."""

    def __init__(self, folder: Path, ends_after: int) -> None:
        self.address = f"{folder}/e.sock"
        self.asked: list[str] = []
        self._left = ends_after
        engine = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                data = json.dumps(engine.take(f"{self.command} {self.path}")).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

            def address_string(self) -> str:
                return "unix"

        self.server = socketserver.ThreadingUnixStreamServer(self.address, Handler)
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def take(self, asked: str) -> dict[str, Any]:
        self.asked.append(asked)
        self._left -= asked.startswith("POST")
        return {"State": {"Running": self._left > 0}}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def engine() -> Iterator[Engine]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a socket's path has at most 107 characters
        made = Engine(Path(folder), ends_after=2)
        yield made
        made.close()


def test_a_container_may_end_by_itself_and_is_removed(engine: Engine) -> None:
    finish([Ward("container", engine.address, "abc")])
    again = ["POST /containers/abc/unpause", "GET /containers/abc/json"]
    assert engine.asked == [*again, *again, "DELETE /containers/abc?force=1&v=1"]


def test_one_that_hangs_is_ended(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "GRACE_S", 0.0)
    finish([Ward("container", engine.address, "abc")])
    assert engine.asked == ["DELETE /containers/abc?force=1&v=1"]


def test_an_engine_that_is_gone_keeps_nobody() -> None:
    finish([Ward("container", "/nonexistent/docker.sock", "abc")])


def test_the_host_names_its_containers(engine: Engine) -> None:
    watching = ContainerGuard(f"unix://{engine.address}", os.environ)
    watching.hold_container("abc")
    watching.hold_container("over")
    watching.release_container("over")
    watching.close()
    assert engine.asked[-1] == "DELETE /containers/abc?force=1&v=1"
    assert not any("over" in asked for asked in engine.asked)


def test_no_list_of_processes(tmp_path: Path) -> None:
    assert members(1, "/x", tmp_path / "absent") == []
