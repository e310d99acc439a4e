from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness import control
from harness.control import Commands, EngineStatus, ask_to_stop, engine_pid, engine_status, listening
from harness.store import RunFolder

STATUS = EngineStatus(pid=4711, preparing=True, journal_bytes=12)


class Engine:
    """What is asked of it."""

    def __init__(self) -> None:
        self.stops: list[bool] = []

    def during(self, folder: Path, ask: Callable[[], Any]) -> Any:
        """What `ask`, in a thread, gets from an engine that listens meanwhile."""

        async def both() -> Any:
            async with asyncio.timeout(60), listening(folder, Commands(lambda: STATUS, self.stops.append)) as able:
                assert able
                return await asyncio.to_thread(ask)

        return asyncio.run(both())


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = tmp_path / "r"
    folder.mkdir()
    return RunFolder(folder)


def talk(folder: Path, *sent: bytes) -> list[bytes]:
    """Send raw bytes, and read until the engine hangs up."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect(str(folder / "engine.sock"))
        for data in sent:
            client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while more := client.recv(4096):
            received += more
    return received.splitlines()


def test_an_engine_says_how_it_is_and_is_stopped(run: RunFolder) -> None:
    engine = Engine()
    assert engine.during(run.folder, lambda: engine_status(run)) == STATUS
    assert engine.during(run.folder, lambda: [ask_to_stop(run), ask_to_stop(run, now=True)]) == [True, True]
    assert engine.stops == [False, True]


def test_the_socket_is_this_users_alone_and_goes_with_the_engine(run: RunFolder) -> None:
    path = run.folder / "engine.sock"
    mode = Engine().during(run.folder, lambda: stat.S_IMODE(path.stat().st_mode))
    assert mode == 0o600
    assert not path.exists()
    assert engine_status(run) is None


def test_a_killed_engines_socket_is_replaced(run: RunFolder) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(run.folder / "engine.sock"))
    assert engine_status(run) is None
    assert Engine().during(run.folder, lambda: engine_status(run)) == STATUS


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux takes paths as long as files have")
def test_a_path_longer_than_a_socket_takes(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20) / ("longer" * 20)
    folder.mkdir(parents=True)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert Engine().during(folder, lambda: engine_status(RunFolder(folder))) == STATUS
    assert not (folder / "engine.sock").exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_folder_that_takes_no_socket_is_no_fault(run: RunFolder) -> None:
    (run.folder / "engine.sock").mkdir()

    async def listen() -> bool:
        async with listening(run.folder, Commands(lambda: STATUS, lambda now: None)) as able:
            return able

    assert asyncio.run(listen()) is False


@pytest.mark.parametrize(
    ("sent", "part"),
    [
        (b"\xff\xfe\n", "not a command"),
        (b"[1, 2]\n", "not a command"),
        (b'{"do": "status", "more": 1}\n', "not a command"),
        (b"[" * 3000 + b"\n", "not a command"),
        (b'{"do": "dance"}\n', "unknown command 'dance'"),
    ],
)
def test_what_is_no_command_is_answered_so(run: RunFolder, sent: bytes, part: str) -> None:
    [error, answer] = Engine().during(run.folder, lambda: talk(run.folder, sent, b'{"do": "status"}\n'))
    assert part in json.loads(error)["error"]
    assert json.loads(answer)["pid"] == 4711


def test_a_line_without_end_is_hung_up_on(run: RunFolder) -> None:
    def ask() -> EngineStatus | None:
        with suppress(ConnectionError):  # while it is being sent
            assert talk(run.folder, b"x" * 100_000) == []
        return engine_status(run)

    assert Engine().during(run.folder, ask) == STATUS


def test_clients_that_vanish_or_stay_silent_harm_nothing(run: RunFolder) -> None:
    def ask() -> EngineStatus | None:
        clients = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(8)]
        for client in clients:
            client.connect(str(run.folder / "engine.sock"))
            client.sendall(b'{"do": "status"}\n{"do": "st')
        for client in clients[:4]:
            client.close()
        found = engine_status(run)
        for client in clients[4:]:
            client.close()
        return found

    assert Engine().during(run.folder, ask) == STATUS


def test_an_engine_ends_though_a_client_is_silent(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "ANSWER_S", 1e6)
    clients = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)]
    Engine().during(run.folder, lambda: clients[0].connect(str(run.folder / "engine.sock")))
    clients[0].close()


def test_too_many_clients_are_sent_away(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MOST_CLIENTS", 1)

    def ask() -> list[EngineStatus | None]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            first.connect(str(run.folder / "engine.sock"))
            first.sendall(b'{"do": "status"}\n')
            first.recv(4096)
            beside = engine_status(run)
        return [beside]

    assert Engine().during(run.folder, ask)[0] is None


HOLDER = """
import fcntl, os, signal, sys, time
lock = open(sys.argv[1], "a+")
fcntl.flock(lock, fcntl.LOCK_EX)
lock.write(str(os.getpid()))
lock.flush()
got = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda n, frame: got.append(n))
print("ready", flush=True)
while len(got) < int(sys.argv[2]):
    time.sleep(0.01)
print(got, flush=True)
"""


@pytest.mark.parametrize(("now", "signals"), [(False, [15]), (True, [2, 15])])
def test_without_a_socket_an_engine_is_stopped_by_its_pid(run: RunFolder, now: bool, signals: list[int]) -> None:
    command = [sys.executable, "-c", HOLDER, str(run.folder / ".lock"), str(len(signals))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as engine:
        assert engine.stdout is not None
        assert engine.stdout.readline() == "ready\n"
        assert (engine_status(run), engine_pid(run)) == (None, engine.pid)
        assert ask_to_stop(run, now=now)
        assert sorted(json.loads(engine.stdout.readline())) == signals


def test_nobody_to_stop(run: RunFolder) -> None:
    (run.folder / ".lock").write_text(str(os.getpid()))  # of an engine that is gone
    assert engine_pid(run) is None
    assert not ask_to_stop(run)
