"""The four real datasets (MOODBENCH_TEST_DATA): the promises of `prepare` on data nobody made up."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from runner.contract import DatasetRequest, SplitSizes
from runner.data import prepare, read_split
from runner.data.splits import normalise

FOLDER = os.environ.get("MOODBENCH_TEST_DATA", "")
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not FOLDER, reason="MOODBENCH_TEST_DATA is not set"),
]
ALL_ROWS = SplitSizes(train=None, validation=None, test=None)
FILES = {
    "sst2": {"train": "sst2_glue_train.csv", "test": "sst2_glue_dev.csv"},
    "uci": {"all": "uci_sentiment_labelled.csv"},
    "disney": {"all": "disneyland_hongkong_4k.csv"},
    "goemotions": {split: f"goemotions_{name}.csv" for split, name in
                   {"train": "train", "validation": "dev", "test": "test"}.items()},
}  # fmt: skip
SETTINGS = {
    "sst2": {"sizes": ALL_ROWS},
    "uci": {"slice_columns": ("source",)},
    "disney": {"label_column": "Rating", "label_rule": {">= 4": "positive", "<= 3": "negative"}, "balanced": True,
               "keep_columns": ("Branch",)},
    "goemotions": {"label_column": "ekman", "label_separator": "|", "sizes": ALL_ROWS},
}  # fmt: skip
ROWS_READ = {"sst2": 68_221, "uci": 3_000, "disney": 4_492, "goemotions": 54_263}


def request_for(name: str, folder: str = FOLDER) -> DatasetRequest:
    files = {split: str(Path(folder) / file) for split, file in FILES[name].items()}
    return DatasetRequest(name=name, source="file", files=files, **SETTINGS[name])


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", FILES)
def test_no_text_is_shared_and_counts_add_up(name, cache):
    prepared = prepare(request_for(name), cache)
    texts = {split: {normalise(text) for text in read_split(prepared, split).texts} for split in prepared.splits}
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["validation"]
    assert not texts["validation"] & texts["test"]
    rows = sum(info.rows for info in prepared.splits.values()) + sum(prepared.dropped.values())
    assert rows == ROWS_READ[name] if name != "disney" else rows < ROWS_READ[name]
    assert prepare(request_for(name), cache) == prepared


@pytest.mark.parametrize("name", FILES)
def test_fingerprint_is_stable_and_one_row_changes_it(name, cache, tmp_path):
    prepared = prepare(request_for(name), cache)
    assert prepare(request_for(name), tmp_path / "again").fingerprint == prepared.fingerprint
    for file in FILES[name].values():
        (tmp_path / file).write_bytes((Path(FOLDER) / file).read_bytes())
    used = set(read_split(prepared, "test").texts)
    changed = tmp_path / FILES[name].get("test", next(iter(FILES[name].values())))
    with changed.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    column = next(n for n, header in enumerate(rows[0]) if header in ("text", "Review_Text"))
    next(row for row in rows if row[column] in used)[column] += " indeed"
    with changed.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    assert prepare(request_for(name, str(tmp_path)), tmp_path / "cache").fingerprint != prepared.fingerprint


def test_sst2_keeps_its_official_test_set(cache):
    prepared = prepare(request_for("sst2"), cache)
    assert prepared.splits["test"].classes == {"0": 428, "1": 444}
    assert prepared.splits["validation"].rows == 2_000
    assert prepared.dropped == {"conflicting_label": 10, "duplicate": 366}


def test_disneyland_is_balanced_with_branches(cache):
    prepared = prepare(request_for("disney"), cache)
    assert prepared.label_names == ("negative", "positive")
    for split, info in prepared.splits.items():
        assert info.classes["negative"] == info.classes["positive"]
        assert set(read_split(prepared, split).columns["Branch"]) == {"Disneyland_HongKong"}
    assert sum(info.classes["negative"] for info in prepared.splits.values()) == 800


def test_goemotions_has_single_labels_only(cache):
    prepared = prepare(request_for("goemotions"), cache)
    assert prepared.label_names == ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
    assert prepared.dropped["several_labels"] == 4_794
    assert prepared.splits["test"].rows == 4_968
