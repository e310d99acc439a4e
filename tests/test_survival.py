"""What real cells, engines and disks may do to a run, and what it survives."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from harness.control import is_alive
from harness.executors import Handle
from harness.executors.containers import fresh_name
from harness.executors.docker import DockerExecutor
from harness.executors.native import NativeExecutor, runner_command
from harness.images import BuiltImage
from harness.run_lock import only_one
from harness.state import CellFailed, CellRetried, CellStarted, LeaseEnded, LeaseGranted, RunFinished
from harness.store import AttemptPaths
from runner.contract import (
    PHASES,
    CellSpec,
    Event,
    FailureKind,
    Limits,
    ModelSpec,
    Phase,
    PreparedDataset,
    ScratchSpec,
    TrainingSpec,
    batches_of,
    grant_file,
    read,
)
from tests.harness.builders import cell
from tests.harness.test_native import QUICK
from tests.support import World, reviews, wait_until
from tests.survival import SCRATCH, TINY, Site, carried_out, journal_is_whole, predictions, suite

pytestmark = pytest.mark.chaos
linux = pytest.mark.skipif(sys.platform != "linux", reason="the system lists no processes in files")

# Python runs this at its start. What of `codes` belongs to this cell is done in its process before the runner's work.
SITE = """
import os, signal, sys, time
from pathlib import Path
codes = {codes!r}
words = " ".join(sys.orig_argv)
if "-m runner" in words and " run " in words:
    folder = Path(sys.orig_argv[-1])
    for name, code in codes.items():
        if f"{{name}}--" in folder.parent.name:
            exec(code)
"""
# `before` and `after` surround each event that the cell tells.
EVENTS = """
from runner import events
def emit(self, event, real=events.EventLog.emit):
    kind, phase = type(event).__name__, getattr(event, "phase", None)
    {before}
    real(self, event)
    {after}
events.EventLog.emit = emit
"""
HANG = "while True: time.sleep(0.05)"
DEAF = f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\n        {HANG}"


def before(condition: str, act: str) -> str:
    return EVENTS.format(before=f"if {condition}:\n        {act}", after="")


def after(condition: str, act: str) -> str:
    return EVENTS.format(before="", after=f"if {condition}:\n        {act}")


def hang_in(phase: Phase, act: str = HANG) -> str:
    return after(f"(kind, phase) == ('PhaseStarted', {phase!r})", act)


def write_site(folder: Path, codes: dict[str, str]) -> str:
    """Where PYTHONPATH has to lead."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE.format(codes=codes))
    known = os.environ.get("PYTHONPATH")
    return f"{folder}{os.pathsep}{known}" if known else str(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "reviews.csv").write_text(reviews())
    question, answer = folder / "request.json", folder / "answer.json"
    files = {"all": str(folder / "reviews.csv")}
    question.write_bytes(msgspec.json.encode({"name": "mine", "source": "file", "files": files}))
    command = runner_command("prepare", str(question), "--out", str(answer), "--cache", str(folder / "cache"))
    command.remove("--watch-stdin")
    subprocess.run(command, check=True, capture_output=True)
    return read(answer, PreparedDataset)


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    client = request.getfixturevalue("docker_client") if request.node.get_closest_marker("docker") else None
    site = Site(World(tmp_path), fresh_name("survival"), client)
    site.world.write("reviews.csv", reviews(120))
    try:
        yield site
    finally:
        site.clear()


# --- cells that misbehave, natively -------------------------------------------------------------


@dataclass
class Lab:
    """The engine in this process, the cells in processes of their own."""

    site: Site
    dataset: PreparedDataset
    monkeypatch: pytest.MonkeyPatch
    told: list[Event] = field(default_factory=list)

    def majority(self, seed: int, **limits: Any) -> CellSpec:
        return cell(dataset=self.dataset, seed=seed, evaluation=QUICK, limits=Limits(**limits))

    def play(self, specs: Sequence[CellSpec], codes: dict[str, str], jobs: int = 2) -> RunFinished:
        """`codes`: by a part of the cells' names. Nothing is left of the cells afterwards."""
        self.monkeypatch.setenv("PYTHONPATH", write_site(self.site.world.folder / "site", codes))
        self.site.folder.extend(self.site.run, {}, specs)

        async def work() -> RunFinished:
            executor = NativeExecutor()
            try:
                return await carried_out(self.site.folder, executor, specs, self.told, jobs=jobs, seconds=120)
            finally:
                await executor.close()

        finished = asyncio.run(work())
        assert not self.site.processes()
        journal_is_whole(self.site)
        return finished

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]

    def failures(self) -> dict[str, tuple[FailureKind, Phase | None]]:
        """By cell, as it is written."""
        found = {}
        for event in self.of(CellFailed):
            failure = self.site.folder.failure(event.cell)
            assert failure is not None
            found[event.cell] = (failure.kind, failure.phase)
        return found


