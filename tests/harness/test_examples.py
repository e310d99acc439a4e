from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import examples
from harness.entries import CellRecord
from harness.errors import InputError
from harness.store import AttemptPaths
from runner.contract import ContractError
from tests.harness.answered import answered, prepare, respecified

LABELS = [0, 1, 1, 0]
GIVEN = np.array([[0.9, 0.1], [0.2, 0.8], [0.55, 0.45], [0.7, 0.3]])
KEPT = {"Rating": [1, 5, 4, None], "Branch": ["Paris", None, "=1+1", "<b>"], "Stars": [1.0, 5.0, 4.5, None]}


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CellRecord:
    monkeypatch.setenv("MOODBENCH_CACHE", str(tmp_path / "cache"))
    return answered(tmp_path / "run", prepare(tmp_path / "prepared", LABELS, KEPT), GIVEN)


def attempt_of(record: CellRecord) -> AttemptPaths:
    assert record.attempt is not None
    return record.attempt


def rewritten(record: CellRecord, **columns: object) -> None:
    """The predictions with other columns in the place of theirs; None: left out."""
    path = attempt_of(record).predictions
    old = {name: column.to_pylist() for name, column in zip(*_parts(path), strict=True)}
    new = {name: values for name, values in (old | columns).items() if values is not None}
    pq.write_table(pa.table(new), path)


def _parts(path: Path) -> tuple[list[str], list[pa.ChunkedArray]]:
    table = pq.read_table(path)
    return table.column_names, table.columns


def test_columns_come_as_text_in_the_order_of_the_predictions(record: CellRecord) -> None:
    found = examples.test_examples(record, ("text", "id", "Rating", "Branch", "Stars", "label"))
    assert found == {
        "text": ["text 0", "text 1", "text 2", "text 3"],
        "id": ["all-0", "all-1", "all-2", "all-3"],
        "Rating": ["1", "5", "4", ""],
        "Branch": ["Paris", "", "=1+1", "<b>"],
        "Stars": ["1", "5", "4.5", ""],
        "label": ["0", "1", "1", "0"],
    }
    assert examples.example_columns(record) == ("id", "text", "label", "Rating", "Branch", "Stars")


def test_probabilities_are_those_written(record: CellRecord) -> None:
    found = examples.probabilities(record)
    assert found.shape == (4, 2) and found.dtype == np.float64
    np.testing.assert_allclose(found, GIVEN, atol=1e-7)


def test_a_column_that_was_not_kept_is_named_with_the_remedy(record: CellRecord) -> None:
    with pytest.raises(InputError, match="has no column 'Park'") as refused:
        examples.test_examples(record, ("text", "Park"))
    assert "keep_columns: [Park]" in refused.value.hint


def test_a_dataset_that_is_gone_is_asked_for_again(record: CellRecord, tmp_path: Path) -> None:
    (tmp_path / "prepared").rename(tmp_path / "away")
    for ask in (lambda: examples.test_examples(record, ("text",)), lambda: examples.example_columns(record)):
        with pytest.raises(InputError, match="is gone from") as refused:
            ask()
        assert "moodbench fetch" in refused.value.hint


def test_a_cache_that_moved_is_found(record: CellRecord, tmp_path: Path) -> None:
    (tmp_path / "cache" / "datasets").mkdir(parents=True)
    (tmp_path / "prepared").rename(tmp_path / "cache" / "datasets" / "prepared")
    assert examples.test_examples(record, ("text",))["text"][0] == "text 0"


@pytest.mark.parametrize("what", ["fingerprint", "ids", "order", "repeated", "labels"])
def test_texts_of_another_dataset_are_never_given(record: CellRecord, tmp_path: Path, what: str) -> None:
    if what == "fingerprint":
        record = dataclasses.replace(record, fingerprint="another")
    elif what == "ids":
        rewritten(record, id=[f"test-{i}" for i in range(4)])
    elif what == "order":
        rewritten(record, id=["all-1", "all-0", "all-2", "all-3"])
    elif what == "repeated":
        rewritten(record, id=["all-0"] * 4)
    else:
        record = dataclasses.replace(record, labels=1 - np.array(LABELS))
    with pytest.raises(InputError, match="another than"):
        examples.test_examples(record, ("text",))


