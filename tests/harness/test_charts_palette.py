"""Colours and symbols: told apart by every kind of colour vision, readable on light and dark."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from harness.report.charts import all_charts
from harness.report.charts.palette import COLOURS, DIFFERENCE_SCALE, NEUTRAL, ON_SCALE, SHARE_SCALE, looks_of
from harness.report.charts.placing import Point, label_positions
from harness.report.labels import RowKey

from .report_material import material

# Complete loss of one kind of cone, on linear RGB (Machado, Oliveira & Fernandes, "A Physiologically-based Model for
# Simulation of Color Vision Deficiency", 2009).
VISION = {
    "normal": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


def linear(colour: str) -> np.ndarray:
    srgb = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2."""
    lights = sorted(float(linear(colour) @ TO_XYZ[1]) + 0.05 for colour in (one, other))
    return lights[1] / lights[0]


def lab(colour: str, vision: np.ndarray) -> np.ndarray:
    """CIELAB of what is seen."""
    xyz = TO_XYZ @ np.clip(vision @ linear(colour), 0, 1) / WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("background", ["#ffffff", "#111111"])
def test_marks_stand_out_from_the_page(background: str) -> None:
    for colour in (*COLOURS, NEUTRAL):
        assert contrast(colour, background) >= 2.98, colour


@pytest.mark.parametrize("vision", VISION)
def test_models_are_told_apart(vision: str) -> None:
    """By as much as the palette of Okabe & Ito at least, whose closest pair is 16 apart to tritan vision."""
    distances = [np.linalg.norm(lab(a, VISION[vision]) - lab(b, VISION[vision])) for a, b in combinations(COLOURS, 2)]
    assert min(distances) >= 20


def test_numbers_on_a_scale_can_be_read() -> None:
    for _, colour in (*SHARE_SCALE, *DIFFERENCE_SCALE):
        assert contrast(colour, ON_SCALE) >= 4.5


def test_each_row_has_a_look_of_its_own() -> None:
    keys = [RowKey(f"model-{n}", method, "cpu") for n in range(24) for method in ("lora", "frozen")]
    looks = looks_of([*keys, RowKey("majority", "none", "cpu"), RowKey("tfidf", "none", "cpu")])
    assert len({(look.colour, look.symbol) for look in looks.values()}) == len(looks)
    assert len({(look.colour, look.dash) for look in looks.values()}) == len(looks)
    for n in range(24):
        of_model = [looks[key] for key in keys if key.model == f"model-{n}"]
        assert len({look.colour for look in of_model}) == 1


def test_a_model_has_one_colour_in_all_charts() -> None:
    charts = {chart.id: chart for chart in all_charts(material())}
    ranks = charts["rank-sst2"].figure
    expected = dict(zip(ranks["layout"]["yaxis"]["ticktext"], ranks["data"][0]["marker"]["color"], strict=True))
    assert len(set(expected.values())) == 5  # six rows of five models
    for identifier in ("throughput-sst2", "loss-sst2"):
        lines = {trace["name"]: trace["line"]["color"] for trace in charts[identifier].figure["data"]}
        assert lines == {name: expected[name] for name in lines}
    for identifier in ("f1-by-dataset", "slices-reviews", "memory"):
        figure = charts[identifier].figure
        names = figure["layout"]["yaxis"]["ticktext"]
        trace = figure["data"][0]
        assert trace["marker"]["color"] == [expected[names[place]] for place in trace["y"]]


def test_labels_cover_neither_each_other_nor_a_point() -> None:
    alone = Point(0.5, 0.5, 10, "alone")
    assert label_positions([alone]) == ["top left"]
    assert label_positions([Point(0.0, 0.5, 10, "at the edge")]) == ["top right"]
    twin = Point(0.505, 0.5, 10, "its twin")
    found = label_positions([alone, twin])
    assert found[0] == "top left" and found[1] not in ("top left", None)
    crowd = label_positions([Point(0.5 + n / 500, 0.5, 12, f"number {n} of many") for n in range(12)])
    assert crowd[0] is not None and None in crowd
