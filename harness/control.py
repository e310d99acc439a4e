"""The socket in a run folder through which displays speak with its engine: one JSON object a line, one answer each.

{"do": "status"}              -> {"pid": 4711, "preparing": false, "stopping": false, "journal_bytes": 0}
{"do": "stop", "now": false}  -> {"ok": true}
anything else                 -> {"error": "…"}
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from harness.scratch import LOCK, is_held
from harness.store import RunFolder

SOCKET = "engine.sock"
LINE_BYTES = 4096
ANSWER_S = 5.0  # a client waits so long for an answer, the engine for a request
MOST_CLIENTS = 32  # at a time
TURNS = 5  # of the event loop, each for what the one before has begun
PATH_BYTES = 103  # what every system takes as the address of a socket

Answer = TypeVar("Answer")


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    do: str
    now: bool = False


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`journal_bytes`: where in the journal this engine's own events begin."""

    pid: int
    preparing: bool = False
    stopping: bool = False
    journal_bytes: int = 0


class Done(msgspec.Struct, frozen=True):
    ok: bool


class Refused(msgspec.Struct, frozen=True):
    error: str


@dataclass(frozen=True)
class Commands:
    """What the engine does on request."""

    status: Callable[[], EngineStatus]
    stop: Callable[[bool], None]  # True: now

    def carry_out(self, line: bytes) -> EngineStatus | Done | Refused:
        try:
            command = msgspec.json.decode(line, type=Command)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Refused(f"not a command: {error}")
        if command.do == "status":
            return self.status()
        if command.do == "stop":
            self.stop(command.now)
            return Done(ok=True)
        return Refused(f"unknown command '{command.do[:40]}'")


# --- the engine's end -------------------------------------------------------------------------


@asynccontextmanager
async def listening(folder: Path, commands: Commands) -> AsyncIterator[bool]:
    """Answer as long as the block lasts. The caller holds the run's lock, so that a socket that lies there is a killed
    engine's. False where the file system has no sockets: then signals have to do."""
    path = folder / SOCKET
    try:
        listener = _bound(folder)
    except OSError:
        yield False
        return
    clients: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        clients.add(task)
        try:
            if len(clients) <= MOST_CLIENTS:
                await _converse(reader, writer, commands)
        finally:
            clients.discard(task)
            writer.close()

    server = await asyncio.start_unix_server(serve, sock=listener, limit=LINE_BYTES)
    try:
        yield True
    finally:
        with suppress(OSError):
            path.unlink()
        asyncio.get_running_loop().remove_reader(listener)
        await _some_turns()  # what was just accepted would be lost if the server were closed at once
        server.close()
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await _some_turns()  # closed ones are really closed


async def _some_turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, commands: Commands) -> None:
    """Answer line by line until the client goes, falls silent or sends a line without end."""
    with suppress(OSError, ValueError, TimeoutError):
        while line := await asyncio.wait_for(reader.readline(), ANSWER_S):
            writer.write(msgspec.json.encode(commands.carry_out(line)) + b"\n")
            await asyncio.wait_for(writer.drain(), ANSWER_S)


def _bound(folder: Path) -> socket.socket:
    """Nobody else can connect: it gets its mode before it listens. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            (folder / SOCKET).unlink()
        with _address(folder) as address:
            listener.bind(address)
        (folder / SOCKET).chmod(0o600)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


@contextmanager
def _address(folder: Path) -> Iterator[str]:
    """A name of the socket that is short enough. Raises OSError."""
    direct = str(folder / SOCKET)
    if len(os.fsencode(direct)) <= PATH_BYTES or not Path("/proc/self/fd").is_dir():
        yield direct
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


# --- the displays' end ------------------------------------------------------------------------


def is_alive(folder: RunFolder) -> bool:
    """Whether an engine works on this run."""
    return is_held(folder.folder / LOCK)


def engine_status(folder: RunFolder) -> EngineStatus | None:
    """None where none answers; the engine may live all the same."""
    return _ask(folder.folder, Command("status"), EngineStatus)


def engine_pid(folder: RunFolder) -> int | None:
    """What the engine has written into its lock; None where none works."""
    if not is_alive(folder):
        return None
    with suppress(OSError, ValueError):
        return int((folder.folder / LOCK).read_text()) or None
    return None


def ask_to_stop(folder: RunFolder, *, now: bool = False) -> bool:
    """Through the socket, else by a signal; whether there was somebody to ask."""
    if _ask(folder.folder, Command("stop", now), Done) is not None:
        return True
    pid = engine_pid(folder)
    if pid is None:
        return False
    with suppress(ProcessLookupError):
        for number in (signal.SIGTERM, signal.SIGINT)[: 2 if now else 1]:  # a second one means: now
            os.kill(pid, number)
    return True


def _ask(folder: Path, command: Command, kind: type[Answer]) -> Answer | None:
    with suppress(OSError, msgspec.DecodeError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(ANSWER_S)
        with _address(folder) as address:
            client.connect(address)
        client.sendall(msgspec.json.encode(command) + b"\n")
        return msgspec.json.decode(_line(client), type=kind)
    return None


def _line(client: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n") and len(data) < LINE_BYTES and (more := client.recv(LINE_BYTES)):
        data += more
    return data