def test_a_damaged_dataset_is_a_sentence(record: CellRecord, tmp_path: Path) -> None:
    path = tmp_path / "prepared" / "test.parquet"
    whole = path.read_bytes()
    for broken in (
        b"",
        b"PAR1" + b"\0" * 60 + b"PAR1",
        whole[: len(whole) // 2],
        whole[:8] + b"\xff" * 99 + whole[107:],
    ):
        path.write_bytes(broken)
        with pytest.raises(InputError, match="is damaged"):
            examples.test_examples(record, ("text", "Rating"))
    pq.write_table(pq.read_table(pa.BufferReader(whole)).slice(0, 3), path)
    with pytest.raises(InputError, match="3 rows instead of 4"):
        examples.test_examples(record, ("text",))


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"p_0": None}, "not what the runner writes"),
        ({"p_0": ["a", "b", "c", "d"]}, "not what the runner writes"),
        ({"p_0": [0.9, 0.2, 0.55, None]}, "do not sum to 1"),
        ({"p_0": [float("nan")] * 4}, "do not sum to 1"),
        ({"p_0": [float("inf")] * 4}, "do not sum to 1"),
        ({"p_0": [0.8, 0.2, 0.55, 0.7]}, "do not sum to 1"),
        ({"p_0": [1.5, 0.2, 0.55, 0.7], "p_1": [-0.5, 0.8, 0.45, 0.3]}, "do not sum to 1"),
        ({"p_0": [0.1, 0.2, 0.55, 0.7], "p_1": [0.9, 0.8, 0.45, 0.3]}, "not those of the predictions"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_probability_is_refused(record: CellRecord, columns: dict[str, object], says: str) -> None:
    rewritten(record, **columns)
    with pytest.raises(ContractError, match=says):
        examples.probabilities(record)


def test_a_missing_or_hostile_file_of_predictions_is_refused(record: CellRecord, tmp_path: Path) -> None:
    path = attempt_of(record).predictions
    kept = path.rename(tmp_path / "kept.parquet")
    for lay in (
        lambda: None,
        lambda: path.symlink_to(kept),
        lambda: os.mkfifo(path),
        lambda: path.write_bytes(b"PAR1"),
    ):
        path.unlink(missing_ok=True)
        lay()
        for ask in (lambda: examples.probabilities(record), lambda: examples.test_examples(record, ("text",))):
            with pytest.raises(ContractError):
                ask()


def test_an_id_repeated_without_end_takes_no_memory(record: CellRecord) -> None:
    """A dictionary of one id of 16 MiB, which its rows would write out as 1.6 TiB."""
    path = attempt_of(record).predictions
    rows = 100_000
    ids = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["x" * 2**24]))
    pq.write_table(pa.table({"id": ids}), path)
    same = pa.DictionaryArray.from_arrays(pa.array(np.arange(rows, dtype=np.int32)), pa.array(map(str, range(rows))))
    many = dataclasses.replace(record, labels=np.zeros(rows, np.int16), predicted=np.zeros(rows, np.int16))
    assert not examples._same_ids(many, same)


def test_the_cells_own_word_on_where_its_dataset_lies_is_not_taken(record: CellRecord, tmp_path: Path) -> None:
    inside = attempt_of(record).folder / "prepared"
    prepare(inside, LABELS, {})
    for folder in (str(inside), "nul\0l"):
        respecified(record, folder=folder)
        with pytest.raises(ContractError):
            examples.test_examples(record, ("text",))
    (tmp_path / "link").symlink_to(inside)
    respecified(record, folder=str(tmp_path / "link"))
    with pytest.raises(ContractError, match="own folder"):
        examples.test_examples(record, ("text",))
    attempt_of(record).spec.unlink()
    with pytest.raises(ContractError, match="cannot be read"):
        examples.test_examples(record, ("text",))


def test_a_record_without_files_says_so(record: CellRecord) -> None:
    baseline = dataclasses.replace(record, attempt=None)
    unscored = dataclasses.replace(record, labels=None, predicted=None)
    for one, says in ((baseline, "baseline file"), (unscored, "no predictions")):
        with pytest.raises(InputError, match=says):
            examples.probabilities(one)
        with pytest.raises(InputError, match=says):
            examples.test_examples(one, ("text",))
