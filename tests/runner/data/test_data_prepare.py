"""prepare from end to end on small files: the cache, what is dropped, the splits, what is refused."""

from __future__ import annotations

import errno
import fcntl
import json
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from runner.contract import SPLITS, DatasetRequest, PreparedDataset, SplitSizes, encode, read
from runner.data import prepare, read_split
from runner.data.prepare import explained_writing, request_key
from runner.data.splits import text_keys
from runner.errors import RunnerError

ROOT = Path(__file__).parents[3]


def texts_of(prepared):
    return {split: set(text_keys(read_split(prepared, split).texts).tolist()) for split in prepared.splits}


# --- the cache --------------------------------------------------------------------------------


def test_the_folder_holds_what_the_contract_says(make, prepare_files, reviews):
    prepared = prepare_files({"all": make("a.csv", reviews({"good": 60, "bad": 40}))})
    folder = Path(prepared.folder)
    assert folder.name.startswith("own-data-")
    assert sorted(path.name for path in folder.iterdir()) == [
        "prepared.json", "test.parquet", "train.parquet", "validation.parquet",
    ]  # fmt: skip
    assert read(folder / "prepared.json", PreparedDataset) == prepared
    assert list(prepared.splits) == list(SPLITS)
    assert prepared.label_names == ("bad", "good")
    assert sum(info.rows for info in prepared.splits.values()) == 100
    for split, info in prepared.splits.items():
        rows = read_split(prepared, split)
        assert len(rows) == info.rows == sum(info.classes.values())
        assert rows.labels.dtype == np.int64
        assert np.bincount(rows.labels).tolist() == [info.classes["bad"], info.classes["good"]]
    assert visible(folder.parent) == [folder]


def test_the_second_call_reads_the_cache(make, prepare_files, reviews):
    files = {"all": make("a.csv", reviews({"good": 60, "bad": 40}))}
    first = prepare_files(files)
    written = (Path(first.folder) / "train.parquet").stat().st_mtime_ns
    assert prepare_files(files) == first
    assert (Path(first.folder) / "train.parquet").stat().st_mtime_ns == written


def test_content_decides_and_the_path_does_not(make, prepare_files, reviews):
    content = reviews({"good": 60, "bad": 40})
    first = prepare_files({"all": make("a.csv", content)})
    assert prepare_files({"all": make("elsewhere/b.csv", content)}) == first
    changed = prepare_files({"all": make("a.csv", content.replace("number 7 ", "number 777 "))})
    assert changed.folder != first.folder
    assert changed.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    "settings",
    [{"seed": 1}, {"balanced": True}, {"sizes": SplitSizes(train=20)}, {"label_map": {"good": "1", "bad": "0"}}],
)
def test_settings_that_matter_change_the_fingerprint(make, prepare_files, reviews, settings):
    files = {"all": make("a.csv", reviews({"good": 60, "bad": 40}))}
    first, other = prepare_files(files), prepare_files(files, **settings)
    assert first.fingerprint != other.fingerprint
    assert first.folder != other.folder


def test_the_order_of_a_label_rule_is_part_of_the_key():
    one = DatasetRequest(name="d", source="hub", label_rule={"> 1": "a", "> 2": "b"})
    other = DatasetRequest(name="d", source="hub", label_rule={"> 2": "b", "> 1": "a"})
    assert request_key(one) != request_key(other)


