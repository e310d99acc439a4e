from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.doctor import Finding, examine
from harness.executors import native

INFO = (
    '{"device": "cpu", "device_reason": "no GPU", "available": ["cpu"],'
    ' "packages": {"torch": "2.13", "transformers": "5.0", "peft": "0.18"}}'
)
NOTHING = '{"device": "cpu", "device_reason": "", "available": [], "missing": ["torch", "peft"]}'


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """answering(code): Python code in the place of `python -m runner info`."""

    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/engine.sock")

    def use(code: str) -> None:
        monkeypatch.setattr(native, "runner_command", lambda *arguments: [sys.executable, "-c", code])

    return use


def findings(results: Path) -> dict[str, Finding]:
    return {finding.subject: finding for finding in asyncio.run(examine(results))}


def test_a_sound_machine(answering: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(f"print('{INFO}')")
    monkeypatch.setenv("HF_TOKEN", "secret-token")
    monkeypatch.setenv("MOODBENCH_CACHE", str(tmp_path / "a" / "cache"))
    found = findings(tmp_path / "b" / "c" / "results")
    assert {finding.state for finding in found.values()} <= {"ok", "note"}
    assert found["runner"].finding == "torch 2.13, transformers 5.0, peft 0.18"
    assert found["device"].finding == "auto picks cpu (no GPU); found cpu"
    assert found["engine"].state == "note", "native cells run: containers are a choice"
    assert found["HF_TOKEN"].finding.startswith("from the environment;")
    assert "secret-token" not in repr(found)
    assert list(tmp_path.iterdir()) == []  # looking leaves nothing behind


@pytest.mark.parametrize(
    ("code", "part"),
    [
        (f"print('{NOTHING}')", "torch, peft not installed"),
        ("raise ImportError('no runner')", "no runner"),
        ("print('x')", "cannot be read"),
    ],
)
def test_a_runner_that_cannot_run(answering: Callable[[str], None], tmp_path: Path, code: str, part: str) -> None:
    answering(code)
    found = findings(tmp_path)["runner"]
    assert found.state == "fix"
    assert part in found.finding
    assert found.remedy


def test_results_that_cannot_be_written(answering: Callable[[str], None], tmp_path: Path) -> None:
    answering(f"print('{INFO}')")
    (tmp_path / "file").write_text("in the way")
    found = findings(tmp_path / "file" / "results")["results folder"]
    assert found.state == "fix"
    assert "cannot write to" in found.finding


def test_no_token_is_worth_a_note(
    answering: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(f"print('{INFO}')")
    monkeypatch.chdir(tmp_path)
    assert findings(tmp_path)["HF_TOKEN"].state == "note"


def test_a_token_in_dotenv_and_a_bad_line_there(
    answering: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(f"print('{INFO}')")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("HF_TOKEN=hf_secret\n")
    found = findings(tmp_path)["HF_TOKEN"]
    assert (found.state, found.finding.partition(";")[0]) == ("ok", "from .env")
    (tmp_path / ".env").write_text("HF_TOKEN: hf_secret\n")
    found = findings(tmp_path)["HF_TOKEN"]
    assert found.state == "fix"
    assert "line 1" in found.finding
    assert "hf_secret" not in repr(found)
