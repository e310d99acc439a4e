"""The engine and its displays as real processes: what ends which, and what goes on."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from harness.control import is_alive
from tests.support import COMMAND, World, reviews, wait_until

# One that is timed for long, or in a moment.
SUITE = """models: [tfidf-logreg]
datasets: [{{name: mine, file: reviews.csv}}]
seeds: [1, 2]
evaluation: {{windows: 1, min_requests: 1, max_requests: 1000000, latency_min_s: {seconds}, latency_max_s: {seconds},
  throughput_batch_sizes: [8], throughput_min_s: 0.1, throughput_max_s: 0.1}}
"""
LONG = ("run", "long.yaml", "--run", "r", "--jobs", "1")


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.write("reviews.csv", reviews())
    world.write("long.yaml", SUITE.format(seconds=300))
    world.write("short.yaml", SUITE.format(seconds=0.1))
    return world


def is_timing(world: World) -> bool:
    """Whether the latest engine has come to that."""
    names = [event["event"] for event in world.journal("r")]
    latest = len(names) - names[::-1].index("run_started") if "run_started" in names else len(names)
    return "lease_granted" in names[latest:] and "run_finished" not in names[latest:]


@contextmanager
def timing(world: World, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A display of a run that is being timed, for long; it has ended when the block is left."""
    process = world.start(*(arguments or LONG))
    with process:
        try:
            wait_until(lambda: process.poll() is not None or is_timing(world))
            assert process.poll() is None, process.stderr and process.stderr.read()
            yield process
        finally:
            process.kill()


def detached(world: World) -> psutil.Process:
    """The engine of a run that is being timed, for long."""
    started = world.moodbench(*LONG, "--detach")
    assert started.code == 0, started.err
    wait_until(lambda: is_timing(world))
    return world.engine("r")


def ended(world: World, processes: list[psutil.Process]) -> bool:
    """The engine and its cells, and what they lay in the folder."""
    _, alive = psutil.wait_procs(processes, timeout=20)
    return not alive and not is_alive(world.run_folder("r")) and not (world.folder / "results/r/engine.sock").exists()


def test_a_detached_run_is_followed_to_its_end(world: World) -> None:
    started = world.moodbench("run", "short.yaml", "--run", "r", "--detach")
    assert started.code == 0, started.err
    lines = started.out.splitlines()
    assert lines[0] == f"run 'r' has started (engine {world.engine('r').pid})"
    assert [line.split()[-2:] for line in lines[1:]] == [["attach", "r"], ["status", "r"], ["stop", "r"]]
    attached = world.moodbench("attach", "r", "--json")
    assert attached.code == 0, attached.err
    names = [event["event"] for event in attached.events]
    assert (names[-1], names.count("cell_finished"), "phase_started" in names) == ("run_finished", 2, True)
    found = world.status("r")
    assert (found["state"], found["engine_pid"]) == ("finished", None)
    assert found["cells"] == {"total": 2, "done": 2, "failed": 0, "running": 0, "queued": 0, "reused": 0}
    again = world.moodbench("attach", "r")
    assert (again.code, "2 cells: 2 done" in again.err, "tfidf-logreg" in again.out) == (0, True, True)
    assert world.moodbench("resume", "r", "--json").events[-1]["reused"] == 2


