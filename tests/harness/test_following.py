from __future__ import annotations

import io
import os
import signal
from contextlib import closing
from pathlib import Path

import pytest

from harness.cli.following import Following, Signals, ask, shown_run
from harness.display.plain import PlainLines
from harness.follow import Follower
from harness.journal import Journal
from harness.run_lock import only_one
from harness.state import CellStarted, RunFinished, RunStarted
from harness.store import RunFolder
from tests.harness.builders import planned

END = RunFinished(outcome="interrupted", exit_code=130, total=1, left=1)


class Typed(io.StringIO):
    """What a user types at a terminal; Ctrl-C where it says so."""

    def isatty(self) -> bool:
        return True

    def readline(self, size: int | None = -1, /) -> str:
        line = super().readline()
        if line == "^C\n":
            os.kill(os.getpid(), signal.SIGINT)
        return line


@pytest.mark.parametrize(
    ("typed", "at_end", "wish"),
    [
        ("l\n", "stop", "leave"),
        ("Leave\n", "stop", "leave"),
        ("s\n", "leave", "stop"),
        ("what?\n\nstop\n", "leave", "stop"),
        ("^C\n", "leave", "leave"),
        ("^C\n", "stop", "stop"),
        ("", "stop", "stop"),
        ("", "leave", "leave"),
    ],
)
def test_what_ctrl_c_means(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, at_end: str, wish: str
) -> None:
    monkeypatch.setattr("sys.stdin", Typed(typed))
    before = signal.getsignal(signal.SIGINT)
    assert ask("nightly", at_end=at_end) == wish  # type: ignore[arg-type]
    assert "run 'nightly': leave it running or stop? [l/s]" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_signals_are_noted_and_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)
            assert [signals.take(), signals.take(), signals.take()] == [signal.SIGTERM, signal.SIGINT, None]
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


class Stage:
    """A run whose engine ends it as soon as it is asked to, and a display that asks for what a test says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self.run = RunFolder(folder)
        self.asked: list[bool] = []
        self.stream = io.StringIO()
        monkeypatch.setattr("harness.cli.following.ask_to_stop", self._stop)
        monkeypatch.setattr("harness.cli.following.POLL_S", 0.001)
        monkeypatch.setattr("sys.stdin", io.StringIO())  # no terminal
        self._needed = 1
        with closing(Journal(self.run.journal)) as journal:
            journal.append(RunStarted(run="r", suite="s", folder="f", jobs=1, cells=(planned("a"),)))
            journal.append(CellStarted(cell="a", attempt=1))

    def _stop(self, run: RunFolder, *, now: bool = False) -> bool:
        self.asked.append(now)
        if len(self.asked) == self._needed:
            with closing(Journal(run.journal)) as journal:
                journal.append(END)
        return True

    def follow(self, *numbers: int, owns: bool, late: bool = False) -> RunFinished | None:
        self._needed = len(numbers)
        with Signals() as signals, only_one(self.run):
            display = SignalledLines(self.stream, list(numbers))
            following = Following(self.run, display, signals, owns=owns)
            return following.to_the_end(Follower(self.run), late=late)


class SignalledLines(PlainLines):
    """Somebody sends a signal at each tick."""

    def __init__(self, stream: io.StringIO, numbers: list[int]) -> None:
        super().__init__(stream)
        self._numbers = numbers

    def tick(self) -> None:
        if self._numbers:
            os.kill(os.getpid(), self._numbers.pop(0))


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr("harness.cli.following.wait_for_end", lambda folder: None)
    return Stage(tmp_path / "r", monkeypatch)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_started_a_run_ends_it(stage: Stage, number: int) -> None:
    finished = stage.follow(number, owns=True)
    assert finished is not None
    assert finished.outcome == "interrupted"
    assert stage.asked == [False]


def test_a_second_signal_means_now(stage: Stage) -> None:
    assert stage.follow(signal.SIGINT, signal.SIGINT, owns=True) is not None
    assert stage.asked == [False, True]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_only_looks_leaves_it(stage: Stage, number: int) -> None:
    assert stage.follow(number, owns=False, late=True) is None
    assert stage.asked == []
    assert "so far 0 of 1 cells have ended" in stage.stream.getvalue()


@pytest.mark.parametrize(("usual", "shown"), [("results", "r"), (None, "{folder}"), ("elsewhere", "{folder}")])
def test_a_run_is_named_as_it_can_be_typed(monkeypatch: pytest.MonkeyPatch, usual: str | None, shown: str) -> None:
    monkeypatch.delenv("MOODBENCH_RESULTS", raising=False)
    folder = Path("results/r") if usual == "results" else Path("other place/r")
    if usual == "elsewhere":
        monkeypatch.setenv("MOODBENCH_RESULTS", "elsewhere")
    assert shown_run(RunFolder(folder)) == shown.format(folder="'other place/r'")
