"""The one error the runner raises on purpose; anything else is a fault of the runner (kind `code`)."""

from __future__ import annotations

from runner.contract import FailureKind


class RunnerError(Exception):
    """Cause in one sentence, remedy in another; `kind` decides what the host does about it.

    runner: RunnerError -> failure.json {kind, message, hint}
    """

    def __init__(self, kind: FailureKind, message: str, hint: str) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.message = message
        self.hint = hint
