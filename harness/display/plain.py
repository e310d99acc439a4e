"""Plain lines for logs and pipes: what starts, how far it is now and then, how it ends."""

from __future__ import annotations

from typing import TextIO

from harness.display.words import (
    cell_title,
    duration,
    end_words,
    failure_words,
    progress_words,
    start_words,
    summary_words,
)
from harness.state import CellFailed, CellFinished, CellStarted, CellState, RunFinished, RunStarted, RunState
from harness.text import clean
from runner.contract import Event, Progress, Warned

PROGRESS_EVERY_S = 10.0


class PlainLines:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last: dict[str, float] = {}

    def note(self, message: str) -> None:
        self._line(clean(message))

    def show(self, event: Event, state: RunState) -> None:
        if isinstance(event, RunStarted):
            self._line(start_words(event))
        elif isinstance(event, RunFinished):
            self._line(end_words(event))
        elif event.cell in state.cells:
            self._cell(event, state, state.cells[event.cell])

    def close(self, exit_code: int | None = None) -> None:
        pass

    def _cell(self, event: Event, state: RunState, cell: CellState) -> None:
        ended = state.count("done", "reused", "failed", "interrupted")
        place = f"[{ended}/{len(state.cells)}] {cell_title(cell.plan)}"
        if isinstance(event, CellStarted):
            self._line(f"{place}: started" + (f" (attempt {event.attempt})" if event.attempt > 1 else ""))
        elif isinstance(event, Progress):
            if event.t - self._last.get(event.cell, cell.started or 0.0) >= PROGRESS_EVERY_S:
                self._last[event.cell] = event.t
                self._line(f"{place}: {event.phase}, {progress_words(event)}")
        elif isinstance(event, Warned):
            self._line(f"{place}: warning: {clean(event.message)}")
        elif isinstance(event, CellFinished):
            how = "already finished" if event.reused else f"done in {duration(event.seconds)}"
            left = state.eta_s(event.t)
            rest = f"; about {duration(left)} left" if left and not event.reused else ""
            self._line(f"{place}: {how}: {summary_words(event.summary)}{rest}")
        elif isinstance(event, CellFailed):
            lines = failure_words(cell)
            self._line(f"{place}: {'stopped' if event.interrupted else 'FAILED: ' + lines[0]}")
            for line in [] if event.interrupted else lines[1:]:
                self._line(f"    {line}")

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()
