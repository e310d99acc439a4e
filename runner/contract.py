"""The contract between host and cell: the one module both sides import (standard library and msgspec only).

The host writes `spec.json` (a `CellSpec`); the runner leaves `events.jsonl` (one `CellEvent` a line),
`predictions.parquet`, and either `result.json` (a `Result`) or `failure.json` (a `Failure`).
Types are frozen, carry a `schema_version` where they are files, and refuse unknown fields.
Units stand in the names: `_s` seconds, `_ms` milliseconds, `_bytes`, `_mb` (2**20 bytes).
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec

SCHEMA_VERSION = 1
# In an attempt's folder, beside the files that the types below describe:
FROZEN_FILE = "frozen.json"  # the host's: seconds for which it has kept this attempt stopped so far, a JSON number
CHECKPOINT_FOLDER = "checkpoint"  # the runner's: what a later attempt goes on from; gone when the result is there
ADAPTER_FOLDER = "adapter"
PREDICTIONS_FILE = "predictions.parquet"
STATE_FILE = "state.json"  # in the checkpoint: a `Checkpoint`
PLACE_CHOICES = ("executor", "cores", "throughput_batch_size")  # those in `effective` that are no concern of training

Method = Literal["lora", "qlora", "full", "frozen", "none"]
Device = Literal["cpu", "cuda", "mps"]
# In the order they run.
Phase = Literal["load", "tokenize", "train", "export", "score", "time"]
Split = Literal["train", "validation", "test"]
ModelKind = Literal["hub", "path", "package", "scratch", "baseline"]
SourceKind = Literal["file", "hub", "kaggle", "embedded"]
ExecutorName = Literal["native", "docker"]
FailureKind = Literal[
    "configuration",  # the spec asks for something that cannot be
    "data",  # the dataset cannot be read or used
    "model",  # the model's files are missing, broken or refused
    "environment",  # a package, the network, a device or a permission is missing
    "out_of_memory",
    "disk_full",
    "nan_loss",
    "killed",  # ended from outside, by a signal
    "interrupted",  # asked to stop: not at fault, goes on next time
    "timeout",
    "engine_gone",  # the container engine stopped answering: not at fault, goes on next time
    "image_missing",
    "gpu_lost",
    "network",  # it could not be reached, or broke off
    "no_result",  # the process ended well but left no result
    "code",  # a fault of the runner itself
]

Positive = Annotated[int, msgspec.Meta(ge=1)]  # checked when a file is read
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]  # sums of them stay numbers
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # what every reader can count with

METHODS: tuple[Method, ...] = get_args(Method)
PHASES: tuple[Phase, ...] = get_args(Phase)
SPLITS: tuple[Split, ...] = get_args(Split)


class Base(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Frozen and strict. Each type says `frozen` and `kw_only` again: msgspec does not inherit them all."""


# --- models -----------------------------------------------------------------------------------


class LoraSpec(Base, frozen=True, kw_only=True):
    """LoRA settings. `target_modules` None: the defaults of the architecture."""

    rank: Positive = 8
    alpha: int = 16
    dropout: float = 0.05
    target_modules: tuple[str, ...] | None = None


class ScratchSpec(Base, frozen=True, kw_only=True):
    """A BERT-type encoder initialised at random; its WordPiece vocabulary is learnt from the training split."""

    hidden_size: int = 128
    layers: int = 2
    heads: int = 2
    intermediate_size: int = 512
    vocab_size: int = 8000


class PackageSpec(Base, frozen=True, kw_only=True):
    """Where an installed Python package carries a model: `folder` inside the import package `module`."""

    module: str
    folder: str = "."


class ModelSpec(Base, frozen=True, kw_only=True):
    """One model. Unresolved (as configuration gives it) `folder` is None and `weights_sha256` holds what is
    expected, if anything; resolved, `folder` is where the files lie and the digests are those found there."""

    alias: str
    kind: ModelKind
    name: str  # hub id, folder, distribution, or the baseline's name
    revision: str | None = None
    folder: str | None = None
    weights_sha256: dict[str, str] = {}  # file name -> sha256
    package: PackageSpec | None = None
    scratch: ScratchSpec | None = None
    architecture: str | None = None  # "encoder-only", "decoder-only", ...: as shown to the user
    parameters: int | None = None
    trust_remote_code: bool = False


