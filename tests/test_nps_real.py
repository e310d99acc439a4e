"""`moodbench nps` on a real run over real reviews, checked by hand-written arithmetic on the source's own file."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support import World

DATA = os.environ.get("MOODBENCH_TEST_DATA")
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(DATA is None, reason="MOODBENCH_TEST_DATA is not set"),
]

SUITE = """
models: [tfidf-logreg, majority]
seeds: [1, 2]
datasets:
  - {name: park, file: DATA/disneyland_hongkong_4k.csv, text_column: Review_Text, label_column: Rating,
     label_rule: {'>= 4': positive, '<= 3': negative}, keep_columns: [Rating, Branch, Reviewer_Location],
     sizes: {train: 1500, validation: 200, test: 1500}, max_length: 64}
evaluation: {windows: 1, repeats: 0, latency_min_s: 0, latency_max_s: 0.2, throughput_batch_sizes: [32],
  throughput_max_s: 1}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("nps"))
    world.write("park.yaml", SUITE.replace("DATA", str(Path(str(DATA)).resolve())))
    outcome = world.moodbench("run", "park.yaml", "--run", "park")
    assert outcome.code == 0, outcome.err
    return world


def scores(world: World, *options: str) -> dict[str, Any]:
    outcome = world.moodbench("nps", "park", "--format", "json", *options)
    assert outcome.code == 0, outcome.err
    [found] = json.loads(outcome.out)
    assert isinstance(found, dict)
    return found


def lines(found: dict[str, Any], branch: str = "") -> dict[str | None, dict[str, Any]]:
    return {line["model"]: line for line in found["lines"] if line["branch"] == branch}


def ratings() -> list[int]:
    """Those of the source, by row."""
    with (Path(str(DATA)) / "disneyland_hongkong_4k.csv").open(encoding="utf-8", newline="") as file:
        return [int(row["Rating"]) for row in csv.DictReader(file)]


def test_the_lines_are_what_the_files_say(world: World) -> None:
    """With no more reviews drawn than there are: of the branch of one traveller's country, all are taken."""
    found = scores(world, "--branch-column", "Reviewer_Location")
    kept = pq.read_table(next((world.folder / "cache" / "datasets").glob("park-*/test.parquet"))).to_pylist()
    source = ratings()
    assert all(int(row["Rating"]) == source[int(row["id"].removeprefix("all-")) - 1] for row in kept)
    stars = {row["id"]: int(row["Rating"]) for row in kept if row["Reviewer_Location"] == "Australia"}
    assert 100 < len(stars) < 1000
    by_model = lines(found, "Australia")
    promoters, detractors = sum(s == 5 for s in stars.values()), sum(s <= 3 for s in stars.values())
    actual = 100 * (promoters - detractors) / len(stars)
    assert by_model[None]["reviews"] == len(stars)
    assert by_model[None]["nps"]["value"] == pytest.approx(actual, abs=1e-6)
    told = []
    for path in (world.folder / "results" / "park" / "cells").glob("tfidf-logreg--park--*/attempt-001/*.parquet"):
        for row in pq.read_table(path).to_pylist():
            if row["id"] in stars:
                told.append(0 if row["p_1"] < row["p_0"] else 2 if row["p_1"] >= 0.8 else 1)
    assert len(told) == 2 * len(stars), "two seeds"
    nps = 100 * (told.count(2) - told.count(0)) / len(told)
    line = by_model["tfidf-logreg"]
    assert line["nps"]["value"] == pytest.approx(nps, abs=1e-6)
    assert line["error"]["value"] == pytest.approx(nps - actual, abs=1e-6)
    assert line["promoters"] == pytest.approx(told.count(2) / len(told))
    assert line["seeds"] == [1, 2]


def test_the_park_as_a_whole(world: World) -> None:
    found = scores(world)
    assert found["dataset"] == "park" and found["positive"] == "positive"
    overall = lines(found)
    assert {line["reviews"] for line in found["lines"]} == {1000} and found["rated"] == 1500
    source = ratings()
    truth = 100 * (sum(r == 5 for r in source) - sum(r <= 3 for r in source)) / len(source)
    assert overall[None]["nps"]["low"] < truth < overall[None]["nps"]["high"], "a stratified split is as the source"
    assert overall["majority"]["nps"]["value"] == 100 and "biased" in overall["majority"]["flags"]
    assert overall["majority"]["error"]["value"] == pytest.approx(100 - overall[None]["nps"]["value"], abs=1e-6)
    for line in (overall["tfidf-logreg"], overall["majority"]):
        assert line["error"]["low"] <= line["error"]["value"] <= line["error"]["high"]
        assert line["promoters"] + line["passives"] + line["detractors"] == pytest.approx(1)
        assert line["accuracy"]["value"] > 0.75
    assert scores(world) == found, "the same reviews each time"
    strict = lines(scores(world, "--threshold", "1"))
    assert strict["tfidf-logreg"]["promoters"] <= overall["tfidf-logreg"]["promoters"]
    assert strict[None] == overall[None]


def test_tables_and_csv(world: World) -> None:
    wide = world.moodbench("nps", "park")
    assert wide.code == 0 and "1,000 of 1,500 rated test reviews" in wide.out
    assert "Disneyland_HongKong" in wide.out and "actual ratings" in wide.out
    narrow = world.moodbench("nps", "park", COLUMNS="60")
    assert narrow.code == 0 and all(len(line) <= 60 for line in narrow.out.splitlines())
    rows = list(csv.DictReader(io.StringIO(world.moodbench("nps", "park", "--format", "csv").out)))
    assert [row["model"] for row in rows if not row["branch"]] == ["", "majority", "tfidf-logreg"]


def test_what_cannot_be_is_a_sentence(world: World) -> None:
    outcome = world.moodbench("nps", "park", "--rating-column", "Stars")
    assert (
        outcome.code == 2 and "'park' has no column 'Stars'" in outcome.err and "keep_columns: [Stars," in outcome.err
    )
    outcome = world.moodbench("nps", "park", "--threshold", "80")
    assert outcome.code == 2 and "no probability" in outcome.err


def test_a_cleaned_cache_is_told_with_the_remedy(world: World) -> None:
    cache = world.folder / "cache"
    away = cache.rename(world.folder / "away")
    try:
        outcome = world.moodbench("nps", "park")
        assert outcome.code == 2 and "is gone from" in outcome.err and "moodbench fetch" in outcome.err
    finally:
        shutil.rmtree(cache, ignore_errors=True)
        away.rename(cache)
    assert world.moodbench("nps", "park").code == 0