def test_a_moved_cache_is_still_good(make, tmp_path, reviews):
    request = DatasetRequest(name="d", source="file", files={"all": str(make("a.csv", reviews({"x": 9, "y": 9})))})
    first = prepare(request, tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    moved = prepare(request, tmp_path / "two")
    assert moved == msgspec.structs.replace(first, folder=moved.folder)
    assert len(read_split(moved, "train")) == first.splits["train"].rows


@pytest.mark.parametrize("damage", ["missing", "truncated", "no_json", "half_json", "a_file"])
def test_a_damaged_folder_is_made_anew(make, prepare_files, reviews, damage):
    files = {"all": make("a.csv", reviews({"good": 60, "bad": 40}))}
    first = prepare_files(files)
    folder = Path(first.folder)
    if damage == "missing":
        (folder / "test.parquet").unlink()
    elif damage == "truncated":
        (folder / "test.parquet").write_bytes((folder / "test.parquet").read_bytes()[:50])
    elif damage == "no_json":
        (folder / "prepared.json").unlink()
    elif damage == "half_json":
        (folder / "prepared.json").write_text("{")
    else:
        folder.rename(folder.with_name("gone"))
        folder.write_text("")
    assert prepare_files(files) == first
    assert len(read_split(first, "test")) == first.splits["test"].rows


@pytest.fixture
def request_of_many(make, reviews):
    path = make("a.csv", reviews({"good": 600, "bad": 400}))
    return DatasetRequest(name="d", source="file", files={"all": str(path)})


@pytest.fixture
def builds(monkeypatch):
    """The builds there have been; each takes a moment, so that others come meanwhile."""
    from runner.data import build as building

    real, begun = building.build, []

    def build(request):
        begun.append(request.name)
        time.sleep(0.2)
        return real(request)

    monkeypatch.setattr(building, "build", build)
    return begun


def prepare_at_once(request, cache, times=8):
    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(lambda _: prepare(request, cache), range(times)))


def visible(folder):
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def test_of_parallel_prepares_one_builds(request_of_many, builds, tmp_path):
    results = prepare_at_once(request_of_many, tmp_path / "cache")
    assert all(result == results[0] for result in results)
    assert builds == ["d"]
    assert len(visible(tmp_path / "cache")) == 1


def test_parallel_prepares_agree_without_locks_too(request_of_many, builds, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks available")))
    results = prepare_at_once(request_of_many, tmp_path / "cache")
    assert all(result == results[0] for result in results)
    assert len(builds) > 1
    assert len(visible(tmp_path / "cache")) == 1


def test_processes_prepare_once_and_a_killed_one_blocks_nobody(request_of_many, tmp_path):
    """The first is killed while it builds; of the two that wait for it then, one builds."""
    code = """
import sys, time
from pathlib import Path
from runner.contract import DatasetRequest, read
from runner.data import build as building, prepare
real, folder = building.build, Path(sys.argv[1])
def build(request):
    print("building", flush=True)
    time.sleep(float(sys.argv[2]))
    return real(request)
building.build = build
prepare(read(folder / "request.json", DatasetRequest), folder / "cache")
"""
    (tmp_path / "request.json").write_bytes(encode(request_of_many))

    def start(seconds):
        command = [sys.executable, "-c", code, str(tmp_path), str(seconds)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    killed = start(60)
    assert killed.stdout.readline() == "building\n"
    others = [start(0.2), start(0.2)]
    time.sleep(0.5)
    killed.kill()
    killed.communicate()
    told = [other.communicate(timeout=60)[0] for other in others]
    assert sorted(told) == ["", "building\n"]
    assert [other.returncode for other in others] == [0, 0]


def test_the_order_of_rows_does_not_decide_the_splits(make, prepare_files, reviews):
    header, *rows = reviews({"good": 120, "bad": 80, "soso": 10}).splitlines()
    first = prepare_files({"all": make("a.csv", "\n".join([header, *rows]))})
    random.Random(0).shuffle(rows)
    second = prepare_files({"all": make("b.csv", "\n".join([header, *rows]))})
    assert texts_of(first) == texts_of(second)
    for split in SPLITS:
        assert read_split(first, split).texts == read_split(second, split).texts


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, "disk_full"), (errno.EACCES, "environment")])
def test_writing_that_fails(number, kind, tmp_path):
    with pytest.raises(RunnerError) as caught, explained_writing(tmp_path):
        raise OSError(number, "x")
    assert caught.value.kind == kind


def test_a_cache_that_cannot_be_written(make, tmp_path, reviews):
    request = DatasetRequest(name="d", source="file", files={"all": str(make("a.csv", reviews({"x": 9, "y": 9})))})
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(RunnerError, match="cannot be written") as caught:
        prepare(request, tmp_path / "cache")
    assert caught.value.kind == "environment"


