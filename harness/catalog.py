"""The catalogue: models, datasets and defaults, from the shipped `config/` and the user's own beside it.

A folder named by the environment variable MOODBENCH_CONFIG may hold `models.yaml`, `datasets.yaml` and `suites/`;
its entries are added, and take the place of shipped ones with the same name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from harness.errors import InputError, unknown
from harness.strict import convert, load_yaml
from runner.contract import (
    DatasetRequest,
    EvaluationSpec,
    LoraSpec,
    Method,
    ModelKind,
    ModelSpec,
    PackageSpec,
    Positive,
    ScratchSpec,
    Share,
    Split,
    SplitSizes,
)

T = TypeVar("T")
Count = Annotated[int, msgspec.Meta(ge=0)]
Rate = Annotated[float, msgspec.Meta(ge=0, le=1e6)]  # `.inf` and `.nan` have no place in a specification
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
ALL_ROWS = SplitSizes(train=None, validation=None, test=None)


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Configuration is frozen data; unknown keys are refused."""


class BatchSizes(Entry, frozen=True, kw_only=True):
    cuda: Positive = 32
    mps: Positive = 16
    cpu: Positive = 16


class MemoryRequirements(Entry, frozen=True, kw_only=True):
    """As published, such as "0.5GB"; shown to the user."""

    cuda_4bit: str | None = None
    mps_fp32: str | None = None
    cpu: str | None = None


class Overrides(Entry, frozen=True):
    """Settings to replace; None leaves what stands."""

    def given(self) -> dict[str, Any]:
        return {k: v for k, v in msgspec.structs.asdict(self).items() if v is not None}


class TrainingOverrides(Overrides, frozen=True, kw_only=True):
    """Settings of TrainingSpec to replace; None leaves what stands. `effective_batch_size` sets the accumulation."""

    epochs: Positive | None = None
    min_steps: Count | None = None
    learning_rate: Rate | None = None
    weight_decay: Rate | None = None
    warmup_fraction: Share | None = None
    warmup_max_steps: Count | None = None
    max_grad_norm: Rate | None = None
    batch_size: Positive | None = None
    effective_batch_size: Positive | None = None
    adam_beta1: Share | None = None
    adam_beta2: Share | None = None
    adam_epsilon: Rate | None = None
    eval_every_steps: Positive | None = None
    evals_per_epoch: Positive | None = None
    patience: Positive | None = None
    min_delta: Rate | None = None
    gradient_checkpointing: bool | None = None


class PackageEntry(Entry, frozen=True, kw_only=True):
    """An installed package that carries a model: its distribution, import name, and the folder inside."""

    distribution: str
    module: str
    folder: str = "."


class ModelEntry(Entry, frozen=True, kw_only=True):
    """One model. Exactly one of `name` (hub id), `path`, `package`, `scratch`, `baseline` says where it comes from;
    `name` may stand beside another of them as a description."""

    alias: str
    name: str | None = None
    path: str | None = None
    package: PackageEntry | None = None
    scratch: ScratchSpec | None = None
    baseline: Literal["majority", "tfidf-logreg"] | None = None
    aliases: tuple[str, ...] = ()
    revision: str | None = None
    sha256: dict[str, str] = {}
    size_params: str | None = None
    parameters: int | None = None
    architecture: str | None = None
    gated: bool = False
    trust_remote_code: bool = False
    lora: LoraSpec = LoraSpec()
    recommended_batch_size: BatchSizes = BatchSizes()
    memory_requirements: MemoryRequirements = MemoryRequirements()
    training: TrainingOverrides = TrainingOverrides()
    description: str = ""

    @property
    def kind(self) -> ModelKind:
        for kind in ("path", "package", "scratch", "baseline"):
            if getattr(self, kind) is not None:
                return kind
        return "hub"

    @property
    def source(self) -> str:
        """Where it comes from, as one word for the user."""
        if self.package:
            return self.package.distribution
        return self.path or self.baseline or ("scratch" if self.scratch else self.name or "")

    def based_on(self, folder: Path) -> ModelEntry:
        """A relative `path` taken from `folder`."""
        if not self.path:
            return self
        return msgspec.structs.replace(self, path=str((folder / Path(self.path).expanduser()).resolve()))

    def spec(self) -> ModelSpec:
        return ModelSpec(
            alias=self.alias,
            kind=self.kind,
            name=self.source,
            revision=self.revision,
            weights_sha256=self.sha256,
            package=PackageSpec(module=self.package.module, folder=self.package.folder) if self.package else None,
            scratch=self.scratch,
            architecture=self.architecture,
            parameters=self.parameters,
            trust_remote_code=self.trust_remote_code,
        )


