"""How the parts of a leaderboard's row read as text, and what its marks mean: shared by tables and Markdown."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.board import FLAG_MEANINGS, Figure, Leaderboard, OverallRow, Place, Row
from harness.metrics import METRICS, MISSING, format_interval, format_value
from harness.text import clean

HEADINGS = {
    "score": "Score",
    "accuracy": "Accuracy",
    "f1": "F1 macro",
    "latency_median_ms": "p50 ms",
    "throughput_samples_per_sec": "Samples/s",
    "memory_allocated_mb": "Memory MB",
    "accuracy_per_million_parameters": "Accuracy/M",
}
"""Column heads, shorter than those of the registry."""

ON_FRONT = "◆"
LEVEL = "≈"
EMPTY = "No finished cell yet."

AnyRow = Row | OverallRow


@dataclass(frozen=True)
class Meaning:
    """One footnote: a mark of the table, and what it says."""

    mark: str
    words: str


def rank_text(place: Place) -> str:
    return MISSING if place.rank is None else str(place.rank)


def rank_span_text(place: Place) -> str:
    """ "[1–4]"; "" where the rank's interval is not known."""
    return "" if place.rank_low is None or place.rank_high is None else f"[{place.rank_low}–{place.rank_high}]"


def p_best_text(share: float | None) -> str:
    """A share of resamples as per cent; 0 and 100 only where it is none or all of them."""
    if share is None:
        return MISSING
    if 0 < share < 0.01:
        return "<1 %"
    return ">99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"


def method_text(method: str) -> str:
    """A baseline has no method."""
    return MISSING if method == "none" else clean(method)


def seeds_text(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def parameters_text(parameters: int | None) -> str:
    """Three digits: "22.7 M", "1.24 B"."""
    if parameters is None:
        return MISSING
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        count = parameters / size
        if count >= 0.9995:
            return f"{count:.{2 if count < 9.995 else 1 if count < 99.95 else 0}f} {unit}"
    return str(parameters)


def value_text(name: str, row: AnyRow) -> str:
    figure = row.metrics.get(name)
    return level_text(name, figure) or format_value(name, figure.value if figure else None)


def interval_text(name: str, row: AnyRow) -> str:
    figure = row.metrics.get(name)
    if text := level_text(name, figure):
        return text
    return format_interval(name, figure.value, figure.low, figure.high) if figure else MISSING


def level_text(name: str, figure: Figure | None) -> str:
    """The value that a figure shares with other rows'; "" where it stands alone."""
    return f"{LEVEL}{format_value(name, figure.level)}" if figure and figure.level is not None else ""


def difference_text(figure: Figure) -> str:
    """ "+0.031 [+0.012 to +0.049]": a difference of shares, or the slope of one."""
    if figure.value is None:
        return MISSING
    if figure.low is None or figure.high is None:
        return f"{figure.value:+.3f}"
    return f"{figure.value:+.3f} [{figure.low:+.3f} to {figure.high:+.3f}]"


# --- footnotes --------------------------------------------------------------------------------


def across_text(board: Leaderboard) -> str:
    """Whether ranks differ from dataset to dataset by more than chance; "" where there are too few datasets to tell."""
    found = board.across
    if found is None:
        return ""
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
    ranks = f"Ranks in {METRICS[found.metric].title} on {found.datasets} datasets"
    words = f"{ranks}: {p} by Friedman's test of equal mean ranks"
    if found.p >= 1 - board.confidence:
        return f"{words}: not shown to differ."
    return (
        f"{words}. These lie between {min(found.mean_ranks):.1f} and {max(found.mean_ranks):.1f}; models more than "
        f"{found.critical_difference:.2f} apart differ (Nemenyi)."
    )


def note_letters(rows: Iterable[Row]) -> dict[str, str]:
    """Flag -> letter, for the flags that occur."""
    present = sorted({flag for row in rows for flag in row.flags})
    return dict(zip(present, string.ascii_lowercase, strict=False))


def flag_meanings(notes: Iterable[str]) -> dict[str, str]:
    return {flag: FLAG_MEANINGS.get(flag, "A flag of another version of this program.") for flag in notes}


def mark_meanings(board: Leaderboard, tied: str) -> list[Meaning]:
    """Of the marks that the rows bear; `tied`: how a tie group is shown, "" where it is not."""
    places: list[Place] = [*board.rows, *board.overall]
    groups = [(row.dataset, row.fingerprint, row.tie) for row in board.rows]
    groups += [("", "", row.tie) for row in board.overall]
    found = []
    if any(place.rank_low is not None for place in places):
        found.append(Meaning("[ ]", f"{100 * board.confidence:g} % interval; after a rank, of the true rank."))
    if tied and any(members > 1 and group[-1] is not None for group, members in Counter(groups).items()):
        found.append(Meaning(tied, "Tied: the data do not tell these apart from the best of them."))
    if any(place.p_best is not None for place in places):
        found.append(Meaning("P(best)", "Share of the resamples in which it has the highest score."))
    if any(row.pareto for row in board.rows):
        words = (
            "On the Pareto front: of those timed at the same place, none is at least as good in F1, p95 latency and "
        )
        words += "memory and better in one."
        found.append(Meaning(ON_FRONT, words))
    return [*found, *_level_meaning(board)]


def _level_meaning(board: Leaderboard) -> list[Meaning]:
    """The footnote of levelled figures, where a table shows one."""
    floor = board.noise_floor
    if floor is None or not any(level_text(name, row.metrics.get(name)) for row in board.rows for name in HEADINGS):
        return []
    words = (
        f"Shown as equal: on this machine, differences in latency below {100 * floor.latency_p50:.1f} % and in "
        f"throughput below {100 * floor.throughput:.1f} % are noise."
    )
    return [Meaning(LEVEL, words)]