class FetchedModel(Base, frozen=True, kw_only=True):
    """The answer of `fetch`."""

    model: ModelSpec  # resolved
    downloaded: bool = False  # False: it was here
    notes: tuple[str, ...] = ()  # sentences for the user: what was chosen on the way


# --- datasets ---------------------------------------------------------------------------------


class SplitSizes(Base, frozen=True, kw_only=True):
    """Rows wanted per split; None takes all there are (validation and test come off first)."""

    train: int | None = 10_000
    validation: int | None = 2_000
    test: int | None = 5_000


class DatasetRequest(Base, frozen=True, kw_only=True):
    """What `prepare` needs to turn a source into canonical splits."""

    name: str
    source: SourceKind
    location: str | None = None  # hub id, kaggle handle, or the embedded dataset's name
    config: str | None = None  # hub configuration name
    revision: str | None = None
    files: dict[str, str] = {}  # split ("train", "validation", "test") or "all" -> absolute path (kaggle: file name)
    splits: dict[Split, str] = {}  # canonical split -> the source's own split name (hub), or value of split_column
    split_column: str | None = None
    text_column: str | None = None  # None: guessed, and the guess is reported
    label_column: str | None = None
    label_rule: dict[str, str] = {}  # condition on a number -> label name, first match wins: {">= 4": "positive"}
    label_map: dict[str, str] = {}  # value in the file -> label name
    label_separator: str | None = None  # rows whose label holds it carry several labels: dropped and counted
    filters: dict[str, tuple[str, ...]] = {}  # column -> values kept
    keep_columns: tuple[str, ...] = ()
    slice_columns: tuple[str, ...] = ()  # of keep_columns: quality is also reported for each of their values
    sizes: SplitSizes = SplitSizes()
    balanced: bool = False  # equal numbers of each class in every split that is sampled
    max_length: int = 128  # tokens
    seed: int = 42


class SplitInfo(Base, frozen=True, kw_only=True):
    rows: int
    classes: dict[str, int]  # label name -> rows
    sha256: str


class PreparedDataset(Base, frozen=True, kw_only=True):
    """A dataset in canonical form: `<folder>/{train,validation,test}.parquet` with columns
    `id` (string), `text` (string), `label` (int64, index into `label_names`) and the kept source columns."""

    schema_version: int = SCHEMA_VERSION
    name: str
    folder: str
    fingerprint: str  # sha256 over content and settings
    task: Literal["classification"] = "classification"
    label_names: tuple[str, ...]
    splits: dict[Split, SplitInfo]
    text_column: str
    label_column: str
    revision: str | None = None  # of the source: the hub's commit, Kaggle's version
    slice_columns: tuple[str, ...] = ()
    max_length: int = 128
    dropped: dict[str, int] = {}  # reason -> rows
    notes: tuple[str, ...] = ()  # sentences for the user: guesses, encodings, what was dropped


# --- the cell ---------------------------------------------------------------------------------


class TrainingSpec(Base, frozen=True, kw_only=True):
    """Hyper-parameters, fully resolved. One optimiser step sees `batch_size * accumulation` examples."""

    epochs: Positive = 3
    min_steps: int = 0  # optimiser steps: a small dataset gets more epochs, and nothing stops training earlier
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    warmup_fraction: Share = 0.1
    warmup_max_steps: int = 500
    max_grad_norm: float = 1.0
    batch_size: Positive = 16
    accumulation: Positive = 4
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    eval_every_steps: Positive = 500
    evals_per_epoch: Positive = 3  # at least
    patience: Positive = 3  # evaluations without a better F1 before training stops
    min_delta: float = 0.001
    gradient_checkpointing: bool | None = None  # None: from 1e9 parameters


class EvaluationSpec(Base, frozen=True, kw_only=True):
    batch_size: Positive = 32
    windows: Positive = 5  # timing is cut into so many, each under a lease of its own ...
    repeats: Count = 3  # ... and one that is disturbed is measured again so often at most
    warmup_requests: int = 10  # in each window
    min_requests: Positive = 100
    max_requests: Positive = 1_000
    latency_min_s: float = 2.0  # requests go on until min_requests and latency_min_s are both reached ...
    latency_max_s: float = 12.0  # ... and on towards the 662 that a p99 needs while this allows
    throughput_batch_sizes: tuple[Positive, ...] = (1, 4, 8, 16, 32)
    throughput_texts: Positive = 1_000
    throughput_min_s: float = 1.0  # per batch size: the texts are gone through again until this is reached ...
    throughput_max_s: float = 4.0  # ... and broken off here
    calibration_bins: Positive = 15


