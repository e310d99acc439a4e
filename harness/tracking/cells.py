"""A cell as an MLflow run: names, tags, parameters, figures and times. Pure, and without MLflow.

Names follow the files: parameters are `training.learning_rate` of `spec.json`, `requested.batch_size` and
`effective.batch_size` of `result.json`. Figures of the summary keep their names; the others stand in groups, as the
charts of MLflow show them: `quality/mcc`, `class/good/f1`, `slice/source/imdb/accuracy`, `latency/p95_ms`,
`throughput/batch_32/samples_per_s`, `memory/rss_peak_inference_mb`, `seconds/train`, `training/steps`; and by step
`train/loss`, `validation/f1`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from harness.record import CellEntry
from harness.text import clean
from runner.contract import PHASES, CellSpec, ContractError, CurvePoint, Failure, Quality, Result, Timing

RUN_CREATED, CELL, DIGEST, LEFT_OUT = (
    "moodbench.run_created",
    "moodbench.cell",
    "moodbench.digest",
    "moodbench.left_out",
)
NOTE = "mlflow.note.content"
Status = Literal["FINISHED", "FAILED"]
# MLflow takes 6,000 and 8,000 characters, and names of 250.
PARAM_CHARS, TAG_CHARS, PART_CHARS = 6_000, 8_000, 60
MOST_POINTS, MOST_PARAMS, MOST_STEP = 20_000, 1_000, 2**53
GREATEST = 1e300  # also of a whole number, which JSON may have with any number of digits
MOST_SECONDS = 2**40  # of a time; MLflow keeps milliseconds in 64 bits

_UNFIT = re.compile(r"[^\w\- ]+")  # between the dots and slashes that are ours
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~&])")


@dataclass(frozen=True)
class Origin:
    """Which attempt of which run is told of. `digest`: of the file that it is read from, so that what was done again
    under the same number is another one."""

    run: str
    run_created: float
    entry: CellEntry
    attempt: int
    digest: str


@dataclass(frozen=True)
class Point:
    name: str
    value: float
    step: int
    t_ms: int


@dataclass(frozen=True)
class TrackedCell:
    """What MLflow is told of one attempt."""

    name: str
    status: Status
    started_ms: int
    ended_ms: int
    tags: Mapping[str, str]
    params: Mapping[str, str]
    points: tuple[Point, ...] = ()


def finished_cell(origin: Origin, result: Result, spec: CellSpec) -> TrackedCell:
    """Raises ContractError where a cell left more than any cell has."""
    where = result.provenance
    started = _ms(where.started)
    ended = max(started, _ms(where.finished))
    tags = _tags(origin, spec) | {NOTE: _note(_remarks(result))}
    if where.code.commit is not None:
        tags["mlflow.source.git.commit"] = where.code.commit
    params = _params(spec)
    for name, value in result.requested.items():
        _add(params, f"requested.{safe(name)}", value)
    for name, choice in result.effective.items():
        _add(params, f"effective.{safe(name)}", choice.value)
    figures = [Point(name, value, 0, ended) for name, value in _figures(result)]
    return _checked(
        TrackedCell(
            name=origin.entry.cell,
            status="FINISHED",
            started_ms=started,
            ended_ms=ended,
            tags=tags,
            params=params,
            points=(*figures, *_curves(result, started, ended)),
        )
    )


def failed_cell(origin: Origin, failure: Failure, spec: CellSpec, started: float) -> TrackedCell:
    """`started`: when its attempt did, Unix seconds."""
    began = _ms(started)
    remarks = [f"{failure.kind}: {failure.message}", f"hint: {failure.hint}"]
    return TrackedCell(
        name=origin.entry.cell,
        status="FAILED",
        started_ms=began,
        ended_ms=max(began, _ms(failure.t)),
        tags=_tags(origin, spec) | {"moodbench.failure": failure.kind, NOTE: _note(remarks)},
        params=_params(spec),
    )


def safe(text: str) -> str:
    """As a part of a name in MLflow, which takes letters, digits, blanks and `_-`."""
    return _UNFIT.sub("_", text)[:PART_CHARS].strip() or "_"


@dataclass
class _Names:
    """Parts of names that no two of a group share, even where a database takes capitals for the same."""

    taken: set[str] = field(default_factory=set)

    def of(self, *texts: str) -> str:
        stem = name = "/".join(map(safe, texts))
        number = 1
        while name.casefold() in self.taken:
            number += 1
            name = f"{stem}_{number}"
        self.taken.add(name.casefold())
        return name


# --- words --------------------------------------------------------------------------------------


def _tags(origin: Origin, spec: CellSpec) -> dict[str, str]:
    entry = origin.entry
    known = {
        RUN_CREATED: repr(origin.run_created),
        CELL: entry.cell,
        DIGEST: origin.digest,
        "moodbench.run": origin.run,
        "moodbench.attempt": str(origin.attempt),
        "moodbench.identity": entry.identity,
        "moodbench.model": entry.model,
        "moodbench.dataset": entry.dataset,
        "moodbench.fingerprint": entry.fingerprint,
        "moodbench.method": entry.method,
        "moodbench.seed": str(entry.seed),
        "moodbench.device": entry.device,
        "moodbench.executor": spec.executor,
        "moodbench.version": spec.runner_version,
        "mlflow.source.name": "moodbench",
        "mlflow.source.type": "LOCAL",
    }
    return {name: clean(value)[:TAG_CHARS] for name, value in known.items()}


def _params(spec: CellSpec) -> dict[str, str]:
    """Everything that was asked of the cell, in the words of its `spec.json`."""
    params: dict[str, str] = {}
    plain = {
        "model": spec.model.alias,
        "model_name": spec.model.name,
        "model_revision": spec.model.revision,
        "architecture": spec.model.architecture,
        "dataset": spec.dataset.name,
        "max_length": spec.dataset.max_length,
        "method": spec.method,
        "seed": spec.seed,
        "device": spec.device,
        "threads": spec.threads,
        "executor": spec.executor,
    }
    plain |= {f"rows.{split}": info.rows for split, info in spec.dataset.splits.items()}
    for name, value in plain.items():
        _add(params, name, value)
    for group, settings in (("lora", spec.lora), ("training", spec.training), ("evaluation", spec.evaluation)):
        for name, value in (msgspec.to_builtins(settings) or {}).items():
            _add(params, f"{group}.{name}", value)
    return params


def _add(params: dict[str, str], name: str, value: Any) -> None:
    """As JSON writes it, text without quotes; what is not set is left out."""
    if value is not None and value != "":
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        params[name] = clean(text)[:PARAM_CHARS]


def _remarks(result: Result) -> Iterator[str]:
    for name, reason in result.reasons.items():
        yield f"{name} is missing: {reason}"
    for warning in result.warnings:
        yield f"warning: {warning}"
    asked = result.requested
    for name, choice in result.effective.items():
        if name in asked and asked[name] != choice.value:
            yield f"{name} is {choice.value} instead of {asked[name]}: {choice.reason}"


def _note(remarks: Iterable[str]) -> str:
    """A list in Markdown, in which nothing that data or a model wrote is a link, an image or HTML."""
    lines = ("- " + _MARKDOWN.sub(r"\\\1", clean(remark)) for remark in remarks)
    return "\n".join(lines)[:TAG_CHARS]


# --- figures ------------------------------------------------------------------------------------


def _figures(result: Result) -> Iterator[tuple[str, float]]:
    """Name and value of everything that has one value; null is left out, and `_remarks` say why."""
    for name, value in _named_figures(result):
        if isinstance(value, int | float) and abs(value) < GREATEST:
            yield name, float(value)


def _named_figures(result: Result) -> Iterator[tuple[str, Any]]:
    yield from _fields("", result.summary)
    yield "parameters_total", result.parameters_total
    yield "parameters_trainable", result.parameters_trainable
    if result.quality is not None:
        yield from _quality(result.quality)
    if result.training is not None:
        yield from _fields("training/", result.training)
    if result.timing is not None:
        yield from _timing(result.timing)
    yield from _fields("memory/", result.memory)
    yield from ((f"seconds/{phase}", seconds) for phase, seconds in result.phases.items())


def _fields(prefix: str, struct: msgspec.Struct) -> Iterator[tuple[str, Any]]:
    return ((prefix + name, value) for name, value in msgspec.structs.asdict(struct).items())


def _quality(quality: Quality) -> Iterator[tuple[str, Any]]:
    yield "quality/rows", quality.rows
    names = _Names()
    yield from ((f"quality/{names.of(name)}", value) for name, value in quality.metrics.items())
    classes = _Names()
    for one in quality.per_class:
        name = classes.of(one.label)
        yield from ((f"class/{name}/{what}", getattr(one, what)) for what in ("precision", "recall", "f1", "support"))
    slices = _Names()
    for part in quality.per_slice:
        name = slices.of(part.column, part.value)
        yield from ((f"slice/{name}/{what}", getattr(part, what)) for what in ("rows", "accuracy", "f1"))


def _timing(timing: Timing) -> Iterator[tuple[str, Any]]:
    yield from _fields("latency/", timing.latency)
    for one in timing.throughput:
        group = f"throughput/batch_{one.batch_size}"
        yield f"{group}/samples_per_s", one.samples_per_s
        yield f"{group}/tokens_per_s", one.tokens_per_s
    yield "timing/cold_start_s", timing.cold_start_s
    yield "timing/first_request_ms", timing.first_request_ms
    yield "timing/cpu_share_foreign", timing.cpu_share_foreign
    yield "timing/contaminated", timing.contaminated


def _curves(result: Result, started_ms: int, ended_ms: int) -> Iterator[Point]:
    """MLflow wants a time for each point: a result has steps alone, which are laid evenly over its training."""
    if result.training is None:
        return
    before = sum(result.phases.get(phase, 0.0) for phase in PHASES[: PHASES.index("train")])
    begin = min(ended_ms, started_ms + _ms(before))
    end = min(ended_ms, begin + _ms(result.phases.get("train", 0.0)))
    curves = {"train": result.training.loss_curve, "validation": result.training.validation_curve}
    steps = max((point.step for points in curves.values() for point in points), default=1)
    for group, points in curves.items():
        yield from _curve(group, points, lambda step: round(begin + (end - begin) * step / max(steps, 1)))


def _curve(group: str, points: Sequence[CurvePoint], time_of: Callable[[int], int]) -> Iterator[Point]:
    for point in points:
        if not 0 <= point.step <= MOST_STEP:
            raise ContractError(f"its {group} curve has a step {point.step}")
        for name, value in point.values.items():
            if value is not None:
                yield Point(f"{group}/{safe(name)}", value, point.step, time_of(point.step))


def _ms(seconds: float) -> int:
    """A cell's own word, too."""
    return round(min(max(seconds, 0.0), MOST_SECONDS) * 1000)


def _checked(cell: TrackedCell) -> TrackedCell:
    if len(cell.points) > MOST_POINTS or len(cell.params) > MOST_PARAMS:
        raise ContractError(f"its result has more than {MOST_POINTS:,} figures or {MOST_PARAMS:,} settings")
    return cell
