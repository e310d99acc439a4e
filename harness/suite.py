"""Suites: YAML or options of the command line -> Suite -> resolved cell specifications."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.catalog import (
    Catalog,
    DatasetEntry,
    Entry,
    EvaluationOverrides,
    ModelEntry,
    TrainingOverrides,
    check_model,
    load_catalog,
)
from harness.errors import InputError, unknown
from harness.strict import convert, load_yaml
from runner import __version__
from runner.contract import (
    METHODS,
    CellSpec,
    Choice,
    CodeVersion,
    DatasetRequest,
    Device,
    EvaluationSpec,
    ExecutorName,
    Limits,
    Method,
    ModelSpec,
    PreparedDataset,
    SplitSizes,
    TrainingSpec,
    cell_name,
    identity_of,
)

SMOKE_SIZES = SplitSizes(train=50, validation=20, test=20)
FEWEST_EXAMPLES, MOST_EXAMPLES = 32, 64  # seen by one optimiser step, unless a suite says otherwise
TRAINABLE_METHODS: tuple[Method, ...] = ("lora", "full", "frozen")


class SuiteFile(Entry, frozen=True, kw_only=True):
    """A suite as YAML writes it. Models and datasets are names of the catalogue or entries written in place."""

    models: tuple[str | ModelEntry, ...]
    datasets: tuple[str | DatasetEntry, ...]
    methods: tuple[str, ...] = ("lora",)
    seeds: tuple[int, ...] = (42,)
    training: TrainingOverrides = TrainingOverrides()
    evaluation: EvaluationOverrides = EvaluationOverrides()
    description: str = ""


class Suite(Entry, frozen=True, kw_only=True):
    """A selection with every name looked up. `requests` are what the datasets need to be prepared."""

    name: str
    models: tuple[ModelEntry, ...]
    requests: tuple[DatasetRequest, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    training: TrainingOverrides = TrainingOverrides()
    evaluation: EvaluationOverrides = EvaluationOverrides()
    smoke: bool = False


@dataclass(frozen=True)
class Selection:
    """What the command line adds to, or puts in place of, a suite. Empty means: as the suite says."""

    models: Sequence[str] = ()
    datasets: Sequence[str] = ()
    data: DatasetEntry | None = None
    methods: Sequence[str] = ()
    seeds: Sequence[int] = ()
    smoke: bool = False


@dataclass(frozen=True)
class Job:
    """One cell before its model and dataset are resolved."""

    model: ModelEntry
    request: DatasetRequest
    method: Method
    seed: int


@dataclass(frozen=True)
class CellPlace:
    """Where a cell runs and what it may use there; nothing of it decides the outcome."""

    executor: ExecutorName
    reason: str
    image_digest: str | None
    limits: Limits
    threads: int


def read_suite_file(name: str, catalog: Catalog) -> tuple[SuiteFile, str, Path]:
    """A suite by name or by file: its content, its name, and the folder relative paths start from."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or (path.is_file() and name not in catalog.suites):
        if not path.is_file():
            raise InputError(f"no such suite file: {path}", "check the path; `moodbench run --help` shows examples")
    else:
        path = catalog.suite(name)
    data = load_yaml(path)
    if not isinstance(data, dict):
        raise InputError(
            f"{path}: a suite is a mapping with the keys models and datasets", "see config/suites/demo.yaml"
        )
    return convert(data, SuiteFile, str(path)), path.stem, path.resolve().parent


def build_suite(name: str | None, selection: Selection) -> Suite:
    """Suite file and command line together. Raises InputError."""
    catalog = load_catalog()
    own_data = selection.data is not None or selection.datasets
    if name is None and not own_data:
        raise InputError(
            "nothing to run: no suite and no data was named",
            f"name a suite ({', '.join(sorted(catalog.suites))}), or give --data FILE or --datasets NAME",
        )
    file, suite_name, base = read_suite_file(name or "demo", catalog)
    if name is None:  # the demo suite lends its models, nothing else
        file = SuiteFile(models=file.models, datasets=())
        suite_name = selection.data.name if selection.data else "-".join(selection.datasets)
    suite = Suite(
        name=suite_name,
        models=_models(file, base, selection, catalog),
        requests=_requests(file, base, selection, catalog),
        methods=tuple(_method(m) for m in (selection.methods or file.methods)),
        seeds=tuple(selection.seeds or file.seeds),
        training=file.training,
        evaluation=file.evaluation,
        smoke=selection.smoke or test_mode(),
    )
    _refuse_emptiness_and_repeats(suite)
    return suite