class CodeVersion(Base, frozen=True, kw_only=True):
    """The harness's own source: git commit, or None with the reason."""

    commit: str | None = None
    dirty: bool | None = None
    reason: str | None = None


class Limits(Base, frozen=True, kw_only=True):
    """What an attempt may use; None sets no limit. Only a container can be held to memory, cores and processes."""

    memory_mb: Positive | None = None  # swap is not to be had beyond it
    cpus: Annotated[float, msgspec.Meta(gt=0)] | None = None  # share of the machine's cores, 1.5 is one and a half
    pids: Positive | None = None
    seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None  # wall time, waiting and being frozen left out
    phase_seconds: dict[Phase, Annotated[float, msgspec.Meta(gt=0)]] = {}  # the same, of single phases


class Fallback(Base, frozen=True, kw_only=True):
    """What takes the place of what was asked for, after memory ran out. One optimiser step sees as many examples as
    before. None: as asked for."""

    batch_size: Positive | None = None
    accumulation: Positive | None = None
    evaluation_batch_size: Positive | None = None
    throughput_batch_size: Positive | None = None  # the largest whose throughput is measured
    reason: str


class CellSpec(Base, frozen=True, kw_only=True):
    """Everything an attempt needs, fully resolved: no look-ups left to make."""

    schema_version: int = SCHEMA_VERSION
    cell: str = ""
    identity: str = ""
    model: ModelSpec
    method: Method
    lora: LoraSpec | None = None
    dataset: PreparedDataset
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    seed: int = 42
    device: Device = "cpu"
    device_reason: str = "given"
    threads: Positive = 1
    cores: tuple[Count, ...] = ()  # the process is kept on these; (): on any
    gpus: tuple[str, ...] = ()  # ids of those it may see; (): the executor's default
    fallback: Fallback | None = None
    limits: Limits = Limits()
    executor: ExecutorName = "native"
    executor_reason: str = "given"
    image_digest: str | None = None  # of the container image, where there is one
    phases: tuple[Phase, ...] = PHASES
    lease: bool = False  # True: ask the host before each window of timing
    runner_version: str = ""
    code: CodeVersion = CodeVersion()


class ExportRequest(Base, frozen=True, kw_only=True):
    """What `export` needs: a finished cell's spec, its model resolved anew, and the folder that training left."""

    spec: CellSpec
    adapter: str
    merge: bool = False

    @property
    def name(self) -> str:
        return self.spec.cell


class ExportedFiles(Base, frozen=True, kw_only=True):
    """The answer of `export`. `merged`: whether the weights hold an adapter that was merged into them."""

    files: dict[str, str]  # name -> sha256
    merged: bool
    max_length: int  # tokens, special ones included


def identity_of(spec: CellSpec) -> str:
    """sha256 of what decides the outcome of a cell. Where and how it is run (folders, threads, cores, limits, fallback,
    executor, lease, code) and what is only shown (architecture, parameters) stays out."""
    name = spec.model.name if spec.model.kind != "path" else ""  # a folder may be moved: its weights' digests count
    model = msgspec.structs.replace(spec.model, folder=None, name=name, architecture=None, parameters=None)
    parts = {
        "model": model,
        "method": spec.method,
        "lora": spec.lora,
        "dataset": [spec.dataset.fingerprint, spec.dataset.max_length],
        "training": spec.training,
        "evaluation": spec.evaluation,
        "seed": spec.seed,
        "device": spec.device,
        "phases": spec.phases,
        "runner_version": spec.runner_version,
    }
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()


def cell_name(spec: CellSpec, identity: str) -> str:
    """Readable first, hash last: `minilm-l6--sst2--lora--s42--3f9c01`."""
    stem = cell_stem(spec.model.alias, spec.dataset.name, spec.method, spec.seed)
    device = [] if spec.device == "cpu" else [spec.device]
    return "--".join([stem, *device, identity[:6]])


