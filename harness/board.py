"""The leaderboard as data: what the ranking makes and what tables, reports and displays draw. Imports no numpy."""

from __future__ import annotations

from functools import lru_cache
from types import GenericAlias
from typing import Any, Literal, cast

import msgspec

from harness.metrics import METRICS, OVERALL_METRICS
from runner.contract import ContractError, Device, ExecutorName

# 2: noise_floor, level; 3: rank intervals, p_best, tie, pareto, speed keys, scaling, contrasts. Another metric in the
# registry is another version: from_json asks for all of them.
SCHEMA_VERSION = 3

Normaliser = Literal["minmax", "zscore", "robust", "none"]

FEW_TEST_ROWS = 200
"""Below this many test examples a row is flagged `few_test_rows`."""

FLAG_MEANINGS: dict[str, str] = {
    "at_chance": "The accuracy interval does not lie above the share of the most frequent class.",
    "contaminated": "Something else used the machine while the speed was measured.",
    "few_requests": "Too few timed requests for the p95; it is withheld.",
    "few_test_rows": f"Fewer than {FEW_TEST_ROWS} test examples: the intervals are rough.",
    "no_predictions": "There are no predictions on the test split, so there is no rank.",
    "no_timing": "Speed was not measured; in the score it counts as the slowest.",
    "one_seed": "A single seed: the intervals leave out how much training, and speed from process to process, vary.",
    "only_model": "Nothing to compare with: the score is 0 by construction.",
    "other_data_version": "Another version of the dataset of this name; ranked apart from the larger group.",
    "reduced_batch": "A batch size used, in training or evaluation, is not the one asked for.",
    "seeds_differ": "Not the same seeds as most others of the dataset.",
    "speed_not_comparable": "Measured on differing hardware or images: the score uses quality alone.",
    "speed_tied": "Its latency or throughput is that of another row but for the machine's noise; equal in the score.",
    "superseded": "An older result of the same model, method, device and seed was left out.",
}