def test_a_detached_run_is_stopped_and_resumed(world: World) -> None:
    engine = detached(world)
    found = world.status("r")
    assert (found["state"], found["engine_pid"], found["cells"]["running"]) == ("running", engine.pid, 1)
    for command in (("run", "long.yaml", "--run", "r"), ("resume", "r")):
        refused = world.moodbench(*command)
        assert (refused.code, "moodbench attach" in refused.err) == (2, True), refused.err
    assert engine.is_running()
    processes = [engine, *engine.children(recursive=True)]
    stopped = world.moodbench("stop", "r")
    assert (stopped.code, "0 of 2 cells are done" in stopped.out) == (0, True), stopped.err
    assert ended(world, processes)
    assert world.journal("r")[-1]["outcome"] == world.status("r")["state"] == "interrupted"
    assert world.moodbench("stop", "r").code == 2

    resumed = world.moodbench("resume", "r", "--detach", "--json")
    assert resumed.code == 0, resumed.err
    pid = json.loads(resumed.out)["engine_pid"]
    wait_until(lambda: is_timing(world))
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    assert world.moodbench("stop", "r", "--now").code == 0
    assert ended(world, processes)
    assert sorted(path.name for path in world.attempts("r")) == ["attempt-001", "attempt-002"]


def test_a_run_outlives_its_display(world: World) -> None:
    with timing(world) as display:
        engine = world.engine("r")
        display.send_signal(signal.SIGKILL)
        display.wait()
    assert engine.is_running()
    assert world.status("r")["state"] == "running"
    assert world.moodbench("stop", "r", "--now").code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_display_that_started_it_stops_a_run(world: World, number: signal.Signals) -> None:
    with timing(world) as display:
        engine = world.engine("r")
        processes = [engine, *engine.children(recursive=True)]
        display.send_signal(number)
        _, errors = display.communicate(timeout=60)
        assert display.returncode == 130, errors
    assert ended(world, processes)
    assert world.journal("r")[-1]["outcome"] == "interrupted"
    assert "resume r" in errors


def test_a_signal_to_another_display_leaves_it(world: World) -> None:
    engine = detached(world)
    with timing(world, "attach", "r") as display:
        assert display.stderr is not None
        assert "run 'r': 2 cells" in display.stderr.readline()
        display.send_signal(signal.SIGINT)
        _, errors = display.communicate(timeout=60)
        assert (display.returncode, "run 'r' goes on" in errors) == (130, True)
    assert engine.is_running()
    world.end_engines()


def test_a_killed_engine_is_noticed_and_its_run_goes_on(world: World) -> None:
    with timing(world) as display:
        engine = world.engine("r")
        children = engine.children(recursive=True)
        os.kill(engine.pid, signal.SIGKILL)
        _, errors = display.communicate(timeout=60)
        assert display.returncode == 1
        assert "the engine of run 'r' is gone (killed?)" in errors
        assert "`moodbench resume r` goes on" in errors
    assert not psutil.wait_procs(children, timeout=20)[1]
    assert world.status("r")["state"] == "killed"
    assert (world.folder / "results/r/engine.sock").exists()
    assert world.moodbench("resume", "r", "--detach").code == 0
    wait_until(lambda: world.status("r")["state"] == "running")
    assert world.moodbench("stop", "r", "--now").code == 0


