"""What a cell may lay in its own folder, the one place it can write: it harms that cell alone."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import journal, store
from harness.executors import Exit, Handle
from harness.executors.docker import DockerExecutor
from harness.failures import POLICIES
from harness.images import BuiltImage
from harness.journal import EventTail
from harness.leaderboard import standing_of, write_leaderboard
from harness.predictions import read_predictions
from harness.state import CellFailed, RunFinished
from harness.store import AttemptPaths, RunFolder
from runner.contract import (
    CellEvent,
    CellSpec,
    ContractError,
    Event,
    Failure,
    LeaseWanted,
    PreparedDataset,
    Progress,
    Summary,
    Warned,
    encode,
    grant_file,
    open_plain,
    write_atomic,
)
from tests.harness.builders import cell, prepared, result, write_result
from tests.harness.theatre import Attempt, Play, Theatre, success, until_stopped
from tests.survival import carried_out

if TYPE_CHECKING:
    from docker import DockerClient

NOBODY = 65532
WORDS = b"words of the host"
LABELS = (0, 1, 0, 1)
Lay = Callable[[Path, Path], None]  # at this path, with that victim


# --- what may be laid ---------------------------------------------------------------------------


def link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def dangling_link(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("new"))


def pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def folder_in_place(path: Path, _: Path) -> None:
    (path / "full").mkdir(parents=True)


def bound_socket(path: Path, _: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryDirectory() as short:
        server.bind(f"{short}/s")  # such a path may have about a hundred characters
        Path(short, "s").rename(path)


def huge(path: Path, _: Path) -> None:
    path.touch()
    os.truncate(path, 20 * 2**30)


def deep(path: Path, _: Path) -> None:
    path.write_bytes(b'{"requested":' + b"[" * 100_000)


def closed(path: Path, _: Path) -> None:
    path.write_text("{}")
    path.chmod(0)


EVERYTHING: tuple[Lay, ...] = (link, dangling_link, pipe, folder_in_place, bound_socket)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that the test owns as somebody whom permissions hold, also where the user is root."""
    folder = Path(tempfile.mkdtemp(prefix="moodbench-test-hostile-"))
    os.chown(folder, *((NOBODY, NOBODY) if os.geteuid() == 0 else (-1, -1)))
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        os.seteuid(before)
        if before != 0:
            for path in (folder, *folder.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o700)
        shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def _no_long_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is so at once."""
    for kind, policy in POLICIES.items():
        monkeypatch.setitem(POLICIES, kind, replace(policy, delay_s=0.0))


class Scene:
    """A run of three cells, of which `bad` is hostile."""

    def __init__(self, place: Path) -> None:
        self.run = RunFolder(place / "results" / "run")
        self.victim = place / "victim"
        self.victim.write_bytes(WORDS)
        self.specs = [cell(model) for model in ("good", "bad", "other")]
        self.run.extend("run", {}, self.specs)
        self.told: list[Event] = []

    def play(self, play: Play, jobs: int = 1, others: Play = success) -> RunFinished:
        theatre = Theatre(good=others, bad=play, other=others)
        return asyncio.run(carried_out(self.run, theatre, self.specs, self.told, jobs=jobs, seconds=20))

    def bad_fails(self, play: Play, jobs: int = 1, others: Play = success) -> CellFailed:
        """The run ends, the other cells finish, the victim is untouched; how `bad` failed."""
        finished = self.play(play, jobs, others)
        assert (finished.outcome, finished.done, finished.failed) == ("failed", 2, 1)
        (failed,) = [event for event in self.told if isinstance(event, CellFailed)]
        assert failed.cell == cell("bad").cell
        self.victim_is_untouched()
        return failed

    def victim_is_untouched(self) -> None:
        assert self.victim.read_bytes() == WORDS
        assert not self.victim.with_name("new").exists()

    def goes_on(self) -> None:
        """What was left keeps neither the ranking nor the next start from their work."""
        standing = standing_of(self.run)
        assert cell("bad").cell in {failure.cell for failure in standing.failures}
        finished = self.play(success)
        assert (finished.outcome, finished.done, finished.reused) == ("finished", 1, 2)
        self.victim_is_untouched()


@pytest.fixture
def scene(place: Path) -> Scene:
    return Scene(place)


# --- in place of what is read -------------------------------------------------------------------


@pytest.mark.parametrize("lay", [*EVERYTHING, huge, deep, closed])
def test_no_result(scene: Scene, lay: Lay) -> None:
    async def play(attempt: Attempt) -> Exit:
        lay(attempt.paths.result, scene.victim)
        return Exit(code=0)

    failed = scene.bad_fails(play)
    assert failed.kind == "no_result"
    assert "result.json: " in failed.message
    scene.goes_on()


@pytest.mark.parametrize("lay", [*EVERYTHING, huge, deep, closed])
def test_no_report(scene: Scene, lay: Lay) -> None:
    async def play(attempt: Attempt) -> Exit:
        lay(attempt.paths.failure, scene.victim)
        return Exit(code=1)

    failed = scene.bad_fails(play)
    assert failed.kind == "no_result"
    assert "failure.json: " in failed.message
    written = scene.run.failure(cell("bad").cell)
    assert written is not None, "the host's word takes its place"
    assert written.message == failed.message
    scene.goes_on()


@pytest.mark.parametrize("lay", EVERYTHING)
def test_no_events(scene: Scene, lay: Lay) -> None:
    async def play(attempt: Attempt) -> Exit:
        attempt.paths.events.unlink()
        lay(attempt.paths.events, scene.victim)
        attempt.succeed()  # which no longer counts
        return await until_stopped(attempt)

    failed = scene.bad_fails(play)
    assert failed.kind == "no_result"
    assert "events.jsonl: not a plain file" in failed.message
    scene.goes_on()


def test_a_result_of_another_cell(scene: Scene) -> None:
    async def play(attempt: Attempt) -> Exit:
        write_atomic(attempt.paths.result, encode(result(cell("good"))))
        return Exit(code=0)

    assert "of another cell" in scene.bad_fails(play).message
    scene.goes_on()


def test_a_report_without_end(scene: Scene) -> None:
    async def play(attempt: Attempt) -> Exit:
        report = {"cell": "good", "kind": "model", "message": "m" * 10**6, "hint": "h"}
        attempt.paths.failure.write_bytes(msgspec.json.encode(report))
        return Exit(code=1)

    failed = scene.bad_fails(play)
    assert (failed.kind, failed.message) == ("model", "m" * store.MESSAGE_CHARS)
    written = scene.run.failure(cell("bad").cell)
    assert written is not None
    assert written.cell == cell("bad").cell


def test_times_that_are_none(scene: Scene) -> None:
    async def play(attempt: Attempt) -> Exit:
        whole = result(attempt.spec)
        times = msgspec.structs.replace(whole.provenance, started=-1e308, finished=1e308)
        write_atomic(attempt.paths.result, encode(msgspec.structs.replace(whole, provenance=times)))
        return Exit(code=0)

    assert "provenance.started" in scene.bad_fails(play).message


# --- in place of what is written ----------------------------------------------------------------


def test_a_temporary_name_cannot_be_laid(scene: Scene) -> None:
    async def play(attempt: Attempt) -> Exit:
        for name in ("failure.json", "result.json", "spec.json"):
            (attempt.paths.folder / f".{name}.{os.getpid()}.tmp").symlink_to(scene.victim)
        return Exit(code=0)

    assert "without a result" in scene.bad_fails(play).message


@pytest.mark.parametrize("lay", [*EVERYTHING, closed])
@pytest.mark.parametrize("jobs", [1, 3])
def test_no_lease(scene: Scene, lay: Lay, jobs: int) -> None:
    async def play(attempt: Attempt) -> Exit:
        lay(attempt.paths.folder / grant_file(1), scene.victim)
        attempt.events.emit(LeaseWanted(window=1))
        await attempt.stopped.wait()
        return attempt.succeed()  # too late

    async def measure(attempt: Attempt) -> Exit:
        await attempt.lease()
        return attempt.succeed()

    failed = scene.bad_fails(play, jobs, measure)
    assert failed.kind == "no_result"
    assert f"{grant_file(1)}: cannot be written" in failed.message
    assert scene.run.result(cell("bad").cell) is None
    scene.goes_on()


@pytest.mark.parametrize("mode", [0o500, 0o000])
@pytest.mark.parametrize("code", [0, 1])
def test_a_folder_that_is_shut(scene: Scene, mode: int, code: int) -> None:
    async def play(attempt: Attempt) -> Exit:
        attempt.paths.folder.chmod(mode)
        return Exit(code=code)

    assert scene.bad_fails(play).kind in ("no_result", "code")
    assert scene.run.failure(cell("bad").cell) is not None
    scene.goes_on()


def test_a_result_behind_a_shut_door_does_not_count(scene: Scene) -> None:
    async def play(attempt: Attempt) -> Exit:
        exited = attempt.succeed()
        attempt.paths.folder.chmod(0)
        return exited

    assert "cannot be read" in scene.bad_fails(play).message
    assert scene.run.result(cell("bad").cell) is None
    scene.goes_on()


@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_a_folder_that_is_shut_before_the_lease(scene: Scene, mode: int) -> None:
    async def play(attempt: Attempt) -> Exit:
        attempt.events.emit(LeaseWanted(window=1))
        await asyncio.sleep(0)
        attempt.paths.folder.chmod(mode)
        return await until_stopped(attempt) if mode == 0 else await granted(attempt)

    async def granted(attempt: Attempt) -> Exit:
        while not (attempt.paths.folder / grant_file(1)).exists():
            await asyncio.sleep(0.002)
        return Exit(code=0)

    assert scene.bad_fails(play).kind == "no_result"
    scene.goes_on()


def test_a_folder_of_thousands(scene: Scene) -> None:
    async def play(attempt: Attempt) -> Exit:
        for number in range(5000):
            (attempt.paths.folder / f"attempt-{number}").touch()
        return Exit(code=0)

    scene.bad_fails(play)
    scene.goes_on()


@pytest.mark.parametrize("lay", [*EVERYTHING, huge])
def test_what_a_host_that_was_killed_left(scene: Scene, lay: Lay) -> None:
    for spec in scene.specs[::2]:
        write_result(scene.run.new_attempt(spec.cell), spec, LABELS, LABELS)
    lay(scene.run.new_attempt(cell("bad").cell).failure, scene.victim)
    assert len(standing_of(scene.run).board.rows) == 2
    scene.goes_on()


# --- events without end -------------------------------------------------------------------------


@pytest.fixture
def events(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def lines(count: int) -> bytes:
    return (msgspec.json.encode(Progress(phase="train", step=1, steps=2)) + b"\n") * count


def test_events_come_a_chunk_at_a_time(events: Path) -> None:
    events.write_bytes(lines(10_000))
    tail = EventTail(events, CellEvent)
    taken = []
    while True:
        taken.append(len(tail.read()))
        if not tail.is_behind:
            break
    assert sum(taken) == 10_000
    assert max(taken) < 10_000
    assert tail.unreadable == 0


def test_a_line_without_end_is_passed_over(events: Path) -> None:
    events.write_bytes(lines(1) + b"x" * 3 * journal.EVENT_CHUNK_BYTES)
    tail = EventTail(events, CellEvent)
    found = [tail.read() for _ in range(9)]
    assert sum(map(len, found)) == 1
    with events.open("ab") as file:
        file.write(b"\n" + lines(2))
    assert sum(len(tail.read()) for _ in range(3)) == 2
    assert tail.unreadable == 1


def test_at_some_point_it_is_enough(events: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "EVENTS_BYTES", 2**20)
    events.write_bytes(lines(100_000))
    tail = EventTail(events, CellEvent)
    found = [event for _ in range(100) for event in tail.read()]
    assert len(found) < 50_000
    assert [type(event) for event in found].count(Warned) == 1
    assert isinstance(found[-1], Warned)
    assert "of events" in found[-1].message


def test_huge_events_cost_a_warning(scene: Scene) -> None:
    async def play(attempt: Attempt) -> Exit:
        huge(attempt.paths.events, scene.victim)
        return attempt.succeed()

    finished = scene.play(play)
    assert (finished.outcome, finished.done) == ("finished", 3)
    (warned,) = [event for event in scene.told if isinstance(event, Warned)]
    assert warned.cell == cell("bad").cell


def test_events_are_those_of_their_cell(scene: Scene) -> None:
    async def play(attempt: Attempt) -> Exit:
        line = msgspec.json.encode(Warned(cell=cell("good").cell, message="of good"))
        attempt.paths.events.write_bytes(line + b"\n")
        return attempt.succeed()

    scene.play(play)
    assert [event.cell for event in scene.told if isinstance(event, Warned)] == [cell("bad").cell]


@pytest.mark.parametrize("field", [f'"step":{"9" * 400}', '"step":-1', '"step":1,"eta_s":1e308'])
def test_numbers_that_no_display_can_count_with(events: Path, field: str) -> None:
    events.write_text(f'{{"event":"progress","phase":"train","steps":2,{field}}}\n')
    tail = EventTail(events, CellEvent)
    assert (tail.read(), tail.unreadable) == ([], 1)


# --- the ranking --------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path: Path) -> PreparedDataset:
    pq.write_table(pa.table({"label": pa.array(LABELS, pa.int64())}), tmp_path / "test.parquet")
    return prepared(folder=str(tmp_path), rows=len(LABELS))


@pytest.fixture
def ranked(tmp_path: Path, dataset: PreparedDataset) -> tuple[RunFolder, AttemptPaths, CellSpec]:
    """A run of two finished cells; the attempt of the one that is to be spoilt."""
    run = RunFolder(tmp_path / "run")
    good, bad = cell("good", dataset=dataset), cell("bad", dataset=dataset)
    run.extend("run", {}, [good, bad])
    attempts = [run.new_attempt(spec.cell) for spec in (good, bad)]
    for attempt, spec in zip(attempts, (good, bad), strict=True):
        write_result(attempt, spec, LABELS, (0, 1, 1, 1))
    assert len(standing_of(run).board.rows) == 2
    return run, attempts[1], bad


def columns(label: Any, predicted: Any) -> Lay:
    def lay(path: Path, _: Path) -> None:
        pq.write_table(pa.table({"label": label, "predicted": predicted}), path)

    return lay


def two_labels(path: Path, _: Path) -> None:
    column = pa.array(LABELS)
    pq.write_table(pa.Table.from_arrays([column, column, column], ["label", "label", "predicted"]), path)


PREDICTIONS: dict[str, Lay] = {
    "shorter": columns([0, 1], [0, 1]),
    "longer": columns([0, 1] * 4, [0, 1] * 4),
    "billions": columns(pa.array(np.zeros(10**6, np.int64)), pa.array(np.zeros(10**6, np.int64))),
    "empty": columns(pa.array([], pa.int64()), pa.array([], pa.int64())),
    "text": columns(LABELS, ["a", "b", "c", "d"]),
    "floats": columns(LABELS, [0.0, 1.0, 0.0, 1.0]),
    "lists": columns(LABELS, [[0], [1], [0], [1]]),
    "nulls": columns(LABELS, [0, None, 0, 1]),
    "negative": columns(LABELS, [0, -1, 0, 1]),
    "beyond the labels": columns(LABELS, [0, 2, 0, 1]),
    "other labels": columns([1, 0, 1, 0], LABELS),
    "labels beyond": columns([0, 1, 0, 7], LABELS),
    "two columns of a name": two_labels,
    "none": lambda path, _: pq.write_table(pa.table({"x": [1]}), path),
}


@pytest.mark.parametrize("lay", [*EVERYTHING, huge, deep, *(pytest.param(PREDICTIONS[k], id=k) for k in PREDICTIONS)])
def test_predictions_that_are_none(ranked: tuple[RunFolder, AttemptPaths, CellSpec], lay: Lay, tmp_path: Path) -> None:
    run, attempt, bad = ranked
    victim = tmp_path / "victim"
    shutil.copy(attempt.predictions, victim)  # also a link to predictions is none
    attempt.predictions.unlink()
    lay(attempt.predictions, victim)
    standing = standing_of(run)
    write_leaderboard(run, standing)
    assert [row.model for row in standing.board.rows] == ["good"]
    (failure,) = standing.failures
    assert (failure.cell, failure.kind) == (bad.cell, "no_result")
    assert "predictions.parquet: " in failure.message
    assert len(failure.message) < 1000


@pytest.mark.parametrize("figure", ["accuracy", "latency_median_ms", "throughput_samples_per_sec"])
def test_figures_that_one_cannot_calculate_with(ranked: tuple[RunFolder, AttemptPaths, CellSpec], figure: str) -> None:
    run, attempt, bad = ranked
    whole = result(bad)
    summary: Summary = msgspec.structs.replace(whole.summary, **{figure: 1e308})
    write_atomic(attempt.result, encode(msgspec.structs.replace(whole, summary=summary)))
    standing = standing_of(run)
    assert [row.model for row in standing.board.rows] == ["good"]
    assert figure in standing.failures[0].message


@pytest.mark.parametrize("change", [{"label_names": tuple(map(str, range(10**5)))}, {"identity": "0" * 64}])
def test_a_result_of_other_settings(ranked: tuple[RunFolder, AttemptPaths, CellSpec], change: dict[str, Any]) -> None:
    run, attempt, bad = ranked
    write_atomic(attempt.result, encode(msgspec.structs.replace(result(bad), **change)))
    standing = standing_of(run)
    assert [row.model for row in standing.board.rows] == ["good"]
    assert "other settings" in standing.failures[0].message


def test_rows_are_counted_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    columns(LABELS, LABELS)(path, path)
    assert read_predictions(path, 2, 4, None)[1].tolist() == list(LABELS)
    with pytest.raises(ContractError, match="4 rows instead of 5"):
        read_predictions(path, 2, 5, None)


def test_the_spec_that_a_cell_rewrites_is_not_believed(
    ranked: tuple[RunFolder, AttemptPaths, CellSpec], dataset: PreparedDataset
) -> None:
    run, attempt, bad = ranked
    write_result(attempt, bad, (1, 1, 1, 1), (1, 1, 1, 1))
    attempt.spec.write_bytes(encode(bad))
    assert [row.model for row in standing_of(run).board.rows] == ["good"]


# --- the opener ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lay", [*EVERYTHING, huge])
def test_only_plain_files_are_opened(tmp_path: Path, lay: Lay) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(WORDS)
    path = tmp_path / "here"
    lay(path, victim)
    before = psutil.Process().num_fds()
    with pytest.raises(ContractError, match=r"here: (not a plain file|larger than 1 MB)"):
        open_plain(path, 2**20)
    assert psutil.Process().num_fds() == before
    with open_plain(victim, 2**20) as file:
        assert file.read() == WORDS


# --- in a container -----------------------------------------------------------------------------

HOSTILE = """
import os, pathlib
out = pathlib.Path(OUT)
for name in ("failure.json", "result.json", "log.txt"):
    (out / f".{name}.{PID}.tmp").symlink_to(VICTIM)
