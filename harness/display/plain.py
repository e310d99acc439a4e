"""Plain lines for logs and pipes: what starts, how far it is now and then, how it ends."""

from __future__ import annotations

from typing import TextIO

from harness.display.words import (
    cell_title,
    duration,
    end_words,
    failure_words,
    progress_words,
    retry_words,
    start_words,
    summary_words,
    window_words,
)
from harness.state import (
    CellFailed,
    CellFinished,
    CellRetried,
    CellStarted,
    CellState,
    LeaseEnded,
    Notice,
    RunFinished,
    RunStarted,
    RunState,
)
from harness.text import clean
from runner.contract import Event, Progress, Warned

PROGRESS_EVERY_S = 10.0


class PlainLines:
    tells_all = False

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last: dict[str, float] = {}

    def show(self, event: Event, state: RunState) -> None:
        if isinstance(event, Notice):
            self._line(clean(event.message))
        elif isinstance(event, RunStarted):
            self._line(start_words(event))
        elif isinstance(event, RunFinished):
            if event.total:  # else it never began: the command says why
                self._line(end_words(event))
        elif event.cell in state.cells:
            self._cell(event, state, state.cells[event.cell])

    def tick(self) -> None:
        self._stream.flush()

    def pause(self) -> None:
        pass

    def close(self, ending: RunFinished | None = None) -> None:
        self._stream.flush()

    def _cell(self, event: Event, state: RunState, cell: CellState) -> None:
        ended = state.count("done", "reused", "failed", "interrupted")
        place = f"[{ended}/{len(state.cells)}] {cell_title(cell.plan)}"
        if isinstance(event, CellStarted):
            self._line(f"{place}: started" + (f" (attempt {event.attempt})" if event.attempt > 1 else ""))
        elif isinstance(event, Progress):
            if not 0 <= event.t - self._last.get(event.cell, cell.started or 0.0) < PROGRESS_EVERY_S:  # clocks jump
                self._last[event.cell] = event.t
                self._line(f"{place}: {event.phase}, {progress_words(event)}")
        elif isinstance(event, Warned):
            self._line(f"{place}: warning: {clean(event.message)}")
        elif isinstance(event, LeaseEnded):
            if event.reasons:
                self._line(f"{place}: {window_words(event)}")
        elif isinstance(event, CellRetried):
            self._lines(place, retry_words(event))
        elif isinstance(event, CellFinished):
            how = "already finished" if event.reused else f"done in {duration(event.seconds)}"
            left = state.eta_s(event.t)
            rest = f"; about {duration(left)} left" if left and not event.reused else ""
            self._line(f"{place}: {how}: {summary_words(event.summary)}{rest}")
        elif isinstance(event, CellFailed) and event.interrupted:
            self._line(f"{place}: stopped")
        elif isinstance(event, CellFailed):
            self._lines(f"{place}: FAILED", failure_words(cell))

    def _lines(self, start: str, lines: list[str]) -> None:
        self._line(f"{start}: {lines[0]}")
        for line in lines[1:]:
            self._line(f"    {line}")

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
