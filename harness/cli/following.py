"""`run`, `resume` and `attach`: a display follows a run until that ends, or until the user turns away from it."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import click

from harness.cli.output import echo_json, program_name
from harness.control import ask_to_stop, engine_status, is_alive
from harness.display import Display, choose_display, closing_display
from harness.errors import ExitCode, MoodBenchError
from harness.follow import POLL_S, Follower
from harness.launch import END_S, LOG, EngineError, StartedEngine, Word, discard_if_never_begun, start_engine
from harness.request import RunRequest
from harness.state import Notice, RunFinished, RunStarted, RunState
from harness.store import RunFolder

Wish = Literal["leave", "stop"]


class EngineGoneError(MoodBenchError):
    def __init__(self, folder: RunFolder) -> None:
        name = folder.folder.name
        super().__init__(
            f"the engine of run '{name}' is gone (killed?)",
            f"`moodbench resume {name}` goes on; what it last said is in {folder.folder / LOG}",
        )


class Signals:
    """Notes what asks this process to end, for as long as it is entered; what is ignored stays ignored (nohup)."""

    def __init__(self) -> None:
        self._noted: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted.append(number)

    def take(self) -> int | None:
        return self._noted.pop(0) if self._noted else None


class Following:
    """One display of one run. `owns`: what ends the display ends the run, unless the user says otherwise."""

    def __init__(self, folder: RunFolder, display: Display, signals: Signals, *, owns: bool) -> None:
        self._folder = folder
        self._display = display
        self._signals = signals
        self._owns = owns
        self._state = RunState()
        self._stopping = False

    def to_the_end(self, follower: Follower, *, late: bool = False) -> RunFinished | None:
        """None: the user has left, and the run goes on. `late`: what has been told before is history. Raises
        EngineGoneError."""
        try:
            if late:
                self._catch_up(follower)
            return follower.finished or self._follow(follower)
        except OSError as error:  # nobody can see the display any more
            if self._owns:
                self._stop_and_wait()
            raise BrokenPipeError from error

    def _follow(self, follower: Follower) -> RunFinished | None:
        while True:
            for event in follower.poll():
                self._state.apply(event)
                self._display.show(event, self._state)
            if follower.finished is not None:
                wait_for_end(self._folder)
                return follower.finished
            if follower.is_gone():
                raise EngineGoneError(self._folder)
            self._display.tick()
            if self._leaves():
                return None
            time.sleep(POLL_S)

    def _catch_up(self, follower: Follower) -> None:
        """Of what has been told before this display came, show how far it has led; JSON lines show all of it."""
        begun: RunStarted | None = None
        for event in follower.catch_up():
            self._state.apply(event)
            begun = event if isinstance(event, RunStarted) else begun
            if self._display.tells_all:
                self._display.show(event, self._state)
        if self._display.tells_all or begun is None:
            return
        self._display.show(begun, self._state)
        if follower.finished is not None:
            self._display.show(follower.finished, self._state)
            return
        for cell in self._state.having("failed"):
            if cell.failure is not None:
                self._display.show(cell.failure, self._state)
        ended = self._state.count("done", "reused", "failed", "interrupted")
        words = f"so far {ended} of {len(self._state.cells)} cells have ended"
        self._display.show(Notice(message=words), self._state)

    def _leaves(self) -> bool:
        """Carry out what a signal asks for; whether that is to leave the run alone."""
        number = self._signals.take()
        if number is None:
            return False
        if self._stopping or self._wish(number) == "stop":
            self._stop()
            return False
        return True

    def _wish(self, number: int) -> Wish:
        if number == signal.SIGINT and sys.stdin.isatty() and sys.stderr.isatty():
            self._display.pause()
            return ask(self._folder.folder.name, at_end="stop" if self._owns else "leave")
        return "stop" if self._owns else "leave"

    def _stop(self) -> None:
        """A second time: now."""
        ask_to_stop(self._folder, now=self._stopping)
        self._stopping = True

    def _stop_and_wait(self) -> None:
        self._stop()
        while is_alive(self._folder):
            if self._signals.take() is not None:
                self._stop()
            time.sleep(POLL_S)


def ask(run: str, *, at_end: Wish) -> Wish:
    """What Ctrl-C means; a second one, and the end of input, mean `at_end`: nobody's run is stopped by haste."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        while True:
            click.echo(f"\nrun '{run}': leave it running or stop? [l/s] ", nl=False, err=True)
            answer = sys.stdin.readline()
            if not answer:
                return at_end
            if answer.strip().lower() in ("l", "leave"):
                return "leave"
            if answer.strip().lower() in ("s", "stop"):
                return "stop"
    except (KeyboardInterrupt, OSError):  # the terminal is gone
        return at_end
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for_end(folder: RunFolder) -> None:
    """The engine has told its end: until it has left, the run is not free."""
    deadline = time.monotonic() + END_S
    while is_alive(folder) and time.monotonic() < deadline:
        time.sleep(0.02)


