"""Net Promoter Scores as terminal tables and CSV. Names of models, datasets and branches are data, never markup."""

from __future__ import annotations

import csv
import io
import string
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.text import Text

from harness.board import Figure
from harness.metrics import MISSING
from harness.nps import NPS_FLAGS, OVERALL, Nps, NpsLine
from harness.report.formats import no_formula
from harness.report.grid import Column, Form, Grid
from harness.report.words import method_text, seeds_text
from harness.text import clean

ACTUAL = "actual ratings"
_SHARES = ("promoters", "passives", "detractors")
_FIGURES = ("nps", "error", "accuracy")
CSV_HEAD = (
    "dataset", "fingerprint", "threshold", "branch", "model", "method", "device", "seeds", "reviews", *_SHARES,
    *(f"{name}{end}" for name in _FIGURES for end in ("", "_low", "_high")), "flags",
)  # fmt: skip


def as_table(found: Sequence[Nps], *, width: int) -> RenderableType:
    """A table for each dataset and branch, overall first, then what notes mean; `width` in columns. What does not fit
    is left out, the least important first."""
    flags = sorted({flag for nps in found for line in nps.lines for flag in line.flags})
    letters = dict(zip(flags, string.ascii_lowercase, strict=False))
    parts: list[RenderableType] = []
    for nps in found:
        about = f"{clean(nps.dataset)} · '{clean(nps.positive)}' from probability {nps.threshold:g} on is a promoter"
        parts += [Text(about, style="bold"), Text()]
        for title, rows in _sections(nps):
            parts += [Text(title), Grid(_columns(rows, letters), width), Text()]
        parts += [Text(f"- {clean(note)}", style="dim") for note in nps.notes]
    level = found[0].confidence
    parts.append(
        Text(f"[ ]  {100 * level:g} % interval, of reviews and seeds. Error: NPS minus the actual.", style="dim")
    )
    parts += [Text(f"{letter}  {flag}: {NPS_FLAGS[flag]}", style="dim") for flag, letter in letters.items()]
    return Group(*parts)


def as_csv(found: Sequence[Nps]) -> str:
    """One line a line of the tables, empty for null; the actual ratings have no model, all branches together no branch.
    Names that a spreadsheet would run as a formula get a quote in front."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    writer.writerows([*_csv_cells(nps, line)] for nps in found for line in nps.lines)
    return out.getvalue()


def _csv_cells(nps: Nps, line: NpsLine) -> Iterator[str | float | None]:
    yield from (no_formula(nps.dataset), nps.fingerprint, nps.threshold, no_formula(line.branch))
    yield from (no_formula(line.model or ""), line.method, line.device, " ".join(map(str, line.seeds)), line.reviews)
    yield from (line.promoters, line.passives, line.detractors)
    for figure in (line.nps, line.error, line.accuracy):
        yield from (figure.value, figure.low, figure.high) if figure else (None, None, None)
    yield " ".join(line.flags)


# --- the terminal -------------------------------------------------------------------------------


def _sections(nps: Nps) -> Iterator[tuple[str, list[NpsLine]]]:
    """The lines of each branch with their title; where one branch is everything, it is not shown twice."""
    branches = {branch: list(lines) for branch, lines in groupby(nps.lines, key=lambda line: line.branch)}
    overall = branches.pop(OVERALL)
    figures = [line.nps for line in overall]
    only = [clean(branch) for branch, lines in branches.items() if [line.nps for line in lines] == figures]
    count = overall[0].reviews
    of = f"all {count:,}" if count == nps.rated else f"{count:,} of {nps.rated:,}"
    yield " · ".join(["overall", *only, f"{of} rated test reviews"]), overall
    for branch, lines in branches.items():
        if not only:
            yield f"{clean(branch)} · {lines[0].reviews:,} reviews", lines


def _columns(rows: Sequence[NpsLine], letters: dict[str, str]) -> list[Column]:
    """Method and device where they tell models apart. The lower an importance, the sooner a form is chosen."""
    models = [row for row in rows if row.model is not None]
    methods = {row.method for row in models if row.method != "none"}
    devices = {row.device for row in models}

    def column(heading: str, importance: int, cell: Callable[[NpsLine], str]) -> Column:
        return Column(heading, (Form([cell(row) for row in rows], importance),))

    names = [clean(row.model) if row.model is not None else ACTUAL for row in rows]
    shown = [
        Column("By", (Form(names, 0),), most=40),
        column("Method", 0, lambda row: method_text(row.method) if row.method else "") if methods else None,
        column("Device", 0, lambda row: row.device or "") if len(devices) > 1 else None,
        _figure_column("NPS", (0, 6), [plain(row.nps) for row in rows]),
        _figure_column("Error", (0, 2), [signed(row.error) for row in rows]),
        column("Prom/Pass/Detr %", 3, _shares),
        _figure_column("Accuracy", (4, 7), [shared(row.accuracy) for row in rows]),
        column("Seeds", 8, lambda row: seeds_text(row.seeds)),
        column("Notes", 1, lambda row: "".join(letters.get(flag, "") for flag in row.flags)),
    ]
    return [one for one in shown if one is not None and one.says_something]


def _shares(row: NpsLine) -> str:
    return "/".join(f"{100 * share:.1f}" for share in (row.promoters, row.passives, row.detractors))


def _figure_column(heading: str, importance: tuple[int, int], cells: Sequence[str]) -> Column:
    """Values alone, then with their intervals."""
    values = [text.split(" [")[0] for text in cells]
    return Column(heading, (Form(values, importance[0]), Form(cells, importance[1])))


def plain(figure: Figure) -> str:
    """ "32.0 [27.1 to 36.5]"."""
    return _with_interval(figure, lambda value: f"{_no_minus(value):.1f}")


def signed(figure: Figure | None) -> str:
    """ "+32.0 [+27.1 to +36.5]"."""
    return _with_interval(figure, lambda value: f"{_no_minus(value):+.1f}")


def shared(figure: Figure | None) -> str:
    """ "0.822 [0.798 to 0.846]"."""
    return _with_interval(figure, lambda value: f"{value:.3f}")


def _no_minus(value: float) -> float:
    """Before a zero."""
    return round(value, 1) + 0.0


def _with_interval(figure: Figure | None, form: Callable[[float], str]) -> str:
    if figure is None or figure.value is None:
        return MISSING
    if figure.low is None or figure.high is None:
        return form(figure.value)
    return f"{form(figure.value)} [{form(figure.low)} to {form(figure.high)}]"