def chosen_models(name: str | None, selection: Selection) -> tuple[ModelEntry, ...]:
    """Those of the selection, else of the suite, if one is named. Raises InputError."""
    catalog = load_catalog()
    return _models(*_suite_or_nothing(name, catalog), selection, catalog)


def chosen_requests(name: str | None, selection: Selection) -> tuple[DatasetRequest, ...]:
    """Those of the selection, else of the suite, if one is named. Raises InputError."""
    catalog = load_catalog()
    return _requests(*_suite_or_nothing(name, catalog), selection, catalog)


def _suite_or_nothing(name: str | None, catalog: Catalog) -> tuple[SuiteFile, Path]:
    """A suite and the folder its relative paths start from."""
    if name is None:
        return SuiteFile(models=(), datasets=()), Path.cwd()
    file, _, base = read_suite_file(name, catalog)
    return file, base


def test_mode() -> bool:
    return os.environ.get("MOODBENCH_TEST_MODE", "") not in ("", "0")


def _model(given: str | ModelEntry, catalog: Catalog, base: Path) -> ModelEntry:
    """A model by its alias, as `path:FOLDER` or `hub:ID`, or written in place; relative folders start from `base`."""
    if isinstance(given, ModelEntry):
        check_model(given, "suite")
        return given.based_on(base)
    kind, _, rest = given.partition(":")
    if kind == "path" and rest:
        entry = ModelEntry(alias="", path=rest).based_on(base)
        return msgspec.structs.replace(entry, alias=Path(entry.source).name)
    if kind == "hub" and rest:
        return ModelEntry(alias=rest.rpartition("/")[2], name=rest)
    return catalog.model(given)


def _models(file: SuiteFile, base: Path, selection: Selection, catalog: Catalog) -> tuple[ModelEntry, ...]:
    chosen = [_model(given, catalog, Path.cwd()) for given in selection.models]
    return tuple(chosen or [_model(given, catalog, base) for given in file.models])


def _requests(file: SuiteFile, base: Path, selection: Selection, catalog: Catalog) -> tuple[DatasetRequest, ...]:
    chosen: list[str | DatasetEntry] = list(selection.datasets)
    requests = []
    if selection.data is not None:
        requests.append(selection.data.request(Path.cwd()))
    if not chosen and selection.data is None:
        chosen = list(file.datasets)
    for given in chosen:
        entry, folder = catalog.dataset(given) if isinstance(given, str) else (given, base)
        requests.append(entry.request(folder))
    if selection.smoke or test_mode():
        requests = [msgspec.structs.replace(request, sizes=SMOKE_SIZES) for request in requests]
    return tuple(requests)


def _method(name: str) -> Method:
    for method in TRAINABLE_METHODS:
        if name == method:
            return method
    if name in METHODS:
        raise InputError(f"method '{name}' cannot be run by this version", f"methods: {', '.join(TRAINABLE_METHODS)}")
    raise unknown("method", name, TRAINABLE_METHODS, f"methods: {', '.join(TRAINABLE_METHODS)}")


def _refuse_emptiness_and_repeats(suite: Suite) -> None:
    for what, names in (
        ("model", [m.alias for m in suite.models]),
        ("dataset", [r.name for r in suite.requests]),
        ("method", [str(m) for m in suite.methods]),
        ("seed", [str(s) for s in suite.seeds]),
    ):
        if not names:
            raise InputError(f"suite '{suite.name}' names no {what}", f"give at least one {what}")
        repeated = {n for n in names if names.count(n) > 1}
        if repeated:
            raise InputError(
                f"suite '{suite.name}' names the {what} {', '.join(sorted(repeated))} twice", "name each once"
            )
    if not all(0 <= seed < 2**32 for seed in suite.seeds):
        raise InputError(f"suite '{suite.name}': seeds lie between 0 and {2**32 - 1}", "choose other seeds")


