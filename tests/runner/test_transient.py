"""What may be gone a moment later, and what is not."""

from __future__ import annotations

import errno
from types import SimpleNamespace

import pytest

from runner.contract import ModelSpec
from runner.models.hub import hub_error
from runner.transient import is_transient


def named(name: str, *bases: type[BaseException]) -> BaseException:
    return type(name, bases or (Exception,), {})("words")


def answered(status: int) -> Exception:
    error = Exception("words")
    error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return error


def caused_by(cause: BaseException) -> Exception:
    error = OSError("could not load")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (named("ReadTimeout"), True),
        (named("OfOurs", type("RemoteProtocolError", (Exception,), {})), True),
        (answered(503), True),
        (answered(429), True),
        (OSError(errno.ECONNRESET, "reset"), True),
        (caused_by(named("ChunkedEncodingError")), True),
        (answered(404), False),
        (named("ConnectError"), False),  # there is no network
        (OSError(errno.ECONNREFUSED, "refused"), False),
        (OSError(errno.ENOSPC, "full"), False),
        (caused_by(ValueError("no")), False),
    ],
)
def test_transient(error: BaseException, expected: bool) -> None:
    assert is_transient(error) is expected


def test_a_chain_of_causes_that_closes_ends() -> None:
    error = ValueError("a")
    error.__context__ = other = ValueError("b")
    other.__context__ = error
    assert not is_transient(error)


@pytest.mark.parametrize(("error", "kind"), [(answered(502), "network"), (named("ConnectError"), "environment")])
def test_a_model_that_breaks_off(error: Exception, kind: str) -> None:
    told = hub_error(ModelSpec(alias="Tiny", kind="hub", name="org/tiny"), error)
    assert told.kind == kind
    assert "org/tiny" in told.message
