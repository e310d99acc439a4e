"""Leaderboards made by hand."""

from __future__ import annotations

from typing import Any

from harness.board import Contrast, Figure, Leaderboard, OverallRow, Row, Scaling

FINGERPRINT = "0123456789abcdef"
PLACE: dict[str, Any] = {"rank": 1, "rank_low": 1, "rank_high": 2, "p_best": 0.62, "tie": None}


def figures(value: float = 0.873) -> dict[str, Figure]:
    quality = Figure(value=value, low=value - 0.022, high=value + 0.021)
    return {
        "score": quality,
        "accuracy": quality,
        "f1": quality,
        "latency_median_ms": Figure(value=12.34, low=None, high=None, reason="one seed"),
        "throughput_samples_per_sec": Figure(value=1234.5, low=1200.0, high=1300.0),
        "memory_allocated_mb": Figure(value=None, low=None, high=None, reason="not measured"),
        "accuracy_per_million_parameters": Figure(value=0.0385, low=0.0375, high=0.0394),
    }


def row(model: str, **changes: Any) -> Row:
    fields: dict[str, Any] = PLACE | {
        "model": model, "dataset": "sst2", "fingerprint": FINGERPRINT, "method": "lora", "device": "cpu",
        "seeds": (42, 43, 44), "test_rows": 5000, "architecture": "encoder-only", "parameters": 22_713_216,
        "pareto": None, "speed_key": "k1", "flags": (), "metrics": figures(),
    }  # fmt: skip
    return Row(**(fields | changes))


def overall(model: str, value: float = 0.5, **changes: Any) -> OverallRow:
    fields = PLACE | {"model": model, "method": "lora", "device": "cpu", "metrics": figures(value)}
    return OverallRow(**(fields | changes))


def board(*rows: Row, **fields: Any) -> Leaderboard:
    given: dict[str, Any] = {"confidence": 0.95, "replicates": 1000, "weights": {"accuracy": 1.0}, "rows": rows}
    return Leaderboard(**(given | fields))


def scaling(method: str = "lora", **changes: Any) -> Scaling:
    fields: dict[str, Any] = {
        "dataset": "sst2", "fingerprint": FINGERPRINT, "method": method, "models": 4,
        "slope": Figure(value=0.0517, low=0.0412, high=0.063), "intercept": 0.5, "residual": 0.0098,
    }  # fmt: skip
    return Scaling(**(fields | changes))


def contrast(kind: str, first: str, second: str, metric: str = "accuracy", **changes: Any) -> Contrast:
    fields: dict[str, Any] = {
        "kind": kind, "dataset": "sst2", "fingerprint": FINGERPRINT, "first": first, "second": second,
        "metric": metric, "pairs": 2, "difference": Figure(value=0.0311, low=-0.0022, high=0.049),
        "method": "lora" if kind == "architecture" else None,
    }  # fmt: skip
    return Contrast(**(fields | changes))
