"""The registry of metrics (name, title, unit, direction, how to print) and the one formatter for numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from harness.errors import unknown

MISSING = "–"

Format = Literal["share", "measure", "large"]
"""`share`: three decimals. `measure`: three significant digits. `large`: as `measure`, with no decimals from 100 on."""


@dataclass(frozen=True)
class Metric:
    """One figure of a model. `unit` is "" for shares and scores; `title` fits a column head, the unit left out."""

    name: str
    title: str
    unit: str
    higher_is_better: bool
    format: Format

    @property
    def heading(self) -> str:
        """Title and unit, as a column head: "Latency p50 (ms)"."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


_ALL = (
    Metric("score", "Score", "", True, "share"),
    Metric("accuracy", "Accuracy", "", True, "share"),
    Metric("f1", "F1 macro", "", True, "share"),
    Metric("f1_weighted", "F1 weighted", "", True, "share"),
    Metric("f1_binary", "F1 binary", "", True, "share"),
    Metric("precision", "Precision", "", True, "share"),
    Metric("recall", "Recall", "", True, "share"),
    Metric("mcc", "MCC", "", True, "share"),
    Metric("roc_auc", "ROC AUC", "", True, "share"),
    Metric("brier", "Brier", "", False, "share"),
    Metric("ece", "ECE", "", False, "share"),
    Metric("latency_median_ms", "Latency p50", "ms", False, "measure"),
    Metric("latency_p95_ms", "Latency p95", "ms", False, "measure"),
    Metric("latency_p99_ms", "Latency p99", "ms", False, "measure"),
    Metric("ttft_mean_ms", "First output", "ms", False, "measure"),
    Metric("throughput_samples_per_sec", "Throughput", "samples/s", True, "large"),
    Metric("throughput_tokens_per_sec", "Throughput", "tokens/s", True, "large"),
    Metric("memory_allocated_mb", "Memory", "MB", False, "large"),
    Metric("training_time_hours", "Training", "h", False, "measure"),
    Metric("accuracy_per_million_parameters", "Accuracy / size", "1/M parameters", True, "measure"),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}

CONFUSION_METRICS = ("accuracy", "f1", "f1_weighted", "f1_binary", "precision", "recall", "mcc")
"""Computed from labels and predictions, with an interval over test examples and seeds."""

PROBABILITY_METRICS = ("roc_auc", "brier", "ece")
"""Taken from the results as they are: labels and predictions alone cannot be resampled into them."""

SPEED_METRICS = (
    "latency_median_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "ttft_mean_ms",
    "throughput_samples_per_sec",
    "throughput_tokens_per_sec",
    "memory_allocated_mb",
    "training_time_hours",
)
"""Speed and memory: one figure a seed, with an interval over seeds."""


DERIVED_METRICS = ("accuracy_per_million_parameters",)
"""Computed from others."""

OVERALL_METRICS = ("score", "accuracy", "f1")
"""Averaged over datasets."""

ALIASES = {
    "f1_macro": "f1",
    "auc": "roc_auc",
    "latency": "latency_median_ms",
    "latency_p50": "latency_median_ms",
    "latency_p95": "latency_p95_ms",
    "latency_p99": "latency_p99_ms",
    "ttft": "ttft_mean_ms",
    "throughput": "throughput_samples_per_sec",
    "throughput_tokens": "throughput_tokens_per_sec",
    "memory": "memory_allocated_mb",
    "training_time": "training_time_hours",
    "accuracy_per_parameter": "accuracy_per_million_parameters",
}
"""What a user may write instead of the name of a metric."""


def metric_named(text: str) -> Metric:
    """By name or alias, in capitals or not, with '-' for '_'. Raises InputError with the nearest one."""
    given = text.strip().lower().replace("-", "_")
    name = ALIASES.get(given, given)
    if name not in METRICS:
        names = [min([full, *(a for a in ALIASES if ALIASES[a] == full)], key=len) for full in METRICS]
        raise unknown("metric", text.strip(), [*METRICS, *ALIASES], f"metrics: {', '.join(names)}")
    return METRICS[name]


def format_value(name: str, value: float | None, *, unit: bool = False) -> str:
    """`value` of the metric `name` as text; null or a number that is not finite becomes "–".

    `unit` appends the metric's unit. Raises KeyError for a metric that is not in the registry.
    """
    metric = METRICS[name]
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:,.{_decimals(metric.format, value)}f}"
    if float(text.replace(",", "")) == 0:
        text = text.removeprefix("-")
    return f"{text} {metric.unit}" if unit and metric.unit else text


def format_interval(name: str, value: float | None, low: float | None, high: float | None) -> str:
    """ "0.873 [0.851–0.894]"; without an interval the value alone, without a value "–". Beside a sign a dash would be
    misread: "-0.2 [-0.3 to 0.1]"."""
    text = format_value(name, value)
    if text == MISSING or low is None or high is None:
        return text
    ends = (format_value(name, low), format_value(name, high))
    return f"{text} [{(' to ' if any(end.startswith('-') for end in ends) else '–').join(ends)}]"


def _decimals(form: Format, value: float) -> int:
    """Digits after the point: three for a share, else what leaves three significant digits (at most four)."""
    if form == "share":
        return 3
    size = abs(value)
    if size >= 100:
        return 0
    if size >= 10:
        return 1
    if size >= 1:
        return 2
    return 3 if size >= 0.1 or size == 0 else 4
