"""What holds for every chart of the report."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import msgspec
import pytest

from harness.report.charts import all_charts
from harness.report.material import Chart, Material, Section

from .report_cells import RATED
from .report_material import MODELS, Model, many_models, material

HOSTILE = '<b>bold</b> & <a href="javascript:alert(1)">&lt;x</a>'


@pytest.fixture(scope="module")
def charts() -> tuple[Chart, ...]:
    return all_charts(material())


@pytest.fixture(scope="module")
def large() -> tuple[Chart, ...]:
    """20 models × 5 datasets × 3 seeds."""
    return all_charts(
        material(
            many_models(20),
            ("ag_news", "banking", "imdb", RATED, "sst2"),
            (1, 2, 3),
            test_rows=600,
            requests=1000,
            points=2000,
        )
    )


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from leaves(inner, path)
    else:
        yield path, value


def test_every_chart_that_the_material_has_data_for_is_drawn(charts: Sequence[Chart]) -> None:
    assert [chart.id for chart in charts] == [
        "rank-overall",
        f"rank-{RATED}",
        "rank-sst2",
        f"accuracy-latency-{RATED}",
        "accuracy-latency-sst2",
        "f1-by-dataset",
        "f1-heatmap",
        f"classes-{RATED}",
        "classes-sst2",
        f"slices-{RATED}",
        f"confusion-{RATED}",
        "confusion-sst2",
        f"calibration-{RATED}",
        "calibration-sst2",
        f"significance-{RATED}",
        "significance-sst2",
        "contrasts",
        "size-scaling",
        f"latency-{RATED}",
        "latency-sst2",
        f"throughput-{RATED}",
        "throughput-sst2",
        "memory",
        f"loss-{RATED}",
        "loss-sst2",
        f"validation-{RATED}",
        "validation-sst2",
        f"nps-{RATED}",
        f"nps-shares-{RATED}",
        f"nps-error-{RATED}",
    ]
    groups = [group for group, _ in groupby(charts, key=lambda chart: chart.group)]
    assert len(groups) == len(set(groups)), "a heading comes twice"


def test_plotly_knows_every_property(charts: Sequence[Chart]) -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    for chart in charts:
        graph_objects.Figure(chart.figure, skip_invalid=False)


def test_a_figure_is_plain_json(charts: Sequence[Chart]) -> None:
    for chart in charts:
        assert json.loads(json.dumps(chart.figure, allow_nan=False))["data"]


def test_every_axis_says_what_it_shows(charts: Sequence[Chart]) -> None:
    for chart in charts:
        layout = chart.figure["layout"]
        assert layout["title"]["text"]
        assert chart.note.endswith(".")
        for name, axis in layout.items():
            if not re.fullmatch(r"[xy]axis\d*", name) or (axis.get("title") or {}).get("text"):
                continue
            # Axes of names say it by their ticks; of panels beside each other the first one has the title.
            is_of_names = axis.get("tickvals") == list(range(len(axis.get("ticktext", [])))) and axis["ticktext"]
            is_beside = name.startswith("yaxis") and "domain" in axis and layout[f"x{name[1:]}"]["domain"][0] > 0
            is_above = name.startswith("xaxis") and "domain" in axis and layout[f"y{name[1:]}"]["domain"][0] > 0
            assert is_of_names or is_beside or is_above, (chart.id, name)


def test_colours_of_page_and_text_are_left_to_the_page(charts: Sequence[Chart]) -> None:
    for chart in charts:
        for path, _ in leaves(chart.figure["layout"]):
            assert not re.search(r"bgcolor|gridcolor|font\.color|template", path), (chart.id, path)


def test_names_from_data_are_text() -> None:
    models = (*(dataclasses.replace(model, name=model.name + HOSTILE) for model in MODELS), Model("$x^2$", "full"))
    shown = material(models, (RATED, f"sst2 {HOSTILE}"))
    sections = tuple(_hostile(section) for section in shown.sections)
    for chart in all_charts(dataclasses.replace(shown, sections=sections)):
        texts = [text for _, text in leaves(chart.figure) if isinstance(text, str)]
        for text in texts:
            assert not re.search(r"<(?!/?b>|br>|extra>|/extra>)", text), (chart.id, text)
            assert "bold</b>" not in text, (chart.id, text)
            assert "\x1b" not in text and "\u202e" not in text
        assert any("&lt;" in text for text in texts), chart.id


def _hostile(section: Section) -> Section:
    """Class names and slices as well."""
    names = tuple(f"{name}{HOSTILE}\x1b[2J\u202e" for name in section.label_names)
    rows = []
    for one in section.rows:
        cells = []
        for cell in one.cells:
            quality = cell.result.quality
            assert quality is not None
            per_class = [msgspec.structs.replace(k, label=n) for k, n in zip(quality.per_class, names, strict=True)]
            per_slice = [
                msgspec.structs.replace(k, value=k.value + HOSTILE, column=k.column + HOSTILE)
                for k in quality.per_slice
            ]
            changed = msgspec.structs.replace(quality, per_class=tuple(per_class), per_slice=tuple(per_slice))
            cells.append(dataclasses.replace(cell, result=msgspec.structs.replace(cell.result, quality=changed)))
        rows.append(dataclasses.replace(one, cells=tuple(cells)))
    return dataclasses.replace(section, label_names=names, rows=tuple(rows))


def test_size_and_traces_stay_within_budget(large: Sequence[Chart]) -> None:
    sizes = {chart.id: len(msgspec.json.encode(chart.figure)) for chart in large}
    assert sum(sizes.values()) <= 2.5 * 2**20, sorted(sizes.items(), key=lambda item: -item[1])[:5]
    assert max(len(chart.figure["data"]) for chart in large) <= 60


def test_ids_are_unique_and_fit_for_file_names() -> None:
    shown = material(MODELS[:2], ("a b", "A-B", "ünï/../c"))
    twice = (*shown.sections, dataclasses.replace(shown.sections[0], fingerprint="other-version"))
    charts = all_charts(dataclasses.replace(shown, sections=twice))
    ids = [chart.id for chart in charts]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9._-]+", identifier) for identifier in ids)
    titles = [chart.title for chart in charts]
    assert len(set(titles)) == len(titles)
    assert "Ranks · a b (other-ve)" in titles


def test_what_there_is_no_data_for_is_left_out() -> None:
    shown = material(MODELS[:3], (RATED,), (1,))
    bare = tuple(
        dataclasses.replace(
            one,
            reliability=None,
            cells=tuple(
                dataclasses.replace(
                    cell,
                    record=dataclasses.replace(cell.record, predicted=None),
                    result=msgspec.structs.replace(cell.result, quality=None, training=None, timing=None),
                )
                for cell in one.cells
            ),
            row=msgspec.structs.replace(one.row, rank=None, metrics={}),
        )
        for one in shown.sections[0].rows
    )
    section = dataclasses.replace(shown.sections[0], rows=bare, significance=None)
    board = msgspec.structs.replace(shown.board, scaling=(), contrasts=())
    empty = dataclasses.replace(shown, board=board, sections=(section,), nps=())
    assert [chart.id for chart in all_charts(empty)] == ["memory"]


def test_an_empty_run_has_no_charts() -> None:
    shown = material()
    board = msgspec.structs.replace(shown.board, rows=(), overall=(), scaling=(), contrasts=())
    assert all_charts(dataclasses.replace(shown, board=board, sections=(), nps=())) == ()


@pytest.mark.parametrize("models", [MODELS[:1], (MODELS[5],)])
def test_a_single_row_is_drawn(models: Sequence[Model]) -> None:
    alone = material(models, ("sst2",), (1,), test_rows=30, requests=20)
    charts = all_charts(alone)
    assert {"rank-sst2", "accuracy-latency-sst2", "confusion-sst2"} <= {chart.id for chart in charts}
    assert "f1-heatmap" not in {chart.id for chart in charts}


def test_drawing_imports_no_plotly() -> None:
    code = "import sys, harness.report.charts; sys.exit('plotly' in sys.modules or 'pandas' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_notes_say_what_the_flags_demand() -> None:
    notes = {chart.id: chart.note for chart in all_charts(_flagged(material(), "contaminated", "few_test_rows"))}
    assert "Timed while something else used the machine: 1 of 6 rows." in notes["latency-sst2"]
    assert "Timed while something else" in notes["accuracy-latency-sst2"]
    assert "So few test examples that the intervals are rough: 1 of 6 rows." in notes["rank-sst2"]
    assert "Timed" not in notes["rank-sst2"]
    alone = {chart.id: chart.note for chart in all_charts(material(seeds=(7,)))}
    assert "A single seed, so that the intervals leave out how much training varies: all rows." in alone["rank-sst2"]


def test_notes_say_what_stars_ranks_and_passives_are() -> None:
    notes = {chart.id: chart.note for chart in all_charts(material())}
    stars = notes["significance-sst2"]
    assert "over all 15 pairs. The tie groups" in stars and "may tell more models apart" in stars
    assert "strictest level of that correction, p < 0.05/15, a true difference below 4.1 points is missed" in stars
    assert "do not tell the two apart" not in stars
    two = {chart.id: chart.note for chart in all_charts(material(MODELS[:2]))}["significance-sst2"]
    assert "over the only pair" in two and "Held to p < 0.05, a true" in two
    assert "A negative answer of a model makes a detractor, however sure" in notes[f"nps-shares-{RATED}"]
    assert "the overall ranks, those without one last" in notes["f1-by-dataset"]
    alone = {chart.id: chart.note for chart in all_charts(material(datasets=("sst2",)))}
    assert "in the order of their ranks." in alone["f1-by-dataset"]


def _flagged(shown: Material, *flags: str) -> Material:
    """The first row of each dataset."""
    sections = []
    for section in shown.sections:
        first = section.rows[0]
        changed = dataclasses.replace(first, row=msgspec.structs.replace(first.row, flags=flags))
        sections.append(dataclasses.replace(section, rows=(changed, *section.rows[1:])))
    return dataclasses.replace(shown, sections=tuple(sections))
