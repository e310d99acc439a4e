"""Net Promoter Scores as HTML tables: the actual ones beside each model's."""

from __future__ import annotations

from collections.abc import Sequence

from harness.board import Figure
from harness.nps import NPS_FLAGS, OVERALL, Nps, NpsLine
from harness.report.html import Child, Html, joined, tag

_HEADS = ("Branch", "By", "Reviews", "NPS", "Promoters", "Passives", "Detractors", "Error", "Accuracy", "Notes")


def nps_tables(found: Sequence[Nps], missing: str | None) -> Html:
    """One table a dataset; where there is none, why."""
    if not found:
        return tag("p", f"There is none: {missing or 'no dataset has ratings'}.", class_="hint")
    return joined(_table(one) for one in found)


def _table(nps: Nps) -> Html:
    about = (
        f"A positive answer counts as a promoter from probability {nps.threshold:g} on, else as a passive; a negative "
        f"one as a detractor. At most {nps.sample:,} reviews of each branch, drawn with seed {nps.seed}. Errors are a "
        f"model's score minus the actual one, on the same reviews; brackets hold {100 * nps.confidence:g} % intervals."
    )
    notes = tag("ul", *(tag("li", note) for note in nps.notes), class_="remarks") if nps.notes else None
    head = tag("tr", *(tag("th", tag("button", name, type="button"), scope="col") for name in _HEADS))
    caption = tag("caption", tag("span", nps.dataset, class_="name"))
    body = tag("tbody", *(_line(line) for line in nps.lines))
    table = tag("table", caption, tag("thead", head), body, class_="sortable", id=f"nps-{nps.fingerprint[:8]}")
    return joined(
        [
            tag("p", about, class_="about"),
            notes,
            tag("div", table, class_="wide", tabindex=0, role="region", aria_label="NPS"),
        ]
    )


def _line(line: NpsLine) -> Html:
    words = [word for word in (line.model, line.method if line.method != "none" else None) if word]
    name = " ".join(words) or "actual ratings"
    cells = [
        tag("td", line.branch if line.branch != OVERALL else "overall", data_sort=line.branch.lower()),
        tag("th", name, scope="row", data_sort=name.lower()),
        tag("td", f"{line.reviews:,}", class_="n", data_sort=line.reviews),
        _number(line.nps, 1),
        *(
            tag("td", f"{100 * share:.1f} %", class_="n", data_sort=share)
            for share in (line.promoters, line.passives, line.detractors)
        ),
        _number(line.error, 1, sign=True),
        _number(line.accuracy, 3),
        tag("td", *(tag("abbr", one.replace("_", " "), title=NPS_FLAGS[one], class_="flag") for one in line.flags)),
    ]
    return tag("tr", *cells, class_=None if line.model else "first")


def _number(figure: Figure | None, digits: int, *, sign: bool = False) -> Html:
    if figure is None or figure.value is None:
        return tag("td", "–", class_="n")
    form = f"{'+' if sign else ''}.{digits}f"
    parts: list[Child] = [format(figure.value, form)]
    if figure.low is not None and figure.high is not None:
        parts += [" ", tag("small", f"[{figure.low:{form}} to {figure.high:{form}}]")]
    return tag("td", *parts, class_="n", data_sort=figure.value)
