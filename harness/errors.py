"""The errors a user may see, and the exit codes of every command.

MoodBenchError              one sentence of cause, one of remedy
├── InputError            2: the command, a file of configuration or the data is not right
└── SetupError      3: a package, the network, a device, a permission or space is missing
    └── ExecutorError  3: containers cannot be run (any more); `kind` is what it means to a cell
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.contract import FailureKind


class ExitCode(IntEnum):
    OK = 0
    CELL_FAILED = 1
    USAGE = 2
    ENVIRONMENT = 3
    GATE_FAILED = 4
    NOT_ENOUGH_EVIDENCE = 5
    INTERRUPTED = 130


class MoodBenchError(Exception):
    exit_code = ExitCode.CELL_FAILED

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(MoodBenchError):
    exit_code = ExitCode.USAGE


class SetupError(MoodBenchError):
    exit_code = ExitCode.ENVIRONMENT


class ExecutorError(SetupError):
    def __init__(self, kind: FailureKind, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.kind = kind


def unknown(what: str, name: str, known: Iterable[str], remedy: str) -> InputError:
    """`unknown model 'MiniLM-L7'`, with the nearest known name offered."""
    return InputError(f"unknown {what} '{name}'{did_you_mean(name, known)}", remedy)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    by_lower = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f" (did you mean '{by_lower[near[0]]}'?)" if near else ""