def start(folder: RunFolder, request: RunRequest, *, detach: bool, json_lines: bool) -> int:
    """Start an engine and follow it, or leave it to itself. Raises MoodBenchError."""
    with Signals() if not detach else nullcontext() as signals, closing_display(choose_display(json_lines)) as display:
        engine = start_engine(folder, request)
        if signals is None:
            _print_started(engine, json_lines)
            return int(ExitCode.OK)
        following = Following(folder, display, signals, owns=True)
        try:
            finished = following.to_the_end(Follower(folder, engine.journal_bytes))
        except EngineGoneError as error:
            word = engine.last_word()
            raise (EngineError(word) if word is not None else error) from None
        finally:
            engine.leave()
    return _conclude(folder, finished, owns=True, json_lines=json_lines)


def attach(folder: RunFolder, *, json_lines: bool) -> int:
    """Follow what is there. Raises MoodBenchError."""
    with Signals() as signals, closing_display(choose_display(json_lines)) as display:
        engine = engine_status(folder)
        follower = Follower(folder, engine.journal_bytes if engine else 0)
        following = Following(folder, display, signals, owns=False)
        finished = following.to_the_end(follower, late=True)
    return _conclude(folder, finished, owns=False, json_lines=json_lines)


def _conclude(folder: RunFolder, finished: RunFinished | None, *, owns: bool, json_lines: bool) -> int:
    """The last words of a command, and its exit code. Raises EngineError where the run could not begin or go on."""
    name = folder.folder.name
    if finished is None:
        click.echo(f"run '{name}' goes on; to see it again: {program_name()} attach {shown_run(folder)}", err=True)
        return int(ExitCode.INTERRUPTED)
    began = folder.record_path.exists()
    if owns:
        discard_if_never_begun(folder)
    if finished.outcome == "broken":
        raise EngineError(Word(exit_code=finished.exit_code, message=finished.message, hint=finished.hint))
    if began and not json_lines:
        _print_end(folder, finished)
    elif finished.outcome == "interrupted":
        click.echo("interrupted", err=True)
    return finished.exit_code


def _print_started(engine: StartedEngine, json_lines: bool) -> None:
    folder = engine.folder.folder
    if json_lines:
        echo_json({"run": folder.name, "folder": str(folder), "engine_pid": engine.pid}, indent=0)
        return
    click.echo(f"run '{folder.name}' has started (engine {engine.pid})")
    for command in ("attach", "status", "stop"):
        click.echo(f"  {program_name()} {command} {shown_run(engine.folder)}")


def _print_end(folder: RunFolder, finished: RunFinished) -> None:
    """The leaderboard on stdout; around it, on stderr, what failed and where things lie."""
    from harness.cli.leaderboard import print_standing
    from harness.leaderboard import standing_of

    print_standing(standing_of(folder), "table")
    program = program_name()
    if finished.outcome == "interrupted":
        click.echo("interrupted: finished cells are kept; to go on:", err=True)
        click.echo(f"  {program} resume {shown_run(folder)}", err=True)
        return
    click.echo(f"Results: {folder.folder}")
    click.echo("\nNext:")
    click.echo(f"  {program} leaderboard {folder.folder} --format markdown")
    click.echo(f"  {program} run --data YOUR.csv --models MiniLM-L6,tfidf-logreg --seeds 1,2,3")
    click.echo(f"  {program} models list")


def shown_run(folder: RunFolder) -> str:
    """What the user can type to name the run from where they are."""
    usual = Path(os.environ.get("MOODBENCH_RESULTS", "results"))
    return shlex.quote(folder.folder.name if folder.folder.parent == usual else str(folder.folder))
