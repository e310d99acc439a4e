"""Ends the attempts of a host that was killed before it could end them itself.

A running cell notices that its host is gone: its standard input closes. One that is frozen does not, nor does what a
cell has forked. So the host starts a small process in a session of its own (this file, run with the standard library
alone) and tells it, through a pipe, what runs. When the pipe closes, what is left is let run again, has a moment to end
by itself, and is then ended. While the host lives the guard sleeps.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Literal, NamedTuple

GRACE_S = 3.0  # a cell ends by itself at once, unless it hangs
ENGINE_CALL_S = 10.0
POLL_S = 0.2


class Ward(NamedTuple):
    """`containers`: the path of the engine's socket and a container's id; `processes`: mark and group of an attempt."""

    kind: Literal["container", "processes"]
    where: str
    id: str


class Guard:
    """The host's side. The process begins with the first ward, and begins again should something end it. That it cannot
    be had stops nothing: what a killed host leaves is then removed by the next start."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._wards: set[Ward] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def hold(self, ward: Ward) -> None:
        """To be called before it can be frozen."""
        with self._lock:
            self._wards.add(ward)
            if self._process is None or not self._tell("+", [ward]):
                self._begin()

    def release(self, ward: Ward) -> None:
        """It has ended."""
        with self._lock:
            known = ward in self._wards
            self._wards.discard(ward)
            if known and not self._tell("-", [ward]) and self._wards:
                self._begin()

    def close(self) -> None:
        """Returns when the guard is gone; what it still holds it ends first."""
        with self._lock:
            self._end()
            self._wards.clear()

    def __del__(self) -> None:
        self._end()

    def _begin(self) -> None:
        if self._process is not None:
            self._process.kill()  # it takes nothing any more
            self._end()
        with suppress(OSError):
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "harness.guard"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env=dict(self._environment),
            )
            assert self._process.stdin is not None
            os.set_blocking(self._process.stdin.fileno(), False)  # the host waits for nobody
            self._tell("+", sorted(self._wards))

    def _tell(self, change: str, wards: Iterable[Ward]) -> bool:
        if self._process is None or self._process.stdin is None:
            return False
        lines = b"".join(json.dumps([change, *ward]).encode() + b"\n" for ward in wards)
        try:
            return os.write(self._process.stdin.fileno(), lines) == len(lines)
        except (BrokenPipeError, BlockingIOError):
            return False

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        with suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(GRACE_S + 2 * ENGINE_CALL_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class ContainerGuard(Guard):
    """Of one engine's containers."""

    def __init__(self, address: str, environment: Mapping[str, str]) -> None:
        super().__init__(environment)
        self._socket = address.removeprefix("unix://")

    def hold_container(self, id_: str) -> None:
        self.hold(Ward("container", self._socket, id_))

    def release_container(self, id_: str) -> None:
        self.release(Ward("container", self._socket, id_))


# --- the guard's own process ---------------------------------------------------------------------


def main() -> None:
    wards: set[Ward] = set()
    for line in sys.stdin.buffer:
        with suppress(ValueError, TypeError):
            change, *fields = json.loads(line)
            (wards.add if change == "+" else wards.discard)(Ward(*fields))
    finish(wards)


def finish(wards: Iterable[Ward]) -> None:
    """Asked again and again until it has ended: a pause may still be on its way when the host goes."""
    left = list(wards)
    deadline = time.monotonic() + GRACE_S
    while left and time.monotonic() < deadline:
        left = [ward for ward in left if _runs_when_thawed(ward)]
        if left:
            time.sleep(POLL_S)
    for ward in wards:
        _remove(ward)


def _runs_when_thawed(ward: Ward) -> bool:
    if ward.kind == "container":
        _engine(ward, "POST", "/unpause")
        state = _engine(ward, "GET", "/json").get("State")
        return isinstance(state, dict) and bool(state.get("Running"))
    from harness.processes import members

    found = members(int(ward.id), ward.where)
    for member in found:
        member.signal(signal.SIGCONT)
    return bool(found)


def _remove(ward: Ward) -> None:
    if ward.kind == "container":
        _engine(ward, "DELETE", "?force=1&v=1")
        return
    from harness.processes import end_processes

    deadline = time.monotonic() + GRACE_S
    while end_processes(int(ward.id), ward.where) and time.monotonic() < deadline:
        time.sleep(POLL_S / 10)


def _engine(ward: Ward, method: str, path: str) -> dict[str, object]:
    """What the engine answers, {} where it answers nothing; without its SDK, which takes a second to import."""
    import http.client
    import socket

    connection = http.client.HTTPConnection("localhost", timeout=ENGINE_CALL_S)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door, suppress(OSError, http.client.HTTPException):
        door.settimeout(ENGINE_CALL_S)
        door.connect(ward.where)
        connection.sock = door
        connection.request(method, f"/containers/{ward.id}{path}")
        answer = connection.getresponse().read()
        with suppress(ValueError):
            found = json.loads(answer)
            return found if isinstance(found, dict) else {}
    return {}


if __name__ == "__main__":
    main()
