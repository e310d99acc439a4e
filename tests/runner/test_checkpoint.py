"""Going on after an end at any moment: the same course, the same predictions byte for byte, never a wrong result."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from runner import __main__ as program
from runner import checkpoint as checkpoints
from runner.cell import Cell
from runner.checkpoint import TrainingStore
from runner.contract import (
    PHASES,
    CellSpec,
    Checkpoint,
    Fallback,
    LoraSpec,
    Memory,
    Metrics,
    ModelSpec,
    PhaseStarted,
    Place,
    Progress,
    Result,
    TrainingReport,
    TrainingSpec,
    Warned,
    checkpoint_of,
    digests,
    encode,
    read,
)
from runner.events import EventLog
from runner.models.load import LoadedModel, load
from runner.training import Trainer
from tests.runner.models.small_models import Checkpoint as MakeFolder
from tests.runner.models.small_models import MakeSpec
from tests.runner.test_training import predictor, toy

MakeCell = Callable[..., CellSpec]
Read = Callable[[Path], list[Any]]
WORDS = [f"word{number} other" for number in range(30)]
SPEC = TrainingSpec(epochs=2, batch_size=4, accumulation=2, learning_rate=5e-3, patience=50)  # 6 steps, all evaluated
HERE = Place(executor="native", threads=1)
THERE = Place(executor="docker", image_digest="sha256:abcdef0123456789", threads=2, cpu_model="A Chip")
SPARSE = msgspec.structs.replace(SPEC, epochs=4, batch_size=2, accumulation=1)  # 48 steps, evaluated every 4


@pytest.fixture(autouse=True)
def _nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else the machine does: no window is repeated, no warning given."""
    monkeypatch.setattr("runner.timing._foreign_limit", lambda: 2.0)


class Killed(BaseException):
    """As SIGKILL: nobody catches it."""


# --- training ---------------------------------------------------------------------------------


@pytest.fixture(params=["full", "lora", "frozen"])
def fresh(
    request: pytest.FixtureRequest, cell_spec: MakeCell, make_spec: MakeSpec, checkpoint: MakeFolder
) -> Callable[[], LoadedModel]:
    """A model as a new process has it, with dropout."""

    def make() -> LoadedModel:
        spec = cell_spec("scratch") if request.param == "full" else make_spec(checkpoint("bert"), request.param)
        loaded = load(spec, WORDS)
        assert any(isinstance(module, nn.Dropout) and module.p > 0 for module in loaded.model.modules())
        return loaded

    return make


class Steps:
    """The clock: a second at each look. Kills in front of an optimiser step, if one is named."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at, self.s = kill_at, 0.0
        self.done: list[int] = []

    def __call__(self) -> float:
        self.s += 1
        return self.s


def train(
    loaded: LoadedModel, folder: Path, spec: TrainingSpec = SPEC, kill_at: int | None = None, **changes: Any
) -> tuple[TrainingReport, bytes, list[Any]]:
    """Report, predictions and events of one attempt in this folder."""
    events: list[Any] = []
    settings: dict[str, Any] = {
        "train": toy(),
        "validation": toy(12, seed=1),
        "seed": 42,
        "device": "cpu",
        "dtype": "float32",
        "store": TrainingStore(folder, "key", lambda message: events.append(Warned(message=message))),
        "place": HERE,
        "peaks": Memory,
        "predict": predictor(loaded),
        "emit": events.append,
        "clock": Steps(),
    }

    class Mortal(Trainer):
        def _step(self, *given: Any) -> float:
            if self._at.step + 1 == kill_at:
                raise Killed
            return super()._step(*given)

    report = Mortal(loaded=loaded, spec=spec, **(settings | changes)).run()
    return report, predictor(loaded)(toy().input_ids).tobytes(), events


def same(report: TrainingReport, other: TrainingReport) -> bool:
    """All but the seconds."""
    none: dict[str, Any] = {"seconds": None, "samples_per_s": None, "saving_s": 0.0}
    return msgspec.structs.replace(report, **none) == msgspec.structs.replace(other, **none)


@pytest.mark.parametrize("kills", [(2,), (4,), (6,), (3, 5), (1, 2, 2)], ids=str)
def test_a_killed_training_ends_as_an_undisturbed_one(
    kills: tuple[int, ...], fresh: Callable[[], LoadedModel], tmp_path: Path
) -> None:
    """Also when killed right after an evaluation: each of these steps is followed by one."""
    (tmp_path / "whole").mkdir()
    report, probabilities, _ = train(fresh(), tmp_path / "whole")
    for kill_at in kills:
        with pytest.raises(Killed):
            train(fresh(), tmp_path, kill_at=kill_at)
    again, found, events = train(fresh(), tmp_path)
    assert found == probabilities
    assert same(again, report)
    assert [event.step for event in events if isinstance(event, Metrics)] == list(range(kills[-1], 7))
    assert not [event for event in events if isinstance(event, Warned)]


@pytest.mark.parametrize("kill_at", [3, 7, 18, 48])
def test_between_evaluations_too(
    kill_at: int, cell_spec: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock runs a second at each look: saving is due after three steps or so."""
    (tmp_path / "whole").mkdir()
    spec = cell_spec("scratch")
    report, probabilities, _ = train(load(spec, WORDS), tmp_path / "whole", SPARSE)
    monkeypatch.setattr("runner.training.SAVE_EVERY_S", 3.0)
    monkeypatch.setattr("runner.training.SAVE_PAUSE", 0)
    with pytest.raises(Killed):
        train(load(spec, WORDS), tmp_path, SPARSE, kill_at)
    again, found, events = train(load(spec, WORDS), tmp_path, SPARSE)
    assert found == probabilities
    assert same(again, report)
    first = next(event.step for event in events if isinstance(event, Progress))
    assert kill_at - 3 < first <= kill_at


