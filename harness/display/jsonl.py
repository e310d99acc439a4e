"""JSON lines: every event as one line of stdout, the last of them `run_finished`, also where no run began."""

from __future__ import annotations

from typing import TextIO

import msgspec

from harness.state import RunFinished, RunState
from runner.contract import Event


class JsonLines:
    tells_all = True

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._finished = False

    def show(self, event: Event, state: RunState) -> None:
        self._finished = isinstance(event, RunFinished)
        self._stream.write(msgspec.json.encode(event).decode() + "\n")

    def tick(self) -> None:
        self._stream.flush()

    def pause(self) -> None:
        pass

    def close(self, ending: RunFinished | None = None) -> None:
        if ending is not None and not self._finished:
            self.show(ending, RunState())
        self._stream.flush()
