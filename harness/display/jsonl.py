"""JSON lines: every event as one line of stdout, the last of them `run_finished`."""

from __future__ import annotations

from typing import TextIO

import msgspec

from harness.state import Notice, RunState
from runner.contract import Event


class JsonLines:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, event: Event, state: RunState) -> None:
        self._stream.write(msgspec.json.encode(event).decode() + "\n")
        self._stream.flush()

    def note(self, message: str) -> None:
        import time

        self._stream.write(msgspec.json.encode(Notice(message=message, t=time.time())).decode() + "\n")
        self._stream.flush()

    def close(self) -> None:
        pass