@pytest.mark.parametrize(("pause", "saves"), [(0, 12 + 11), (1000, 12)])
def test_saving_takes_no_more_than_its_share(
    pause: int, saves: int, cell_spec: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """48 steps, 12 evaluations; a step takes ten seconds of this clock and a save one, which is due after 30 s."""
    clock = Steps()
    real = Trainer._step
    monkeypatch.setattr(
        Trainer, "_step", lambda self, *given: (setattr(clock, "s", clock.s + 10), real(self, *given))[1]
    )
    monkeypatch.setattr("runner.training.SAVE_PAUSE", pause)
    count: list[int] = []
    save = TrainingStore.save
    monkeypatch.setattr(TrainingStore, "save", lambda self, *given: (count.append(1), save(self, *given))[1])
    train(load(cell_spec("scratch"), WORDS), tmp_path, SPARSE, clock=clock)
    assert len(count) == pytest.approx(saves, abs=1)


def test_early_stopping_is_remembered(cell_spec: MakeCell, tmp_path: Path) -> None:
    """Killed after the evaluation that ends training, before anyone was told: it trains not one step more."""
    spec = msgspec.structs.replace(SPARSE, learning_rate=1e-9, patience=2)
    (tmp_path / "whole").mkdir()
    report, probabilities, _ = train(load(cell_spec("scratch"), WORDS), tmp_path / "whole", spec)
    assert report.stopped_early
    assert report.best_step != report.steps
    again, found, events = train(load(cell_spec("scratch"), WORDS), tmp_path / "whole", spec, kill_at=report.steps + 1)
    assert (found, events) == (probabilities, [])
    assert same(again, report)
    with pytest.raises(Killed):
        train(load(cell_spec("scratch"), WORDS), tmp_path, spec, kill_at=report.steps - 1)
    again, found, _ = train(load(cell_spec("scratch"), WORDS), tmp_path, spec)
    assert found == probabilities
    assert same(again, report)


def test_an_fp16_scaler_goes_on_from_its_scale(
    cell_spec: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scalers: list[Any] = []
    make = lambda dtype: scalers.append(torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)) or scalers[-1]  # noqa: E731
    monkeypatch.setattr("runner.training.devices.grad_scaler", make)
    (tmp_path / "whole").mkdir()
    _, probabilities, _ = train(load(cell_spec("scratch"), WORDS), tmp_path / "whole")
    with pytest.raises(Killed):
        train(load(cell_spec("scratch"), WORDS), tmp_path, kill_at=4)
    _, found, _ = train(load(cell_spec("scratch"), WORDS), tmp_path)
    assert found == probabilities
    assert scalers[2].get_scale() == scalers[0].get_scale() == 64.0


def test_seconds_are_those_of_all_attempts(cell_spec: MakeCell, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(load(cell_spec("scratch"), WORDS), tmp_path, kill_at=4)
    state = read(tmp_path / "checkpoint" / "training.json", checkpoints.TrainingState)
    clock = Steps()
    report, _, _ = train(load(cell_spec("scratch"), WORDS), tmp_path, clock=clock)
    assert state.seconds > 5
    assert report.seconds is not None
    assert report.seconds + report.saving_s == state.seconds + state.saving_s + clock.s - 1
    assert report.samples_per_s == report.samples_seen / report.seconds


# Where a save can end: before or after a tensor file has its name, before or after training.json has its own.
MOMENTS = ("replace", "replaced", "write_atomic", "written", "_sweep")


@pytest.mark.parametrize(("moment", "call"), list(itertools.product(MOMENTS, [1, 4])))
def test_an_end_while_saving_leaves_the_old_state_or_the_new(
    moment: str, call: int, cell_spec: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole").mkdir()
    report, probabilities, _ = train(load(cell_spec("scratch"), WORDS), tmp_path / "whole")
    calls = itertools.count(1)

    def dying(real: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
        def call_or_die(*given: Any) -> Any:
            dies = next(calls) == call
            if dies and not after:
                raise Killed
            answer = real(*given)
            if dies:
                raise Killed
            return answer

        return call_or_die

    with monkeypatch.context() as patch:
        if moment.startswith("replace"):
            patch.setattr(Path, "replace", dying(Path.replace, after=moment == "replaced"))
        elif moment == "_sweep":
            patch.setattr(checkpoints, "_sweep", dying(checkpoints._sweep, after=False))
        else:
            patch.setattr(checkpoints, "write_atomic", dying(checkpoints.write_atomic, after=moment == "written"))
        with pytest.raises(Killed):
            train(load(cell_spec("scratch"), WORDS), tmp_path)
    again, found, events = train(load(cell_spec("scratch"), WORDS), tmp_path)
    assert found == probabilities
    assert same(again, report)
    assert not [event for event in events if isinstance(event, Warned)]
    assert len(list((tmp_path / "checkpoint").iterdir())) <= 4  # nothing is left lying about


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _other_shape(path: Path) -> None:
    """Whole, and told with its digest, but of another model."""
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(3)}, path)
    file = path.with_name("training.json")
    state = read(file, checkpoints.TrainingState)
    file.write_bytes(encode(msgspec.structs.replace(state, files={**state.files, **digests(path.parent, [path.name])})))


TENSORS = ("weights", "optimizer")


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("training.json", _cut),
        ("training.json", Path.unlink),
        ("training.json", _folder),
        *itertools.product(TENSORS, (_cut, _flip, Path.unlink)),
        ("weights", _other_shape),
    ],
)
def test_what_is_damaged_is_not_used(
    file: str, damage: Callable[[Path], None], cell_spec: MakeCell, tmp_path: Path
) -> None:
    (tmp_path / "whole").mkdir()
    report, probabilities, _ = train(load(cell_spec("scratch"), WORDS), tmp_path / "whole")
    with pytest.raises(Killed):
        train(load(cell_spec("scratch"), WORDS), tmp_path, kill_at=4)
    damage(max((tmp_path / "checkpoint").glob(f"{file}*")))
    again, found, events = train(load(cell_spec("scratch"), WORDS), tmp_path)
    assert found == probabilities
    assert same(again, report)
    warned = [event.message for event in events if isinstance(event, Warned)]
    assert len(warned) == (0 if (damage, file) == (Path.unlink, "training.json") else 1)
    assert all("training starts over" in message for message in warned)


