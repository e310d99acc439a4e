from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from typing import IO

import pytest

from harness import run_lock
from harness.errors import InputError
from harness.run_lock import only_one
from harness.scratch import LOCK, is_held
from harness.store import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Not a run yet, so that whoever leaves it takes the lock's file along; and not theirs alone, so that it stays."""
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "mine.txt").touch()
    return RunFolder(folder)


def test_the_holder_is_named_and_leaves_no_trace(run: RunFolder) -> None:
    with only_one(run):
        assert (run.folder / LOCK).read_text() == str(os.getpid())
        with pytest.raises(InputError, match="another moodbench is filling the run 'r'"), only_one(run):
            pass
    assert not (run.folder / LOCK).exists()
    (run.folder / "mine.txt").unlink()
    with only_one(run):
        pass
    assert not run.folder.exists()
    with pytest.raises(InputError, match="the folder of the run 'r' is gone"), only_one(run):
        pass


def test_who_has_waited_for_a_lock_that_was_removed_holds_nothing(run: RunFolder) -> None:
    """The first holder leaves while another waits, and a third comes."""
    is_held_by_third = threading.Event()
    together: list[bool] = []

    def waits() -> None:
        try:
            with only_one(run):
                together.append(is_held_by_third.is_set())
        except InputError:
            pass

    waiting = threading.Thread(target=waits)
    with only_one(run):
        waiting.start()
        waiting.join(0.1)
    with only_one(run):
        is_held_by_third.set()
        waiting.join()
        assert True not in together


def test_a_lock_that_is_removed_as_it_is_taken_is_taken_anew(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def flock(lock: IO[str], how: int) -> None:
        if not taken:
            (run.folder / LOCK).unlink()
        fcntl_flock(lock, how)
        taken.append(how)

    fcntl_flock = fcntl.flock
    monkeypatch.setattr(run_lock.fcntl, "flock", flock)
    with only_one(run):
        monkeypatch.undo()
        assert is_held(run.folder / LOCK)
        assert (run.folder / LOCK).read_text() == str(os.getpid())
    assert len(taken) == 2