class DatasetEntry(Entry, frozen=True, kw_only=True):
    """One dataset. Its source is one of `hub`, `kaggle`, `embedded`, or files (`file`, or `train` with or without
    `validation` and `test`)."""

    name: str
    hub: str | None = None
    kaggle: str | None = None
    embedded: str | None = None
    file: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    config: str | None = None
    revision: str | None = None
    splits: dict[Split, str] = {}
    split_column: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    label_rule: dict[str, str] = {}
    label_map: dict[str, str] = {}
    label_separator: str | None = None
    filters: dict[str, tuple[str, ...]] = {}
    keep_columns: tuple[str, ...] = ()
    slice_columns: tuple[str, ...] = ()
    sizes: SplitSizes | None = SplitSizes()  # None: all rows
    balanced: bool = False
    max_length: int = 128
    seed: int = 42
    description: str = ""

    @property
    def source(self) -> str:
        return self.hub or self.kaggle or self.embedded or self.file or self.train or ""

    def request(self, base: Path) -> DatasetRequest:
        """What `prepare` needs; relative paths are taken from `base`. Raises InputError."""
        files = {"all": self.file, "train": self.train, "validation": self.validation, "test": self.test}
        kinds = {"hub": self.hub, "kaggle": self.kaggle, "embedded": self.embedded, "file": any(files.values())}
        given = [kind for kind, value in kinds.items() if value]
        if len(given) != 1 and not (given == ["kaggle", "file"]):
            raise InputError(
                f"dataset '{self.name}' needs exactly one source, found {', '.join(given) or 'none'}",
                "give one of hub, kaggle, embedded, file, or train (with test)",
            )
        kind = given[0]
        if "file" in given and bool(self.file) == bool(self.train):
            raise InputError(
                f"dataset '{self.name}' needs either 'file' or 'train' for its training rows",
                "give `file` for one file that is yet to be split, `train` for one that is",
            )
        self._check_numbers()
        if kind == "kaggle":  # names inside the downloaded folder
            resolved = {split: name for split, name in files.items() if name}
        else:
            resolved = {split: str((base / Path(name).expanduser()).resolve()) for split, name in files.items() if name}
        fields = (
            "name config revision splits split_column text_column label_column label_rule label_map label_separator "
            "filters keep_columns slice_columns balanced max_length seed"
        )
        return DatasetRequest(
            source=kind,  # type: ignore[arg-type]
            location=self.hub or self.kaggle or self.embedded,
            files=resolved,
            sizes=self.sizes or ALL_ROWS,
            **{field: getattr(self, field) for field in fields.split()},
        )

    def _check_numbers(self) -> None:
        numbers = {f"sizes.{split}": rows for split, rows in msgspec.structs.asdict(self.sizes or ALL_ROWS).items()}
        for what, number in (numbers | {"max_length": self.max_length}).items():
            if number is not None and number < 1:
                raise InputError(f"dataset '{self.name}': {what} is {number}", "give a number of at least 1")


class _ModelsFile(Entry, frozen=True):
    models: tuple[ModelEntry, ...] = ()


class _DatasetsFile(Entry, frozen=True):
    datasets: tuple[DatasetEntry, ...] = ()


class TrainingDefaults(Entry, frozen=True, kw_only=True):
    """config/training.yaml: later ones win: defaults, method, scratch (for random weights); smoke after all."""

    defaults: TrainingOverrides
    methods: dict[Method, TrainingOverrides]
    scratch: TrainingOverrides
    smoke: TrainingOverrides


class EvaluationOverrides(Overrides, frozen=True, kw_only=True):
    """Settings of EvaluationSpec to replace; None leaves what stands."""

    batch_size: Positive | None = None
    windows: Positive | None = None
    repeats: Count | None = None
    warmup_requests: Count | None = None
    min_requests: Positive | None = None
    max_requests: Positive | None = None
    latency_min_s: Seconds | None = None
    latency_max_s: Seconds | None = None
    throughput_batch_sizes: tuple[Positive, ...] | None = None
    throughput_texts: Positive | None = None
    throughput_min_s: Seconds | None = None
    throughput_max_s: Seconds | None = None
    calibration_bins: Positive | None = None

    def onto(self, spec: EvaluationSpec) -> EvaluationSpec:
        return msgspec.structs.replace(spec, **self.given())


class EvaluationDefaults(Entry, frozen=True, kw_only=True):
    """config/evaluation.yaml."""

    defaults: EvaluationSpec
    smoke: EvaluationOverrides


