"""What an attempt leaves for a later one: the phases it has completed, and how far its training has come.

checkpoint/state.json                      a `Checkpoint`, after each phase
checkpoint/training.json                   a `TrainingState`, which names
checkpoint/{weights,optimizer}-STEP.safetensors

Each file is written under another name, fsynced and renamed, and what it replaces is removed only afterwards: an end at
any moment leaves the old state or the new one. Nothing is used whose digest is another; nothing is unpickled.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from runner.contract import (
    ADAPTER_FOLDER,
    CHECKPOINT_FOLDER,
    PREDICTIONS_FILE,
    SCHEMA_VERSION,
    STATE_FILE,
    Base,
    Batches,
    CellSpec,
    Checkpoint,
    ContractError,
    Count,
    CurvePoint,
    Memory,
    Phase,
    Place,
    batches_of,
    digests,
    phase_reason,
    read,
    write_atomic,
)
from runner.provenance import measured_at

if TYPE_CHECKING:
    import torch

TRAINING_FILE = "training.json"
CURVE_POINTS = 2_000
AFTER_TRAINING: tuple[Phase, ...] = ("train", "export", "score")
AFTER_LOAD = ("rss_after_load_mb", "device_allocated_after_load_mb")  # measured by every attempt that has none
TRAINING_SECONDS = ("training.seconds", "training.samples_per_s")  # in `Result.reasons`


# --- phases -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What of an earlier attempt can be relied on. Where `train` is among its phases, either `adapter` or `weights`
    holds what training made."""

    state: Checkpoint
    adapter: Path | None = None
    weights: Path | None = None
    notes: tuple[str, ...] = ()  # sentences: what was there and is not used


def nothing(spec: CellSpec, place: Place) -> Found:
    """The cell starts at its beginning."""
    return Found(
        Checkpoint(
            identity=spec.identity,
            runner_version=spec.runner_version,
            batches=batches_of(spec),
            place=place,
            phases={},
            files={},
        )
    )


def find(spec: CellSpec, out: Path, place: Place) -> Found:
    """What lies in this attempt's folder, verified. Whatever it is, the cell can go on from the answer: of another
    place's figures there are none in it."""
    blank = nothing(spec, place).state
    folder = out / CHECKPOINT_FOLDER
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        folder.unlink()
    try:
        state = read(folder / STATE_FILE, Checkpoint)
    except FileNotFoundError:
        return Found(blank)
    except (ContractError, OSError) as error:
        _discard(folder / STATE_FILE)
        return Found(blank, notes=(f"what an earlier attempt had completed is done again: {error}",))
    if (state.identity, state.runner_version) != (blank.identity, blank.runner_version):
        shutil.rmtree(folder)
        return Found(blank, notes=("the checkpoint found is another cell's or another version's: it is not used",))
    found = _verified(state, blank.batches, out)
    return found if state.place == place else replace(found, state=_brought(found.state, place))


def _verified(state: Checkpoint, batches: Batches, out: Path) -> Found:
    phases, notes = set(state.phases), []
    adapter = weights = None
    if "train" in phases:
        adapter, weights = _trained(state, out)
        reason = None
        if _training_sizes(state.batches) != _training_sizes(batches):
            reason = f"with other batches ({_sizes(state.batches)} instead of {_sizes(batches)})"
        elif adapter is None and weights is None:
            reason = "and its weights are missing or damaged"
        if reason is not None:
            notes.append(f"an earlier attempt had trained, {reason}: it is trained again")
            phases -= {*AFTER_TRAINING}
        elif adapter is None:
            phases -= {"export"}
    if "score" in phases:
        reason = None
        if state.batches.evaluation_batch_size != batches.evaluation_batch_size:
            reason = "with another batch size"
        elif not _intact(state, out, (PREDICTIONS_FILE,)):
            reason = "and its predictions are missing or damaged"
        if reason is not None:
            notes.append(f"an earlier attempt had scored, {reason}: it is scored again")
            phases -= {"score"}
    return Found(_without(state, batches, phases), adapter, weights, tuple(notes))


def _trained(state: Checkpoint, out: Path) -> tuple[Path | None, Path | None]:
    exported = [name for name in state.files if name.startswith(f"{ADAPTER_FOLDER}/")]
    if "export" in state.phases and any(n.endswith(".safetensors") for n in exported) and _intact(state, out, exported):
        return out / ADAPTER_FOLDER, None
    kept = [name for name in state.files if name.startswith(f"{CHECKPOINT_FOLDER}/weights-")]
    return None, (out / kept[0] if kept and _intact(state, out, kept) else None)


