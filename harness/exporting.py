"""A finished cell's model as a folder of its own: weights and tokenizer by the runner, card and origin by the host."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.errors import InputError
from harness.executors.choice import executor_of_jobs
from harness.finished import checked_result
from harness.jobs import Jobs, problem_of, stoppable
from harness.model_card import ADAPTER_NEEDS, model_card
from harness.new_folder import becoming, new_folder, placing
from harness.record import CellEntry
from harness.scratch import scratch, sweep
from harness.store import AttemptPaths, RunFolder
from runner import __version__
from runner.contract import (
    SCHEMA_VERSION,
    CellSpec,
    ContractError,
    ExportedFiles,
    ExportRequest,
    Failure,
    LoraSpec,
    Method,
    ModelSpec,
    Provenance,
    Result,
    Summary,
    TrainingSpec,
    encode,
    identity_of,
    read,
    write_atomic,
)

RECORD_FILE = "moodbench.json"
CARD_FILE = "README.md"


class ExportRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`moodbench.json` in an exported folder: what it was made of. `model` is the one that was trained, as found in the
    hub or a package; where its files lay on the machine is left out."""

    schema_version: int = SCHEMA_VERSION
    version: str  # of MoodBench, when it was exported
    run: str
    cell: str
    identity: str
    attempt: int
    model: ModelSpec
    method: Method
    lora: LoraSpec | None
    merged: bool  # the weights hold an adapter that was merged into them
    dataset: str
    fingerprint: str
    label_names: tuple[str, ...]
    max_length: int  # tokens
    seed: int
    training: TrainingSpec
    summary: Summary
    provenance: Provenance
    files: dict[str, str]  # those that transformers reads -> sha256


@dataclass(frozen=True)
class TrainedCell:
    """A finished cell of `run` and what its training left."""

    run: str
    attempt: AttemptPaths
    spec: CellSpec
    result: Result


@dataclass(frozen=True)
class Exported:
    """`notes`: sentences for the user."""

    folder: Path
    record: ExportRecord
    notes: tuple[str, ...] = ()


def trained_cell(folder: RunFolder, cell: str) -> TrainedCell:
    """`cell`: its full name. Raises InputError where it has no model that could be exported."""
    record = folder.read_record()
    entry = next((entry for entry in record.cells if entry.cell == cell), None)
    if entry is not None and entry.method == "none":
        others = [other.cell for other in record.cells if other.method != "none"]
        raise InputError(
            f"'{cell}' is a baseline: it is fitted anew in seconds and leaves no model",
            f"choose another cell: {', '.join(others[:5])}" if others else "train a model: moodbench models lists them",
        )
    attempt = folder.finished_attempt(cell)
    if entry is None or attempt is None:
        name = folder.folder.name
        raise InputError(
            f"'{cell}' has no result, and so no trained model",
            f"`moodbench resume {name}` finishes what the run lacks; `moodbench explain {name} {cell}` says why",
        )
    try:
        result = checked_result(entry, attempt)
        spec = _checked_spec(entry, attempt, result)
    except (ContractError, OSError) as error:
        raise InputError(f"'{cell}' cannot be exported: {error}", _AGAIN) from None
    if not _is_folder(attempt.adapter):
        raise InputError(f"what '{cell}' trained is gone: there is no folder {attempt.adapter}", _AGAIN)
    return TrainedCell(record.name, attempt, spec, result)


_AGAIN = "train it again in another run: moodbench run … --run NAME --no-reuse"


def _checked_spec(entry: CellEntry, attempt: AttemptPaths, result: Result) -> CellSpec:
    """It lies in the cell's folder, so it is not to be had code run by, nor other labels. Raises ContractError."""
    spec = read(attempt.spec, CellSpec)
    is_own = spec.identity == entry.identity and spec.dataset.label_names == result.label_names
    if not is_own or (spec.model.trust_remote_code and identity_of(spec) != entry.identity):
        raise ContractError(f"{attempt.spec}: of other settings than the cell's")
    return spec


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


async def export_cell(trained: TrainedCell, to: Path, *, merge: bool) -> Exported:
    """Write its model into `to`, which must be new or empty. `merge`: a LoRA adapter into the weights.

    Raises InputError, SetupError; then nothing of it is left.
    """
    folder = new_folder(to)
    return await stoppable(_export(trained, folder, merge))


async def _export(trained: TrainedCell, folder: Path, merge: bool) -> Exported:
    sweep()
    executor = await executor_of_jobs()
    try:
        with scratch() as own, becoming(folder) as unfinished:
            answer = await _ask(Jobs(executor, own), trained, unfinished, merge)
            record = _record(trained, answer)
            _describe(record, trained.result, unfinished)
    finally:
        await executor.close()
    return Exported(folder, record, _notes(trained, merge))


async def _ask(jobs: Jobs, trained: TrainedCell, to: Path, merge: bool) -> ExportedFiles:
    spec = trained.spec
    if spec.method == "lora":  # an adapter is nothing without its base, which may be gone or another by now
        model = spec.model
        if model.kind == "path" and model.folder is not None:  # its name may be relative to where the run was started
            model = msgspec.structs.replace(model, name=model.folder)
        found = await jobs.fetch_one(model)
        if isinstance(found, Failure):
            raise problem_of(found)
        spec = msgspec.structs.replace(spec, model=found.model)
    adapter = str(trained.attempt.adapter.absolute())
    answer = await jobs.export(ExportRequest(spec=spec, adapter=adapter, merge=merge), to)
    if isinstance(answer, Failure):
        raise problem_of(answer)
    return answer


def _record(trained: TrainedCell, answer: ExportedFiles) -> ExportRecord:
    spec, result = trained.spec, trained.result
    name = spec.model.name if spec.model.kind != "path" else ""
    return ExportRecord(
        version=__version__,
        run=trained.run,
        cell=result.cell,
        identity=result.identity,
        attempt=trained.attempt.number,
        model=msgspec.structs.replace(spec.model, folder=None, name=name),
        method=spec.method,
        lora=spec.lora if spec.method == "lora" else None,
        merged=answer.merged,
        dataset=spec.dataset.name,
        fingerprint=spec.dataset.fingerprint,
        label_names=spec.dataset.label_names,
        max_length=answer.max_length,
        seed=spec.seed,
        training=spec.training,
        summary=result.summary,
        provenance=result.provenance,
        files=answer.files,
    )


def _describe(record: ExportRecord, result: Result, folder: Path) -> None:
    with placing(folder):
        write_atomic(folder / RECORD_FILE, encode(record))
        write_atomic(folder / CARD_FILE, model_card(record, result).encode())


def _notes(trained: TrainedCell, merge: bool) -> tuple[str, ...]:
    method = trained.spec.method
    if merge and method != "lora":
        return (f"nothing to merge: with method '{method}' the whole model is exported anyway",)
    if not merge and method == "lora":
        return (
            f"loading it needs {ADAPTER_NEEDS}: others load the untrained base, or nothing; --merge makes one model "
            "that any transformers 5 loads",
        )
    return ()