def cell_stem(model: str, dataset: str, method: str, seed: int) -> str:
    """The readable part of a cell's name, which it has before it is resolved."""
    return "--".join(map(slug, (model, dataset, method, f"s{seed}")))


def slug(text: str) -> str:
    """A name that is safe as a file name on every system, at most 48 characters."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-.")[:48].rstrip("-.") or "unnamed"


# --- events -----------------------------------------------------------------------------------


class Event(Base, frozen=True, kw_only=True, tag_field="event"):
    """One line of `events.jsonl`. `t`: Unix seconds; `seq`: 0, 1, 2 … within its writer."""

    t: float = 0.0
    seq: int = 0
    cell: str = ""


class PhaseStarted(Event, frozen=True, kw_only=True, tag="phase_started"):
    phase: Phase


class PhaseFinished(Event, frozen=True, kw_only=True, tag="phase_finished"):
    phase: Phase
    seconds: float


class Progress(Event, frozen=True, kw_only=True, tag="progress"):
    """`step` of `steps` in a phase. In training one step is one optimiser step."""

    phase: Phase
    step: Count
    steps: Count
    loss: float | None = None
    learning_rate: float | None = None
    samples_per_s: float | None = None
    eta_s: Seconds | None = None


class Metrics(Event, frozen=True, kw_only=True, tag="metrics"):
    """Figures of one split at one moment, for curves and displays."""

    phase: Phase
    split: Split
    step: int | None = None
    values: dict[str, float | None]


class Resources(Event, frozen=True, kw_only=True, tag="resources"):
    rss_mb: float | None = None
    device_mb: float | None = None


class Warned(Event, frozen=True, kw_only=True, tag="warning"):
    message: str


class LeaseWanted(Event, frozen=True, kw_only=True, tag="lease_wanted"):
    """The cell waits for the file `grant_file(window)` in its folder. Windows are counted 1, 2, 3 ... in an attempt."""

    window: Count = 1


class LeaseReleased(Event, frozen=True, kw_only=True, tag="lease_released"):
    """The cell has measured, and waits for the host's `Verdict` in `verdict_file(window)`."""

    window: Count = 1


class Finished(Event, frozen=True, kw_only=True, tag="finished"):
    seconds: float


class Failed(Event, frozen=True, kw_only=True, tag="failed"):
    kind: FailureKind
    message: str


def grant_file(window: int) -> str:
    """The host makes it, empty, in the attempt's folder: now the cell may measure."""
    return f"lease-{window:03d}.granted"


def verdict_file(window: int) -> str:
    return f"lease-{window:03d}.verdict"


class Verdict(Base, frozen=True, kw_only=True):
    """What the host saw while the cell measured; empty `reasons` mean that nothing disturbed it."""

    reasons: tuple[str, ...] = ()


CellEvent = (
    PhaseStarted
    | PhaseFinished
    | Progress
    | Metrics
    | Resources
    | Warned
    | LeaseWanted
    | LeaseReleased
    | Finished
    | Failed
)


# --- the result -------------------------------------------------------------------------------


class Choice(Base, frozen=True, kw_only=True):
    """Something decided for the user, and why."""

    value: str | int | float | bool | None
    reason: str


class Summary(Base, frozen=True, kw_only=True):
    """The flat figures that existing tooling reads. Names are fixed; null where `Result.reasons` says why."""

    model_name: str
    accuracy: float | None = None
    f1: float | None = None  # macro
    precision: float | None = None  # macro
    recall: float | None = None  # macro
    ttft_mean_ms: float | None = None  # a classifier's first output is its answer: mean latency at batch 1
    latency_median_ms: float | None = None
    latency_p99_ms: float | None = None
    throughput_tokens_per_sec: float | None = None  # real tokens, padding left out, at the best batch size
    throughput_samples_per_sec: float | None = None  # at the best batch size
    memory_allocated_mb: float | None = None  # peak in inference: device memory on a GPU, else resident memory
    training_time_hours: float | None = None


class ClassFigures(Base, frozen=True, kw_only=True):
    label: str
    precision: float
    recall: float
    f1: float
    support: int