def jobs_of(suite: Suite) -> list[Job]:
    """Every cell: seeds outermost, so that a run broken off early has compared all models on some seeds."""
    return [
        Job(model=model, request=request, method=method, seed=seed)
        for seed in suite.seeds
        for request in suite.requests
        for model in suite.models
        for method in methods_for(model, suite.methods)
    ]


def methods_for(model: ModelEntry, methods: Iterable[Method]) -> tuple[Method, ...]:
    """A baseline has no method, and random weights can only be trained in full: both ignore what the suite says."""
    if model.kind == "baseline":
        return ("none",)
    return ("full",) if model.kind == "scratch" else tuple(methods)


def resolve_cell(
    job: Job,
    suite: Suite,
    *,
    model: ModelSpec,
    dataset: PreparedDataset,
    device: Choice,
    place: CellPlace,
    code: CodeVersion,
) -> CellSpec:
    """The full specification of one cell, its name and identity included."""
    if job.model.kind == "baseline":
        device = Choice(value="cpu", reason="baselines run on the CPU")
    cell_device: Device = device.value  # type: ignore[assignment]
    spec = CellSpec(
        model=model,
        method=job.method,
        lora=job.model.lora if job.method == "lora" else None,
        dataset=dataset,
        training=training_spec(job, suite, cell_device, dataset.splits["train"].rows),
        evaluation=evaluation_spec(suite),
        seed=job.seed,
        device=cell_device,
        device_reason=device.reason,
        threads=place.threads,
        limits=place.limits,
        executor=place.executor,
        executor_reason=place.reason,
        image_digest=place.image_digest,
        lease=True,
        runner_version=__version__,
        code=code,
    )
    identity = identity_of(spec)
    return msgspec.structs.replace(spec, identity=identity, cell=cell_name(spec, identity))


def training_spec(job: Job, suite: Suite, device: Device, rows: int) -> TrainingSpec:
    """Defaults, then the method's, scratch's, the model's and the suite's own settings; smoke has the last word.

    `rows`: of the training split. Where they are too few for `min_steps` steps of the largest batch, a step sees the
    fewest examples allowed, so that fewer epochs have to be added.
    """
    training = load_catalog().training
    batch = getattr(job.model.recommended_batch_size, device)
    layers: list[TrainingOverrides] = [training.defaults, TrainingOverrides(batch_size=batch)]
    layers.append(training.methods.get(job.method, TrainingOverrides()))
    if job.model.kind == "scratch":
        layers.append(training.scratch)
    layers += [job.model.training, suite.training]
    if suite.smoke:
        layers.append(training.smoke)
    settings = {key: value for layer in layers for key, value in layer.given().items()}
    effective = settings.pop("effective_batch_size", None)
    if effective is None and settings["epochs"] * rows < settings["min_steps"] * MOST_EXAMPLES:
        effective = FEWEST_EXAMPLES
    settings |= _batches(settings["batch_size"], effective)
    return TrainingSpec(**settings)


def _batches(batch: int, effective: int | None) -> Mapping[str, int]:
    """Batch size and accumulation. Unless `effective` is given, a step sees 4 batches, but 32 to 64 examples."""
    if effective is not None:
        batch = min(batch, effective)
        return {"batch_size": batch, "accumulation": math.ceil(effective / batch)}
    batch = min(batch, MOST_EXAMPLES)
    accumulation = min(max(4, math.ceil(FEWEST_EXAMPLES / batch)), MOST_EXAMPLES // batch)
    return {"batch_size": batch, "accumulation": accumulation}


def evaluation_spec(suite: Suite) -> EvaluationSpec:
    evaluation = load_catalog().evaluation
    spec = suite.evaluation.onto(evaluation.defaults)
    return evaluation.smoke.onto(spec) if suite.smoke else spec


def as_mapping(suite: Suite) -> Mapping[str, object]:
    """The suite as plain data, for the run's record."""
    return msgspec.to_builtins(suite)  # type: ignore[no-any-return]
