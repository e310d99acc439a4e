"""The report as one HTML file that needs nothing else: tables in the page, texts and charts as data for its script."""

from __future__ import annotations

import base64
import gzip
import hashlib
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import groupby

from harness.report.charts.scene import NPS as NPS_GROUP
from harness.report.critique import critique, unfinished
from harness.report.html import Child, Html, data_block, joined, tag, whole_text
from harness.report.material import Chart, Material, Section
from harness.report.nps_section import nps_tables
from harness.report.provenance import methodology, provenance
from harness.report.standings import flag_marks, section_title, standings
from harness.report.verdict import Verdict, verdicts
from harness.text import clean
from runner.contract import slug

_HEIGHT = 440  # px, of a chart that does not say
_SURE = {"clear": "clear", "likely": "likely", "open": "undecided", "none": "not comparable"}


@dataclass(frozen=True)
class _Part:
    """A section of the page with its heading, as the table of contents lists it."""

    id: str
    title: str
    content: Html


def render(material: Material, charts: Sequence[Chart]) -> bytes:
    """The whole page, UTF-8. It asks the network for nothing, and a rule inside it forbids its scripts to."""
    parts = [part for part in _parts(material, charts) if part.content]
    script, plotly = _asset("page.js"), plotly_source()
    page = string.Template(_asset("page.html")).substitute(
        title=joined([f"{material.run.name} · MoodBench report"]),
        policy=joined([_policy(script, plotly)]),
        style=_asset("page.css"),
        run=joined([material.run.name]),
        contents=joined(tag("li", tag("a", part.title, href=f"#{part.id}")) for part in parts),
        verdict=_verdict(material),
        parts=joined(_section(part) for part in parts),
        data=joined([_disagreements(material), *(data_block(f"figure-{one.id}", one.figure) for one in charts)]),
        plotly=base64.b64encode(_packed(plotly)).decode(),
        script=script,
    )
    return page.encode(errors="replace")


@cache
def plotly_source() -> str:
    """plotly.js of the installed package."""
    return resources.files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8")


@cache
def _packed(source: str) -> bytes:
    """A third of the size; the page's script unpacks it."""
    return gzip.compress(source.encode(), 6, mtime=0)