class SliceFigures(Base, frozen=True, kw_only=True):
    column: str
    value: str
    rows: int
    accuracy: float
    f1: float  # macro over the classes present in the slice


class Quality(Base, frozen=True, kw_only=True):
    """Figures on the test split."""

    rows: int
    metrics: dict[str, float | None]
    per_class: tuple[ClassFigures, ...] = ()
    per_slice: tuple[SliceFigures, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()  # [true][predicted]


class CurvePoint(Base, frozen=True, kw_only=True):
    step: int
    values: dict[str, float | None]


class TrainingReport(Base, frozen=True, kw_only=True):
    """Over all attempts that trained. `seconds` leave out `saving_s`, which writing checkpoints took; null where a part
    was trained at another place."""

    steps: int
    epochs: float
    samples_seen: int
    seconds: float | None
    samples_per_s: float | None
    best_step: int | None
    best_f1: float | None
    stopped_early: bool
    saving_s: float = 0.0
    loss_curve: tuple[CurvePoint, ...] = ()  # this and the next: evenly thinned to at most 2,000 points
    validation_curve: tuple[CurvePoint, ...] = ()


class Latency(Base, frozen=True, kw_only=True):
    """Single requests at batch 1 and the text's real length, tokenization included, device synchronised."""

    requests: int
    mean_ms: float
    std_ms: float
    p50_ms: float | None = None  # a percentile below its sample bound is null
    p90_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    samples_ms: tuple[float, ...] = ()


class Throughput(Base, frozen=True, kw_only=True):
    batch_size: int
    samples: int
    seconds: float
    samples_per_s: float
    tokens_per_s: float | None


class Window(Base, frozen=True, kw_only=True):
    """One stretch of timing under one lease. A disturbed one is repeated; `counted` says which of a block's windows
    the pooled figures are made of. `cpu_share_foreign`: share of the machine's CPU time that was not this process's."""

    number: int  # of the lease in this attempt, from 1
    block: int  # from 1 to EvaluationSpec.windows
    t: Seconds  # Unix seconds when it began
    seconds: float
    requests: int
    mean_ms: float
    p50_ms: float
    throughput: tuple[Throughput, ...] = ()
    cpu_share_foreign: float | None = None
    contaminated: bool | None = None  # None: nobody could tell
    reasons: tuple[str, ...] = ()
    counted: bool = True


class Timing(Base, frozen=True, kw_only=True):
    """Pooled over the windows that count. `cpu_share_foreign`: the largest of theirs; `contaminated`: any of them."""

    latency: Latency
    throughput: tuple[Throughput, ...]
    windows: tuple[Window, ...] = ()
    cold_start_s: float | None  # from the start of the process to the first answer of the model just loaded
    first_request_ms: float | None = None  # of that answer alone
    cpu_share_foreign: float | None = None
    contaminated: bool | None = None
    merged: bool = False  # whether a LoRA adapter was merged into the weights, as in deployment


class Memory(Base, frozen=True, kw_only=True):
    """In MB (2**20 bytes). Resident memory of the process; `device_*` on CUDA and MPS only."""

    rss_after_load_mb: float | None = None
    rss_before_inference_mb: float | None = None
    rss_peak_training_mb: float | None = None
    rss_peak_inference_mb: float | None = None
    device_allocated_after_load_mb: float | None = None
    device_allocated_before_inference_mb: float | None = None
    device_peak_training_mb: float | None = None
    device_peak_inference_mb: float | None = None
    device_reserved_mb: float | None = None


class Provenance(Base, frozen=True, kw_only=True):
    """Where and with what a result was made. Unknown is null."""

    started: Seconds
    finished: Seconds
    hostname_hash: str | None
    os: str
    cpu_model: str | None
    cores: int
    threads: int
    ram_mb: float
    gpu_model: str | None
    python: str
    packages: dict[str, str | None]
    code: CodeVersion
    model_revision: str | None
    weights_sha256: dict[str, str]
    dataset_fingerprint: str
    seed: int
    executor: ExecutorName = "native"
    image_digest: str | None = None
    limits: Limits = Limits()


class Result(Base, frozen=True, kw_only=True):
    schema_version: int = SCHEMA_VERSION
    cell: str
    identity: str
    model: str
    dataset: str
    method: Method
    seed: int
    device: Device
    label_names: tuple[str, ...]
    summary: Summary
    quality: Quality | None = None
    training: TrainingReport | None = None
    timing: Timing | None = None
    memory: Memory = Memory()
    phases: dict[Phase, float] = {}  # seconds; one done at another place is left out, and has a reason
    parameters_total: int | None = None
    parameters_trainable: int | None = None
    requested: dict[str, Any] = {}
    effective: dict[str, Choice] = {}
    reasons: dict[str, str] = {}  # name of a null figure (of a phase left out: `phase_reason`) -> why it is null
    warnings: tuple[str, ...] = ()
    provenance: Provenance


class Batches(Base, frozen=True, kw_only=True):
    """The sizes that are used: in training, and in validation and scoring."""

    batch_size: Positive
    accumulation: Positive
    evaluation_batch_size: Positive


def batches_of(spec: CellSpec) -> Batches:
    """What was asked for, or the fallback where it says otherwise."""
    instead = spec.fallback or Fallback(reason="")
    return Batches(
        batch_size=instead.batch_size or spec.training.batch_size,
        accumulation=instead.accumulation or spec.training.accumulation,
        evaluation_batch_size=instead.evaluation_batch_size or spec.evaluation.batch_size,
    )


class Place(Base, frozen=True, kw_only=True):
    """What seconds and memory depend on: figures of different places do not belong into one result."""

    executor: ExecutorName
    image_digest: str | None = None
    threads: int
    cpus: float | None = None  # of the limits
    cpu_model: str | None = None
    gpu_model: str | None = None


def place_of(provenance: Provenance) -> Place:
    return Place(
        executor=provenance.executor,
        image_digest=provenance.image_digest,
        threads=provenance.threads,
        cpus=provenance.limits.cpus,
        cpu_model=provenance.cpu_model,
        gpu_model=provenance.gpu_model,
    )


class Checkpoint(Base, frozen=True, kw_only=True):
    """`checkpoint/state.json`: what an attempt has completed, from which a later attempt at the same cell goes on. The
    host may make one of a finished attempt (`checkpoint_of`) to have only its speed measured again. Seconds and memory
    in it are those of `place`; None: it is not told, so that they are nobody's."""

    schema_version: int = SCHEMA_VERSION
    identity: str
    runner_version: str
    batches: Batches
    place: Place | None = None
    phases: dict[Phase, float | None]  # those completed -> seconds; None: of another place
    files: dict[str, str]  # what they left: path in the attempt's folder -> sha256
    choices: dict[str, Choice] = {}
    training: TrainingReport | None = None
    quality: Quality | None = None
    memory: Memory = Memory()
    cold_start_s: float | None = None  # None: to be measured again
    first_request_ms: float | None = None
    reasons: dict[str, str] = {}
    warnings: tuple[str, ...] = ()


class Failure(Base, frozen=True, kw_only=True):
    schema_version: int = SCHEMA_VERSION
    cell: str
    kind: FailureKind
    message: str
    hint: str
    phase: Phase | None = None
    traceback: str | None = None
    t: float = 0.0


class DeviceInfo(Base, frozen=True, kw_only=True):
    """What `python -m runner info` tells the host about this environment."""

    device: Device
    device_reason: str
    available: tuple[Device, ...]
    gpus: tuple[str, ...] = ()
    cpu_model: str | None = None
    packages: dict[str, str | None] = {}
    missing: tuple[str, ...] = ()  # packages without which no native cell can run


def usable_cores() -> int:
    """Cores this process may run on, which is fewer than the machine has where it is confined."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed_folder(package: PackageSpec) -> Path | None:
    """Where an installed package carries a model; None without it. Nothing of the package is imported."""
    top, *inner = package.module.split(".")  # a dotted name would import its parents
    found = importlib.util.find_spec(top)
    places = list(found.submodule_search_locations or ()) if found else []
    return Path(places[0], *inner, package.folder).resolve() if places else None


def installed_version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


# --- reading and writing ----------------------------------------------------------------------

T = TypeVar("T")
FILE_BYTES = 16 * 2**20  # no file of the contract comes near


class ContractError(ValueError):
    """A file is not what the contract says; the message names the file and the path of the field."""


def encode(value: Any) -> bytes:
    """JSON, indented, with NaN and Infinity as null (msgspec's own rule)."""
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def write_atomic(path: Path, data: bytes, mode: int | None = None, *, durable: bool = True) -> None:
    """Write to a temporary name, fsync, then rename: a reader sees the whole file or none. Nobody can have laid
    something under that name: an attempt's folder is also the cell's. `mode`: whatever the umask says. `durable` False:
    no fsync, for what is of use only while the machine is up."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    created = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(created, "wb") as file:
            file.write(data)
            file.flush()
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def open_plain(path: Path, limit: int) -> BufferedReader:
    """Open for reading what a cell may have laid there: a plain file of at most `limit` bytes; no link is followed and
    nothing waited for. Raises ContractError, OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            raise ContractError(f"{path}: not a plain file") from None
        raise
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_size <= limit:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISREG(found.st_mode):
        raise ContractError(f"{path}: larger than {limit / 2**20:.0f} MB")
    raise ContractError(f"{path}: not a plain file")


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """sha256 of these files in an attempt's folder, or of all plain files in a folder named; none for what is absent.
    Nothing is followed. Raises OSError."""
    found: dict[str, str] = {}
    for name in names:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            found |= digests(folder, sorted(f"{name}/{entry.name}" for entry in path.iterdir() if not entry.is_dir()))
        else:
            with suppress(FileNotFoundError, ContractError), open_plain(path, 2**62) as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def checkpoint_of(spec: CellSpec, result: Result, folder: Path) -> Checkpoint:
    """A finished attempt as one whose phase `time` is still to come; `folder` holds its adapter and predictions. The
    cold start is left out: it is measured again. Raises OSError."""
    told = result.phases.keys() | {phase for phase in PHASES if phase_reason(phase) in result.reasons}
    return Checkpoint(
        identity=result.identity,
        runner_version=spec.runner_version,
        batches=batches_of(spec),
        place=place_of(result.provenance),
        phases={phase: result.phases.get(phase) for phase in PHASES if phase in told and phase != "time"},
        files=digests(folder, (ADAPTER_FOLDER, PREDICTIONS_FILE)),
        choices={name: choice for name, choice in result.effective.items() if name not in PLACE_CHOICES},
        training=result.training,
        quality=result.quality,
        memory=result.memory,
        reasons={name: reason for name, reason in result.reasons.items() if not hasattr(result.summary, name)},
    )


def phase_reason(phase: Phase) -> str:
    """The name in `Result.reasons` under which it says why a phase's seconds are left out."""
    return f"phases.{phase}"


def read(path: Path, kind: type[T]) -> T:
    """Read one contract file strictly. Raises ContractError, OSError."""
    with open_plain(path, FILE_BYTES) as file:
        data = file.read(os.fstat(file.fileno()).st_size + 1)  # one that grows on is not read on
    try:
        try:
            found = msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError:
            _check_version(path, data)
            raise
        if getattr(found, "schema_version", SCHEMA_VERSION) > SCHEMA_VERSION:
            _check_version(path, data)
        return found
    except msgspec.ValidationError as error:
        raise ContractError(f"{path}: {_clipped(error)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError(f"{path}: not valid JSON ({_clipped(error)})") from None


def _clipped(error: Exception) -> str:
    """It may quote the file."""
    text = str(error)
    return text if len(text) <= 500 else f"{text[:500]} ..."


class _Versioned(msgspec.Struct):
    schema_version: Any = SCHEMA_VERSION


def _check_version(path: Path, data: bytes) -> None:
    """A newer file has fields unknown here, and its version is the better explanation."""
    version = msgspec.json.decode(data, type=_Versioned).schema_version
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ContractError(f"{path}: schema_version {version} is newer than this program's ({SCHEMA_VERSION})")


def json_schemas(extra: Iterable[type] = ()) -> dict[str, Any]:
    """JSON Schemas of every file of the contract, by name, generated from the types."""
    kinds: list[Any] = [CellSpec, Result, Checkpoint, Failure, PreparedDataset, DatasetRequest, ModelSpec, *extra]
    schemas = {kind.__name__: msgspec.json.schema(kind) for kind in kinds}
    schemas["Event"] = msgspec.json.schema(CellEvent)
    return schemas
