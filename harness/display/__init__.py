"""Displays of a headless run. Progress goes to stderr, so that stdout carries results alone (JSON lines excepted)."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from harness.errors import ExitCode, MoodBenchError
from harness.state import RunState
from runner.contract import Event


class Display(Protocol):
    """Told of every event, after the state has taken it in."""

    def show(self, event: Event, state: RunState) -> None: ...

    def note(self, message: str) -> None:
        """Something to know that is no event of the run, such as what is being prepared."""
        ...

    def close(self, exit_code: int | None = None) -> None:
        """Nothing more comes. `exit_code`: of an error or Ctrl-C that ended the run, None where there was neither."""
        ...


@contextmanager
def closing_display(display: Display) -> Iterator[Display]:
    """The display for a block; closed whichever way the block ends."""
    exit_code: int | None = None
    try:
        yield display
    except MoodBenchError as error:
        exit_code = int(error.exit_code)
        raise
    except (KeyboardInterrupt, asyncio.CancelledError):
        exit_code = int(ExitCode.INTERRUPTED)
        raise
    except BrokenPipeError:  # nobody is left to be told
        raise
    except Exception:  # a fault of ours: Python ends with 1
        exit_code = 1
        raise
    finally:
        display.close(exit_code)


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
