"""What of which runs is compared: `RUN[:MODEL[/METHOD]]`, and which entry of one side meets which of the other."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.comparison import LeftOut
from harness.entries import CellRecord, Entry, entries_of
from harness.errors import MoodBenchError, unknown
from harness.evidence import Evidence, gather, read_baseline
from harness.store import find_run


@dataclass(frozen=True)
class Selection:
    """`given`: as the user wrote it. `model`, `method` None: all of them."""

    given: str
    evidence: Evidence
    model: str | None = None
    method: str | None = None

    def versions(self) -> dict[str, dict[str, tuple[Entry, ...]]]:
        """Dataset -> fingerprint -> the entries selected there."""
        found: dict[str, dict[str, list[CellRecord]]] = defaultdict(lambda: defaultdict(list))
        for record in self.evidence.records:
            if self.model in (None, record.model) and self.method in (None, record.method):
                found[record.dataset][record.fingerprint].append(record)
        return {name: {key: entries_of(records) for key, records in by.items()} for name, by in found.items()}


@dataclass(frozen=True)
class Match:
    """Two entries on one dataset version."""

    dataset: str
    fingerprint: str
    first: Entry
    second: Entry


@dataclass(frozen=True)
class Matching:
    matches: tuple[Match, ...]
    left_out: tuple[LeftOut, ...]


def label_of(entry: Entry) -> str:
    """Model and method; a baseline has none."""
    return entry.model if entry.method == "none" else f"{entry.model} {entry.method}"


def evidence_of(given: str, results: Path) -> Evidence:
    """Of a run, by folder or by name under `results`, or of a baseline file. Raises InputError."""
    return read_baseline(Path(given)) if _is_file(given) else gather(find_run(given, results))


def selected(given: str, results: Path) -> Selection:
    """Of `RUN[:MODEL[/METHOD]]`; a whole string that is a run or a baseline file is taken as that. Raises InputError
    with the nearest name."""
    if _is_there(given, results):
        return Selection(given, evidence_of(given, results))
    parts = given.split(":")
    for cut in range(len(parts) - 1, 0, -1):
        run, asked = ":".join(parts[:cut]), ":".join(parts[cut:])
        if _is_there(run, results):
            return _of_model(given, evidence_of(run, results), asked)
    return Selection(given, evidence_of(parts[0], results))  # which says what is there instead


def _is_file(given: str) -> bool:
    return os.path.isfile(given)  # noqa: PTH113  # of what is too long for a name: False, no OSError


def _is_there(given: str, results: Path) -> bool:
    if _is_file(given):
        return True
    try:
        find_run(given, results)
    except MoodBenchError:
        return False
    return True


def _of_model(given: str, evidence: Evidence, asked: str) -> Selection:
    methods: dict[str, set[str]] = defaultdict(set)
    for record in evidence.records:
        methods[record.model].add(record.method)
    if asked in methods:
        return Selection(given, evidence, asked)
    model, slash, method = asked.rpartition("/")
    if not slash or model not in methods:
        known = ", ".join(sorted(methods)) or "none has finished"
        raise unknown("model", asked, methods, f"models of '{evidence.name}': {known}")
    if method not in methods[model]:
        there = ", ".join(sorted(methods[model]))
        raise unknown(f"method of {model}", method, methods[model], f"methods there: {there}")
    return Selection(given, evidence, model, method)


def matching(first: Selection, second: Selection) -> Matching:
    """What both have: the same dataset version, model, method and device. Where both name a model, those two meet,
    under the same method where they share one; a device may differ where there is but one on either side."""
    matches: list[Match] = []
    left_out: list[LeftOut] = []
    ours, theirs = first.versions(), second.versions()
    named = first.model is not None and second.model is not None
    for dataset in sorted({*ours, *theirs}):
        one, other = ours.get(dataset, {}), theirs.get(dataset, {})
        shared = sorted({*one} & {*other})
        if not shared:
            left_out.append(LeftOut(what=dataset, reason=_no_version(first, second, one, other)))
        for fingerprint in shared:
            pairs = _paired(one[fingerprint], other[fingerprint], named)
            matches += [Match(dataset, fingerprint, a, b) for a, b in pairs]
            for side, entries, at in ((first, one, 0), (second, other, 1)):
                met = {pair[at] for pair in pairs}
                left_out += [
                    LeftOut(what=f"{dataset}: {label_of(entry)} ({entry.device})", reason=f"only in {side.given}")
                    for entry in entries[fingerprint]
                    if entry not in met
                ]
    return Matching(tuple(matches), tuple(left_out))


def _no_version(
    first: Selection, second: Selection, one: dict[str, tuple[Entry, ...]], other: dict[str, tuple[Entry, ...]]
) -> str:
    if not one or not other:
        return f"only in {(first if one else second).given}"
    shown = (" and ".join(key[:12] for key in sorted(side)) for side in (one, other))
    return f"not the same data: fingerprint {' against '.join(shown)}"


def _paired(one: Sequence[Entry], other: Sequence[Entry], named: bool) -> list[tuple[Entry, Entry]]:
    """By the strictest rule first; each entry meets one other, but for a named model of one entry that meets all of
    another's."""
    rules: list[Callable[[Entry], tuple[str, ...]]] = [
        lambda entry: ("" if named else entry.model, entry.method, entry.device),
        lambda entry: ("" if named else entry.model, entry.method),
    ]
    pairs: list[tuple[Entry, Entry]] = []
    for rule in rules:
        left = [entry for entry in one if entry not in {a for a, _ in pairs}]
        right = [entry for entry in other if entry not in {b for _, b in pairs}]
        pairs += _by(rule, left, right)
    if named and not pairs and 1 in (len(one), len(other)):
        return [(a, b) for a in one for b in other]
    return pairs


def _by(
    rule: Callable[[Entry], tuple[str, ...]], one: Sequence[Entry], other: Sequence[Entry]
) -> Iterator[tuple[Entry, Entry]]:
    """Where the rule names one entry of either side."""
    for key in dict.fromkeys(map(rule, one)):
        left, right = ([entry for entry in side if rule(entry) == key] for side in (one, other))
        if len(left) == len(right) == 1:
            yield left[0], right[0]