def test_importing_and_reading_are_light(make, prepare_files, reviews):
    prepared = prepare_files({"all": make("a.csv", reviews({"good": 60, "bad": 40}))})
    code = f"""
import sys
import runner.data
heavy = {{"numpy", "pyarrow", "pandas", "datasets", "kagglehub", "torch", "sklearn"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
from pathlib import Path
from runner.contract import PreparedDataset, read
prepared = read(Path({prepared.folder!r}) / "prepared.json", PreparedDataset)
assert len(runner.data.read_split(prepared, "train"))
assert not (heavy - {{"numpy", "pyarrow"}}) & set(sys.modules)
import runner.data.prepare
assert callable(runner.data.prepare)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# --- reading back -----------------------------------------------------------------------------


def test_kept_columns_come_back(make, prepare_files):
    rows = [
        {"text": f"text {n} of some", "label": n % 2, "lang": "en", "stars": n, "w": n / 2, "mix": n if n % 2 else "a",
         "flag": True, "gap": None if n % 3 else n, "big": 2**70}
        for n in range(30)
    ]  # fmt: skip
    path = make("a.jsonl", "\n".join(map(json.dumps, rows)))
    names = ("stars", "w", "mix", "flag", "gap", "big")
    prepared = prepare_files({"all": path}, keep_columns=names, slice_columns=("lang",))
    assert prepared.slice_columns == ("lang",)
    assert prepared.label_names == ("0", "1")
    read_back = read_split(prepared, "train")
    assert set(read_back.columns) == {*names, "lang"}
    for index, text in enumerate(read_back.texts):
        source = next(row for row in rows if row["text"] == text)
        found = {name: read_back.columns[name][index] for name in names}
        assert found == {**{name: source[name] for name in names}, "mix": str(source["mix"]), "flag": "true",
                         "big": str(2**70)}  # fmt: skip
    assert set(read_split(prepared, "test", columns=("stars",)).columns) == {"stars"}
    assert read_split(prepared, "test", columns=()).columns == {}
    with pytest.raises(RunnerError, match="'colour' was not kept") as caught:
        read_split(prepared, "test", columns=("colour",))
    assert caught.value.kind == "configuration"


def test_a_split_that_is_not_as_promised(make, prepare_files, reviews):
    prepared = prepare_files({"all": make("a.csv", reviews({"good": 60, "bad": 40}))})
    train, test = (Path(prepared.folder) / f"{split}.parquet" for split in ("train", "test"))
    test.write_bytes(train.read_bytes())
    with pytest.raises(RunnerError, match="not those recorded"):
        read_split(prepared, "test")
    test.write_bytes(b"rubbish")
    with pytest.raises(RunnerError, match="cannot be used") as caught:
        read_split(prepared, "test")
    assert "prepare the dataset again" in caught.value.hint
    test.unlink()
    with pytest.raises(RunnerError, match="cannot be used"):
        read_split(prepared, "test")


def test_ids_of_the_source_or_row_numbers(make, prepare_files, reviews, csv_of):
    plain = prepare_files({"all": make("a.csv", reviews({"x": 9, "y": 9}))})
    ids = {each for split in SPLITS for each in read_split(plain, split).ids}
    assert ids == {f"all-{n}" for n in range(1, 19)}
    rows = [(f"text number {n} here", n % 2, f"k{n}") for n in range(18)]
    given = prepare_files({"all": make("b.csv", csv_of(rows, "text,label,id"))})
    assert {each for split in SPLITS for each in read_split(given, split).ids} == {f"k{n}" for n in range(18)}
    repeated = [(text, label, "same") for text, label, _ in rows]
    noted = prepare_files({"all": make("c.csv", csv_of(repeated, "text,label,id"))})
    assert "all-1" in {each for split in SPLITS for each in read_split(noted, split).ids}
    assert any("id column" in note for note in noted.notes)


# --- dropped rows -----------------------------------------------------------------------------


def test_every_dropped_row_is_counted(make, prepare_files, csv_of):
    usable = [(f"usable text {n}", "1" if n % 2 else "5", "en") for n in range(40)]
    unusable = [
        ("no label here", "", "en"), ("none either", "NaN", "en"), ("word label", "good", "en"), ("three", "3", "en"),
        ("two labels", "1|5", "en"), ("", "5", "en"), ("   ", "5", "en"), ("other language", "5", "fr"),
        ("usable  TEXT 0", "5", "en"), ("twice", "1", "en"), ("Twice", "5", "en"),
    ]  # fmt: skip
    prepared = prepare_files(
        {"all": make("a.csv", csv_of([*usable, *unusable], "text,rating,lang"))},
        label_rule={">= 4": "positive", "<= 2": "negative"},
        label_separator="|",
        filters={"lang": ("en",)},
    )
    assert prepared.dropped == {
        "missing_label": 2, "label_not_a_number": 1, "no_rule": 1, "several_labels": 1, "empty_text": 2, "filtered": 1,
        "duplicate": 1, "conflicting_label": 2,
    }  # fmt: skip
    assert sum(prepared.dropped.values()) + sum(info.rows for info in prepared.splits.values()) == 51
    assert "train: rows dropped: 8 (2 without a label, " in "\n".join(prepared.notes)
    assert "Read 51 rows from a.csv (all)." in prepared.notes


def test_official_splits_share_no_text_and_test_stays_as_it_is(make, prepare_files, csv_of):
    test = [
        ("shared with all", "a"),
        ("shared with train", "b"),
        ("twice in test", "a"),
        ("twice in test", "b"),
        ("", "a"),
    ]
    validation = [("Shared with ALL", "a"), ("shared by two", "b"), ("own", "a"), ("own again", "b")]
    train = [("shared  with all", "a"), ("SHARED with train", "b"), ("shared by two", "a"), ("t1", "a"), ("t2", "b")]
    files = {
        "test": make("test.csv", csv_of(test)),
        "validation": make("validation.csv", csv_of(validation)),
        "train": make("train.csv", csv_of(train)),
    }
    prepared = prepare_files(files)
    assert prepared.dropped == {"empty_text": 1, "in_test": 3, "in_validation": 1}
    assert {split: info.rows for split, info in prepared.splits.items()} == {"train": 2, "validation": 3, "test": 4}
    keys = texts_of(prepared)
    assert not keys["train"] & keys["test"] | keys["train"] & keys["validation"] | keys["validation"] & keys["test"]
    assert "test: rows that repeat an earlier text: 1 (an official split keeps them)." in prepared.notes


def test_a_cut_validation_comes_from_train_only(make, prepare_files, reviews):
    files = {
        "train": make("train.csv", reviews({"good": 300, "bad": 100})),
        "test": make("test.csv", reviews({"good": 10, "bad": 10}, start="test")),
    }
    prepared = prepare_files(files, sizes=SplitSizes(train=None, validation=40, test=None))
    assert [prepared.splits[split].classes for split in SPLITS] == [
        {"bad": 90, "good": 270}, {"bad": 10, "good": 30}, {"bad": 10, "good": 10},
    ]  # fmt: skip
    assert {each.split("-")[0] for each in read_split(prepared, "validation").ids} == {"train"}
    assert any(note.startswith("Cut from the 400 training rows: validation (40)") for note in prepared.notes)


def test_a_size_below_the_number_of_classes_is_raised(make, prepare_files, reviews):
    path = make("a.csv", reviews({f"class{n}": 10 for n in range(9)}))
    prepared = prepare_files({"all": path}, sizes=SplitSizes(train=50, validation=5, test=20))
    assert {split: info.rows for split, info in prepared.splits.items()} == {"train": 50, "validation": 9, "test": 20}
    assert any("validation 9 for 5" in note for note in prepared.notes)


def test_a_class_that_test_lacks_is_noted(make, prepare_files, reviews):
    files = {
        "train": make("train.csv", reviews({"a": 30, "b": 30, "c": 30})),
        "test": make("test.csv", reviews({"a": 5, "b": 5}, start="test")),
    }
    assert "test: classes that do not occur in it: 1 of 3." in prepare_files(files).notes


# --- refusals ---------------------------------------------------------------------------------


def test_a_class_with_too_few_rows(make, refusal, reviews):
    error = refusal({"all": make("a.csv", reviews({"good": 30, "rare": 2}))})
    assert "each class needs 3 different texts because validation and test are cut" in error.message
    assert "'rare' (2)" in error.message
    assert "label_map" in error.hint
    files = {
        "train": make("train.csv", reviews({"good": 30, "rare": 1})),
        "test": make("test.csv", reviews({"good": 3}, start="test")),
    }
    error = refusal(files)
    assert "needs 2 different texts because validation is cut" in error.message


def test_a_class_that_contradictions_removed_says_so(make, refusal, reviews):
    contradicting = "".join(f"review good number {n} of many,rare\nmy text {n},rare\n" for n in range(4))
    contradicting += "".join(f"my text {n},good\n" for n in range(4)) + "no label at all,\n"
    error = refusal({"all": make("a.csv", reviews({"good": 30, "bad": 30}) + contradicting)})
    assert "short of it: 'rare' (0); rows dropped: 17" in error.message
    assert "1 without a label" in error.message
    assert "16 whose text occurs with different labels" in error.message
    files = {
        "train": make("train.csv", reviews({"good": 30, "bad": 30}) + contradicting),
        "test": make("test.csv", reviews({"good": 3, "bad": 3}, start="test")),
        "validation": make("dev.csv", reviews({"good": 3, "bad": 3}, start="dev")),
    }
    assert "no training rows of the class 'rare' are left" in refusal(files).message
    assert "16 whose text occurs with different labels" in refusal(files).message


def test_a_class_that_a_split_column_drops_says_so(make, refusal, reviews, csv_of):
    rows = [(f"text {n}", "xy"[n % 2], "train") for n in range(40)] + [("a", "z", "train"), ("b", "x", "spare")]
    error = refusal(
        {"all": make("a.csv", csv_of(rows, "text,label,part"))}, split_column="part", splits={"train": "train"}
    )
    assert "short of it: 'z' (1); rows dropped: 1 (1 of none of the splits used)" in error.message


def test_a_class_of_test_that_train_lacks(make, refusal, reviews):
    files = {
        "train": make("train.csv", reviews({"good": 30, "bad": 30})),
        "test": make("test.csv", reviews({"good": 5, "ugly": 2}, start="test")),
    }
    assert "the class 'ugly' occurs in test (2 rows) but never in train" in refusal(files).message


def test_train_that_is_all_in_test(make, refusal, reviews):
    path = make("a.csv", reviews({"good": 30, "bad": 30}))
    message = refusal({"train": path, "test": path}).message
    assert "no train rows are left" in message
    assert message.endswith("; rows dropped: 60 (60 whose text is in test)")


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("text,label\na b,good\nc d,good\n", {}, "all rows have the same label, 'good'"),
        ("text,label\na b,\nc d,null\n", {}, "no row of a.csv is usable (2 missing_label)"),
        ("text,label\na b,good\nc d,bad\n", {"label_rule": {"> 1": "x"}}, "no label of a.csv is a number"),
        ("text,label\na b,good\nc d,bad\n", {"label_map": {"1": "x"}}, "column 'label' holds 'good', 'bad'"),
        ("text,label\na b,x\nc d,y\n", {"filters": {"label": ("z",)}}, "(2 filtered)"),
        ("text,label\na b,x\n", {"split_column": "splt"}, "has no column 'splt'"),
        ("text,label\na b,x\n", {"split_column": "label"}, "has a single"),
    ],
)
def test_nothing_to_learn_from(make, refusal, content, settings, message):
    if message == "has a single":  # one value of the split column: a pool of one row, so of one class
        message = "all rows have the same label"
        settings = {**settings, "label_column": "label"}
    error = refusal({"all": make("a.csv", content)}, **settings)
    assert message in error.message
    assert error.kind == "data"


def test_a_text_column_of_lists(make, refusal):
    path = make("a.jsonl", '{"text": ["a", "b"], "label": 1}\n')
    assert "row 1: column 'text' holds list values" in refusal({"all": path}).message


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        (("test",), {}, "names no file with training rows"),
        (("all", "train"), {}, "both all and train"),
        (("train", "dev"), {}, "files has the key 'dev'"),
        (("train", "test"), {"split_column": "label"}, "split_column and separate splits"),
        (("all",), {"sizes": SplitSizes(test=0)}, "asks for 0 test rows"),
    ],
)
def test_requests_that_contradict_themselves(make, refusal, reviews, files, settings, message):
    path = make("a.csv", reviews({"good": 30, "bad": 30}))
    error = refusal(dict.fromkeys(files, path), **settings)
    assert message in error.message
    assert error.kind == "configuration"


def test_a_missing_file(tmp_path, refusal):
    assert "does not exist" in refusal({"all": tmp_path / "none.csv"}).message
