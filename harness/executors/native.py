"""Runs the runner as child processes of this one: CPU, CUDA, Apple MPS.

The child leads a process group of its own, so that Ctrl-C reaches the host alone and the host ends the whole group.
Its standard input is a pipe that nothing is written to: it closes when the host is gone, however the host went, and
the child ends itself.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress

from harness.errors import SetupError
from harness.executors import Answer, Capacity, Exit, Handle, Question
from harness.executors.logs import LogWriter
from harness.store import AttemptPaths
from runner.contract import CellSpec, ExecutorName, Failure, usable_cores

SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|(API|ACCESS|PRIVATE)_?KEY|KAGGLE_", re.IGNORECASE)


OUTPUT_GRACE_S = 2.0  # for what has left the process group and still holds its output


def runner_command(*arguments: str) -> list[str]:
    """`python -m runner …`, ending when its standard input closes; -P keeps a folder named `runner` in the current
    directory from taking its place."""
    return [sys.executable, "-P", "-m", "runner", "--watch-stdin", *arguments]


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not SECRET.search(name)}


def cell_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The host's environment without secrets, offline, and with a fixed hash seed."""
    return without_secrets(environment) | {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
    }


class NativeExecutor:
    name: ExecutorName = "native"
    image_digest = None

    @property
    def capacity(self) -> Capacity:
        return Capacity(cores=usable_cores())

    def refusal(self, spec: CellSpec) -> Failure | None:
        return None

    async def start(self, attempt: AttemptPaths, spec: CellSpec) -> Handle:
        command = runner_command("run", str(attempt.spec), "--out", str(attempt.folder))
        with ExitStack() as failed, ExitStack() as started:
            try:
                log = LogWriter(attempt.log)
                failed.callback(log.close)
                output, printed = os.pipe()  # not asyncio's: waiting for the process would wait for whoever holds it
                failed.callback(os.close, output)
                started.callback(os.close, printed)
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=printed,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                    env=cell_environment(os.environ),
                )
            except OSError as error:
                raise _cannot_start(error) from error
            failed.pop_all()
        return NativeHandle(process, asyncio.ensure_future(_write_log(output, log)))

    async def ask(self, question: Question) -> Answer:
        try:
            process = await asyncio.create_subprocess_exec(
                *runner_command(*question.arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=without_secrets(os.environ) | dict(question.environment),
            )
        except OSError as error:
            raise _cannot_start(error) from error
        assert process.stdout is not None and process.stderr is not None
        try:  # not communicate(): it would close the standard input that tells the child that its host lives
            out, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
            await process.wait()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        return Answer(process.returncode or 0, out, err)

    async def close(self) -> None:
        pass


def _cannot_start(error: OSError) -> SetupError:
    return SetupError(f"cannot start a process: {error}", "check free memory, disk and process limits")


class NativeHandle:
    def __init__(self, process: asyncio.subprocess.Process, log: asyncio.Future[None]) -> None:
        self._process = process
        self._log = log

    async def wait(self) -> Exit:
        code = await self._process.wait()
        self._signal_group(signal.SIGKILL)  # whatever it may have forked
        await asyncio.wait({self._log}, timeout=OUTPUT_GRACE_S)
        self._log.cancel()
        await asyncio.wait({self._log})
        return Exit(code=None, signal=-code) if code < 0 else Exit(code=code)

    async def stop(self, grace_s: float) -> None:
        self._signal_group(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), grace_s)
        except TimeoutError:
            self._signal_group(signal.SIGKILL)
            await self._process.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


async def _write_log(output: int, log: LogWriter) -> None:
    """Until nothing can print any more."""
    reader = asyncio.StreamReader()
    pipe = os.fdopen(output, "rb")
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    try:
        while chunk := await reader.read(2**16):
            log.feed(chunk)
    finally:
        transport.close()
        log.close()
