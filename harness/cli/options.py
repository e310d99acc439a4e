"""Option types that several commands share."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import click

LEAST_MEMORY_MB = 16


class CommaList(click.ParamType[list[str]]):
    """`a,b,c` -> ["a", "b", "c"]; blanks around commas do not matter."""

    name = "a,b,c"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        if isinstance(value, list):
            return value
        items = [item.strip() for item in str(value).split(",")]
        if not all(items):
            self.fail(f"'{value}' holds an empty name", param, ctx)
        return items


class IntList(click.ParamType[list[int]]):
    """`1,2,3` -> [1, 2, 3]."""

    name = "1,2,3"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        try:
            numbers = [int(item) for item in str(value).split(",")]
        except ValueError:
            self.fail(f"'{value}' is no list of whole numbers such as 1,2,3", param, ctx)
        if any(number < 0 or number >= 2**32 for number in numbers):
            self.fail(f"'{value}': seeds lie between 0 and {2**32 - 1}", param, ctx)
        return numbers


class _Quantity(click.ParamType[float]):
    """A number with one of `units`, each worth so much; without one it counts as the default unit."""

    units: dict[str, float]
    default: str
    example: str

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(value).lower())
        worth = self.units.get(match[2] or self.default) if match else None
        if match is None or worth is None or float(match[1]) == 0:
            self.fail(f"'{value}' is not an amount such as {self.example}", param, ctx)
        return float(match[1]) * worth


class MemorySize(_Quantity):
    """`4g`, `512m` -> megabytes (2**20 bytes)."""

    name = "size"
    units = {"b": 2**-20, "k": 2**-10, "kb": 2**-10, "m": 1, "mb": 1, "g": 2**10, "gb": 2**10, "t": 2**20, "tb": 2**20}
    default = "m"
    example = "4g or 512m"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        megabytes = int(super().convert(value, param, ctx))
        if megabytes < LEAST_MEMORY_MB:
            self.fail(f"'{value}' is too little to start anything; give at least {LEAST_MEMORY_MB}m", param, ctx)
        return megabytes


class Seconds(_Quantity):
    """`90s`, `30m`, `2h` -> seconds."""

    name = "time"
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    default = "s"
    example = "90s, 30m or 2h"


class TimeLimit(Seconds):
    """As `Seconds`, or `none`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return 0.0 if value in (0.0, "none") else super().convert(value, param, ctx)


class PhaseLimits(click.ParamType[dict[str, float]]):
    """`train=2h,time=10m` -> {"train": 7200.0, "time": 600.0}."""

    name = "phase=time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, float]:
        from runner.contract import PHASES

        if isinstance(value, dict):
            return value
        limits: dict[str, float] = {}
        for part in str(value).split(","):
            phase, _, amount = (piece.strip() for piece in part.partition("="))
            if phase not in PHASES:
                self.fail(f"'{part}' names no phase; phases: {', '.join(PHASES)}", param, ctx)
            limits[phase] = Seconds().convert(amount, param, ctx)
        return limits


GREATEST_WEIGHT = 1e6


class Weights(click.ParamType[dict[str, float]]):
    """`accuracy=.5,latency=-.5` -> {"accuracy": 0.5, "latency_median_ms": -0.5}; weights of 0 are left out.

    The sign of a weight is the direction of its metric, so that nothing is rewarded by a slip. Raises InputError with
    the nearest name for a metric that is not known.
    """

    name = "metric=weight"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, float]:
        if isinstance(value, dict):
            return value
        weights: dict[str, float] = {}
        for part in str(value).split(","):
            given, _, amount = (piece.strip() for piece in part.partition("="))
            name = self._metric(given, part, param, ctx)
            if name in weights:
                self.fail(f"'{given}' has two weights; give it one", param, ctx)
            weights[name] = self._weight(name, given, amount, param, ctx)
        weights = {name: weight for name, weight in weights.items() if weight != 0}
        if not weights:
            self.fail(f"'{value}' leaves nothing to rank by; give a metric a weight, such as accuracy=1", param, ctx)
        return weights

    def _metric(self, given: str, part: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from harness.metrics import CONFUSION_METRICS, PROBABILITY_METRICS, SPEED_METRICS, metric_named

        if not given:
            self.fail(f"'{part}' is no metric with a weight, such as accuracy=.3", param, ctx)
        name = metric_named(given).name
        if name not in (*CONFUSION_METRICS, *PROBABILITY_METRICS, *SPEED_METRICS):
            self.fail(f"'{given}' is computed from others; give those the weights, such as accuracy=.3", param, ctx)
        return name

    def _weight(
        self, name: str, given: str, amount: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        from harness.metrics import METRICS

        try:
            weight = float(amount)
        except ValueError:
            weight = math.nan
        if not abs(weight) <= GREATEST_WEIGHT:
            self.fail(f"'{given}={amount}' has no number for a weight, such as {given}=.3", param, ctx)
        better = METRICS[name].higher_is_better
        if weight and (weight > 0) != better:
            words = "higher is better" if better else "lower is better"
            self.fail(
                f"'{given}={amount}' would reward the worse: of {given}, {words}; write {given}={-weight:g}", param, ctx
            )
        return weight


executor_option = click.option(
    "--executor",
    type=click.Choice(["auto", "docker", "native"]),
    default="auto",
    envvar="MOODBENCH_EXECUTOR",
    show_default=True,
    help="Containers or child processes; auto: containers where engine and image are here.",
)
results_option = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    envvar="MOODBENCH_RESULTS",
    show_default=True,
    help="Folder that holds the runs.",
)
detach_option = click.option("--detach", is_flag=True, help="Return at once; the run goes on by itself.")
json_lines_option = click.option(
    "--json",
    "json_lines",
    is_flag=True,
    help="Events as JSON lines on stdout, nothing else there; the last is run_finished, unless an option is wrong.",
)