def test_another_key_starts_over(cell_spec: MakeCell, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(load(cell_spec("scratch"), WORDS), tmp_path, kill_at=4)
    told: list[str] = []
    store = TrainingStore(tmp_path, "another", told.append)
    _, _, events = train(load(cell_spec("scratch"), WORDS), tmp_path, store=store)
    assert "another cell's" in told[0]
    assert [event.step for event in events if isinstance(event, Metrics)] == [1, 2, 3, 4, 5, 6]


# --- cells ------------------------------------------------------------------------------------


@pytest.fixture(params=["scratch", "full", "lora", "frozen"])
def spec(request: pytest.FixtureRequest, cell_spec: MakeCell, checkpoint: MakeFolder) -> CellSpec:
    if request.param == "scratch":
        return cell_spec("scratch")
    return _pretrained(cell_spec, checkpoint, request.param)


def _pretrained(cell_spec: MakeCell, checkpoint: MakeFolder, method: str, **changes: Any) -> CellSpec:
    folder = str(checkpoint("bert"))
    model = ModelSpec(alias="Bert", kind="path", name=folder, folder=folder)
    lora = LoraSpec(rank=2, alpha=4, dropout=0.1) if method == "lora" else None
    return cell_spec("scratch", model=model, method=method, lora=lora, **changes)


def run(spec: CellSpec, folder: Path) -> Result:
    folder.mkdir(exist_ok=True)
    with EventLog(folder / "events.jsonl", spec.cell) as events:
        return Cell(spec, folder, events).run()


def carry(old: Path, new: Path) -> None:
    """As the host does before a new attempt."""
    new.mkdir()
    for name in ("checkpoint", "adapter", "predictions.parquet"):
        if (old / name).exists():
            (old / name).rename(new / name)


def kill_in(phase: str, monkeypatch: pytest.MonkeyPatch, spec: CellSpec, folder: Path) -> None:
    """An attempt that ends when this phase has done its work, before anyone is told."""
    verb = {"export": "_export", "score": "_score", "train": "_train", "time": "_time"}[phase]
    real = getattr(Cell, verb)

    def die(self: Cell, *given: Any) -> None:
        real(self, *given)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Cell, verb, die)
        with pytest.raises(Killed):
            run(spec, folder)


