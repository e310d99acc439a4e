"""Following a run from outside its engine: the journal, and the events of the cells that run now."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import msgspec

from harness.control import is_alive
from harness.journal import EventTail, tail_journal
from harness.state import CellFailed, CellFinished, CellRetried, CellStarted, RunFinished, RunStarted
from harness.store import RunFolder
from runner.contract import CellEvent, ContractError, Event

POLL_S = 0.25
ENDS = (CellFinished, CellFailed, CellRetried)


class Follower:
    """Tells each event of a run once, a cell's own before what the engine says of its end. `start_bytes`: where in the
    journal to begin."""

    def __init__(self, folder: RunFolder, start_bytes: int = 0) -> None:
        self._folder = folder
        self._journal = tail_journal(folder.journal, start_bytes)
        self._cells: dict[str, _CellTail] = {}
        self._was_alive = True
        self.finished: RunFinished | None = None  # as long as nothing follows it

    def catch_up(self) -> Iterator[Event]:
        """What the journal holds so far, and all that the cells now running have told; cells that have ended in it are
        told of by the journal alone."""
        running: dict[str, CellStarted] = {}
        for event in self._journal_events():
            if isinstance(event, RunStarted):
                running.clear()
            elif isinstance(event, CellStarted):
                running[event.cell] = event
            elif isinstance(event, ENDS):
                running.pop(event.cell, None)
            yield event
        if self.finished is None:
            self._cells = {cell: self._tail(started) for cell, started in running.items()}
            yield from self._cell_events()

    def poll(self) -> Iterator[Event]:
        """What has come since. Each call costs a look at the size of the journal and of each running cell's events."""
        for event in self._journal_events():
            if isinstance(event, RunStarted):
                self._cells.clear()
            elif isinstance(event, CellStarted):
                self._cells[event.cell] = self._tail(event)
            elif isinstance(event, ENDS):
                tail = self._cells.pop(event.cell, None)
                yield from tail.rest() if tail else ()
            elif event.cell in self._cells:  # of its lease: what it said before comes before
                yield from self._cells[event.cell].until(event.t)
            yield event
        yield from self._cell_events()

    def is_gone(self) -> bool:
        """Whether no engine works on the run any more, and all it has told has been told; to be asked after `poll`."""
        was_alive, self._was_alive = self._was_alive, is_alive(self._folder)
        return not was_alive and not self._was_alive

    def _journal_events(self) -> Iterator[Event]:
        while True:
            for event in self._journal.read():
                self.finished = event if isinstance(event, RunFinished) else None
                yield event
            if not self._journal.is_behind:
                return

    def _cell_events(self) -> Iterator[Event]:
        for tail in self._cells.values():
            yield from tail.rest()

    def _tail(self, started: CellStarted) -> _CellTail:
        return _CellTail(self._folder, started)


class _CellTail:
    """The events of one attempt, whatever cell they say they are of."""

    def __init__(self, folder: RunFolder, started: CellStarted) -> None:
        self._cell = started.cell
        self._tail = EventTail(folder.attempt(started.cell, started.attempt).events, CellEvent)
        self._pending: deque[Event] = deque()

    def rest(self) -> Iterator[Event]:
        return self.until(math.inf)

    def until(self, t: float) -> Iterator[Event]:
        """Up to the first event that is later."""
        while True:
            while self._pending and self._pending[0].t <= t:
                yield self._pending.popleft()
            if self._pending or not self._read():
                return

    def _read(self) -> bool:
        """Whether there was something."""
        try:
            self._pending += [msgspec.structs.replace(event, cell=self._cell) for event in self._tail.read()]
        except ContractError:  # something else than a file of events lies there: the engine ends that cell
            return False
        return bool(self._pending) or self._tail.is_behind