class Base(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Frozen and strict, as the types of the contract."""


class Figure(Base, frozen=True, kw_only=True, omit_defaults=True):
    """A value with its interval. `reason` says why the value, or a missing interval, is null. `level`: the mean that it
    is shown and scored as, where the noise floor does not part it from the same figure of other rows."""

    value: float | None
    low: float | None
    high: float | None
    reason: str | None = None
    level: float | None = None


class NoiseFloor(Base, frozen=True, kw_only=True):
    """Smaller differences, as shares (0.021 is 2.1 %), are noise on this machine; known for one way to run a cell on
    its CPU."""

    latency_p50: float
    latency_p99: float
    throughput: float
    cpu_model: str | None
    executor: ExecutorName
    threads: int


class SpeedKey(Base, frozen=True, kw_only=True):
    """What must be equal for two speeds to be comparable."""

    device: Device
    cpu_model: str | None
    threads: int
    gpu_model: str | None
    executor: ExecutorName
    image_digest: str | None
    cpus: float | None


class Place(Base, frozen=True, kw_only=True):
    """Where a model stands among those it is ranked with, all null without a score. `rank`: 1 is best, equal scores
    share the lower. `rank_low` to `rank_high` holds its true rank with 95 % confidence. `p_best`: the share of
    resamples in which it is the best. `tie`: the number of its tie group, 1 the best: models that the data do not tell
    apart from the best of the group."""

    rank: int | None
    rank_low: int | None
    rank_high: int | None
    p_best: float | None
    tie: int | None


class Row(Place, frozen=True, kw_only=True):
    """One model on one dataset, ranked within its dataset version. `pareto`: whether no other of
    the same `speed_key` is at least as good in F1, p95 latency and peak memory and better in one; null where a figure
    or the key is missing. `speed_key`: of
    `Leaderboard.speed_keys`; null where no speed was measured, or its seeds were measured at several places."""

    model: str
    dataset: str
    fingerprint: str
    method: str
    device: str
    seeds: tuple[int, ...]
    test_rows: int
    architecture: str | None
    parameters: int | None
    pareto: bool | None
    speed_key: str | None
    flags: tuple[str, ...]
    metrics: dict[str, Figure]


class OverallRow(Place, frozen=True, kw_only=True):
    """One model over all datasets: plain means of the per-dataset figures."""

    model: str
    method: str
    device: str
    metrics: dict[str, Figure]


class Scaling(Base, frozen=True, kw_only=True):
    """How accuracy grows with size on one dataset: least squares of accuracy on log10(parameters) over `models` models.
    `slope`: of a tenfold size; its interval is that of the models at hand, over examples and seeds. `residual`: root
    mean square of what the line leaves."""

    dataset: str
    fingerprint: str
    method: str
    models: int
    slope: Figure
    intercept: float
    residual: float


class Contrast(Base, frozen=True, kw_only=True):
    """One kind against another on one dataset, in accuracy and F1 or a ratio of speeds. `method`: the same models under
    both methods (`pairs` of them). `architecture`: the mean of all encoders against that of all decoders under one
    `method`, null for a contrast of methods (`pairs`: the smaller number). `difference`: `first` minus `second`."""

    kind: Literal["method", "architecture"]
    dataset: str
    fingerprint: str
    first: str
    second: str
    method: str | None = None
    metric: str
    pairs: int
    difference: Figure


class AcrossDatasets(Base, frozen=True, kw_only=True):
    """Whether models differ over five datasets or more, by their ranks in `metric` on each, whatever its size. `p`: of
    equal mean ranks (Friedman, by permutation). Mean ranks further apart than `critical_difference`
    differ (Nemenyi, 95 %). `mean_ranks`: in the order of `overall`."""

    metric: str
    datasets: int
    p: float
    critical_difference: float
    mean_ranks: tuple[float, ...]


class Leaderboard(Base, frozen=True, kw_only=True):
    """Rows by dataset, then rank. `overall` is empty unless several datasets share a model."""

    schema_version: int = SCHEMA_VERSION
    confidence: float
    replicates: int
    weights: dict[str, float]  # of the composite score: metric -> weight on its normalised column
    normalise: Normaliser = "minmax"
    noise_floor: NoiseFloor | None = None  # null: the machine was not calibrated, and no figures are level
    rows: tuple[Row, ...]
    overall: tuple[OverallRow, ...] = ()
    across: AcrossDatasets | None = None  # null below five datasets or two models in all of them
    speed_keys: dict[str, SpeedKey] = {}  # speeds are ranked within one of them only
    scaling: tuple[Scaling, ...] = ()
    contrasts: tuple[Contrast, ...] = ()
    made_of: str | None = None  # sha256 of the results and options, by which a kept board is known to be up to date


METRICS_OF: dict[str, tuple[str, ...]] = {"Row": tuple(METRICS), "OverallRow": OVERALL_METRICS}
"""Kind of row -> the metrics that it has."""


def to_builtins(board: Leaderboard) -> dict[str, Any]:
    """The board as JSON-ready dicts and lists, every metric at the top level of its row."""
    plain: dict[str, Any] = msgspec.to_builtins(board)
    for part in ("rows", "overall"):
        plain[part] = [_flat(row) for row in plain[part]]
    return plain


def from_json(data: bytes) -> Leaderboard:
    """The board that `to_builtins` made, of this schema version or an older one: it is then given as one of this, where
    what the older did not know is null. Raises ContractError, with the path of the field."""
    try:
        version = msgspec.json.decode(data, type=_Versioned).schema_version
        if not 1 <= version <= SCHEMA_VERSION:
            raise ContractError(f"schema_version {version} is none of this program's (1 to {SCHEMA_VERSION})")
        stored = msgspec.json.decode(data, type=_stored_board(version < SCHEMA_VERSION))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError(f"it is not a leaderboard: {error}") from None
    known = {field: getattr(stored, field) for field in Leaderboard.__struct_fields__}
    known["schema_version"] = SCHEMA_VERSION
    known["rows"] = tuple(_unflat(Row, row) for row in stored.rows)
    known["overall"] = tuple(_unflat(OverallRow, row) for row in stored.overall)
    return Leaderboard(**known)


def json_schema() -> dict[str, Any]:
    """JSON Schema of what `to_builtins` gives: that of the types, with each metric at the top level of its row."""
    schema = msgspec.json.schema(Leaderboard)
    for kind, metrics in METRICS_OF.items():
        row = schema["$defs"][kind]
        del row["properties"]["metrics"]
        row["properties"] |= {name: {"$ref": "#/$defs/Figure"} for name in metrics}
        row["required"] = [name for name in row["required"] if name != "metrics"] + list(metrics)
    return schema


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    head = {key: list(value) if isinstance(value, tuple) else value for key, value in row.items() if key != "metrics"}
    return {**head, **row["metrics"]}


# --- reading back -----------------------------------------------------------------------------


class _Versioned(msgspec.Struct):
    schema_version: int


_NEW_IN_3 = ("rank_low", "rank_high", "p_best", "tie", "architecture", "parameters", "pareto", "speed_key")
_NOT_YET = Figure(value=None, low=None, high=None, reason="the leaderboard is of an older version, without this figure")


@lru_cache(maxsize=2)
def _stored_board(older: bool) -> type[Leaderboard]:
    """The type of what `to_builtins` gives, each metric a field of its row. `older`: what came with version 3 may be
    absent."""
    rows, overall = (GenericAlias(tuple, (_stored_row(kind, older), ...)) for kind in (Row, OverallRow))
    fields: list[tuple[str, Any, Any]] = [("rows", rows, msgspec.NODEFAULT), ("overall", overall, ())]
    board = msgspec.defstruct("Leaderboard", fields, bases=(Leaderboard,), frozen=True, kw_only=True)
    return cast(type[Leaderboard], board)


def _stored_row(kind: type[Row | OverallRow], older: bool) -> type[msgspec.Struct]:
    fields: list[tuple[Any, ...]] = []
    for field in msgspec.structs.fields(kind):
        if field.name != "metrics":
            fields.append((field.name, field.type, *([None] if older and field.name in _NEW_IN_3 else [])))
    for metric in METRICS_OF[kind.__name__]:
        fields.append((metric, Figure, *([_NOT_YET] if older else [])))
    return msgspec.defstruct(kind.__name__, fields, bases=(Base,), frozen=True, kw_only=True)


def _unflat(kind: type[Any], stored: msgspec.Struct) -> Any:
    fields = {name: getattr(stored, name) for name in kind.__struct_fields__ if name != "metrics"}
    return kind(**fields, metrics={metric: getattr(stored, metric) for metric in METRICS_OF[kind.__name__]})
