"""A stored leaderboard read back: the same board, older versions with what they lack as null, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from harness.board import (
    METRICS_OF,
    Contrast,
    Figure,
    Leaderboard,
    NoiseFloor,
    OverallRow,
    Row,
    Scaling,
    SpeedKey,
    from_json,
    to_builtins,
)
from runner.contract import ContractError

FIGURE = Figure(value=0.873, low=0.851, high=0.894)
KEY = SpeedKey(device="cpu", cpu_model="A", threads=2, gpu_model=None, executor="native", image_digest=None, cpus=None)
NOISE = NoiseFloor(latency_p50=0.02, latency_p99=0.05, throughput=0.03, cpu_model="A", executor="native", threads=2)
PLACE: dict[str, Any] = {"rank": 1, "rank_low": 1, "rank_high": 3, "p_best": 0.62, "tie": 1}
ROW = Row(
    **PLACE, model="MiniLM", dataset="sst2", fingerprint="f1", method="lora", device="cpu", seeds=(1, 2), test_rows=500,
    architecture="encoder-only", parameters=22_713_216, pareto=True, speed_key="k1", flags=("speed_tied",),
    metrics=dict.fromkeys(METRICS_OF["Row"], FIGURE)
    | {
        "brier": Figure(value=None, low=None, high=None, reason="not measured"),
        "latency_median_ms": Figure(value=4.0, low=3.0, high=5.0, level=4.25),
    },
)  # fmt: skip
OVERALL = OverallRow(
    **PLACE, model="MiniLM", method="lora", device="cpu", metrics=dict.fromkeys(METRICS_OF["OverallRow"], FIGURE)
)
BOARD = Leaderboard(
    confidence=0.95, replicates=2000, weights={"accuracy": 0.5, "latency_median_ms": -0.5}, normalise="robust",
    noise_floor=NOISE, rows=(ROW,), overall=(OVERALL,), speed_keys={"k1": KEY},
    scaling=(
        Scaling(
            dataset="sst2", fingerprint="f1", method="lora", models=3, slope=FIGURE, intercept=0.1, residual=0.01
        ),
    ),
    contrasts=(
        Contrast(
            kind="method", dataset="sst2", fingerprint="f1", first="lora", second="full", metric="f1", pairs=2,
            difference=FIGURE,
        ),
    ),
)  # fmt: skip


def stored(**changes: Any) -> dict[str, Any]:
    return to_builtins(BOARD) | changes


def read(plain: dict[str, Any]) -> Leaderboard:
    return from_json(json.dumps(plain).encode())


def test_what_was_written_is_read_back() -> None:
    assert from_json(msgspec.json.encode(to_builtins(BOARD))) == BOARD
    empty = Leaderboard(confidence=0.95, replicates=1, weights={}, rows=())
    assert from_json(msgspec.json.encode(to_builtins(empty))) == empty


def as_version(version: int) -> dict[str, Any]:
    """What a program of that version wrote of the same run."""
    new = ("rank_low", "rank_high", "p_best", "tie", "architecture", "parameters", "pareto", "speed_key")
    new += ("accuracy_per_million_parameters",)
    plain = stored(schema_version=version)
    for part in ("normalise", "speed_keys", "scaling", "contrasts", *(["noise_floor"] if version == 1 else [])):
        del plain[part]
    for part in ("rows", "overall"):
        plain[part] = [{key: value for key, value in row.items() if key not in new} for row in plain[part]]
    if version == 1:
        del plain["rows"][0]["latency_median_ms"]["level"]
    return plain


@pytest.mark.parametrize("version", [1, 2])
def test_older_versions_lack_what_came_later(version: int) -> None:
    board = read(as_version(version))
    [row], [overall] = board.rows, board.overall
    assert (row.rank, row.rank_low, row.p_best, row.tie, row.pareto, row.parameters) == (
        1,
        None,
        None,
        None,
        None,
        None,
    )
    assert (overall.rank, overall.rank_low, overall.metrics["f1"]) == (1, None, FIGURE)
    assert (row.metrics["accuracy"], row.metrics["latency_median_ms"].level) == (FIGURE, 4.25 if version == 2 else None)
    assert "older version" in (row.metrics["accuracy_per_million_parameters"].reason or "")
    assert (board.schema_version, board.normalise, board.scaling) == (3, "minmax", ())
    assert (board.noise_floor is None) == (version == 1)
    assert read(to_builtins(board)) == board, "what it becomes is a board of this version"


def of_row(**changes: Any) -> dict[str, Any]:
    return stored(rows=[to_builtins(BOARD)["rows"][0] | changes])


def without(name: str) -> dict[str, Any]:
    row = to_builtins(BOARD)["rows"][0]
    return stored(rows=[{key: value for key, value in row.items() if key != name}])


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        (stored(schema_version=4), "schema_version 4"),
        (stored(schema_version=0), "schema_version 0"),
        (stored(schema_version="3"), "schema_version"),
        (stored(winner="MiniLM"), "winner"),
        (stored(rows=None), r"\$\.rows"),
        (of_row(stars=5), r"stars.*\$\.rows\[0\]"),
        (of_row(rank="1"), r"\$\.rows\[0\]\.rank"),
        (of_row(f1={"value": "x", "low": None, "high": None}), r"\$\.rows\[0\]\.f1\.value"),
        (of_row(f1=None), r"\$\.rows\[0\]\.f1"),
        (without("accuracy"), r"accuracy.*\$\.rows\[0\]"),
        (without("tie"), r"tie.*\$\.rows\[0\]"),
        ({"schema_version": 3}, "confidence"),
        ({}, "schema_version"),
    ],
)
def test_what_is_not_of_the_schema_is_refused_with_its_path(plain: dict[str, Any], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        read(plain)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"schema_version": NaN}', b'{"schema_version": 3, "rows": [\xff]}']
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(ContractError, match="not a leaderboard"):
        from_json(data)


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ContractError):
        from_json(msgspec.json.encode(to_builtins(BOARD)).replace(b"0.873", b"NaN"))
