"""Real datasets through the real command line. The folder is named by MOODBENCH_TEST_DATA; nothing of it is kept."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support import World

DATA = os.environ.get("MOODBENCH_TEST_DATA")
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(DATA is None, reason="MOODBENCH_TEST_DATA is not set"),
]

QUICK = (
    "evaluation: {windows: 1, repeats: 0, latency_min_s: 0, latency_max_s: 0.2, throughput_batch_sizes: [32],\n"
    "  throughput_max_s: 1}\n"
)


def rows_of(world: World, suite: str) -> dict[str, dict[str, Any]]:
    """Run a suite; the leaderboard's rows by model."""
    world.write("real.yaml", suite.replace("DATA", str(Path(str(DATA)).resolve())) + QUICK)
    outcome = world.moodbench("run", "real.yaml", "--run", "real")
    assert outcome.code == 0, outcome.err
    board = json.loads(world.moodbench("leaderboard", "real", "--format", "json").out)
    return {row["model"]: row for row in board["rows"]}


def test_tfidf_on_sst2_gives_the_known_figure(tmp_path: Path) -> None:
    rows = rows_of(
        World(tmp_path),
        "models: [tfidf-logreg, majority]\ndatasets:\n"
        "  - {name: sst2-local, train: DATA/sst2_glue_train.csv, test: DATA/sst2_glue_dev.csv, text_column: text,\n"
        "     label_column: label, sizes: {train: null, validation: 2000, test: null}}\n",
    )
    tfidf = rows["tfidf-logreg"]
    assert tfidf["test_rows"] == 872, "the official test split is used whole"
    assert tfidf["accuracy"]["value"] == pytest.approx(0.819, abs=0.01)
    assert tfidf["accuracy"]["low"] < tfidf["accuracy"]["value"] < tfidf["accuracy"]["high"]
    assert tfidf["rank"] == 1 and "at_chance" in rows["majority"]["flags"]


def test_tfidf_on_goemotions_single_label_rows(tmp_path: Path) -> None:
    rows = rows_of(
        World(tmp_path),
        "models: [tfidf-logreg]\ndatasets:\n"
        "  - {name: ekman, train: DATA/goemotions_train.csv, validation: DATA/goemotions_dev.csv,\n"
        "     test: DATA/goemotions_test.csv, text_column: text, label_column: ekman, label_separator: '|',\n"
        "     sizes: {train: null, validation: null, test: null}}\n",
    )
    assert 0.45 < rows["tfidf-logreg"]["f1"]["value"] < 0.65


def test_ratings_become_labels_and_branches_slices(tmp_path: Path) -> None:
    world = World(tmp_path)
    rows_of(
        world,
        "models: [tfidf-logreg]\ndatasets:\n"
        "  - {name: hongkong, file: DATA/disneyland_hongkong_4k.csv, text_column: Review_Text, label_column: Rating,\n"
        "     label_rule: {'>= 4': positive, '<= 3': negative}, keep_columns: [Rating, Branch],\n"
        "     slice_columns: [Branch], balanced: true, max_length: 256}\n",
    )
    [result] = world.results("real").values()
    assert result["label_names"] == ["negative", "positive"]
    supports = [figures["support"] for figures in result["quality"]["per_class"]]
    assert supports[0] == supports[1], "balanced"
    assert [s["value"] for s in result["quality"]["per_slice"]] == ["Disneyland_HongKong"]
    assert result["summary"]["accuracy"] > 0.7


@pytest.mark.slow
def test_a_pretrained_encoder_beats_tfidf_on_uci(tmp_path: Path) -> None:
    rows = rows_of(
        World(tmp_path),
        "models: [MiniLM-L6, tfidf-logreg]\ndatasets:\n"
        "  - {name: uci, file: DATA/uci_sentiment_labelled.csv, text_column: text, label_column: label,\n"
        "     sizes: {train: 800, validation: 200, test: 800}}\n"
        "training: {min_steps: 75, effective_batch_size: 32}\n",
    )
    assert rows["MiniLM-L6"]["accuracy"]["value"] > 0.85
    assert rows["MiniLM-L6"]["accuracy"]["low"] > rows["tfidf-logreg"]["accuracy"]["value"]
