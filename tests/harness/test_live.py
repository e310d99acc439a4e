from __future__ import annotations

from pathlib import Path

import pytest

from harness import evidence
from harness.evidence import gather
from harness.leaderboard import Standing, ranked
from harness.live import LiveBoard
from harness.state import CellFailed, CellFinished, PlannedCell, RunStarted
from harness.store import RunFolder
from runner.contract import CellSpec, Event, Failure, encode, write_atomic
from tests.harness.builders import cell, prepared, summary, write_result

LABELS = (0, 1) * 20
DATASET = prepared(rows=len(LABELS))
SPECS = [cell(model, seed, DATASET) for model in ("a", "b") for seed in (1, 2)]


class Scene:
    """A run whose cells end when the test says so."""

    def __init__(self, folder: Path) -> None:
        self.run = RunFolder(folder)
        self.run.extend("run", {}, SPECS)
        self.tell(RunStarted(run="run", suite="s", folder=str(folder), jobs=1, cells=()))
        self.live = LiveBoard(self.run)

    def tell(self, *events: Event) -> None:
        with self.run.journal.open("ab") as file:
            for event in events:
                file.write(encode(event).replace(b"\n", b"") + b"\n")

    def finish(self, spec: CellSpec) -> None:
        write_result(self.run.new_attempt(spec.cell), spec, LABELS, LABELS[::-1])
        self.tell(CellFinished(cell=spec.cell, summary=summary(), seconds=1.0))

    def fail(self, spec: CellSpec) -> None:
        failure = Failure(cell=spec.cell, kind="model", message="no", hint="yes")
        write_atomic(self.run.new_attempt(spec.cell).failure, encode(failure))
        self.tell(CellFailed(cell=spec.cell, kind="model", message="no", hint="yes"))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "run")


def afresh(run: RunFolder) -> Standing:
    return ranked(gather(run))


def counts(standing: Standing | None) -> tuple[int, int, int]:
    assert standing is not None
    return sum(len(row.seeds) for row in standing.board.rows), len(standing.failures), standing.missing


def test_it_follows_the_run_to_the_same_board(scene: Scene) -> None:
    assert counts(scene.live.refresh()) == (0, 0, 4)
    assert scene.live.refresh() is None
    for number, spec in enumerate(SPECS, 1):
        scene.finish(spec)
        standing = scene.live.refresh()
        assert counts(standing) == (number, 0, 4 - number)
        assert standing == afresh(scene.run)
    assert scene.live.refresh() is None


def test_a_cell_that_failed_and_then_did_not(scene: Scene) -> None:
    scene.live.refresh()
    scene.fail(SPECS[0])
    assert counts(scene.live.refresh()) == (0, 1, 3)
    scene.finish(SPECS[0])
    assert counts(scene.live.refresh()) == (1, 0, 3)


def test_what_was_finished_before_is_there_at_once(scene: Scene) -> None:
    for spec in SPECS[:2]:
        scene.finish(spec)
    assert counts(LiveBoard(scene.run).refresh()) == (2, 0, 2)


def test_only_cells_that_ended_are_read(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    for spec in SPECS[:2]:
        scene.finish(spec)
    scene.live.refresh()
    read: list[str] = []
    real = evidence.checked_result
    monkeypatch.setattr(evidence, "checked_result", lambda entry, one: read.append(entry.cell) or real(entry, one))
    scene.finish(SPECS[2])
    scene.live.refresh()
    assert read == [SPECS[2].cell]


def test_a_run_that_is_extended(scene: Scene) -> None:
    scene.finish(SPECS[0])
    scene.live.refresh()
    more = cell("c", 1, DATASET)
    scene.run.extend("run", {}, [more])
    planned = PlannedCell(cell=more.cell, model="c", dataset="reviews", method="none", seed=1, device="cpu")
    scene.tell(RunStarted(run="run", suite="s", folder="x", jobs=1, cells=(planned,)))
    assert counts(scene.live.refresh()) == (1, 0, 4)
    scene.finish(more)
    assert counts(scene.live.refresh()) == (2, 0, 3)


def test_a_cell_of_other_settings_takes_its_predecessors_place(scene: Scene) -> None:
    scene.finish(SPECS[0])
    scene.live.refresh()
    changed = cell("a", 1, DATASET, runner_version="9")
    assert changed.cell != SPECS[0].cell
    scene.run.extend("run", {}, [changed])
    scene.tell(RunStarted(run="run", suite="s", folder="x", jobs=1, cells=()))
    assert counts(scene.live.refresh()) == (0, 0, 4)
    scene.finish(changed)
    assert scene.live.refresh() == afresh(scene.run)
