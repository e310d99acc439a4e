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
    retry_words,
    start_words,
    summary_words,
    window_words,
)
from harness.state import (
    ACTIVE,
    CellFailed,
    CellFinished,
    CellRetried,
    CellState,
    LeaseEnded,
    Notice,
    RunFinished,
    RunStarted,
    RunState,
)
from harness.text import clean
from runner.contract import Event, Warned

REFRESH_S = 1.0  # drawing must not cost what the cells need
MOST_BARS = 32


class LiveBars:
    tells_all = False

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._state: RunState | None = None
        self._live = Live(get_renderable=self._draw, console=self._console, auto_refresh=False, transient=True)
        self._drawn = 0.0

    def show(self, event: Event, state: RunState) -> None:
        self._state = state
        if isinstance(event, Notice):
            self._print(Text(clean(event.message), style="dim"))
        elif isinstance(event, RunStarted):
            self._print(Text(start_words(event)))
            self._live.start()
        elif isinstance(event, RunFinished):
            self._live.stop()
            if event.total:  # else it never began: the command says why
                self._print(Text(end_words(event)))
        elif event.cell in state.cells:
            self._cell(event, state.cells[event.cell])

    def tick(self) -> None:
        now = time.monotonic()
        if self._state is None or self._state.finished is not None or now - self._drawn < REFRESH_S:
            return
        self._drawn = now
        if self._state.started is not None and not self._live.is_started:
            self._live.start()
        self._live.refresh()

    def pause(self) -> None:
        self._live.stop()

    def close(self, ending: RunFinished | None = None) -> None:
        self._live.stop()

    def _cell(self, event: Event, cell: CellState) -> None:
        title = cell_title(cell.plan)
        if isinstance(event, CellFinished):
            how = "already finished" if event.reused else duration(event.seconds)
            self._print(Text.assemble(("✓ ", "green"), f"{title} ({how}): ", (summary_words(event.summary), "dim")))
        elif isinstance(event, CellFailed) and event.interrupted:
            self._print(Text.assemble(("■ ", "yellow"), f"{title}: stopped"))
        elif isinstance(event, CellFailed):
            self._print_lines("✗ ", "red", title, failure_words(cell))
        elif isinstance(event, CellRetried):
            self._print_lines("↻ ", "yellow", title, retry_words(event))
        elif isinstance(event, LeaseEnded) and event.reasons:
            self._print_lines("! ", "yellow", title, [window_words(event)])
        elif isinstance(event, Warned):
            self._print_lines("! ", "yellow", title, [clean(event.message)])

    def _print_lines(self, mark: str, style: str, title: str, lines: list[str]) -> None:
        self._print(Text.assemble((mark, style), f"{title}: {lines[0]}"))
        for line in lines[1:]:
            self._print(Text(f"    {line}", style="dim"))

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
        active = state.having(*ACTIVE, "retrying")
        for cell in active[:MOST_BARS]:
            table.add_row(Text(cell_title(cell.plan)), *_cell_bar(cell, state))
        if len(active) > MOST_BARS:
            table.add_row(Text(f"and {len(active) - MOST_BARS} more"))
        return Group(table)


def _cell_bar(cell: CellState, state: RunState) -> tuple[ProgressBar, Text]:
    if cell.plan.cell == state.holder:
        return _bar(1, 1), Text(f"timed alone, window {cell.windows + 1}")
    if cell.status == "frozen":
        return _bar(0, None), Text(f"stands still while {_holder_title(state)} is timed")
    if cell.status == "waiting":
        return _bar(0, None), Text("waits to be timed alone")
    if cell.status == "retrying":
        left = duration(max(0.0, (cell.retry_at or 0.0) - time.time()))
        return _bar(0, None), Text(f"attempt {cell.attempt} failed, again in {left}")
    progress = cell.progress
    if progress is None:
        return _bar(0, None), Text(cell.phase or "starting")
    words = f"{progress.phase}, {progress_words(progress)}"
    if cell.validation.get("f1") is not None:
        words += f", validation F1 {cell.validation['f1']:.3f}"
    return _bar(progress.step, progress.steps), Text(words)


def _holder_title(state: RunState) -> str:
    holder = state.cells.get(state.holder or "")
    return cell_title(holder.plan) if holder is not None else "another cell"


def _bar(done: int, total: int | None) -> ProgressBar:
    return ProgressBar(total=total or 1, completed=done, width=24)
