"""`leaderboard --follow`: the ranking of a run that goes on, shown anew whenever a result has arrived."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from harness.cli.following import Signals
from harness.control import is_alive
from harness.follow import POLL_S
from harness.leaderboard import Standing
from harness.live import LiveBoard
from harness.report.tables import as_table
from harness.report.views import By
from harness.store import RunFolder

REFRESH_S = 1.0  # drawing must not cost what the cells need

Show = Callable[[Standing], None]


class Watch:
    """`standing`: the last one; None while the run has not said what its cells are."""

    def __init__(self, folder: RunFolder, board: LiveBoard) -> None:
        self._folder = folder
        self._board = board
        self.standing: Standing | None = None

    def to_the_end(self, show: Show, signals: Signals) -> bool:
        """Whether the run has ended; False: a signal asked to leave, and it goes on. Raises InputError where its cells
        contradict each other."""
        while True:
            alive = is_alive(self._folder)  # asked first: what an engine told last is shown as well
            if self._folder.record_path.exists() and (news := self._board.refresh()) is not None:
                self.standing = news
                show(news)
            if not alive:
                return True
            if _asked_to_leave(signals):
                return False


def _asked_to_leave(signals: Signals) -> bool:
    """Within the time until the next look."""
    until = time.monotonic() + REFRESH_S
    while time.monotonic() < until:
        if signals.take() is not None:
            return True
        time.sleep(POLL_S)
    return False


@contextmanager
def screen(by: By, console: Console | None = None) -> Iterator[Show]:
    """Draws on a terminal, one table in the place of the other, and leaves nothing; elsewhere it shows nothing."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        yield lambda standing: None
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(standing: Standing) -> None:
            table = as_table(standing.board, width=console.width, by=by)
            live.update(Group(Text(_how_far(standing), style="dim"), Text(), table), refresh=True)

        yield show


def _how_far(standing: Standing) -> str:
    failed = f", {len(standing.failures)} failed" if standing.failures else ""
    return f"{standing.missing} cells to come{failed}; Ctrl-C leaves the run alone"