@pytest.fixture
def lab(site: Site, dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(site, dataset, monkeypatch)


def test_a_cell_that_hangs_in_any_phase_is_ended(lab: Lab) -> None:
    limited = {seed: lab.majority(seed, phase_seconds={phase: 0.5}) for seed, phase in enumerate(PHASES, start=1)}
    codes = {f"s{seed}": hang_in(phase) for seed, phase in enumerate(PHASES, start=1)}
    deaf, late, good = lab.majority(7, phase_seconds={"train": 0.5}), lab.majority(8, seconds=5.0), lab.majority(9)
    codes |= {"s7": hang_in("train", DEAF), "s8": hang_in("load")}
    finished = lab.play([*limited.values(), deaf, late, good], codes)
    assert (finished.done, finished.failed, finished.left) == (1, 8, 0)
    expected = {spec.cell: ("timeout", phase) for spec, phase in zip(limited.values(), PHASES, strict=True)}
    found = lab.failures()
    assert found.pop(late.cell)[0] == "timeout"  # wherever it was by then
    assert found == expected | {deaf.cell: ("timeout", "train")}
    assert not lab.of(CellRetried)


def test_a_holder_of_the_lease_that_hangs_is_ended_and_the_next_one_measures(lab: Lab) -> None:
    holder, other = lab.majority(1, phase_seconds={"time": 1.0}), lab.majority(2)
    granted = lab.site.folder.attempt(holder.cell, 1).folder / grant_file(1)
    waits = before("kind == 'LeaseWanted'", f"while not Path({str(granted)!r}).exists(): time.sleep(0.02)")
    finished = lab.play([holder, other], {"s1": before("kind == 'LeaseReleased'", HANG), "s2": waits})
    assert (finished.done, finished.failed) == (1, 1)
    assert lab.failures() == {holder.cell: ("timeout", "time")}
    cells = [event.cell for event in lab.of(LeaseEnded)]
    assert (cells[0], set(cells[1:])) == (holder.cell, {other.cell})


FORKS = """
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
    (folder / f"forked-{os.getpid()}").touch()
    while True: time.sleep(0.1)
"""


@linux
def test_what_a_cell_forks_does_not_outlive_it(lab: Lab) -> None:
    spec = lab.majority(1)
    assert lab.play([spec], {"s1": FORKS}).done == 1
    [attempt] = lab.site.world.attempts(lab.site.run)
    assert len(list(attempt.glob("forked-*"))) == 2


GARBAGE = """
with open(self._file.name, "ab") as garbage:
            garbage.write(b'\\xff\\x00{{{\\n{"event": "finished"}\\n{"event": "nonsense"}\\n[1, 2]\\nnull\\n')
            garbage.write(b'{"event": "lease_wanted", "window": "many"}\\n{"event": "progress", "step": 1e999}\\n')
            garbage.write(b"[" * 100_000 + b"\\n" + b"x" * 2_000_000 + b"\\n" + os.urandom(100_000) + b"\\n")
"""


def test_garbage_among_the_events_harms_nobody(lab: Lab) -> None:
    bad, good = lab.majority(1), lab.majority(2)
    finished = lab.play([bad, good], {"s1": after("kind in ('PhaseStarted', 'LeaseReleased')", GARBAGE.strip())})
    assert (finished.outcome, finished.done) == ("finished", 2)
    assert set(lab.site.finished()) == {bad.cell, good.cell}
    phases = [event.phase for event in lab.told if event.cell == bad.cell and type(event).__name__ == "PhaseStarted"]
    assert tuple(phases) == PHASES
    events = next(path for path in lab.site.world.attempts(lab.site.run) if bad.cell in str(path)) / "events.jsonl"
    assert events.stat().st_size > 10**7


def test_an_end_without_a_result_is_no_success(lab: Lab) -> None:
    bad, good = lab.majority(1), lab.majority(2)
    finished = lab.play([bad, good], {"s1": after("kind == 'PhaseStarted' and phase == 'score'", "os._exit(0)")})
    assert (finished.done, finished.failed) == (1, 1)
    assert lab.failures() == {bad.cell: ("no_result", "score")}
    assert not lab.of(CellRetried)


def slow(lab: Lab, training: TrainingSpec, limits: Limits | None = None) -> CellSpec:
    """One that trains."""
    spec = cell(
        "tiny",
        seed=2,
        dataset=lab.dataset,
        method="full",
        training=training,
        evaluation=QUICK,
        limits=limits or Limits(),
    )
    model = ModelSpec(alias="tiny", kind="scratch", name="tiny", scratch=ScratchSpec(**SCRATCH))
    return msgspec.structs.replace(spec, model=model)


# The cell that is to hold the lease asks for it when the other one can be resumed; that one goes on when it is frozen.
FIRST = "folder.name == 'attempt-001'"
WAITS = before(
    f"kind == 'LeaseWanted' and {FIRST}",
    "while not list(folder.parents[1].glob('tiny-*/*/checkpoint')): time.sleep(0.02)",
)
STAYS = after(
    "(kind, phase) == ('PhaseStarted', 'train')",
    f"while not list(folder.parents[1].glob('majority-*/*/{grant_file(1)}')): time.sleep(0.02)",
)
DIES_ONCE = before(f"kind == 'LeaseReleased' and {FIRST}", "os.kill(os.getpid(), 9)")


@linux
def test_the_others_go_on_when_a_holder_of_the_lease_is_killed(lab: Lab) -> None:
    holder, other = lab.majority(1), slow(lab, TrainingSpec(epochs=2, batch_size=8, accumulation=1))
    finished = lab.play([holder, other], {"majority": WAITS + DIES_ONCE, "tiny": STAYS})
    assert (finished.outcome, finished.done) == ("finished", 2)
    [retried] = lab.of(CellRetried)
    assert (retried.cell, retried.kind) == (holder.cell, "killed")
    windows = [event for event in lab.told if isinstance(event, LeaseGranted | LeaseEnded)]
    assert [(event.cell, event.frozen) for event in windows[:2]] == [(holder.cell, (other.cell,))] * 2
    assert isinstance(windows[1], LeaseEnded) and windows[1].reasons == ()  # it did not last until nobody waited for it
    assert [event.attempt for event in lab.of(CellStarted) if event.cell == other.cell] == [1]


# --- engines ------------------------------------------------------------------------------------


def command(site: Site, *options: str) -> tuple[str, ...]:
    return ("run", "suite.yaml", "--run", site.run, *options)


@linux
def test_an_engine_killed_while_cells_are_frozen_leaves_none_of_them(site: Site) -> None:
    site.world.write("suite.yaml", suite(["majority", TINY], [1], epochs=2))
    holds = WAITS + before("kind == 'LeaseReleased'", HANG)
    path = write_site(site.world.folder / "site", {"majority": holds, "tiny": STAYS})
    started = site.world.moodbench(*command(site, "--jobs", "2", "--detach"), PYTHONPATH=path)
    assert started.code == 0, started.err
    wait_until(lambda: site.events("lease_granted"))
    assert psutil.STATUS_STOPPED in {process.status() for process in site.cells()}
    site.kill_engine()
    site.everything_is_gone()
    assert not site.finished()
    resumed = site.world.moodbench("resume", site.run)
    assert resumed.code == 0, resumed.err
    assert len(predictions(site)) == 2
    assert [event["resumes"] for event in site.events("cell_started") if "tiny" in event["cell"]] == [False, True]
    journal_is_whole(site)


def test_of_engines_started_together_one_works(site: Site) -> None:
    site.world.write("suite.yaml", suite(["majority", TINY], [1, 2]))
    displays = [site.world.start(*command(site)) for _ in range(3)]
    outcomes = {}
    for display in displays:
        _, errors = display.communicate(timeout=300)
        outcomes[display.pid] = (display.returncode, errors)
    assert sorted(code for code, _ in outcomes.values()) == [0, 2, 2], outcomes
    refused = [errors for code, errors in outcomes.values() if code == 2]
    assert all(f"another moodbench is filling the run '{site.run}'" in errors for errors in refused)
    assert len(site.world.attempts(site.run)) == len(predictions(site)) == 4
    journal_is_whole(site)


def test_a_second_engine_is_refused_and_the_first_is_not_disturbed(site: Site) -> None:
    site.world.write("suite.yaml", suite(["majority", TINY], [1], epochs=2))
    enough = site.world.folder / "enough"
    waits = after(
        "(kind, phase) == ('PhaseStarted', 'train')", f"while not Path({str(enough)!r}).exists(): time.sleep(0.1)"
    )
    path = write_site(site.world.folder / "site", {"tiny": waits})
    assert site.world.moodbench(*command(site, "--detach"), PYTHONPATH=path).code == 0
    wait_until(lambda: "train" in site.phases().values())
    for words in (command(site), command(site, "--detach"), ("resume", site.run), ("resume", site.run, "--detach")):
        refused = site.world.moodbench(*words)
        assert (refused.code, refused.out) == (2, ""), refused.err
        assert len(refused.err.strip().splitlines()) == 2, refused.err
        assert "moodbench attach" in refused.err
    assert is_alive(site.folder)
    enough.touch()
    wait_until(lambda: not is_alive(site.folder))
    assert site.world.status(site.run)["state"] == "finished"
    assert len(site.world.attempts(site.run)) == len(predictions(site)) == 2
    journal_is_whole(site)


# --- a disk that is full ------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A file system of its own."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting needs root, and Linux")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Take what is left of the disk."""
    with path.open("ab", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC, error


def test_a_full_disk_ends_the_run_and_space_lets_it_finish(site: Site) -> None:
    site.world.write("suite.yaml", suite([TINY], [1, 2, 3], epochs=30))
    results = site.world.folder / "results"
    with small_disk(results, 80):
        words = command(site, "--jobs", "1", "--no-reuse")
        display = site.world.start(*words)
        wait_until(lambda: len(site.finished()) == 1 and site.has_saved(), 120)
        while display.poll() is None:
            fill(results / "filler")  # also what a failing cell has given back
            time.sleep(0.02)
        _, errors = display.communicate()
        assert display.returncode == 3, errors
        assert "is full" in errors
        assert "Traceback" not in errors
        site.everything_is_gone()
        kept = site.finished()
        assert kept
        (results / "filler").unlink()
        with site.folder.journal.open("ab") as journal:
            journal.write(b'{"event": "noti')  # unless what still fitted has left such a line already
        again = site.world.moodbench(*words, "--json")
        assert again.code == 0, again.err
        last = again.events[-1]
        assert (last["outcome"], last["reused"], last["done"]) == ("finished", len(kept), 3 - len(kept))
        assert len(predictions(site)) == 3
        lines = site.folder.journal.read_bytes().splitlines()
        whole = [json.loads(line) for line in lines if is_json(line)]
        assert len(lines) - len(whole) == 1
        assert sum(event.get("message", "").startswith("executor: ") for event in whole) == 2  # the first of each start


def is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


# --- memory, in a container ---------------------------------------------------------------------

EAT = """
import json, sys, time
held = []
folder = sys.argv[-1]
with open(folder + "/events.jsonl", "a") as events:
    print(json.dumps({"event": "phase_started", "phase": "train", "t": time.time(), "seq": 0}), file=events, flush=True)
while True:
    held.append(bytearray(10**6))
"""


class Greedy:
    """The real executor; a cell whose batch is larger than `enough` allocates without end in the runner's place."""

    def __init__(self, executor: DockerExecutor, enough: int) -> None:
        self._executor = executor
        self._enough = enough
        self.name, self.image_digest, self.capacity = executor.name, executor.image_digest, executor.capacity

    async def start(self, attempt: AttemptPaths, spec: CellSpec) -> Handle:
        if batches_of(spec).batch_size <= self._enough:
            return await self._executor.start(attempt, spec)
        whole = await asyncio.to_thread(self._executor.cell_container, attempt, spec)
        greedy = replace(whole, entrypoint=("python", "-c"), command=(EAT, *whole.command))
        return await self._executor.begin(greedy, attempt)


@pytest.mark.docker
@pytest.mark.parametrize(("enough", "batches"), [(2, [8, 4, 2]), (0, [8, 4, 2, 1])])
def test_a_cell_that_allocates_without_end(lab: Lab, cpu_image: BuiltImage, enough: int, batches: list[int]) -> None:
    spec = slow(lab, TrainingSpec(epochs=1, batch_size=8, accumulation=2), Limits(memory_mb=1000))
    folder = lab.site.folder
    folder.extend(lab.site.run, {}, [spec])

    async def work() -> RunFinished:
        executor = await DockerExecutor.open("cpu", folder)
        try:
            return await carried_out(folder, Greedy(executor, enough), [spec], lab.told, jobs=1, seconds=120)
        finally:
            await executor.close()

    with only_one(folder):
        finished = asyncio.run(work())
    assert not lab.site.containers()
    specs = [read(attempt / "spec.json", CellSpec) for attempt in lab.site.world.attempts(lab.site.run)]
    assert [batches_of(one).batch_size for one in specs] == batches
    assert {batches_of(one).batch_size * batches_of(one).accumulation for one in specs} == {16}
    assert {event.kind for event in lab.of(CellRetried)} == {"out_of_memory"}
    if enough:
        result = folder.result(spec.cell)
        assert finished.done == 1 and result is not None
        assert (result.effective["batch_size"].value, result.requested["batch_size"]) == (2, 8)
        assert "memory ran out" in result.effective["batch_size"].reason
    else:
        assert lab.failures() == {spec.cell: ("out_of_memory", "train")}
