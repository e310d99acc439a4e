"""A cell that is done at two places: quality is one, and no figure of the one place stands under the other's name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runner import provenance
from runner.cell import NOT_TRAINED_HERE, Cell
from runner.checkpoint import CURVE_POINTS, TrainingState, add_point
from runner.contract import (
    STATE_FILE,
    CellSpec,
    Checkpoint,
    Choice,
    CurvePoint,
    Limits,
    Memory,
    Place,
    Progress,
    Result,
    TrainingReport,
    Warned,
    checkpoint_of,
    encode,
    place_of,
    read,
)
from runner.events import EventLog
from runner.memory import PeakMeter, larger
from runner.models.load import load
from tests.runner.test_checkpoint import (
    HERE,
    THERE,
    WORDS,
    Killed,
    Steps,
    carry,
    kill_in,
    predictions,
    run,
    same,
    started,
    train,
)

MakeCell = Callable[..., CellSpec]
Read = Callable[[Path], list[Any]]
SECONDS = ("training.seconds", "training.samples_per_s", "training_time_hours")


@pytest.fixture(autouse=True)
def _nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else the machine does: no window is repeated, no warning given."""
    monkeypatch.setattr("runner.timing._foreign_limit", lambda: 2.0)


@pytest.fixture
def docker(cell_spec: MakeCell) -> CellSpec:
    return cell_spec("scratch", executor="docker", image_digest="sha256:abcdef0123456789", limits=Limits(cpus=1.5))


def complete(result: Result) -> None:
    """Each figure that is null has a reason, and no other has."""
    nulls = {name for name, value in msgspec.structs.asdict(result.summary).items() if value is None}
    memory = msgspec.structs.asdict(result.memory).items()
    nulls |= {name for name, value in memory if value is None and name.startswith("rss")}
    nulls |= {f"phases.{phase}" for phase in ("tokenize", "train", "export", "score") if phase not in result.phases}
    assert result.training is not None
    figures = {"training.seconds": result.training.seconds, "training.samples_per_s": result.training.samples_per_s}
    nulls |= {name for name, value in figures.items() if value is None}
    given = {name for name in result.reasons if name not in result.quality.metrics} if result.quality else set()
    assert given == nulls


# --- words ------------------------------------------------------------------------------------


def test_the_place_of_a_result_is_that_of_its_attempt(docker: CellSpec, tmp_path: Path) -> None:
    place = place_of(run(docker, tmp_path / "one").provenance)
    assert place == provenance.place(docker)
    assert (place.executor, place.image_digest, place.cpus) == ("docker", "sha256:abcdef0123456789", 1.5)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (THERE, "measured in an earlier attempt under docker, image abcdef012345, 2 threads, A Chip"),
        (HERE, "measured in an earlier attempt under native, 1 thread"),
        (msgspec.structs.replace(HERE, cpus=0.5, gpu_model="A Card"), "1 thread, at most 0.5 cores, A Card"),
        (None, "measured in an earlier attempt, which did not tell where"),
    ],
)
def test_what_is_said_of_a_place(place: Place | None, words: str) -> None:
    assert provenance.measured_at(place).endswith(words)