class Terminal:
    """A display that has a terminal."""

    def __init__(self, world: World, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        environment = world.environment | {"TERM": "xterm"}
        environment.pop("CI", None)
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=world.folder, env=environment, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        self.seen = ""

    def until(self, words: str) -> None:
        while words not in self.seen:
            try:
                data = os.read(self.master, 4096)
            except OSError:
                data = b""
            assert data, f"it ended without {words!r}: {self.seen}"
            self.seen += data.decode(errors="replace")

    def answer(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        """Reads on, so that it can write."""
        with os.fdopen(self.master, "rb", buffering=0) as rest:
            while self.process.poll() is None:
                try:
                    self.seen += rest.read(4096).decode(errors="replace")
                except OSError:
                    break
        return self.process.wait()


@pytest.mark.parametrize(("answers", "goes_on"), [("x\nl\n", True), (None, False)], ids=["leave", "Ctrl-C again"])
def test_ctrl_c_in_a_terminal_asks(world: World, answers: str | None, goes_on: bool) -> None:
    terminal = Terminal(world, *LONG)
    terminal.until("timed alone")
    engine = world.engine("r")
    terminal.process.send_signal(signal.SIGINT)
    terminal.until("leave it running or stop? [l/s]")
    if answers is None:
        terminal.process.send_signal(signal.SIGINT)
    else:
        terminal.answer(answers)
    assert terminal.end() == 130
    assert is_alive(world.run_folder("r")) == goes_on == engine.is_running()
    assert ("run 'r' goes on" in terminal.seen) == goes_on
    world.end_engines()


def test_ctrl_c_twice_leaves_what_another_started(world: World) -> None:
    engine = detached(world)
    terminal = Terminal(world, "attach", "r")
    terminal.until("run 'r': 2 cells")
    terminal.process.send_signal(signal.SIGINT)
    terminal.until("leave it running or stop? [l/s]")
    terminal.process.send_signal(signal.SIGINT)
    assert (terminal.end(), "run 'r' goes on" in terminal.seen, engine.is_running()) == (130, True, True)
    world.end_engines()


def test_json_ends_with_what_kept_an_engine_from_starting(world: World) -> None:
    world.write("broken.yaml", "models: [majority]\ndatasets: [{name: mine, file: absent.csv}]\n")
    outcome = world.moodbench("run", "broken.yaml", "--run", "r", "--json")
    assert outcome.code == 2
    last = outcome.events[-1]
    assert (last["event"], last["outcome"], last["exit_code"]) == ("run_finished", "broken", 2)
    assert "absent.csv" in last["message"]
    assert last["hint"]
    assert not (world.folder / "results" / "r").exists()


def test_a_detached_run_that_could_not_begin_says_so_later(world: World) -> None:
    started = world.moodbench("run", "--data", "reviews.csv", "--device", "mps", "--run", "r", "--detach")
    assert started.code == 0
    wait_until(lambda: not is_alive(world.run_folder("r")))
    found = world.status("r")
    assert (found["state"], found["cells"]["total"]) == ("broken", 0)
    assert "device 'mps'" in found["message"]
    attached = world.moodbench("attach", "r")
    assert (attached.code, "device 'mps'" in attached.err) == (3, True)


def test_a_refused_addition_changes_nothing(world: World) -> None:
    first = world.moodbench("run", "short.yaml", "--run", "night", "--timeout", "5m")
    assert first.code == 0, first.err
    asked = (world.run_folder("night").folder / "request.json").read_bytes()
    world.write("broken.csv", "text\nno label\n")
    refused = world.moodbench("run", "--data", "broken.csv", "--models", "majority", "--run", "night", "--jobs", "1")
    assert (refused.code, "broken.csv" in refused.err) == (2, True)
    assert (world.run_folder("night").folder / "request.json").read_bytes() == asked
    resumed = world.moodbench("resume", "night", "--json")
    assert (resumed.code, resumed.events[-1]["reused"], resumed.events[-1]["failed"]) == (0, 2, 0), resumed.err


def test_an_addition_whose_engine_was_killed_goes_on(world: World) -> None:
    world.write("more.yaml", SUITE.format(seconds=0.1).replace("[1, 2]", "[3]"))
    assert world.moodbench("run", "short.yaml", "--run", "night").code == 0
    started = world.moodbench("run", "more.yaml", "--run", "night", "--detach")
    assert started.code == 0, started.err
    assert world.end_engines() == ["night"]
    assert len(world.run_folder("night").read_record().suites) == 1
    resumed = world.moodbench("resume", "night", "--json")
    assert (resumed.code, resumed.events[-1]["reused"], resumed.events[-1]["done"]) == (0, 2, 1), resumed.err


def test_a_display_that_nobody_reads_leaves_what_it_did_not_start(world: World) -> None:
    engine = detached(world)
    with world.start("attach", "r", "--json") as display:
        assert display.stdout is not None
        display.stdout.close()
        assert display.stderr is not None
        assert display.stderr.read() == ""
        assert display.wait(timeout=60) == 0
    assert engine.is_running()
    world.end_engines()
