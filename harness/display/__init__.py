"""Displays of a headless run. Progress goes to stderr, so that stdout carries results alone (JSON lines excepted)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from harness.errors import ExitCode, MoodBenchError
from harness.state import RunFinished, RunState
from runner.contract import Event


class Display(Protocol):
    """Told of every event, after the state has taken it in."""

    tells_all: bool  # also what was told before the display came

    def show(self, event: Event, state: RunState) -> None: ...

    def tick(self) -> None:
        """Called a few times a second; only here, and in `show`, is anything drawn."""
        ...

    def pause(self) -> None:
        """Leave the terminal to a question until the next `tick`."""
        ...

    def close(self, ending: RunFinished | None = None) -> None:
        """Nothing more comes. `ending`: of a command that an error or Ctrl-C ended, None where there was neither."""
        ...


@contextmanager
def closing_display(display: Display) -> Iterator[Display]:
    """The display for a block; closed whichever way the block ends."""
    ending: RunFinished | None = None
    try:
        yield display
    except MoodBenchError as error:
        ending = _broken(int(error.exit_code), error.message, error.hint)
        raise
    except KeyboardInterrupt:
        ending = RunFinished(outcome="interrupted", exit_code=int(ExitCode.INTERRUPTED), t=time.time())
        raise
    except BrokenPipeError:  # nobody is left to be told
        raise
    except Exception as error:  # a fault of ours: Python ends with 1
        ending = _broken(1, f"{type(error).__name__}: {error}", "report it")
        raise
    finally:
        display.close(ending)


def _broken(exit_code: int, message: str, hint: str) -> RunFinished:
    return RunFinished(outcome="broken", exit_code=exit_code, message=message, hint=hint, t=time.time())


def choose_display(json_lines: bool) -> Display:
    """JSON lines when asked for; live bars on a terminal; plain lines elsewhere."""
    if json_lines:
        from harness.display.jsonl import JsonLines

        return JsonLines(sys.stdout)
    if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("CI"):
        from harness.display.live import LiveBars

        return LiveBars()
    from harness.display.plain import PlainLines

    return PlainLines(sys.stderr)