def _policy(*scripts: str) -> str:
    """Content security policy: these scripts and no others, no connection of any kind. Plotly styles its drawings by
    attributes, and makes images of them for its button "download"."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    sources = " ".join(f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    return resources.files("harness.report").joinpath("assets", name).read_text(encoding="utf-8")


# --- parts --------------------------------------------------------------------------------------


def _parts(material: Material, charts: Sequence[Chart]) -> list[_Part]:
    groups = {group: list(ones) for group, ones in groupby(sorted_by_group(charts), key=lambda chart: chart.group)}
    of_nps = groups.pop(NPS_GROUP, [])  # they stand beside the tables
    drawn = [_Part(f"charts-{slug(group)}", group, _figures(ones)) for group, ones in groups.items()]
    return [
        _Part("leaderboard", "Leaderboard", _leaderboard(material)),
        *drawn,
        _Part("nps", NPS_GROUP, joined([nps_tables(material.nps, material.no_nps), _figures(of_nps)])),
        _Part("disagreements", "Where models differ", _browser(material)),
        _Part("critique", "What speaks against these numbers", critique(material)),
        _Part("methodology", "Methodology", methodology(material.board)),
        _Part("provenance", "Provenance", provenance(material)),
    ]


def sorted_by_group(charts: Sequence[Chart]) -> list[Chart]:
    """Groups in the order of their first chart, charts in theirs."""
    order = {group: place for place, group in enumerate(dict.fromkeys(chart.group for chart in charts))}
    return sorted(charts, key=lambda chart: order[chart.group])


def _section(part: _Part) -> Html:
    return tag("section", tag("h2", part.title, id=f"{part.id}-title"), part.content, id=part.id,
               aria_labelledby=f"{part.id}-title")  # fmt: skip


def _verdict(material: Material) -> Html:
    found = verdicts(material.board)
    if not found:
        return joined([tag("p", "No cell has finished yet: there is nothing to rank.", class_="lead"), _open(material)])
    first, *others = found
    cards = tag("div", *map(_card, others), class_="cards") if others else None
    return joined([_headline(first), _open(material), cards])


def _open(material: Material) -> Html:
    """What is not there of what was planned."""
    if not material.failures and not material.missing:
        return Html("")
    return tag("p", tag("a", unfinished(material.failures, material.missing), href="#critique"), class_="warn")


def _headline(verdict: Verdict) -> Html:
    if not verdict.winners:
        return tag("p", f"{verdict.sentences[0]}", class_="lead")
    many = len(verdict.winners) > 1
    names = joined(_between([tag("strong", name) for name in verdict.winners]))
    verb = "share the first place" if many else "comes first"
    said = tag("p", names, f" {verb} {verdict.scope}.", class_="lead")
    return joined([said, tag("p", _badge(verdict), _said(verdict), class_="sure"), _marks(verdict)])


def _card(verdict: Verdict) -> Html:
    names = joined(_between([tag("strong", name) for name in verdict.winners])) or "–"
    head = tag("h3", verdict.scope.removeprefix("on "), _badge(verdict))
    said = tag("p", _said(verdict))
    return tag("article", head, tag("p", names, class_="winner"), said, _marks(verdict), class_="card")


def _said(verdict: Verdict) -> str:
    return " ".join(verdict.sentences).replace(" %", "\u00a0%")  # no line ends before the sign


def _marks(verdict: Verdict) -> Html:
    return tag("p", "Reservations: ", flag_marks(verdict.flags), class_="marks") if verdict.flags else Html("")


def _badge(verdict: Verdict) -> Html:
    return tag("span", _SURE[verdict.sureness], class_=f"badge {verdict.sureness}")


def _between(names: Sequence[Html]) -> list[Child]:
    """`a, b and c`."""
    parts: list[Child] = []
    for place, name in enumerate(names):
        if place:
            parts.append(" and " if place == len(names) - 1 else ", ")
        parts.append(name)
    return parts


def _leaderboard(material: Material) -> Html:
    if not material.sections:
        return Html("")
    field = tag("input", type="search", id="search", placeholder="model, method or device", autocomplete="off")
    label = tag("label", "Find ", field)
    shown = tag("output", id="search-count", for_="search")
    hint = tag("span", "Click a heading to sort.", class_="hint")
    return joined([tag("div", label, shown, hint, class_="controls"), standings(material)])


def _figures(charts: Sequence[Chart]) -> Html:
    return joined(_figure(chart) for chart in charts)


def _figure(chart: Chart) -> Html:
    height = chart.figure.get("layout", {}).get("height") or _HEIGHT
    place = tag("div", class_="plot", id=f"plot-{chart.id}", data_figure=f"figure-{chart.id}", role="img",
                aria_label=f"Chart: {chart.title}. {chart.note}", style=f"min-height:{int(height)}px")  # fmt: skip
    caption = tag("figcaption", tag("h3", chart.title), tag("p", chart.note))
    return tag("figure", caption, place, id=f"chart-{chart.id}")


# --- disagreements ------------------------------------------------------------------------------


def _browser(material: Material) -> Html:
    """The controls; the page's script draws the texts."""
    sections = material.sections
    whys = [tag("p", f"{one.dataset}: texts cannot be shown: {one.no_texts}", class_="hint")
            for one in sections if one.no_texts and one.disagreements_total]  # fmt: skip
    if not any(section.disagreements for section in sections):
        return joined([tag("p", "There is no text to show on which models differ."), *whys])
    names = sorted({label for section in sections for one in section.disagreements for label in one.answers})
    datasets = [
        tag("option", section_title(one, material), value=str(place))
        for place, one in enumerate(sections)
        if one.disagreements
    ]
    models = [tag("option", name, value=name) for name in names]
    controls = tag(
        "div",
        tag("label", "Dataset ", tag("select", *datasets, id="differ-dataset")),
        tag("label", "Text ", tag("input", type="search", id="differ-search", autocomplete="off")),
        tag("label", "Wrong: ", tag("select", tag("option", "any model", value=""), *models, id="differ-wrong")),
        tag("label", "Right: ", tag("select", tag("option", "any model", value=""), *models, id="differ-right")),
        class_="controls",
    )
    count = tag("p", id="differ-count", role="status")
    more = tag("button", "Show more", type="button", id="differ-more", class_="more")
    return joined([controls, count, tag("ol", id="differ-list", class_="texts"), more, *whys])


def _disagreements(material: Material) -> Html:
    """Answers as numbers of label names, one for each model in the order of `models`."""
    return data_block("differ-data", [_texts_of(section) for section in material.sections])


def _texts_of(section: Section) -> dict[str, object]:
    models = list(section.disagreements[0].answers) if section.disagreements else []
    codes = {name: code for code, name in enumerate(section.label_names)}
    return {
        "models": [clean(model) for model in models],
        "labels": [clean(name) for name in section.label_names],
        "total": section.disagreements_total,
        "texts": [
            {
                "id": clean(one.id),
                "text": whole_text(one.text),
                "label": codes[one.label],
                "answers": [codes[one.answers[model]] for model in models],
            }
            for one in section.disagreements
        ],
    }
