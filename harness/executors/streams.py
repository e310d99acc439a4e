"""What comes from the engine by itself: what a container prints, and what happens to it."""

from __future__ import annotations

import io
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from harness.executors.containers import EXECUTOR_LABEL

UP_S = 30.0  # for an engine to take a listener
LOST_S = 20.0  # containers end for so long after an engine began to stop


class Watch:
    """One connection for the events of the executor's containers. That it breaks is how a restart of the engine is
    noticed: the containers that this ends look as if they had been ended for themselves."""

    def __init__(self, api: Any, executor: str) -> None:
        self._api = api
        self._filters = {"type": "container", "label": f"{EXECUTOR_LABEL}={executor}"}
        self._seen: dict[str, set[str]] = defaultdict(set)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._up = threading.Event()
        self._lost_at: float | None = None
        self._stream: Any = None
        self._closed = threading.Event()

    def begin(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="docker-events", daemon=True)
                self._thread.start()
        self._up.wait(UP_S)

    @property
    def is_lost(self) -> bool:
        """Now, or until a moment ago."""
        lost_at = self._lost_at
        return not self._up.is_set() or (lost_at is not None and time.monotonic() - lost_at < LOST_S)

    def seen(self, container: str) -> set[str]:
        """`oom`, `kill 9`, `die`, `destroy` …: what the engine told of it."""
        return set(self._seen.get(container, ()))

    def close(self) -> None:
        self._closed.set()
        if self._stream is not None:
            with suppress(Exception):
                self._stream.close()

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                self._stream = self._api.events(filters=self._filters, decode=True)
                self._up.set()
                for event in self._stream:
                    self._note(event)
            except Exception:  # noqa: BLE001 - however it broke, it is broken
                pass
            self._lost_at = time.monotonic()
            self._up.clear()
            self._closed.wait(0.5)

    def _note(self, event: dict[str, Any]) -> None:
        action = str(event.get("Action"))
        attributes = event.get("Actor", {}).get("Attributes", {})
        told = f"kill {attributes.get('signal')}" if action == "kill" else action
        self._seen[str(event.get("id"))].add(told)


class Connection:
    """A container's input, which nothing is written to, and its output."""

    def __init__(self, raw: Any) -> None:
        """`raw`: the socket.SocketIO that the SDK gives for an engine behind a Unix socket."""
        self._socket: socket.socket = raw._sock
        self._socket.settimeout(None)  # it may be silent for hours
        self._reader = io.BufferedReader(raw, 2**16)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """(stream, chunk) until the output ends, or the connection. A frame has a header of eight bytes: stream, three
        zeros, length."""
        with suppress(OSError):
            while len(header := self._reader.read(8)) == 8:
                stream, left = struct.unpack(">BxxxL", header)
                while left:
                    chunk = self._reader.read1(min(left, 2**16))
                    if not chunk:
                        return
                    left -= len(chunk)
                    yield stream, chunk

    def hang_up(self) -> None:
        """From any thread: `frames` ends."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._reader.close()
        self._socket.close()


class Output:
    """The first so many bytes of a stream; the rest is read and dropped."""

    def __init__(self, limit: int) -> None:
        self.data = bytearray()
        self._limit = limit

    def take(self, chunk: bytes) -> None:
        self.data += chunk[: self._limit - len(self.data)]
