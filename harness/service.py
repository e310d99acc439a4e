"""The engine as a process of its own: `python -P -m harness.service FOLDER --ready-fd N`, started by harness.launch.

It holds the run's folder, carries out what it is asked to, and tells of it in the journal alone: the end is always its
last event. Displays come and go; they speak with it through a socket (harness.control).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from pathlib import Path

import msgspec

from harness.control import Commands, EngineStatus, listening
from harness.errors import ExitCode, InputError, MoodBenchError
from harness.journal import Journal
from harness.launch import LOG, NEXT_REQUEST, REQUEST, Word, kept_request
from harness.request import Control, RunRequest
from harness.run_lock import only_one
from harness.state import CellFailed, CellFinished, RunFinished, RunOutcome, RunStarted
from harness.store import RunFolder, writing
from runner.contract import ContractError, Event, encode, write_atomic

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Tell = Callable[[Event], Event]
Execute = Callable[[RunRequest, RunFolder, Tell, Control], Awaitable[RunFinished]]


class Starter:
    """Whoever started the engine, as long as they listen."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
            os.set_inheritable(descriptor, False)  # no cell keeps it open

    def tell(self, word: Word) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                os.write(self._descriptor, msgspec.json.encode(word) + b"\n")

    def tell_error(self, error: MoodBenchError) -> None:
        self.tell(Word(exit_code=int(error.exit_code), message=error.message, hint=error.hint))


class Service:
    """One engine at work."""

    def __init__(self, folder: RunFolder, journal: Journal, execute: Execute) -> None:
        self._folder = folder
        self._journal = journal
        self._execute = execute
        self._control = Control()
        self._journal_bytes = folder.journal.stat().st_size
        self._total = 0
        self._counts: Counter[str] = Counter()
        self._preparing = True
        self._ended = False

    async def serve(self, request: RunRequest, starter: Starter) -> int:
        """Carry out the request; the exit code of the run."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._asked_by_signal)
        async with listening(self._folder.folder, Commands(self.status, self.stop)):
            starter.tell(Word(pid=os.getpid(), journal_bytes=self._journal_bytes))
            finished = await self._carry_out(request)
            self._ended = True
            if finished.outcome == "broken":
                drop_request(self._folder)
            try:
                self._journal.append(finished)
            except MoodBenchError as error:  # the disk is full, most likely
                starter.tell_error(error)
                return int(error.exit_code)
        return finished.exit_code

    def status(self) -> EngineStatus:
        return EngineStatus(
            pid=os.getpid(),
            preparing=self._preparing,
            stopping=self._control.stopping,
            journal_bytes=self._journal_bytes,
        )

    def stop(self, now: bool) -> None:
        if not self._ended:
            self._control.stop(now=now)

    def _asked_by_signal(self) -> None:
        self.stop(now=self._control.stopping)

    def _tell(self, event: Event) -> Event:
        if isinstance(event, RunStarted):
            self._total, self._preparing = len(event.cells), False
            keep_request(self._folder)
            event = msgspec.structs.replace(event, engine_pid=os.getpid())
        elif isinstance(event, CellFinished):
            self._counts["reused" if event.reused else "done"] += 1
        elif isinstance(event, CellFailed) and not event.interrupted:
            self._counts["failed"] += 1
        return self._journal.append(event)

    async def _carry_out(self, request: RunRequest) -> RunFinished:
        """However it ends, it ends with words."""
        try:
            return await self._execute(request, self._folder, self._tell, self._control)
        except MoodBenchError as error:
            return self._ending("broken", int(error.exit_code), error.message, error.hint)
        except (asyncio.CancelledError, KeyboardInterrupt):
            return self._ending("interrupted", int(ExitCode.INTERRUPTED))
        except Exception as error:  # noqa: BLE001 - a fault of ours must not look like a killed engine
            traceback.print_exc()
            message = f"the engine failed: {type(error).__name__}: {error}"
            hint = f"see {self._folder.folder / LOG}; report it if it comes back"
            return self._ending("broken", int(ExitCode.CELL_FAILED), message, hint)

    def _ending(self, outcome: RunOutcome, exit_code: int, message: str = "", hint: str = "") -> RunFinished:
        return RunFinished(
            outcome=outcome,
            exit_code=exit_code,
            total=self._total,
            done=self._counts["done"],
            reused=self._counts["reused"],
            failed=self._counts["failed"],
            left=self._total - self._counts.total(),
            folder=str(self._folder.folder),
            message=message,
            hint=hint,
        )


def take_request(folder: RunFolder, given: bytes) -> RunRequest:
    """What was handed over, which from now on lies in the folder: beside what the run was asked to do before, as long
    as it may still be refused. Else what lies there. Raises InputError, SetupError. Only who holds the run may call
    it."""
    path = folder.folder / (NEXT_REQUEST if folder.record_path.exists() else REQUEST)
    try:
        if not given:
            return kept_request(folder)
        request = msgspec.json.decode(given, type=RunRequest)
    except (ContractError, OSError, msgspec.DecodeError) as error:
        raise InputError(f"cannot read what the run was asked to do: {error}", "give `moodbench run` again") from None
    with writing(path):
        write_atomic(path, encode(request))
    return request


def keep_request(folder: RunFolder) -> None:
    """It is a part of the run now. Raises SetupError."""
    with writing(folder.folder / REQUEST), suppress(FileNotFoundError):
        (folder.folder / NEXT_REQUEST).replace(folder.folder / REQUEST)


def drop_request(folder: RunFolder) -> None:
    """It was refused: what the run was asked to do before holds. A first one stays."""
    with suppress(OSError):
        (folder.folder / NEXT_REQUEST).unlink()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.service")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ready-fd", type=int)
    asked = parser.parse_args(arguments)
    starter = Starter(asked.ready_fd)
    folder = RunFolder(asked.folder)
    given = _standard_input()
    try:
        with only_one(folder):
            request = take_request(folder, given)
            with closing(Journal(folder.journal)) as journal:
                return asyncio.run(Service(folder, journal, _execute()).serve(request, starter))
    except MoodBenchError as error:
        starter.tell_error(error)
        return int(error.exit_code)


def _standard_input() -> bytes:
    """All of it; what the engine's children would inherit is empty."""
    given = sys.stdin.buffer.read()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return given


def _execute() -> Execute:
    from harness.runs import execute

    return execute


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