def _intact(state: Checkpoint, out: Path, names: Iterable[str]) -> bool:
    found = digests(out, names)
    return all(name in found and found[name] == state.files.get(name) for name in names)


def _training_sizes(batches: Batches) -> tuple[int, int]:
    return batches.batch_size, batches.accumulation


def _sizes(batches: Batches) -> str:
    return f"{batches.batch_size} x {batches.accumulation}"


def _without(state: Checkpoint, batches: Batches, phases: set[Phase]) -> Checkpoint:
    """The state as it was when only these phases were complete."""
    if "train" not in phases:
        state = untrained(state)
    elif "score" not in phases:
        state = msgspec.structs.replace(state, quality=None)
    kept = {phase: seconds for phase, seconds in state.phases.items() if phase in phases}
    return msgspec.structs.replace(state, batches=batches, phases=kept)


def _brought(state: Checkpoint, place: Place) -> Checkpoint:
    """To another place: what it says of quality stands, and why its seconds and memory are none of this place's. It is
    not scored again for the memory, which only a process that also trained can tell."""
    why = measured_at(state.place)
    names = [phase_reason(phase) for phase, seconds in state.phases.items() if seconds is not None and phase != "load"]
    memory = msgspec.structs.asdict(state.memory)
    names += [name for name, value in memory.items() if value is not None and name not in AFTER_LOAD]
    report = state.training
    if report is not None and report.seconds is not None:
        names += TRAINING_SECONDS
        report = msgspec.structs.replace(report, seconds=None, samples_per_s=None, saving_s=0.0)
    return msgspec.structs.replace(
        state,
        place=place,
        phases=dict.fromkeys(state.phases),
        training=report,
        memory=Memory(),
        cold_start_s=None,
        first_request_ms=None,
        reasons=state.reasons | dict.fromkeys(names, why),
    )


def untrained(state: Checkpoint) -> Checkpoint:
    """Only what was found out about loading the model."""
    memory = Memory(**{name: getattr(state.memory, name) for name in AFTER_LOAD})
    phases = {phase: seconds for phase, seconds in state.phases.items() if phase not in AFTER_TRAINING}
    return msgspec.structs.replace(
        state, phases=phases, choices={}, training=None, quality=None, memory=memory, reasons={}, files={}, warnings=()
    )


def write_state(state: Checkpoint, out: Path) -> None:
    """Once trained, what only training needs is removed."""
    folder = out / CHECKPOINT_FOLDER
    folder.mkdir(exist_ok=True)
    write_atomic(folder / STATE_FILE, msgspec.json.encode(state))
    if "train" in state.phases:
        _sweep(folder, {STATE_FILE, *(Path(name).name for name in state.files if name.startswith(CHECKPOINT_FOLDER))})


def remove(out: Path) -> None:
    """The result is there: nobody goes on from here."""
    shutil.rmtree(out / CHECKPOINT_FOLDER, ignore_errors=True)


def _sweep(folder: Path, keep: set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in keep:
            _discard(path)


def _discard(path: Path) -> None:
    """Whatever it is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# --- training ---------------------------------------------------------------------------------


class Course(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How far training has come. It changes with every step."""

    step: Count = 0
    samples: Count = 0
    best_f1: float = -1.0
    best_step: Count = 0
    patience_f1: float = -1.0
    misses: Count = 0  # evaluations in a row that were not worth the wait
    stopped: bool = False
    evaluations: Count = 0
    loss_curve: list[CurvePoint] = []
    validation_curve: list[CurvePoint] = []


def add_point(curve: list[CurvePoint], point: CurvePoint, number: int) -> None:
    """The `number`-th point, from 1, of a curve of which every k-th is kept; k doubles whenever more than CURVE_POINTS
    would be. What is kept depends on the numbers alone, and so is the same after going on."""
    every = 1
    while number > every * CURVE_POINTS:
        every *= 2
    if every > 1 and number == every // 2 * CURVE_POINTS + 1:
        del curve[1::2]
    if (number - 1) % every == 0:
        curve.append(point)


class TrainingState(Base, frozen=True, kw_only=True):
    """`checkpoint/training.json`. `weights`, `optimizer`, `best`: names of files, whose sha256 is in `files`."""

    schema_version: int = SCHEMA_VERSION
    key: str
    place: Place | None = None  # of the figures here
    elsewhere: str | None = None  # why seconds and memory are not known: a part was trained at another place
    seconds: float  # of training, in all attempts
    saving_s: float = 0.0  # left out of these
    memory: Memory = Memory()  # peaks of training, in all attempts
    course: Course
    rates: tuple[float, ...]  # of learning, now, by parameter group
    scheduler: dict[str, Any]
    scaler: dict[str, Any]
    weights: str = ""
    optimizer: str = ""
    best: str | None = None
    files: dict[str, str] = {}


@dataclass(frozen=True)
class Point:
    """Where training goes on. `optimizer` holds its moments and the random states."""

    state: TrainingState
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]


