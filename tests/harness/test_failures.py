"""What an attempt that ended has come to."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from harness.executors import Exit
from harness.failures import HINTS, POLICIES, conclude, next_step, smaller_batch, unreported
from harness.store import AttemptPaths
from runner.contract import (
    CellSpec,
    Failure,
    FailureKind,
    Fallback,
    Phase,
    Result,
    TrainingSpec,
    encode,
    read,
)
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


# --- what follows -----------------------------------------------------------------------------


def test_every_class_has_a_policy_and_the_documentation_shows_it() -> None:
    assert set(POLICIES) == set(get_args(FailureKind))
    lines = re.findall(r"^\| (`\w+`.*) \|$", Path("docs/failures.md").read_text(), re.M)
    rows = [[part.strip() for part in line.split("|")] for line in lines]
    assert [row[0].strip("`") for row in rows] == list(POLICIES)
    for (_, _, again, after, why), policy in zip(rows, POLICIES.values(), strict=True):
        assert why == policy.why
        assert after == (f"{policy.delay_s:g} s" if policy.delay_s else "")
        assert again.startswith(f"{policy.retries} times" if policy.retries else ("next time", "no"))


def failed(kind: FailureKind, phase: Phase | None = None) -> Failure:
    return Failure(cell="c", kind=kind, message="m", hint="h", phase=phase)


def trained(batch: int = 16, accumulation: int = 4, **changes: Any) -> CellSpec:
    return cell(method="lora", training=TrainingSpec(batch_size=batch, accumulation=accumulation), **changes)


@pytest.mark.parametrize(
    ("batch", "accumulation", "smaller", "more"),
    [(16, 4, 8, 8), (5, 4, 2, 10), (7, 4, 2, 14), (3, 5, 1, 15), (2, 1, 1, 2), (9, 1, 3, 3)],
)
def test_half_the_batch_keeps_what_a_step_sees(batch: int, accumulation: int, smaller: int, more: int) -> None:
    fallback = smaller_batch(trained(batch, accumulation), "train")
    assert fallback is not None
    assert (fallback.batch_size, fallback.accumulation, fallback.evaluation_batch_size) == (smaller, more, 16)
    assert smaller * more == batch * accumulation
    assert "'train'" in fallback.reason


def test_only_what_the_phase_takes_is_halved() -> None:
    spec = trained()
    scored, timed = smaller_batch(spec, "score"), smaller_batch(spec, "time")
    assert scored is not None
    assert timed is not None
    assert (scored.batch_size, scored.evaluation_batch_size, scored.throughput_batch_size) == (None, 16, None)
    assert (timed.batch_size, timed.evaluation_batch_size, timed.throughput_batch_size) == (None, None, 16)
    again = smaller_batch(msgspec.structs.replace(spec, fallback=scored), "train")
    assert again is not None
    assert (again.batch_size, again.evaluation_batch_size) == (8, 8), "an earlier one is kept"


@pytest.mark.parametrize("phase", [None, "load", "tokenize", "export"])
def test_where_no_smaller_batch_would_help_nothing_follows(phase: Phase | None) -> None:
    assert next_step(trained(), failed("out_of_memory", phase), {}) is None


def test_nothing_is_smaller_than_one() -> None:
    assert smaller_batch(trained(1, 64), "train") is None
    assert smaller_batch(cell(), "train") is None, "a baseline has no batch"
    least = Fallback(evaluation_batch_size=1, throughput_batch_size=1, reason="")
    assert smaller_batch(trained(fallback=least), "score") is None
    assert smaller_batch(trained(fallback=least), "time") is None


def test_backoff_doubles_and_ends() -> None:
    steps = [next_step(trained(), failed("engine_gone"), {"engine_gone": n}) for n in range(6)]
    assert [step and step.delay_s for step in steps] == [2.0, 4.0, 8.0, 16.0, 32.0, None]
    halved = Fallback(batch_size=8, accumulation=8, reason="r")
    kept = next_step(trained(fallback=halved), failed("killed"), {"engine_gone": 5})
    assert kept is not None
    assert kept.fallback == halved, "a batch that was halved stays so"
