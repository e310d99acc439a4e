"""Starting the engine of a run as a process of its own (harness.service), and what it says to whoever started it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from harness.control import SOCKET, is_alive
from harness.errors import ExitCode, InputError, MoodBenchError, SetupError
from harness.run_lock import only_one
from harness.scratch import LOCK
from harness.store import RunFolder, writing
from runner.contract import read

if TYPE_CHECKING:
    from harness.request import RunRequest

LOG = "engine.log"
REQUEST = "request.json"
NEXT_REQUEST = "request.next.json"  # of a run that has begun before, until this is a part of it or is refused
# What lies in the folder of a run that has no cells yet.
ENGINE_FILES = (
    LOCK, SOCKET, LOG, "request*.json", "journal.jsonl", ".writable", ".request*.json.*.tmp", ".run.json.*.tmp",
)  # fmt: skip
END_S = 10.0  # an engine that has told its end still has to leave


class Word(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line through the pipe: first that the engine is ready (`pid`) or why it is not; later what ended it, where its
    journal could not take that."""

    pid: int | None = None
    journal_bytes: int = 0  # where its own events begin
    exit_code: int = 0
    message: str = ""
    hint: str = ""


class EngineError(MoodBenchError):
    """What an engine says of itself, with the exit code that it gives."""

    def __init__(self, word: Word) -> None:
        super().__init__(word.message, word.hint)
        with suppress(ValueError):
            self.exit_code = ExitCode(word.exit_code)


@dataclass(frozen=True)
class StartedEngine:
    folder: RunFolder
    pid: int
    journal_bytes: int
    _process: subprocess.Popen[bytes] = field(repr=False)
    _pipe: IO[bytes] = field(repr=False)

    def last_word(self) -> Word | None:
        """What it said besides its journal; to be asked when it is gone."""
        return _read_word(self._pipe)

    def leave(self) -> None:
        """It goes on by itself, or is about to end."""
        self._pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0 if is_alive(self.folder) else END_S)


def start_engine(folder: RunFolder, request: RunRequest | None = None) -> StartedEngine:
    """Start it and wait until it holds the run; None: the request that lies there. Raises InputError where another one
    holds it, SetupError."""
    with writing(folder.folder):
        folder.folder.mkdir(parents=True, exist_ok=True)
    reading, to_us = os.pipe()
    try:
        process = _spawn(folder, to_us)
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(to_us)
    pipe = os.fdopen(reading, "rb")
    try:
        word = _hand_over(process, pipe, request)
    except BaseException:  # Ctrl-C, too: nothing has begun
        pipe.close()
        process.terminate()
        process.wait()
        raise
    if word is not None and word.pid is not None:
        return StartedEngine(folder, word.pid, word.journal_bytes, process, pipe)
    pipe.close()
    process.wait()
    if word is None:
        raise SetupError("the engine did not start", f"see {folder.folder / LOG}")
    raise EngineError(word)


def _spawn(folder: RunFolder, to_us: int) -> subprocess.Popen[bytes]:
    """In a session of its own, so that the end of this terminal is not its end."""
    command = [sys.executable, "-P", "-m", "harness.service", str(folder.folder.absolute()), "--ready-fd", str(to_us)]
    path = folder.folder / LOG
    with writing(path), path.open("ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=(to_us,), start_new_session=True
        )


def _hand_over(process: subprocess.Popen[bytes], pipe: IO[bytes], request: RunRequest | None) -> Word | None:
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(msgspec.json.encode(request) if request is not None else b"")
    return _read_word(pipe)


def _read_word(pipe: IO[bytes]) -> Word | None:
    try:
        return msgspec.json.decode(pipe.readline(), type=Word)
    except msgspec.DecodeError:
        return None


def kept_request(folder: RunFolder) -> RunRequest:
    """What the run was last asked to do, and has not refused. Raises ContractError, OSError."""
    from harness.request import RunRequest

    try:
        return read(folder.folder / NEXT_REQUEST, RunRequest)
    except FileNotFoundError:
        return read(folder.folder / REQUEST, RunRequest)


def discard_if_never_begun(folder: RunFolder) -> None:
    """Remove a folder whose run ended before it had cells; whatever is not ours in it stays, and keeps it."""
    if folder.record_path.exists():
        return
    with suppress(InputError, OSError), only_one(folder):
        if not folder.record_path.exists():
            remove_engine_files(folder)


def is_of_an_engine(path: Path) -> bool:
    return any(fnmatchcase(path.name, pattern) for pattern in ENGINE_FILES)


def remove_engine_files(folder: RunFolder) -> None:
    """The caller holds the run; its lock goes when that ends. Raises OSError."""
    for path in list(folder.folder.iterdir()):
        if is_of_an_engine(path) and path.name != LOCK:
            path.unlink()
