"""Gates and comparisons on real reviews: a run, and the same run with other models' real answers in its place."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runner.contract import CellSpec, read
from tests.support import World

DATA = os.environ.get("MOODBENCH_TEST_DATA")
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(DATA is None, reason="MOODBENCH_TEST_DATA is not set"),
]

SUITE = """
models: [tfidf-logreg, majority]
datasets:
  - {name: sst2-local, train: DATA/sst2_glue_train.csv, test: DATA/sst2_glue_dev.csv, text_column: text,
     label_column: label, sizes: {train: 5000, validation: 500, test: null}}
evaluation: {windows: 5, repeats: 0, min_requests: 100, latency_min_s: 0, latency_max_s: 0.2,
  throughput_batch_sizes: [32], throughput_max_s: 0.2, throughput_min_s: 0.1}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """With one finished run, `kept`."""
    world = World(tmp_path_factory.mktemp("gate"))
    world.write("real.yaml", SUITE.replace("DATA", str(Path(str(DATA)).resolve())))
    outcome = world.moodbench("run", "real.yaml", "--run", "kept")
    assert outcome.code == 0, outcome.err
    return world


def word_counts(texts: pd.Series, vocabulary: dict[str, int]) -> np.ndarray:
    counts = np.zeros((len(texts), len(vocabulary)), dtype=np.float32)
    for row, text in zip(counts, texts, strict=True):
        for word in re.findall(r"\w+", text.lower()):
            if word in vocabulary:
                row[vocabulary[word]] += 1
    return counts


def naive_bayes(data: Path, rows: int) -> np.ndarray:
    """Answers on the test split of multinomial naive Bayes, learnt from the first rows."""
    train, test = (pd.read_parquet(data / f"{split}.parquet") for split in ("train", "test"))
    train = train.head(rows)
    words = sorted({word for text in train["text"] for word in re.findall(r"\w+", text.lower())})
    vocabulary = {word: i for i, word in enumerate(words)}
    counts = word_counts(train["text"], vocabulary)
    logs = [np.log((1 + counts[(train["label"] == k).to_numpy()].sum(axis=0)) / (1 + counts.sum())) for k in (0, 1)]
    logs = [one - np.log(np.exp(one).sum()) for one in logs]
    return (word_counts(test["text"], vocabulary) @ (logs[1] - logs[0]) > 0).astype(np.int64)


def with_answers(world: World, name: str, rows: int) -> None:
    """A copy of the run, in which naive Bayes answers in the place of TF-IDF."""
    shutil.copytree(world.folder / "results" / "kept", world.folder / "results" / name, dirs_exist_ok=True)
    (path,) = (world.folder / "results" / name / "cells").glob("tfidf*/attempt-*/predictions.parquet")
    data = Path(read(path.parent / "spec.json", CellSpec).dataset.folder)
    table = pq.read_table(path)
    answers = pa.array(naive_bayes(data, rows))
    pq.write_table(table.set_column(table.schema.get_field_index("predicted"), "predicted", answers), path)


def test_a_run_passes_against_its_own_baseline_file(world: World, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    assert world.moodbench("gate", "kept", "--write-baseline", path).code == 0
    assert path.stat().st_size < 50_000, "small enough to lie beside code"
    outcome = world.moodbench("gate", "kept", "--baseline", path, "--max-drop", "accuracy=0.01")
    assert outcome.code == 0, outcome.out
    assert outcome.out.splitlines()[-1] == "pass: kept against kept (2 pass)"


def test_a_model_learnt_from_a_few_rows_fails(world: World, tmp_path: Path) -> None:
    with_answers(world, "poor", rows=100)
    limits = ("--max-drop", "accuracy=0.01,f1=0.01")
    outcome = world.moodbench("gate", "poor", "--baseline", "kept", *limits, "--junit", tmp_path / "gate.xml")
    assert outcome.code == 4, outcome.out
    failed = [case for case in ET.parse(tmp_path / "gate.xml").iter("testcase") if case.find("failure") is not None]
    assert [case.get("name") for case in failed] == [
        "tfidf-logreg: Accuracy drop ≤ 0.01",
        "tfidf-logreg: F1 macro drop ≤ 0.01",
    ]


def test_another_model_that_is_about_as_good_is_not_enough_evidence(world: World) -> None:
    with_answers(world, "other", rows=5000)
    outcome = world.moodbench("gate", "other", "--baseline", "kept", "--max-drop", "accuracy=0.01", "--format", "json")
    checks = {check["model"]: check for check in json.loads(outcome.out)["checks"]}
    assert outcome.code == 5, outcome.out
    assert checks["tfidf-logreg"]["figure"]["low"] < 0.01 < checks["tfidf-logreg"]["figure"]["high"]
    assert "test examples would tell" in checks["tfidf-logreg"]["reason"]


def test_two_models_are_told_apart_on_the_same_examples(world: World) -> None:
    outcome = world.moodbench("compare", "kept:tfidf-logreg", "kept:majority", "--format", "json")
    assert outcome.code == 0, outcome.err
    (pair,) = json.loads(outcome.out)["pairs"]
    accuracy = pair["quality"][0]
    assert pair["test_rows"] == 872
    assert -0.35 < accuracy["difference"]["low"] < accuracy["difference"]["high"] < -0.2
    assert accuracy["p_corrected"] < 1e-6
    latency = next(one for one in pair["speed"] if one["metric"] == "latency_median_ms")
    assert latency["ratio"]["value"] < 1, "to name the most frequent class takes next to nothing"
