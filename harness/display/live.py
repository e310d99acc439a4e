"""Live bars on a terminal: one for the run, one for each running cell, and a line for each that has ended."""

from __future__ import annotations

import time

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.display.words import (
    cell_title,
    duration,
    end_words,
    failure_words,
    progress_words,
    start_words,
    summary_words,
)
from harness.state import CellFailed, CellFinished, CellState, RunFinished, RunStarted, RunState
from harness.text import clean
from runner.contract import Event, Warned

REFRESH_PER_S = 4  # drawing must not cost what the cells need


class LiveBars:
    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._state: RunState | None = None
        self._live = Live(
            get_renderable=self._draw, console=self._console, refresh_per_second=REFRESH_PER_S, transient=True
        )

    def note(self, message: str) -> None:
        self._print(Text(clean(message), style="dim"))

    def show(self, event: Event, state: RunState) -> None:
        self._state = state
        if isinstance(event, RunStarted):
            self._print(Text(start_words(event)))
            self._live.start()
        elif isinstance(event, RunFinished):
            self._live.stop()
            self._print(Text(end_words(event)))
        elif event.cell in state.cells:
            self._cell(event, state.cells[event.cell])

    def close(self, exit_code: int | None = None) -> None:
        self._live.stop()

    def _cell(self, event: Event, cell: CellState) -> None:
        title = cell_title(cell.plan)
        if isinstance(event, CellFinished):
            how = "already finished" if event.reused else duration(event.seconds)
            self._print(Text.assemble(("✓ ", "green"), f"{title} ({how}): ", (summary_words(event.summary), "dim")))
        elif isinstance(event, CellFailed) and event.interrupted:
            self._print(Text.assemble(("■ ", "yellow"), f"{title}: stopped"))
        elif isinstance(event, CellFailed):
            lines = failure_words(cell)
            self._print(Text.assemble(("✗ ", "red"), f"{title}: {lines[0]}"))
            for line in lines[1:]:
                self._print(Text(f"    {line}", style="dim"))
        elif isinstance(event, Warned):
            self._print(Text.assemble(("! ", "yellow"), f"{title}: {clean(event.message)}"))

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)

    def _draw(self) -> Group:
        state = self._state
        if state is None:
            return Group()
        table = Table.grid(padding=(0, 1))
        for _ in range(3):
            table.add_column(no_wrap=True, overflow="ellipsis")
        ended = state.count("done", "reused", "failed", "interrupted")
        left = state.eta_s(time.time())
        note = f"{ended}/{len(state.cells)} cells" + (f", about {duration(left)} left" if left is not None else "")
        table.add_row("all", _bar(ended, len(state.cells)), Text(note))
        for cell in state.cells.values():
            if cell.status in ("running", "waiting"):
                table.add_row(Text(cell_title(cell.plan)), *_cell_bar(cell))
        return Group(table)


def _cell_bar(cell: CellState) -> tuple[ProgressBar, Text]:
    if cell.status == "waiting":
        return _bar(0, None), Text("waits to be timed alone")
    progress = cell.progress
    if progress is None:
        return _bar(0, None), Text(cell.phase or "starting")
    words = f"{progress.phase}, {progress_words(progress)}"
    if cell.validation.get("f1") is not None:
        words += f", validation F1 {cell.validation['f1']:.3f}"
    return _bar(progress.step, progress.steps), Text(words)


def _bar(done: int, total: int | None) -> ProgressBar:
    return ProgressBar(total=total, completed=done, width=24, pulse=total is None)
