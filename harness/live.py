"""The leaderboard of a run that goes on: what the journal says has ended is read and ranked, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable

from harness.board import NoiseFloor
from harness.entries import CellRecord
from harness.errors import InputError
from harness.evidence import CellReader, noise_floor
from harness.journal import tail_journal
from harness.leaderboard import Standing
from harness.ranking import Ranking, RankOptions
from harness.record import CellEntry
from harness.state import CellFailed, CellFinished, RunStarted
from harness.store import RunFolder
from runner.contract import Failure


class LiveBoard:
    """Asked again and again, it costs what has come since; whoever runs or watches the run."""

    def __init__(self, folder: RunFolder, options: RankOptions | None = None) -> None:
        self._folder = folder
        self._options = options
        self._journal = tail_journal(folder.journal)
        self._reader = CellReader(folder)
        self._entries: dict[str, CellEntry] = {}
        self._failures: dict[str, Failure] = {}
        self._unavailable: tuple[Failure, ...] = ()
        self._finished: dict[str, CellRecord] = {}
        self._floor: NoiseFloor | None = None
        self._ranking = Ranking(options)

    def refresh(self) -> Standing | None:
        """The ranking as it is now; None where nothing has come since the last call. Raises InputError where the folder
        is no run, or its cells contradict each other."""
        began, ended = self._news()
        first = not self._entries
        if first or began:
            self._take_record()
            ended = set(self._entries)
        changed = self._read(self._entries[cell] for cell in ended if cell in self._entries)
        return self._standing() if first or began or changed else None

    def _news(self) -> tuple[bool, set[str]]:
        """Whether the run was begun or extended, and the cells that have ended."""
        began, ended = False, set()
        while True:
            for event in self._journal.read():
                began = began or isinstance(event, RunStarted)
                if isinstance(event, CellFinished | CellFailed):
                    ended.add(event.cell)
            if not self._journal.is_behind:
                return began, ended

    def _take_record(self) -> None:
        """A cell whose settings changed is another one, so that the ranking begins anew."""
        run, floor = self._folder.read_record(), noise_floor(self._folder)
        entries = {entry.cell: entry for entry in run.cells}
        if not self._entries.keys() <= entries.keys() or floor != self._floor:
            self._finished.clear()
            self._failures.clear()
            self._ranking = Ranking(self._options, floor)
        self._entries, self._unavailable, self._floor = entries, run.unavailable, floor

    def _read(self, entries: Iterable[CellEntry]) -> bool:
        """Whether anything is other than it was. What was read of a finished cell stands, whatever became of its files
        since."""
        changed = False
        for entry in entries:
            found = self._reader.read(entry)
            known = self._finished.get(entry.cell)
            if isinstance(found, CellRecord):
                if known is None or known.attempt != found.attempt or known.result != found.result:
                    self._finished[entry.cell] = found
                    self._failures.pop(entry.cell, None)
                    self._ranking.add(found)
                    changed = True
            elif known is None and found is not None and found != self._failures.get(entry.cell):
                self._failures[entry.cell] = found
                changed = True
        return changed

    def _standing(self) -> Standing:
        try:
            board = self._ranking.board()
        except ValueError as error:
            name = self._folder.folder.name
            raise InputError(f"cannot rank run '{name}': {error}", "remove that cell's folder") from None
        missing = len(self._entries) - len(self._finished) - len(self._failures)
        return Standing(board, (*self._unavailable, *self._failures.values()), missing)