# --- cells ------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["export", "score", "time"])
def test_after_the_training_at_another_place(
    phase: str, docker: CellSpec, cell_spec: MakeCell, tmp_path: Path, events_of: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(cell_spec("scratch"), tmp_path / "whole")
    kill_in(phase, monkeypatch, docker, tmp_path / "one")
    carry(tmp_path / "one", tmp_path / "two")
    result = run(cell_spec("scratch"), tmp_path / "two")
    complete(result)
    assert "train" not in started(events_of(tmp_path / "two"))
    assert predictions(tmp_path / "two") == predictions(tmp_path / "whole")
    assert result.quality == whole.quality
    assert result.training is not None
    assert whole.training is not None
    assert same(result.training, whole.training)
    assert result.training.saving_s == 0
    assert result.phases.keys() == set(started(events_of(tmp_path / "two")))
    assert set(SECONDS) <= result.reasons.keys()
    words = "under docker, image abcdef012345, 1 thread, at most 1.5 cores"
    assert words in result.reasons["training_time_hours"]
    assert words in result.reasons["rss_peak_training_mb"]
    inference = result.reasons["memory_allocated_mb"]
    assert words in inference if phase == "time" else inference == NOT_TRAINED_HERE
    assert result.memory.rss_after_load_mb is not None
    assert result.timing is not None
    assert result.timing.cold_start_s is not None


def test_at_a_third_place_the_reason_is_still_that_of_the_first(
    docker: CellSpec, cell_spec: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_in("export", monkeypatch, docker, tmp_path / "one")
    carry(tmp_path / "one", tmp_path / "two")
    kill_in("score", monkeypatch, cell_spec("scratch"), tmp_path / "two")
    carry(tmp_path / "two", tmp_path / "three")
    third = run(cell_spec("scratch", threads=2), tmp_path / "three")
    complete(third)
    assert "under docker" in third.reasons["phases.train"]
    assert "under native, 1 thread" in third.reasons["phases.export"]
    state = checkpoint_of(cell_spec("scratch", threads=2), third, tmp_path / "three")
    assert [phase for phase, seconds in state.phases.items() if seconds is None] == ["tokenize", "train", "export"]
    assert state.place == place_of(third.provenance)
    assert SECONDS[2] not in state.reasons


def test_a_checkpoint_that_does_not_tell_its_place_is_of_another(
    cell_spec: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_in("time", monkeypatch, cell_spec("scratch"), tmp_path / "one")
    file = tmp_path / "one" / "checkpoint" / STATE_FILE
    file.write_bytes(encode(msgspec.structs.replace(read(file, Checkpoint), place=None)))
    carry(tmp_path / "one", tmp_path / "two")
    result = run(cell_spec("scratch"), tmp_path / "two")
    complete(result)
    assert "did not tell where" in result.reasons["phases.train"]


def test_what_was_trained_in_another_number_format_is_trained_again(
    cell_spec: MakeCell, tmp_path: Path, events_of: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_in("score", monkeypatch, cell_spec("scratch"), tmp_path / "one")
    file = tmp_path / "one" / "checkpoint" / STATE_FILE
    state = read(file, Checkpoint)
    choices = {**state.choices, "dtype": Choice(value="bfloat16", reason="the card computes in bf16")}
    file.write_bytes(encode(msgspec.structs.replace(state, choices=choices)))
    carry(tmp_path / "one", tmp_path / "two")
    result = run(cell_spec("scratch"), tmp_path / "two")
    complete(result)
    assert "train" in started(events_of(tmp_path / "two"))
    assert any("in bfloat16, and this device computes in float32" in warning for warning in result.warnings)
    assert result.effective["dtype"].value == "float32"


def test_a_training_is_not_gone_on_with_in_another_number_format(
    cell_spec: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        bf16 = Choice(value="bfloat16", reason="told so")
        patch.setattr("runner.subjects.devices.compute_dtype", lambda device: bf16)
        kill_in("train", monkeypatch, cell_spec("scratch"), tmp_path / "one")
    carry(tmp_path / "one", tmp_path / "two")
    result = run(cell_spec("scratch"), tmp_path / "two")
    assert any("or another number format" in warning for warning in result.warnings)


def test_warnings_of_a_place_stay_there(cell_spec: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = cell_spec("scratch", evaluation=msgspec.structs.replace(cell_spec().evaluation, batch_size=16))
    for name, cores in (("one", Choice(value=None, reason="core 99 is not there")), ("two", None)):
        (tmp_path / name).mkdir(exist_ok=True)
        with EventLog(tmp_path / name / "events.jsonl", spec.cell) as events:
            cell = Cell(spec, tmp_path / name, events, cores)
            if name == "one":
                cell._warn("this is told to later ones")
                monkeypatch.setattr(Cell, "_time", _die)
                with pytest.raises(Killed):
                    cell.run()
                monkeypatch.undo()
                carry(tmp_path / "one", tmp_path / "two")
            else:
                result = cell.run()
    assert b"core 99" in (tmp_path / "one" / "events.jsonl").read_bytes()
    assert "this is told to later ones" in result.warnings
    assert not any("core" in warning for warning in result.warnings)


def _die(*_: object) -> None:
    raise Killed


# --- training in parts ------------------------------------------------------------------------


def half(cell_spec: MakeCell, folder: Path, **changes: Any) -> TrainingState:
    """A training that was killed in front of step 4 of 6."""
    with pytest.raises(Killed):
        train(load(cell_spec("scratch"), WORDS), folder, kill_at=4, **changes)
    return read(folder / "checkpoint" / "training.json", TrainingState)


def rest(cell_spec: MakeCell, folder: Path, **changes: Any) -> tuple[TrainingReport, list[Any]]:
    report, _, events = train(load(cell_spec("scratch"), WORDS), folder, **changes)
    return report, events


def test_a_part_trained_elsewhere_leaves_no_seconds(cell_spec: MakeCell, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole, _ = rest(cell_spec, tmp_path / "whole")
    half(cell_spec, tmp_path, place=THERE)
    clock = Steps()
    report, events = rest(cell_spec, tmp_path, clock=clock)
    assert (report.seconds, report.samples_per_s) == (None, None)
    assert 0 < report.saving_s < clock.s
    assert same(report, whole)
    assert not [event for event in events if isinstance(event, Warned)]
    told = next(event for event in events if isinstance(event, Progress))
    assert told.samples_per_s is not None
    assert told.samples_per_s <= 8  # of this attempt's samples, a step's, over its own seconds
    state = read(tmp_path / "checkpoint" / "training.json", TrainingState)
    assert (state.place, state.memory) == (HERE, Memory())
    assert "under docker" in (state.elsewhere or "")
    assert rest(cell_spec, tmp_path)[0].seconds is None  # and so it stays


def test_a_cell_of_which_a_part_was_trained_elsewhere(
    docker: CellSpec, cell_spec: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(cell_spec("scratch"), tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("runner.training.Trainer._step", _mortal(4))
        with pytest.raises(Killed):
            run(docker, tmp_path / "one")
    carry(tmp_path / "one", tmp_path / "two")
    result = run(cell_spec("scratch"), tmp_path / "two")
    complete(result)
    assert predictions(tmp_path / "two") == predictions(tmp_path / "whole")
    assert {*SECONDS, "phases.train", "rss_peak_training_mb"} == result.reasons.keys() - whole.reasons.keys()
    assert result.memory.rss_peak_inference_mb is not None  # this process trained too


def _mortal(step: int) -> Any:
    from runner.training import Trainer

    real = Trainer._step

    def die_at(self: Trainer, *given: Any) -> float:
        if self._at.step + 1 == step:
            raise Killed
        return real(self, *given)

    return die_at


def test_the_peak_is_that_of_all_parts(cell_spec: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(PeakMeter, "training", lambda self: Memory(rss_peak_training_mb=5e6, device_reserved_mb=7.0))
        patch.setattr("runner.training.Trainer._step", _mortal(4))
        with pytest.raises(Killed):
            run(cell_spec("scratch"), tmp_path / "one")
    carry(tmp_path / "one", tmp_path / "two")
    memory = run(cell_spec("scratch"), tmp_path / "two").memory
    assert memory.rss_peak_training_mb == 5e6
    assert memory.rss_peak_inference_mb is not None
    assert memory.rss_peak_inference_mb < 5e6


def test_a_peak_of_one_part_alone_is_none(cell_spec: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(PeakMeter, "training", lambda self: Memory())
        patch.setattr("runner.training.Trainer._step", _mortal(4))
        with pytest.raises(Killed):
            run(cell_spec("scratch"), tmp_path / "one")
    carry(tmp_path / "one", tmp_path / "two")
    result = run(cell_spec("scratch"), tmp_path / "two")
    assert result.memory.rss_peak_training_mb is None
    assert result.reasons["rss_peak_training_mb"] == "not known of the earlier attempts at this training"


def test_the_larger_of_what_is_known_of_both() -> None:
    one = Memory(rss_peak_training_mb=3, device_peak_training_mb=1, rss_after_load_mb=1)
    other = Memory(rss_peak_training_mb=2, device_peak_training_mb=4)
    assert larger(one, other) == Memory(rss_peak_training_mb=3, device_peak_training_mb=4)


def test_saving_is_not_charged_to_training(cell_spec: MakeCell, tmp_path: Path) -> None:
    """A save takes 1,000 s here, and there are six."""
    from runner.checkpoint import TrainingStore

    clock, events = Steps(), list[Any]()

    class Slow(TrainingStore):
        def save(self, *given: Any) -> None:
            clock.s += 1000
            super().save(*given)

    report, _ = rest(cell_spec, tmp_path, clock=clock, store=Slow(tmp_path, "key", events.append))
    assert report.saving_s == pytest.approx(6000, abs=20)
    assert report.seconds is not None
    assert report.seconds < 100
    assert report.samples_per_s == report.samples_seen / report.seconds


# --- curves -----------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [1, 7, 2000, 2001, 2002, 4000, 4001, 4002, 8001, 50_000])
def test_a_curve_is_thinned_evenly(points: int) -> None:
    curve: list[CurvePoint] = []
    for number in range(1, points + 1):
        add_point(curve, CurvePoint(step=number * 3, values={}), number)
        assert len(curve) <= CURVE_POINTS
    every = next(2**power for power in range(9) if points <= 2**power * CURVE_POINTS)
    assert [point.step for point in curve] == [number * 3 for number in range(1, points + 1, every)]


def test_a_thinned_training_ends_alike_after_going_on(
    cell_spec: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.checkpoint.CURVE_POINTS", 2)
    (tmp_path / "whole").mkdir()
    whole, _ = rest(cell_spec, tmp_path / "whole")
    assert [point.step for point in whole.loss_curve] == [1, 5]
    assert [point.step for point in whole.validation_curve] == [1, 5]
    assert len(half(cell_spec, tmp_path).course.loss_curve) == 2
    assert same(rest(cell_spec, tmp_path)[0], whole)
