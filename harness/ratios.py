"""The speed and memory of one model beside another's, where both were measured alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from harness.board import Figure, NoiseFloor, SpeedKey
from harness.entries import Entry, measured_value, reason_for, speed_key
from harness.pairs import CONFIDENCE
from harness.selection import label_of
from harness.speeds import FLOORS, applies, interval_of, measured
from harness.statistics import ratio_interval


@dataclass(frozen=True)
class Ratio:
    """Of one figure of speed or memory, second over first, means over seeds. `ratio`: with its 95 % interval, or why
    there is none. `refused`: why the two cannot be compared; then there is no ratio either. `disturbed`: something else
    used the machine while they were timed, which changes speeds, not memory. `notes`: what weakens it."""

    first: float | None
    second: float | None
    ratio: Figure
    refused: str | None = None
    disturbed: bool = False
    notes: tuple[str, ...] = ()


def speed_ratio(metric: str, first: Entry, second: Entry, floors: Sequence[NoiseFloor | None] = ()) -> Ratio:
    """With an interval of two independent measurements (`ratio_interval`).

    It is never narrower than the noise of the machine, where a floor says how large that is: windows of one process do
    not show how speed varies from process to process.
    """
    one, other = _side(metric, first), _side(metric, second)
    if one.value is None or other.value is None:
        lacking, entry = (one, first) if one.value is None else (other, second)
        return Ratio(one.value, other.value, _none(f"{label_of(entry)}: {lacking.reason}"))
    if differing := _differing(metric, first, second):
        return Ratio(one.value, other.value, _none(differing), refused=differing)
    if one.value <= 0 or other.value <= 0:
        return Ratio(one.value, other.value, _none("a figure of 0 has no ratio"))
    ratio = _ratio(one, other)
    noise = max((_noise(metric, floor, (first, second)) for floor in floors), default=0.0)
    widened = _widened(ratio, noise)
    notes = [f"held to this machine's noise of {100 * noise:.1f} %"] if widened != ratio else []
    disturbed = [label_of(entry) for entry in (first, second) if metric in FLOORS and _was_disturbed(entry)]
    notes += [f"something else used the machine while {name} was timed" for name in dict.fromkeys(disturbed)]
    return Ratio(one.value, other.value, widened, disturbed=bool(disturbed), notes=tuple(notes))


def _side(metric: str, entry: Entry) -> Figure:
    """A mean over seeds with its interval."""
    found = measured(metric, entry)
    if found is None:
        return _none(reason_for(metric, entry))
    value = float(found.figures.mean())
    interval = interval_of(metric, entry, found, value, CONFIDENCE)
    if isinstance(interval, str):
        return Figure(value=value, low=None, high=None, reason=interval)
    return Figure(value=value, low=float(interval.low), high=float(interval.high))


def _ratio(one: Figure, other: Figure) -> Figure:
    assert one.value is not None
    assert other.value is not None
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return Figure(value=other.value / one.value, low=None, high=None, reason=one.reason or other.reason)
    interval = ratio_interval(other.value, other.low, other.high, one.value, one.low, one.high)
    low, high = float(interval.low), float(interval.high)
    if low == 0 or high == float("inf"):  # neither has a reciprocal, and JSON no infinity
        return Figure(value=other.value / one.value, low=None, high=None, reason="no interval: measured too unevenly")
    return Figure(value=other.value / one.value, low=low, high=high)


def _widened(ratio: Figure, noise: float) -> Figure:
    if ratio.value is None or ratio.low is None or ratio.high is None or not noise:
        return ratio
    low, high = ratio.value / (1 + noise), ratio.value * (1 + noise)
    return msgspec.structs.replace(ratio, low=min(ratio.low, low), high=max(ratio.high, high))


def _noise(metric: str, floor: NoiseFloor | None, entries: Sequence[Entry]) -> float:
    if floor is None or metric not in FLOORS or not applies(floor, entries):
        return 0.0
    noise: float = getattr(floor, FLOORS[metric])
    return noise


def _was_disturbed(entry: Entry) -> bool:
    return any(record.result.timing and record.result.timing.contaminated for record in entry.records)


def _differing(metric: str, first: Entry, second: Entry) -> str | None:
    """What of the places where the two were measured differs, field by field; None where nothing does."""
    one, other = _keys(metric, first), _keys(metric, second)
    if len(one) == len(other) == 1:
        (a,), (b,) = one, other
        fields = SpeedKey.__struct_fields__
        differing = [
            f"{name}: {_shown(getattr(a, name))} against {_shown(getattr(b, name))}"
            for name in fields
            if getattr(a, name) != getattr(b, name)
        ]
        return f"measured differently ({'; '.join(differing)})" if differing else None
    several = first if len(one) > 1 else second
    return f"the seeds of {label_of(several)} were measured at several places"


def _keys(metric: str, entry: Entry) -> set[SpeedKey]:
    return {
        speed_key(record.result.provenance, record.device)
        for record in entry.records
        if measured_value(metric, record.result) is not None
    }


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _none(reason: str) -> Figure:
    return Figure(value=None, low=None, high=None, reason=reason)
