from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from harness.control import ask_to_stop, engine_status
from harness.errors import InputError, SetupError
from harness.journal import Journal, tail_journal
from harness.launch import EngineError, Word, discard_if_never_begun, kept_request, start_engine
from harness.request import Control, RunOptions, RunRequest
from harness.run_lock import only_one
from harness.service import Execute, Service, Starter, Tell, take_request
from harness.state import CellFailed, CellFinished, Notice, RunFinished, RunStarted
from harness.store import RunFolder
from harness.suite import Selection, build_suite
from runner.contract import Event, encode, read
from tests.harness.builders import planned, summary


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = tmp_path / "r"
    folder.mkdir()
    return RunFolder(folder)


@pytest.fixture
def request_() -> RunRequest:
    suite = build_suite("demo", Selection(models=["majority"], seeds=[1]))
    return RunRequest(suites=(suite,), options=RunOptions(jobs=2, seconds=60.0))


def told(run: RunFolder) -> list[Event]:
    return tail_journal(run.journal).read()


def serve(run: RunFolder, request: RunRequest, execute: Execute) -> tuple[int, list[Word]]:
    """An engine in this process: its exit code, and what it says to its starter."""
    reading, writing = os.pipe()
    with closing(Journal(run.journal)) as journal, os.fdopen(reading, "rb") as pipe:
        code = asyncio.run(Service(run, journal, execute).serve(request, Starter(writing)))
        os.close(writing)
        return code, [msgspec.json.decode(line, type=Word) for line in pipe]


def plays(end: Callable[[], RunFinished]) -> Execute:
    """Two cells end, then the run does as `end` says."""

    async def execute(request: RunRequest, folder: RunFolder, tell: Tell, control: Control) -> RunFinished:
        plans = (planned("a"), planned("b"), planned("c"))
        tell(RunStarted(run="r", suite="s", folder=str(folder.folder), jobs=1, cells=plans))
        tell(CellFinished(cell="a", summary=summary(), seconds=1.0))
        tell(CellFailed(cell="b", kind="data", message="m", hint="h"))
        return end()

    return execute


def raises(error: BaseException) -> Callable[[], RunFinished]:
    def end() -> RunFinished:
        raise error

    return end


