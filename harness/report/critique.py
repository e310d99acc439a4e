"""What MoodBench itself has to say against the numbers of a run, as HTML."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.board import FLAG_MEANINGS
from harness.explain import differences_of
from harness.metrics import METRICS
from harness.report.html import Child, Html, joined, tag
from harness.report.material import Material
from runner.contract import Failure, Result

_NAMED = 3  # of the cells that one remark is about; the others are counted


@dataclass(frozen=True)
class Remark:
    """One thing to hold against some cells, or rows of the leaderboard."""

    words: str
    about: tuple[str, ...]


def critique(material: Material) -> Html:
    """What failed or is missing, then flags, warnings, disturbed windows, changed settings, withheld figures."""
    results = [cell.result for section in material.sections for row in section.rows for cell in row.cells]
    parts = [
        _failures(material.failures, material.missing),
        _list("Reservations about rows", flag_remarks(material)),
        _list("Warnings of cells", _alike((one.cell, words) for one in results for words in one.warnings)),
        _list("Disturbed windows of timing", _grouped(_disturbed(results))),
        _list("Not done as asked for", _grouped(_changed(results))),
        _list("Figures withheld", _grouped(_withheld(results))),
    ]
    found = joined(parts)
    return found or tag("p", "Nothing: no cell failed, and no row, window or figure has a reservation.")


def unfinished(failures: Sequence[Failure], missing: int) -> str:
    """ "2 cells failed; 1 cell has not run to the end: every ranking here may still change." """
    failed = f"{_cells(len(failures))} failed" if failures else ""
    left = f"{_cells(missing)} {'has' if missing == 1 else 'have'} not run to the end" if missing else ""
    return f"{'; '.join(filter(None, (failed, left)))}: every ranking here may still change."


def _cells(number: int) -> str:
    return "1 cell" if number == 1 else f"{number} cells"


def flag_remarks(material: Material) -> tuple[Remark, ...]:
    return _grouped(
        (f"{row.label} on {section.dataset}", FLAG_MEANINGS[flag])
        for section in material.sections
        for row in section.rows
        for flag in row.row.flags
    )


def _disturbed(results: Sequence[Result]) -> Iterable[tuple[str, str]]:
    for result in results:
        windows = [one for one in result.timing.windows if one.contaminated] if result.timing else []
        for counted, fate in ((True, "counted, as none better was to be had"), (False, "measured again")):
            if number := sum(window.counted is counted for window in windows):
                yield f"{result.cell} ({number})", f"Something else used the machine; {fate}. In brackets: how many."


def _changed(results: Sequence[Result]) -> Iterable[tuple[str, str]]:
    for result in results:
        for one in differences_of(result):
            yield result.cell, f"{one.name}: {one.effective} instead of {one.requested} ({one.reason})"


def _withheld(results: Sequence[Result]) -> Iterable[tuple[str, str]]:
    for result in results:
        for name, reason in result.reasons.items():
            yield result.cell, f"{METRICS[name].heading if name in METRICS else name}: {reason}"


def _alike(found: Iterable[tuple[str, str]]) -> tuple[Remark, ...]:
    """As `_grouped`; words that differ in numbers alone count as the same, with "…" for what differs."""
    told = list(found)
    versions: dict[str, set[str]] = defaultdict(set)
    for _, words in told:
        versions[_without_numbers(words)].add(words)
    shapes = ((one, words, _without_numbers(words)) for one, words in told)
    return _grouped((one, words if len(versions[shape]) == 1 else shape) for one, words, shape in shapes)


def _without_numbers(words: str) -> str:
    """Clauses that then are the same are said once."""
    clauses = re.sub(r"\d+(?:[.,]\d+)*", "…", words).split("; ")
    head, colon, first = clauses[0].rpartition(": ")
    return f"{head}{colon}{'; '.join(dict.fromkeys([first, *clauses[1:]]))}"


def _grouped(found: Iterable[tuple[str, str]]) -> tuple[Remark, ...]:
    """Pairs of what it is about and the words; those of most first."""
    about: dict[str, list[str]] = defaultdict(list)
    for one, words in found:
        about[words].append(one)
    ordered = sorted(about.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(Remark(words, tuple(dict.fromkeys(names))) for words, names in ordered)


# --- HTML ---------------------------------------------------------------------------------------


def _failures(failures: Sequence[Failure], missing: int) -> Html:
    parts: list[Child] = []
    if failures:
        rows = [
            tag("tr", tag("th", one.cell, scope="row"), tag("td", one.kind), tag("td", one.phase or "–"),
                tag("td", one.message), tag("td", one.hint))
            for one in failures
        ]  # fmt: skip
        heads = ("Cell", "Kind", "Phase", "What happened", "What to do")
        head = tag("tr", *(tag("th", name, scope="col") for name in heads))
        table = tag("table", tag("thead", head), tag("tbody", *rows))
        parts += [tag("h3", "Cells that failed"), tag("div", table, class_="wide", tabindex=0)]
    if missing:
        parts.append(tag("p", unfinished((), missing), class_="warn"))
    return joined(parts)


def _list(title: str, remarks: Sequence[Remark]) -> Html:
    if not remarks:
        return Html("")
    items = [tag("li", remark.words, " ", _about(remark.about)) for remark in remarks]
    return joined([tag("h3", title), tag("ul", *items, class_="remarks")])


def _about(names: Sequence[str]) -> Html:
    if len(names) <= _NAMED:
        return tag("small", ", ".join(names))
    summary = tag("summary", f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more")
    return tag("details", summary, tag("small", ", ".join(names[_NAMED:])))