class TrainingStore:
    """The newest state of one training, and its best weights. `key` stands for all that decides its course."""

    def __init__(self, out: Path, key: str, warn: Callable[[str], None]) -> None:
        self.key = key
        self._out = out
        self._folder = out / CHECKPOINT_FOLDER
        self._warn = warn
        self._newest: TrainingState | None = None

    def load(self) -> Point | None:
        """Where an earlier attempt was; None, with a warning where something is there that cannot be used."""
        try:
            state = read(self._folder / TRAINING_FILE, TrainingState)
        except FileNotFoundError:
            return None
        except (ContractError, OSError) as error:
            _discard(self._folder / TRAINING_FILE)
            return self.refuse(str(error))
        if state.key != self.key:
            return self.refuse("another cell's, another version's, or with other batches or another number format")
        found = digests(self._folder, state.files)
        needed = {state.weights, state.optimizer, state.best} - {None}
        if found != state.files or not needed <= found.keys():
            return self.refuse("its weights are missing or damaged")
        self._newest = state
        return Point(state, self._tensors(state.weights), self._tensors(state.optimizer))

    def refuse(self, reason: str) -> None:
        self._newest = None
        self._warn(f"training starts over instead of going on from the checkpoint found: {reason}")

    def save(self, state: TrainingState, weights: Mapping[str, Any], optimizer: Mapping[str, Any]) -> None:
        """`state` names its files afterwards. At its best step the weights are also the best. Raises OSError."""
        self._folder.mkdir(exist_ok=True)
        step = state.course.step
        names = (f"weights-{step:06d}.safetensors", f"optimizer-{step:06d}.safetensors")
        files = {name: self._write(name, tensors) for name, tensors in zip(names, (weights, optimizer), strict=True)}
        best = names[0] if state.course.best_step == step else None
        if best is None and self._newest is not None and self._newest.best is not None:
            best = self._newest.best
            files[best] = self._newest.files[best]
        self._newest = msgspec.structs.replace(state, weights=names[0], optimizer=names[1], best=best, files=files)
        write_atomic(self._folder / TRAINING_FILE, msgspec.json.encode(self._newest))
        _sweep(self._folder, {STATE_FILE, TRAINING_FILE, *files})

    def best(self) -> dict[str, torch.Tensor]:
        """The weights of the best step; there is one once the validation split was scored."""
        assert self._newest is not None
        assert self._newest.best is not None
        return self._tensors(self._newest.best)

    def best_file(self) -> dict[str, str]:
        """Its path in the attempt's folder, and its sha256."""
        assert self._newest is not None
        assert self._newest.best is not None
        return {f"{CHECKPOINT_FOLDER}/{self._newest.best}": self._newest.files[self._newest.best]}

    def _tensors(self, name: str) -> dict[str, torch.Tensor]:
        return read_tensors(self._folder / name)

    def _write(self, name: str, tensors: Mapping[str, torch.Tensor]) -> str:
        """The file's sha256, once it is there under its name."""
        from safetensors.torch import save_file

        temporary = self._folder / f".{name}.tmp"
        save_file({key: tensor.detach().contiguous().cpu() for key, tensor in tensors.items()}, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        sha256 = digests(self._folder, (temporary.name,))[temporary.name]
        temporary.replace(self._folder / name)
        return sha256


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def put(tensors: Mapping[str, torch.Tensor], into: Mapping[str, torch.Tensor]) -> bool:
    """Copy tensors of the same names and shapes; False, and nothing is changed, where they are not the same."""
    import torch

    if tensors.keys() != into.keys() or any(tensors[name].shape != tensor.shape for name, tensor in into.items()):
        return False
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(tensors[name])
    return True