for name in ("events.jsonl", "log.txt"):
    (out / name).unlink(missing_ok=True)
    (out / name).symlink_to(VICTIM)
os.mkfifo(out / "failure.json")
(out / "predictions.parquet").mkdir()
for number in range(3000):
    (out / f"attempt-{number}").touch()
out.chmod(0)
"""


class Hostile:
    """The real executor; what it starts is no runner."""

    def __init__(self, executor: DockerExecutor, constants: dict[str, Any]) -> None:
        self._executor = executor
        self._constants = constants
        self.name, self.image_digest, self.capacity = executor.name, executor.image_digest, executor.capacity

    async def start(self, attempt: AttemptPaths, spec: CellSpec) -> Handle:
        if spec.model.alias != "bad":
            attempt.result.write_bytes(encode(result(spec)))
            code = "pass"
        else:
            constants = self._constants | {"OUT": str(attempt.folder)}
            code = "\n".join(f"{name} = {value!r}" for name, value in constants.items()) + HOSTILE
        container = await asyncio.to_thread(self._executor.cell_container, attempt, spec)
        return await self._executor.begin(replace(container, entrypoint=("python", "-c"), command=(code,)), attempt)


@pytest.mark.docker
def test_a_hostile_container(tmp_path: Path, docker_client: DockerClient, cpu_image: BuiltImage) -> None:
    folder = RunFolder(tmp_path / f"run-{cpu_image.digest[-6:]}")
    victim = tmp_path / "victim"
    victim.write_bytes(WORDS)
    (tmp_path / "dataset").mkdir()
    specs = [cell(model, dataset=prepared(folder=str(tmp_path / "dataset"))) for model in ("good", "bad", "other")]
    folder.extend("run", {}, specs)
    told: list[Event] = []

    async def work() -> RunFinished:
        executor = await DockerExecutor.open("cpu", folder)
        try:
            hostile = Hostile(executor, {"PID": os.getpid(), "VICTIM": str(victim)})
            return await carried_out(folder, hostile, specs, told, jobs=2, seconds=120)
        finally:
            await executor.close()

    finished = asyncio.run(work())
    assert (finished.outcome, finished.done, finished.failed) == ("failed", 2, 1)
    (failed,) = [event for event in told if isinstance(event, CellFailed)]
    assert failed.kind == "no_result"
    assert victim.read_bytes() == WORDS
    assert folder.failure(specs[1].cell) is not None
    assert len(standing_of(folder).failures) == 3  # the good ones have no predictions


def test_a_cell_cannot_blame_the_engine(scene: Scene) -> None:
    """What is no cell's fault counts as not run, so only the executor may say it: this one fails."""

    async def play(attempt: Attempt) -> Exit:
        failure = Failure(cell=attempt.spec.cell, kind="engine_gone", message="not me", hint="", t=1.0)
        attempt.paths.failure.write_bytes(encode(failure))
        return Exit(code=1)

    assert scene.bad_fails(play).kind == "engine_gone"
    scene.goes_on()
