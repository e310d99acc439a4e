"""What an attempt that ended has come to."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import get_args

import pytest

from harness.executors import Exit
from harness.failures import HINTS, conclude, unreported
from harness.store import AttemptPaths
from runner.contract import Failure, FailureKind, Phase, Result, encode, read
from tests.harness.builders import cell, result


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptPaths:
    return AttemptPaths(folder=tmp_path, number=1)


def report(attempt: AttemptPaths, kind: FailureKind, phase: Phase | None = "train") -> Failure:
    failure = Failure(cell="c", kind=kind, message="why", hint="how", phase=phase, traceback="Traceback", t=1.0)
    attempt.failure.write_bytes(encode(failure))
    return failure


def failure_of(attempt: AttemptPaths, exited: Exit, phase: Phase | None = "score") -> Failure:
    outcome = conclude("c", attempt, exited, phase)
    assert isinstance(outcome, Failure)
    assert outcome.hint
    return outcome


def test_a_result_is_the_only_sign_of_success(attempt: AttemptPaths) -> None:
    whole = result(cell())
    attempt.result.write_bytes(encode(whole))
    report(attempt, "code")
    assert conclude(whole.cell, attempt, Exit(code=None, cause="timeout", detail="too long"), None) == whole
    attempt.result.write_text("{")
    assert failure_of(attempt, Exit(code=0)).kind == "no_result"


def test_what_the_cell_says_stands(attempt: AttemptPaths) -> None:
    told = report(attempt, "out_of_memory")
    before = attempt.failure.read_bytes()
    assert failure_of(attempt, Exit(code=1)) == told
    assert failure_of(attempt, Exit(code=1, cause="out_of_memory", detail="from outside")) == told
    assert attempt.failure.read_bytes() == before


def test_what_the_executor_knows_better(attempt: AttemptPaths) -> None:
    report(attempt, "interrupted")
    exited = Exit(code=None, signal=9, cause="out_of_memory", detail="it took more than its 200 MB")
    failure = failure_of(attempt, exited)
    assert (failure.kind, failure.message) == ("out_of_memory", "it took more than its 200 MB")
    assert (failure.phase, failure.traceback) == ("train", "Traceback"), "where it was, the cell knows best"
    assert read(attempt.failure, Failure) == failure


def test_a_report_without_a_phase_gets_the_last_begun(attempt: AttemptPaths) -> None:
    report(attempt, "interrupted", phase=None)
    assert failure_of(attempt, Exit(code=None, cause="timeout", detail="d")).phase == "score"


def test_an_end_without_a_word_is_written_down(attempt: AttemptPaths) -> None:
    failure = failure_of(attempt, Exit(code=None, signal=signal.SIGKILL))
    assert (failure.kind, failure.phase) == ("killed", "score")
    assert read(attempt.failure, Failure) == failure


@pytest.mark.parametrize(
    ("exited", "kind", "words"),
    [
        (Exit(code=0), "no_result", "without a result"),
        (Exit(code=7), "code", "exit code 7"),
        *((Exit(code=None, signal=s), "killed", s.name) for s in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)),
        (Exit(code=None, signal=signal.SIGSEGV), "code", "SIGSEGV"),
        (Exit(code=None, signal=63), "code", "signal 63"),
        (Exit(code=137, cause="engine_gone", detail="it went away"), "engine_gone", "it went away"),
    ],
)
def test_causes_that_no_cell_reported(exited: Exit, kind: str, words: str) -> None:
    failure = unreported("c", exited)
    assert failure.kind == kind
    assert words in failure.message
    assert failure.hint


def test_every_hint_is_of_a_known_kind_and_every_cause_has_one() -> None:
    assert set(HINTS) <= set(get_args(FailureKind))
    for kind in HINTS:
        assert unreported("c", Exit(code=None, cause=kind, detail="d")).hint == HINTS[kind]


def test_a_result_reads_as_a_result(attempt: AttemptPaths) -> None:
    attempt.result.write_bytes(encode(result(cell())))
    assert isinstance(conclude(cell().cell, attempt, Exit(code=0), None), Result)
    assert not attempt.failure.exists()
