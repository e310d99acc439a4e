"""Values of the label column -> class names; everything that has none is dropped for a counted reason."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from runner.contract import DatasetRequest
from runner.errors import RunnerError

MISSING_WORDS = frozenset({"", "nan", "null", "<na>"})
SENTIMENT_ORDER = ("negative", "neutral", "positive")
MAX_CLASSES = 200
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
CONDITION = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*([+-]?\d+(?:\.\d+)?)\s*")


@dataclass(frozen=True)
class Outcome:
    """What a label value comes to: a class name, or the reason for dropping its row."""

    name: str | None = None
    reason: str = ""


@dataclass(frozen=True)
class Rule:
    """One condition of a label rule: `compare(value, bound)` gives the class `name`."""

    compare: Callable[[float, float], bool]
    bound: float
    name: str


MISSING = Outcome(reason="missing_label")
SEVERAL = Outcome(reason="several_labels")


def value_text(value: Any) -> str | None:
    """A value as the text that label maps and filters compare: 1.0 -> "1", True -> "true"; None where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    return None if text.casefold() in MISSING_WORDS else text


def label_reader(request: DatasetRequest, class_names: Sequence[str]) -> Callable[[Any], Outcome]:
    """A function from a value as read to its outcome.

    `class_names`: names behind the integers of a hub ClassLabel, else empty. A label map may name either the
    classes or the integers. Raises RunnerError (`configuration`) when the settings contradict each other.
    """
    if request.label_rule and request.label_map:
        raise RunnerError(
            "configuration", f"dataset {request.name!r} has both label_rule and label_map", "keep one of the two"
        )
    rules = parse_rules(request.label_rule)
    names = () if request.label_rule or set(request.label_map) - set(class_names) else tuple(class_names)
    none_value = "-1" if request.source == "hub" and not rules and "-1" not in request.label_map else None

    def read_label(value: Any) -> Outcome:
        if isinstance(value, list | tuple):  # a list of labels: one is a label, more are several
            if len(value) > 1:
                return SEVERAL
            value = value[0] if value else None
        text = value_text(value)
        if text is None or text == none_value:
            return MISSING
        if request.label_separator and request.label_separator in text:
            return SEVERAL
        if rules:
            return apply_rules(rules, text)
        if names and text.isdecimal() and int(text) < len(names):
            text = names[int(text)]
        if not request.label_map:
            return Outcome(text)
        return Outcome(request.label_map[text]) if text in request.label_map else Outcome(reason="not_in_label_map")

    return read_label


def parse_rules(label_rule: dict[str, str]) -> tuple[Rule, ...]:
    """Conditions in their order. Raises RunnerError (`configuration`)."""
    rules = []
    for condition, name in label_rule.items():
        match = CONDITION.fullmatch(condition)
        if match is None:
            raise RunnerError(
                "configuration",
                f"the label rule {condition!r} is not a condition on a number",
                f'write it like ">= 4"; operators: {" ".join(OPERATORS)}',
            )
        rules.append(Rule(OPERATORS[match[1]], float(match[2]), name))
    return tuple(rules)


def apply_rules(rules: Iterable[Rule], text: str) -> Outcome:
    """The first rule that the number satisfies."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        return Outcome(reason="label_not_a_number")
    for rule in rules:
        if rule.compare(number, rule.bound):
            return Outcome(rule.name)
    return Outcome(reason="no_rule")


def order_labels(names: Iterable[str]) -> tuple[str, ...]:
    """Numbers ascending; negative, neutral, positive where only these occur; else alphabetical."""
    distinct = set(names)
    try:
        return tuple(sorted(distinct, key=lambda name: (float(name), name)))
    except ValueError:
        pass
    if {name.casefold() for name in distinct} <= set(SENTIMENT_ORDER):
        return tuple(sorted(distinct, key=lambda name: (SENTIMENT_ORDER.index(name.casefold()), name)))
    return tuple(sorted(distinct, key=lambda name: (name.casefold(), name)))


def check_label_names(names: Sequence[str], rows: int, column: str) -> None:
    """Refuse what is no set of classes: an id, free text, a single class. Raises RunnerError (`data`)."""
    if len(names) > MAX_CLASSES or (len(names) > 20 and len(names) > rows / 2):
        raise RunnerError(
            "data",
            f"the label column {column!r} has {len(names):,} distinct values in {rows:,} rows: "
            "it looks like an id or free text",
            "name the right one with --label-column, or merge its values with a label_rule or label_map",
        )
    if len(names) == 1:
        raise RunnerError(
            "data",
            f"there is only one class: all rows have the same label, {names[0]!r} (column {column!r})",
            "a classifier needs two classes or more: check the label column, label_rule, label_map and filters",
        )


def look_alikes(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of class names that differ in case only: most often a slip in the data."""
    seen: dict[str, str] = {}
    pairs = []
    for name in names:
        first = seen.setdefault(name.casefold(), name)
        if first != name:
            pairs.append((first, name))
    return pairs
