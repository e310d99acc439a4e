"""Runs the runner as child processes of this one: CPU, CUDA, Apple MPS.

The child leads a process group of its own, so that Ctrl-C reaches the host alone and the host ends the whole group.
Its standard input is a pipe that nothing is written to: it closes when the host is gone, however the host went, and
the child ends itself. The group stays in the host's session: when the host is gone the kernel wakes and hangs up a
group that stands still. Should that not do, or should the child have forked, the guard does (harness.guard).
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import cached_property

from harness.errors import ExecutorError, SetupError
from harness.executors import Answer, Capacity, Exit, Handle, Question
from harness.executors.logs import LogWriter
from harness.executors.machine import MACHINE_OUT_OF_MEMORY, memory_mb, oom_kills, own_cores
from harness.gpus import list_gpus
from harness.guard import Guard, Ward
from harness.processes import MARK, Member, end_processes, members, signal_group
from harness.store import AttemptPaths, writing
from runner.contract import CellSpec, ExecutorName, Failure, FailureKind

SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|(API|ACCESS|PRIVATE)_?KEY|KAGGLE_", re.IGNORECASE)

OUTPUT_GRACE_S = 2.0  # for what has left the process group and still holds its output
FREEZE_S = 2.0  # a process that waits for a disk or a GPU stops when that is there
REST_S = 2.0  # for what a cell has forked to be gone, once it is killed
POLL_S = 0.005


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

    def __init__(self) -> None:
        self._guard = Guard(without_secrets(os.environ))

    @cached_property
    def capacity(self) -> Capacity:
        return Capacity(cores=own_cores(), memory_mb=memory_mb(), gpus=list_gpus())

    def refusal(self, spec: CellSpec) -> Failure | None:
        return None

    async def start(self, attempt: AttemptPaths, spec: CellSpec) -> Handle:
        command = runner_command("run", str(attempt.spec), "--out", str(attempt.folder))
        mark = str(attempt.folder.absolute())
        with ExitStack() as failed, ExitStack() as started:
            with writing(attempt.log):
                log = LogWriter(attempt.log)
            failed.callback(log.close)
            try:
                output, printed = os.pipe()  # not asyncio's: waiting for the process would wait for whoever holds it
                failed.callback(os.close, output)
                started.callback(os.close, printed)
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=printed,
                    stderr=asyncio.subprocess.STDOUT,
                    process_group=0,
                    env=cell_environment(os.environ) | _placement(spec) | {MARK: mark},
                )
            except OSError as error:
                raise _cannot_start(error) from error
            failed.pop_all()
        self._guard.hold(Ward("processes", mark, str(process.pid)))
        return NativeHandle(process, asyncio.ensure_future(_write_log(output, log)), mark, self._guard)

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
        await asyncio.to_thread(self._guard.close)


def _placement(spec: CellSpec) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": ",".join(spec.gpus)} if spec.gpus else {}


def _cannot_start(error: OSError) -> SetupError:
    """For want of processes or memory, which may be there a moment later; or of something that has to be set right."""
    kind: FailureKind = "killed" if error.errno in (errno.EAGAIN, errno.ENOMEM) else "environment"
    return ExecutorError(kind, f"cannot start a process: {error}", "check free memory, disk and process limits")


class NativeHandle:
    def __init__(self, process: asyncio.subprocess.Process, log: asyncio.Future[None], mark: str, guard: Guard) -> None:
        self._process = process
        self._log = log
        self._mark = mark
        self._guard = guard
        self._oom_kills = oom_kills()
        self._is_stopping = False
        self._is_frozen = False
        self._is_over = False  # nothing of it is left: its number may be another's
        self._frozen_apart: list[Member] = []  # what has left the group

    async def wait(self) -> Exit:
        code = await self._process.wait()
        await self._end_rest()
        await asyncio.wait({self._log}, timeout=OUTPUT_GRACE_S)
        self._log.cancel()
        await asyncio.wait({self._log})
        if code >= 0:
            return Exit(code=code)
        if -code == signal.SIGKILL and not self._is_stopping and oom_kills() > self._oom_kills:
            return Exit(code=None, signal=-code, cause="out_of_memory", detail=MACHINE_OUT_OF_MEMORY)
        return Exit(code=None, signal=-code)

    async def stop(self, grace_s: float) -> None:
        if self._is_over:
            return
        self._is_stopping = True
        self._signal_group(signal.SIGTERM)  # before it goes on: it does no more than end
        await self.thaw()
        try:
            await asyncio.wait_for(self._process.wait(), grace_s)
        except TimeoutError:
            self._signal_group(signal.SIGKILL)
            await self._process.wait()
        await self._end_rest()

    async def freeze(self) -> bool:
        if self._has_ended or self._is_stopping:
            return self._has_ended
        self._is_frozen = True
        self._signal_group(signal.SIGSTOP)
        deadline = time.monotonic() + FREEZE_S
        while True:
            running = [one for one in await self._members() if not one.is_stopped]
            if not self._is_frozen:  # thawed meanwhile, or asked to end
                return self._has_ended
            if not running:
                return True
            if time.monotonic() > deadline:
                await self.thaw()
                return False
            for one in running:
                one.signal(signal.SIGSTOP)
            self._frozen_apart += running
            await asyncio.sleep(POLL_S)

    async def thaw(self) -> None:
        self._is_frozen = False
        apart, self._frozen_apart = self._frozen_apart, []
        if not self._has_ended:
            self._signal_group(signal.SIGCONT)
        for one in apart:
            one.signal(signal.SIGCONT)

    @property
    def _has_ended(self) -> bool:
        return self._process.returncode is not None

    async def _end_rest(self) -> None:
        """Whatever it may have forked, also what has left its group."""
        if self._is_over:
            return
        deadline = time.monotonic() + REST_S
        while await asyncio.to_thread(end_processes, self._process.pid, self._mark) and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
        self._is_over = True
        self._guard.release(Ward("processes", self._mark, str(self._process.pid)))

    async def _members(self) -> list[Member]:
        return await asyncio.to_thread(members, self._process.pid, self._mark)

    def _signal_group(self, number: signal.Signals) -> None:
        signal_group(self._process.pid, number)


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