@dataclass(frozen=True)
class Catalog:
    models: Mapping[str, ModelEntry]
    datasets: Mapping[str, tuple[DatasetEntry, Path]]  # with the folder that relative paths start from
    suites: Mapping[str, Path]
    training: TrainingDefaults
    evaluation: EvaluationDefaults

    def model(self, name: str) -> ModelEntry:
        """By alias, in any case. Raises InputError with the nearest alias."""
        names: dict[str, ModelEntry] = {}
        for entry in self.models.values():
            for alias in (entry.alias, *entry.aliases):
                names[alias.lower()] = entry
        if name.lower() in names:
            return names[name.lower()]
        known = [alias for entry in self.models.values() for alias in (entry.alias, *entry.aliases)]
        raise unknown("model", name, known, "see `moodbench models list`; a folder of your own is `path:FOLDER`")

    def dataset(self, name: str) -> tuple[DatasetEntry, Path]:
        for known, entry in self.datasets.items():
            if known.lower() == name.lower():
                return entry
        raise unknown(
            "dataset", name, self.datasets, "see `moodbench datasets list`; a file of your own is --data FILE"
        )

    def suite(self, name: str) -> Path:
        if name in self.suites:
            return self.suites[name]
        raise unknown(
            "suite", name, self.suites, f"suites known: {', '.join(sorted(self.suites))}; or give a YAML file"
        )


def shipped_config() -> Path:
    """`config/` beside the packages in a checkout, inside `harness` in an installed wheel."""
    here = Path(__file__).resolve().parent
    installed = here / "config"
    return installed if installed.is_dir() else here.parent / "config"


def config_folders() -> list[Path]:
    folders = [shipped_config()]
    own = os.environ.get("MOODBENCH_CONFIG")
    if own:
        if not Path(own).is_dir():
            raise InputError(f"MOODBENCH_CONFIG names '{own}', which is no folder", "correct or unset it")
        folders.append(Path(own).resolve())
    return folders


@cache
def load_catalog() -> Catalog:
    """Everything configured, read once a process. Raises InputError."""
    models: dict[str, ModelEntry] = {}
    datasets: dict[str, tuple[DatasetEntry, Path]] = {}
    suites: dict[str, Path] = {}
    folders = config_folders()
    for folder in folders:
        own = read_models(folder / "models.yaml")
        models = _without(models, own) | {alias: entry.based_on(folder) for alias, entry in own.items()}
        sets = read_datasets(folder / "datasets.yaml")
        datasets = _without(datasets, sets) | {name: (entry, folder) for name, entry in sets.items()}
        suites |= {path.stem: path for path in sorted((folder / "suites").glob("*.yaml"))}
    shipped = folders[0]
    return Catalog(
        models=models,
        datasets=datasets,
        suites=suites,
        training=_read(shipped / "training.yaml", TrainingDefaults),
        evaluation=_read(shipped / "evaluation.yaml", EvaluationDefaults),
    )


def _without(entries: dict[str, T], replaced: Iterable[str]) -> dict[str, T]:
    """Entries but for those that others of the same name replace, in whatever case it is written."""
    gone = {name.lower() for name in replaced}
    return {name: entry for name, entry in entries.items() if name.lower() not in gone}


def _read(path: Path, kind: type[T]) -> T:
    return convert(load_yaml(path), kind, str(path))


def read_models(path: Path) -> dict[str, ModelEntry]:
    if not path.exists():
        return {}
    models: dict[str, ModelEntry] = {}
    taken: set[str] = set()
    for entry in _read(path, _ModelsFile).models:
        check_model(entry, str(path))
        for alias in (entry.alias, *entry.aliases):
            if alias.lower() in taken:
                raise InputError(f"{path}: the alias '{alias}' is given twice", "give each model its own alias")
            taken.add(alias.lower())
        models[entry.alias] = entry
    return models


def check_model(entry: ModelEntry, where: str) -> None:
    given = [kind for kind in ("path", "package", "scratch", "baseline") if getattr(entry, kind) is not None]
    if len(given) > 1 or (not given and not entry.name):
        raise InputError(
            f"{where}: model '{entry.alias}' needs exactly one source, found {', '.join(given) or 'none'}",
            "give one of name (hub id), path, package, scratch, baseline",
        )
    if entry.lora.rank < 1 or entry.lora.alpha < 1 or not 0 <= entry.lora.dropout < 1:
        raise InputError(
            f"{where}: model '{entry.alias}': lora needs rank and alpha of at least 1 and a dropout from 0 to below 1",
            "correct those values",
        )


def read_datasets(path: Path) -> dict[str, DatasetEntry]:
    if not path.exists():
        return {}
    datasets: dict[str, DatasetEntry] = {}
    for entry in _read(path, _DatasetsFile).datasets:
        if entry.name.lower() in map(str.lower, datasets):
            raise InputError(f"{path}: the dataset '{entry.name}' is given twice", "give each dataset its own name")
        entry.request(path.parent)  # a wrong source is found when the file is read
        datasets[entry.name] = entry
    return datasets
