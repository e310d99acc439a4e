"""JSON lines: every event as one line of stdout, the last of them `run_finished`, also where no run began."""

from __future__ import annotations

import time
from typing import TextIO

import msgspec

from harness.errors import ExitCode
from harness.state import Notice, RunFinished, RunOutcome, RunState
from runner.contract import Event


class JsonLines:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._finished = False

    def show(self, event: Event, state: RunState) -> None:
        self._finished = isinstance(event, RunFinished)
        self._write(event)

    def note(self, message: str) -> None:
        self._write(Notice(message=message, t=time.time()))

    def close(self, exit_code: int | None = None) -> None:
        if exit_code is not None and not self._finished:
            outcome: RunOutcome = "interrupted" if exit_code == ExitCode.INTERRUPTED else "broken"
            self._write(RunFinished(outcome=outcome, exit_code=exit_code, t=time.time()))

    def _write(self, event: Event) -> None:
        self._stream.write(msgspec.json.encode(event).decode() + "\n")
        self._stream.flush()
