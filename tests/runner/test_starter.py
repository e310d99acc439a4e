"""The starter dataset: what the demo learns from must be large, varied and clean enough to rank models."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator

import pytest

from runner.contract import DatasetRequest, SplitSizes
from runner.data import prepare
from runner.data.embedded import LABEL_COLUMNS, STARTER_CSV

Row = dict[str, str]
VALUES = {
    "lang": {"en", "pl"},
    "sentiment": {"negative", "neutral", "positive"},
    "rating": {"", "1", "2", "3", "4", "5"},
    "split": {"train", "validation", "test"},
}
RATINGS = {"negative": {"", "1", "2"}, "neutral": {"", "3"}, "positive": {"", "4", "5"}}


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    with STARTER_CSV.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def words(text: str) -> list[str]:
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())


def sequences(text: str, length: int) -> Iterator[tuple[str, ...]]:
    tokens = words(text)
    return (tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1))


def test_columns_and_values(rows: list[Row]) -> None:
    assert list(rows[0]) == ["id", "text", "lang", "sentiment", "emotion", "rating", "slice", "split"]
    for column, allowed in VALUES.items():
        assert {row[column] for row in rows} == allowed
    assert all(row["text"].strip() == row["text"] != "" for row in rows)
    assert not any(None in row or None in row.values() for row in rows)  # too many or too few fields


def test_sizes(rows: list[Row]) -> None:
    languages = Counter(row["lang"] for row in rows)
    assert len(rows) >= 800
    assert languages["en"] >= 700
    assert languages["pl"] >= 80
    assert sum(row["split"] == "test" for row in rows) >= 200


@pytest.mark.parametrize(("column", "least"), [("emotion", 60), ("slice", 40)])
def test_no_group_is_too_small_to_measure(rows: list[Row], column: str, least: int) -> None:
    groups = Counter(row[column] for row in rows)
    assert len(groups) >= 5
    assert {name: count for name, count in groups.items() if count < least or not name} == {}


@pytest.mark.parametrize("column", ["sentiment", "emotion", "slice", "lang"])
def test_every_split_holds_every_group(rows: list[Row], column: str) -> None:
    everything = {row[column] for row in rows}
    for split in VALUES["split"]:
        assert {row[column] for row in rows if row["split"] == split} == everything


def test_no_text_occurs_twice(rows: list[Row]) -> None:
    counts = Counter(" ".join(words(row["text"])) for row in rows)
    assert [text for text, count in counts.items() if count > 1] == []
    assert len({row["id"] for row in rows}) == len(rows)


def test_no_six_words_in_a_row_of_test_were_seen_before(rows: list[Row]) -> None:
    seen = {part for row in rows if row["split"] != "test" for part in sequences(row["text"], 6)}
    assert [row["id"] for row in rows if row["split"] == "test" and seen.intersection(sequences(row["text"], 6))] == []


def test_texts_are_no_templates(rows: list[Row]) -> None:
    parts = [part for row in rows for part in sequences(row["text"], 4)]
    assert len(parts) > 5_000
    assert len(set(parts)) / len(parts) >= 0.95


def test_ratings_do_not_contradict_the_sentiment(rows: list[Row]) -> None:
    assert [row["id"] for row in rows if row["rating"] not in RATINGS[row["sentiment"]]] == []
    assert sum(row["rating"] != "" for row in rows) >= 50


@pytest.mark.parametrize("name", LABEL_COLUMNS)
def test_it_prepares_whole(name: str, rows: list[Row], tmp_path: object) -> None:
    sizes = SplitSizes(train=None, validation=None, test=None)
    prepared = prepare(DatasetRequest(name=name, source="embedded", sizes=sizes), tmp_path)  # type: ignore[arg-type]
    assert set(prepared.label_names) == {row[LABEL_COLUMNS[name]] for row in rows}
    assert sum(split.rows for split in prepared.splits.values()) == len(rows)
    assert prepared.splits["test"].rows == sum(row["split"] == "test" for row in rows)
    assert prepared.dropped == {}