def started(events: list[Any]) -> list[str]:
    return [event.phase for event in events if isinstance(event, PhaseStarted)]


def predictions(folder: Path) -> bytes:
    return (folder / "predictions.parquet").read_bytes()


@pytest.mark.parametrize(
    ("phase", "again"),
    [
        ("train", ["load", "tokenize", "train", "export", "score", "time"]),
        ("export", ["load", "export", "score", "time"]),
        ("score", ["load", "score", "time"]),
        ("time", ["load", "time"]),
    ],
)
def test_phases_that_were_complete_are_not_done_again(
    phase: str, again: list[str], spec: CellSpec, tmp_path: Path, events_of: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(spec, tmp_path / "whole")
    kill_in(phase, monkeypatch, spec, tmp_path / "one")
    carry(tmp_path / "one", tmp_path / "two")
    result = run(spec, tmp_path / "two")
    assert started(events_of(tmp_path / "two")) == again
    assert predictions(tmp_path / "two") == predictions(tmp_path / "whole")
    assert (result.quality, result.effective, result.warnings) == (whole.quality, whole.effective, whole.warnings)
    assert result.training is not None
    assert whole.training is not None
    assert same(result.training, whole.training)
    assert tuple(result.phases) == PHASES
    assert result.phases["train"] >= (result.training.seconds or 0) + result.training.saving_s > 0
    assert (result.parameters_total, result.parameters_trainable) == (
        whole.parameters_total,
        whole.parameters_trainable,
    )
    unknown = {"rss_before_inference_mb", "rss_peak_inference_mb", "memory_allocated_mb"} if phase != "time" else set()
    assert result.reasons.keys() == whole.reasons.keys() | unknown
    assert {name for name, value in msgspec.structs.asdict(result.memory).items() if value is not None} == {
        name
        for name, value in msgspec.structs.asdict(whole.memory).items()
        if value is not None and name not in unknown
    }
    assert {path.name for path in (tmp_path / "two").iterdir()} == {
        path.name for path in (tmp_path / "whole").iterdir()
    }
    for name in ("adapter_model.safetensors", "model.safetensors"):
        if (file := tmp_path / "whole" / "adapter" / name).exists():
            assert (tmp_path / "two" / "adapter" / name).read_bytes() == file.read_bytes()


def test_scoring_with_the_adapter_that_was_exported_gives_the_same_predictions(
    spec: CellSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(spec, tmp_path / "whole")
    kill_in("score", monkeypatch, spec, tmp_path / "one")
    assert not list((tmp_path / "one" / "checkpoint").glob("weights*"))  # the adapter is all there is
    (tmp_path / "one" / "predictions.parquet").unlink()
    carry(tmp_path / "one", tmp_path / "two")
    run(spec, tmp_path / "two")
    assert predictions(tmp_path / "two") == predictions(tmp_path / "whole")


def test_the_cold_start_and_memory_are_those_of_the_first_attempt(
    cell_spec: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_in("time", monkeypatch, cell_spec("scratch"), tmp_path / "one")
    state = read(tmp_path / "one" / "checkpoint" / "state.json", Checkpoint)
    carry(tmp_path / "one", tmp_path / "two")
    result = run(cell_spec("scratch"), tmp_path / "two")
    assert result.timing is not None
    assert result.timing.cold_start_s == state.cold_start_s
    assert result.memory == state.memory
    assert result.memory.rss_peak_training_mb is not None
    assert {phase: s for phase, s in result.phases.items() if phase not in ("load", "time")} == {
        phase: s for phase, s in state.phases.items() if phase != "load"
    }


FALLBACK = Fallback(batch_size=4, accumulation=4, reason="memory ran out")


@pytest.mark.parametrize(
    ("changes", "again", "words"),
    [
        ({"identity": "2e"}, PHASES, "another cell's"),
        ({"runner_version": "1"}, PHASES, "another version's"),
        ({"fallback": FALLBACK}, PHASES, "8 x 2 instead of 4 x 4"),
        (
            {"fallback": Fallback(evaluation_batch_size=4, reason="memory ran out")},
            ("load", "score", "time"),
            "scored, with another batch size",
        ),
    ],
)
def test_what_belongs_to_other_settings_is_not_used(
    changes: dict[str, Any],
    again: tuple[str, ...],
    words: str,
    cell_spec: MakeCell,
    tmp_path: Path,
    events_of: Read,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kill_in("time", monkeypatch, cell_spec("scratch"), tmp_path / "one")
    carry(tmp_path / "one", tmp_path / "two")
    result = run(cell_spec("scratch", **changes), tmp_path / "two")
    run(cell_spec("scratch", **changes), tmp_path / "whole")
    assert tuple(started(events_of(tmp_path / "two"))) == again
    assert predictions(tmp_path / "two") == predictions(tmp_path / "whole")
    assert [words in warning for warning in result.warnings if "stopped early" not in warning] == [True]
    told = {event.message for event in events_of(tmp_path / "two") if isinstance(event, Warned)}
    assert {warning for warning in result.warnings if "stopped early" not in warning} <= told


def _other_key(path: Path) -> None:
    path.write_text('{"surprise": 1}')


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


@pytest.mark.parametrize("damage", [_cut, _flip, Path.unlink, _folder, _link], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("file", "again"),
    [
        ("checkpoint/state.json", PHASES),
        ("adapter/model.safetensors", PHASES),
        ("adapter/tokenizer.json", PHASES),
        ("predictions.parquet", ("load", "score", "time")),
    ],
)
def test_damaged_files_of_an_earlier_attempt(
    file: str,
    again: tuple[str, ...],
    damage: Callable[[Path], None],
    cell_spec: MakeCell,
    tmp_path: Path,
    events_of: Read,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if (damage, file) == (_flip, "checkpoint/state.json"):
        damage = _other_key
    spec = cell_spec("scratch")
    run(spec, tmp_path / "whole")
    kill_in("time", monkeypatch, spec, tmp_path / "one")
    carry(tmp_path / "one", tmp_path / "two")
    damage(tmp_path / "two" / file)
    if file == "predictions.parquet" and damage is _folder:
        shutil.rmtree(tmp_path / "two" / file)  # an attempt's folder is never made with one
    result = run(spec, tmp_path / "two")
    assert tuple(started(events_of(tmp_path / "two"))) == again
    assert predictions(tmp_path / "two") == predictions(tmp_path / "whole")
    found = [warning for warning in result.warnings if "stopped early" not in warning]
    assert len(found) == (0 if (damage, file) == (Path.unlink, "checkpoint/state.json") else 1)
    assert not (tmp_path / "two" / "checkpoint").exists()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_checkpoint_that_is_no_folder_is_put_away(kind: str, cell_spec: MakeCell, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "out" / "checkpoint"
    path.write_text("x") if kind == "file" else path.symlink_to(tmp_path / "elsewhere")
    run(cell_spec("scratch", phases=("train", "score")), tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_an_adapter_that_cannot_be_loaded_is_trained_again(
    cell_spec: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digests are right: it was handed over like that."""
    spec = cell_spec("scratch")
    whole = run(spec, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "two", ignore=shutil.ignore_patterns("*.json*", "checkpoint"))
    shutil.copytree(tmp_path / "whole" / "adapter", tmp_path / "two" / "adapter", dirs_exist_ok=True)
    (tmp_path / "two" / "adapter" / "model.safetensors").write_bytes(b"garbage")
    (tmp_path / "two" / "checkpoint").mkdir()
    (tmp_path / "two" / "checkpoint" / "state.json").write_bytes(encode(checkpoint_of(spec, whole, tmp_path / "two")))
    result = run(spec, tmp_path / "two")
    assert any("trained again" in warning for warning in result.warnings)
    assert predictions(tmp_path / "two") == predictions(tmp_path / "whole")


def test_a_finished_result_handed_over_is_only_timed(spec: CellSpec, tmp_path: Path, events_of: Read) -> None:
    """The cold start is measured anew, it belongs to the machine; the other place's seconds and memory are left out."""
    finished = run(spec, tmp_path / "one")
    (tmp_path / "two").mkdir()
    for name in ("adapter", "predictions.parquet"):
        (tmp_path / "one" / name).rename(tmp_path / "two" / name)
    before = predictions(tmp_path / "two")
    state = checkpoint_of(spec, finished, tmp_path / "two")
    (tmp_path / "two" / "checkpoint").mkdir()
    (tmp_path / "two" / "checkpoint" / "state.json").write_bytes(encode(state))
    result = run(msgspec.structs.replace(spec, executor="docker"), tmp_path / "two")
    assert started(events_of(tmp_path / "two")) == ["load", "time"]
    assert predictions(tmp_path / "two") == before
    assert (result.quality, result.warnings) == (finished.quality, finished.warnings)
    assert result.training is not None
    assert finished.training is not None
    assert same(result.training, finished.training)
    assert (result.training.seconds, result.training.samples_per_s) == (None, None)
    assert result.phases.keys() == {"load", "time"}
    assert result.effective["executor"].value == "docker"
    assert result.timing is not None
    assert finished.timing is not None
    assert result.timing.cold_start_s != finished.timing.cold_start_s
    assert result.timing.merged == finished.timing.merged
    assert not (tmp_path / "two" / "checkpoint").exists()


def test_a_baseline_keeps_nothing_and_starts_over(cell_spec: MakeCell, tmp_path: Path, events_of: Read) -> None:
    finished = run(cell_spec("tfidf-logreg"), tmp_path / "one")
    (tmp_path / "two" / "checkpoint").mkdir(parents=True)
    state = checkpoint_of(cell_spec("tfidf-logreg"), finished, tmp_path / "one")
    (tmp_path / "two" / "checkpoint" / "state.json").write_bytes(encode(state))
    result = run(cell_spec("tfidf-logreg"), tmp_path / "two")
    assert tuple(started(events_of(tmp_path / "two"))) == PHASES
    assert predictions(tmp_path / "two") == predictions(tmp_path / "one")
    assert result.warnings == ()
    assert not (tmp_path / "two" / "checkpoint").exists()


# --- the real thing ---------------------------------------------------------------------------


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[[CellSpec, str], subprocess.Popen[bytes]]]:
    """child(spec, name): a process that runs an attempt in this folder."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(spec: CellSpec, name: str) -> subprocess.Popen[bytes]:
        (tmp_path / "spec.json").write_bytes(encode(spec))
        command = [sys.executable, "-P", "-m", "runner", "run", str(tmp_path / "spec.json"), "--out"]
        source = str(Path(program.__file__).parents[1])
        environment = {"PYTHONPATH": source, "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        process = subprocess.Popen([*command, str(tmp_path / name)], cwd=tmp_path, env=environment)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_sigkill_twice(
    child: Callable[[CellSpec, str], subprocess.Popen[bytes]], cell_spec: MakeCell, tmp_path: Path, events_of: Read
) -> None:
    training = msgspec.structs.replace(cell_spec().training, epochs=12, patience=1000)
    spec = cell_spec("scratch", training=training, phases=PHASES[:-1])
    assert child(spec, "whole").wait(timeout=300) == 0
    for number, evaluations in ((1, 5), (2, 9)):
        process = child(spec, f"a{number}")
        seen = 0
        while seen < evaluations and process.poll() is None:
            time.sleep(0.002)
            events = tmp_path / f"a{number}" / "events.jsonl"
            seen = events.read_bytes().count(b'"metrics"') if events.exists() else 0
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
        carry(tmp_path / f"a{number}", tmp_path / f"a{number + 1}")
    assert child(spec, "a3").wait(timeout=300) == 0
    assert predictions(tmp_path / "a3") == predictions(tmp_path / "whole")
    whole, result = (read(tmp_path / name / "result.json", Result) for name in ("whole", "a3"))
    assert result.training is not None
    assert whole.training is not None
    assert same(result.training, whole.training)
    first = next(event for event in events_of(tmp_path / "a3") if isinstance(event, Progress))
    assert first.step > 10