def test_the_end_is_the_last_event(run: RunFolder, request_: RunRequest) -> None:
    end = RunFinished(outcome="finished", exit_code=0, total=3, done=3)
    code, words = serve(run, request_, plays(lambda: end))
    assert code == 0
    assert words == [Word(pid=os.getpid(), journal_bytes=0)]
    events = told(run)
    assert [type(event).__name__ for event in events] == ["RunStarted", "CellFinished", "CellFailed", "RunFinished"]
    assert (events[0].engine_pid, events[-1].done) == (os.getpid(), 3)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "outcome", "code", "message"),
    [
        (InputError("cause", "remedy"), "broken", 2, "cause"),
        (SetupError("cause", "remedy"), "broken", 3, "cause"),
        (ZeroDivisionError("by nothing"), "broken", 1, "the engine failed: ZeroDivisionError: by nothing"),
        (asyncio.CancelledError(), "interrupted", 130, ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_engine_ends_with_words(
    run: RunFolder,
    request_: RunRequest,
    capfd: pytest.CaptureFixture[str],
    error: BaseException,
    outcome: str,
    code: int,
    message: str,
) -> None:
    assert serve(run, request_, plays(raises(error)))[0] == code
    last = told(run)[-1]
    assert isinstance(last, RunFinished)
    assert (last.outcome, last.exit_code, last.message) == (outcome, code, message)
    assert (last.total, last.done, last.failed, last.left) == (3, 1, 1, 1)
    if isinstance(error, ZeroDivisionError):
        assert "engine.log" in last.hint
        assert "Traceback" in capfd.readouterr().err


def test_a_journal_that_takes_no_more_is_told_to_the_starter(run: RunFolder, request_: RunRequest) -> None:
    end = RunFinished(outcome="finished", exit_code=0)
    reading, writing = os.pipe()
    with closing(Journal(run.journal)) as journal, os.fdopen(reading, "rb") as pipe:
        full = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115
        with full:
            service = Service(run, journal, plays_nothing(journal, full, end))
            assert asyncio.run(service.serve(request_, Starter(writing))) == 3
        os.close(writing)
        words = [msgspec.json.decode(line, type=Word) for line in pipe]
    assert (words[1].exit_code, "is full" in words[1].message) == (3, True)


def plays_nothing(journal: Journal, full: object, end: RunFinished) -> Execute:
    async def execute(request: RunRequest, folder: RunFolder, tell: Tell, control: Control) -> RunFinished:
        journal._file.close()
        journal._file = full  # type: ignore[assignment]
        return end

    return execute


class Stoppable:
    """A run that goes on until it is stopped, and tells how."""

    def __init__(self, ask: Callable[[RunFolder], object]) -> None:
        self.ask = ask
        self.asked: list[bool] = []
        self.statuses: list[tuple[bool, bool]] = []

    async def execute(self, request: RunRequest, folder: RunFolder, tell: Tell, control: Control) -> RunFinished:
        async def until_asked() -> None:
            tell(RunStarted(run="r", suite="s", folder="f", jobs=1, cells=()))
            await asyncio.to_thread(self._look, folder)
            await asyncio.to_thread(self.ask, folder)
            while not self.asked or (self.ask is signal_twice and len(self.asked) < 2):
                await asyncio.sleep(0.005)
            await asyncio.to_thread(self._look, folder)

        await control.running(until_asked(), self.asked.append)
        return RunFinished(outcome="interrupted", exit_code=130)

    def _look(self, folder: RunFolder) -> None:
        status = engine_status(folder)
        assert status is not None
        self.statuses.append((status.preparing, status.stopping))


def signal_once(folder: RunFolder) -> None:
    os.kill(os.getpid(), signal.SIGHUP)


def signal_twice(folder: RunFolder) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("ask", "asked"),
    [
        (ask_to_stop, [False]),
        (lambda folder: ask_to_stop(folder, now=True), [True]),
        (signal_once, [False]),
        (signal_twice, [False, True]),
    ],
    ids=["socket", "socket now", "signal", "two signals"],
)
def test_an_engine_is_asked_to_stop(
    run: RunFolder, request_: RunRequest, ask: Callable[[RunFolder], object], asked: list[bool]
) -> None:
    stoppable = Stoppable(ask)
    assert serve(run, request_, stoppable.execute)[0] == 130
    assert stoppable.asked == asked
    assert stoppable.statuses == [(False, False), (False, True)]
    assert not (run.folder / "engine.sock").exists()


def test_it_is_preparing_until_its_cells_are_known(run: RunFolder, request_: RunRequest) -> None:
    seen = []

    async def execute(request: RunRequest, folder: RunFolder, tell: Tell, control: Control) -> RunFinished:
        tell(Notice(message="looking around"))
        seen.append(await asyncio.to_thread(engine_status, folder))
        return RunFinished(outcome="finished", exit_code=0)

    with closing(Journal(run.journal)) as before:
        before.append(Notice(message="of an earlier engine"))
    size = run.journal.stat().st_size
    serve(run, request_, execute)
    assert (seen[0].preparing, seen[0].journal_bytes) == (True, size)
    assert len(tail_journal(run.journal, size).read()) == 2


def test_a_request_is_kept_in_the_folder(run: RunFolder, request_: RunRequest) -> None:
    assert take_request(run, encode(request_)) == request_
    assert take_request(run, b"") == request_
    for wrong in (b"{}", b"\xff"):
        with pytest.raises(InputError):
            take_request(run, wrong)
    assert take_request(run, b"") == request_
    (run.folder / "request.json").unlink()
    with pytest.raises(InputError):
        take_request(run, b"")


def begins(end: Callable[[], RunFinished], *told: Event) -> Execute:
    """A run that comes so far, and then does as `end` says."""

    async def execute(request: RunRequest, folder: RunFolder, tell: Tell, control: Control) -> RunFinished:
        for event in told:
            tell(event)
        return end()

    return execute


STARTED = RunStarted(run="r", suite="s", folder="f", jobs=1, cells=())


@pytest.mark.parametrize(
    ("execute", "last", "begun"),
    [
        (begins(raises(InputError("broken.csv has one class", "remedy"))), "old", "old"),
        (begins(raises(asyncio.CancelledError())), "new", "old"),  # stopped or killed: `resume` goes on with it
        (begins(lambda: RunFinished(outcome="finished", exit_code=0), STARTED), "new", "new"),
        (begins(raises(SetupError("full", "remedy")), STARTED), "new", "new"),
    ],
    ids=["refused", "stopped", "begun", "broken later"],
)
def test_what_a_run_is_asked_next_counts_until_it_is_refused(
    run: RunFolder, request_: RunRequest, execute: Execute, last: str, begun: str
) -> None:
    asked = {"old": request_, "new": msgspec.structs.replace(request_, options=RunOptions(jobs=7))}
    take_request(run, encode(asked["old"]))
    run.record_path.write_text("{}")
    assert take_request(run, encode(asked["new"])) == asked["new"]
    assert kept_request(run) == asked["new"]
    serve(run, asked["new"], execute)
    assert kept_request(run) == asked[last]
    assert read(run.folder / "request.json", RunRequest) == asked[begun]
    assert (run.folder / "request.next.json").exists() == (last != begun)


# --- real processes ---------------------------------------------------------------------------


def test_a_second_engine_is_refused(run: RunFolder, request_: RunRequest) -> None:
    (run.folder / "request.json").write_bytes(encode(request_))
    (run.folder / "run.json").write_text("{}")
    before = (run.folder / "request.json").read_bytes()
    with only_one(run), pytest.raises(EngineError) as caught:
        start_engine(run, msgspec.structs.replace(request_, options=RunOptions(jobs=7)))
    assert "another moodbench is filling the run 'r'" in caught.value.message
    assert int(caught.value.exit_code) == 2
    assert (run.folder / "request.json").read_bytes() == before
    assert not run.journal.exists()


def test_an_engine_that_does_not_start_says_where_its_words_are(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(SetupError, match="did not start") as caught:
        start_engine(run)
    assert caught.value.hint == f"see {run.folder / 'engine.log'}"
    assert (run.folder / "engine.log").read_text()


def test_by_hand_without_a_starter(run: RunFolder) -> None:
    command = [sys.executable, "-P", "-m", "harness.service", str(run.folder)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr


def test_what_never_began_is_discarded(run: RunFolder) -> None:
    for name in ("request.json", "journal.jsonl", "engine.log", ".lock"):
        (run.folder / name).write_text("")
    discard_if_never_begun(run)
    assert not run.folder.exists()


@pytest.mark.parametrize("kept", ["run.json", "mine.txt"])
def test_what_has_begun_or_is_not_ours_stays(run: RunFolder, kept: str) -> None:
    (run.folder / kept).write_text(json.dumps({}))
    discard_if_never_begun(run)
    assert (run.folder / kept).exists()


def test_what_an_engine_holds_is_not_discarded(run: RunFolder) -> None:
    run.journal.write_text("")
    with only_one(run):
        discard_if_never_begun(run)
        assert run.journal.exists()
