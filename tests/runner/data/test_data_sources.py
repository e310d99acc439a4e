"""The other sources: embedded, split columns, the hub (a local folder, and offline), Kaggle (a local cache)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests

from runner.contract import DatasetRequest, SplitSizes
from runner.data import embedded, prepare, read_split
from runner.data import kaggle as kaggle_module
from runner.data.embedded import rewrite_embedded
from runner.errors import RunnerError
from tests.hub import Hub, Repository, commit_of, serving

ROOT = Path(__file__).parents[3]
SENTIMENTS = ("negative", "neutral", "positive")


def starter(emotion_gaps: bool = True) -> str:
    lines = ["id,text,lang,sentiment,emotion,rating,slice,split"]
    for n in range(90):
        split = ("train", "train", "train", "validation", "test")[n // 3 % 5]
        emotion = "" if emotion_gaps and n % 10 == 0 else ("joy", "anger", "fear")[n % 3]
        lang = "de" if n % 4 else "en"
        lines.append(f"s{n},a little text {n},{lang},{SENTIMENTS[n % 3]},{emotion},{n % 5 + 1},plain,{split}")
    return "\n".join(lines)


@pytest.fixture
def starter_csv(make, monkeypatch):
    path = make("starter.csv", starter())
    monkeypatch.setattr(embedded, "STARTER_CSV", path)
    return path


def test_embedded_is_a_request_for_a_file(starter_csv):
    request = DatasetRequest(name="starter", source="embedded", location="starter-emotion", seed=7)
    rewritten = rewrite_embedded(request)
    assert (rewritten.source, rewritten.label_column, rewritten.seed) == ("file", "emotion", 7)
    assert rewritten.files == {"all": str(starter_csv)}
    assert rewritten.slice_columns == ("slice", "lang")


@pytest.mark.parametrize(
    ("location", "names"), [("starter-sentiment", SENTIMENTS), ("starter-emotion", ("anger", "fear", "joy"))]
)
def test_embedded_datasets(starter_csv, tmp_path, location, names):
    prepared = prepare(DatasetRequest(name=location, source="embedded", location=location), tmp_path / "cache")
    assert prepared.label_names == names
    assert prepared.slice_columns == ("slice", "lang")
    assert prepared.dropped == ({} if location == "starter-sentiment" else {"missing_label": 9})
    rows = read_split(prepared, "test")
    assert set(rows.columns) == {"lang", "rating", "slice"}
    assert all(each.startswith("s") for each in rows.ids)


def test_unknown_embedded_dataset(tmp_path):
    with pytest.raises(RunnerError, match="no embedded dataset 'starter'") as caught:
        prepare(DatasetRequest(name="starter", source="embedded"), tmp_path)
    assert "starter-sentiment" in caught.value.hint


@pytest.mark.skipif(not embedded.STARTER_CSV.is_file(), reason="the starter dataset is not there yet")
@pytest.mark.parametrize("location", embedded.LABEL_COLUMNS)
def test_the_shipped_starter_dataset(tmp_path, location):
    request = DatasetRequest(name=location, source="embedded", location=location)
    prepared = prepare(request, tmp_path)
    assert set(prepared.dropped) <= {"missing_label", "in_test", "in_validation", "duplicate", "conflicting_label"}
    assert all(rows > 0 for info in prepared.splits.values() for rows in info.classes.values())


def test_split_column_with_other_names_and_strangers(make, prepare_files):
    places = ["TRAIN", "dev", "holdout", "unused"]
    lines = [f"a text {n} long,{'xy'[n // 4 % 2]},{places[n % 4]}" for n in range(80)]
    path = make("a.csv", "\n".join(["text,label,part", *lines]))
    mapped = {"train": "TRAIN", "test": "holdout"}
    prepared = prepare_files(
        {"all": path}, split_column="part", splits=mapped, sizes=SplitSizes(train=None, validation=3)
    )
    assert prepared.dropped == {"other_split": 40}
    assert {split: info.rows for split, info in prepared.splits.items()} == {"train": 17, "validation": 3, "test": 20}
    assert read_split(prepared, "test").ids[0].startswith("holdout-")
    usual = prepare_files({"all": path}, split_column="part")
    assert usual.splits["validation"].rows == 20
    with pytest.raises(RunnerError, match="has no split 'houldout'") as caught:
        prepare_files({"all": path}, split_column="part", splits={"train": "TRAIN", "test": "houldout"})
    assert caught.value.hint == "did you mean 'holdout'?"
    with pytest.raises(RunnerError, match="twice"):
        prepare_files({"all": path}, split_column="part", splits={"train": "TRAIN", "test": "TRAIN"})
    with pytest.raises(RunnerError, match="has no training split"):
        prepare_files({"all": path}, split_column="part", splits={"test": "TRAIN"})


# --- the hub ----------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A dataset as the hub's library finds it, in a folder: labels with names, a test split without labels."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()
    features = datasets.Features(
        {
            "idx": datasets.Value("int32"),
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
        }
    )
    folder = tmp_path / "hub"
    folder.mkdir()

    def write(split, labels):
        values = {"idx": list(range(len(labels))), "sentence": [f"{split} text {n}" for n in range(len(labels))]}
        dataset = datasets.Dataset.from_dict({**values, "label": labels}, features=features)
        dataset.to_parquet(str(folder / f"{split}.parquet"))

    write("train", [0, 1] * 50)
    write("validation", [0] * 10 + [1] * 10)
    write("test", [-1] * 30)
    return folder


def test_hub_with_the_validation_split_as_test(hub, tmp_path):
    request = DatasetRequest(
        name="sst2", source="hub", location=str(hub), splits={"train": "train", "test": "validation"},
        sizes=SplitSizes(train=None, validation=10, test=8),
    )  # fmt: skip
    prepared = prepare(request, tmp_path / "cache")
    assert prepared.label_names == ("neg", "pos")
    assert prepared.splits["train"].rows == 90
    assert prepared.splits["test"].classes == {"neg": 4, "pos": 4}
    assert {each.split("-")[0] for each in read_split(prepared, "test").ids} == {"validation"}
    assert "Splits of the source that are not used: test." in prepared.notes
    assert "text column: 'sentence' (guessed)" in prepared.notes


def test_hub_leaves_out_a_test_split_without_labels(hub, tmp_path):
    named = {"text_column": "sentence", "label_column": "label", "label_map": {"0": "negative", "1": "positive"}}
    request = DatasetRequest(name="sst2", source="hub", location=str(hub), **named)
    prepared = prepare(request, tmp_path / "cache")
    assert "test: the test split has no labels; it is not used." in prepared.notes
    assert prepared.label_names == ("negative", "positive")
    assert prepared.splits["validation"].rows == 20
    assert prepared.splits["train"].rows + prepared.splits["test"].rows == 100
    asked_for = {"train": "train", "test": "test"}
    with pytest.raises(RunnerError, match=r"no row of the test split is usable \(30 missing_label\)"):
        prepare(DatasetRequest(name="sst2", source="hub", location=str(hub), splits=asked_for), tmp_path / "cache")


def test_hub_names_that_are_not_there(hub, tmp_path):
    request = DatasetRequest(name="sst2", source="hub", location=str(hub), splits={"train": "trian"})
    with pytest.raises(RunnerError, match="has no split 'trian'") as caught:
        prepare(request, tmp_path / "cache")
    assert caught.value.hint == "did you mean 'train'?"
    with pytest.raises(RunnerError, match="cannot be loaded") as caught:
        prepare(DatasetRequest(name="sst2", source="hub", location=str(hub), config="nope"), tmp_path / "cache")
    assert caught.value.kind == "configuration"
    with pytest.raises(RunnerError, match="has no hub id") as caught:
        prepare(DatasetRequest(name="sst2", source="hub"), tmp_path / "cache")
    assert caught.value.hint == "name it with hub: OWNER/NAME"


def test_hub_offline_and_not_in_the_cache(tmp_path):
    code = """
import sys
from pathlib import Path
from runner.contract import DatasetRequest
from runner.data import prepare
from runner.errors import RunnerError
try:
    prepare(DatasetRequest(name="sst2", source="hub", location="stanfordnlp/sst2"), Path(sys.argv[1]))
except RunnerError as error:
    print(error.kind, error.message, error.hint, sep="\\n")
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        check=True,
    )
    kind, message, hint = done.stdout.splitlines()
    assert kind == "environment"
    assert message == (
        "dataset 'sst2' (stanfordnlp/sst2 on the Hugging Face hub) is not in the local cache "
        "and the hub cannot be reached"
    )
    assert hint.startswith(
        "connect to the internet and run `moodbench fetch --datasets sst2` once; then it works offline"
    )
    assert "train: FILE and test: FILE" in hint and "files:" not in hint


def test_a_hub_dataset_and_the_commit_it_came_from(tmp_path):
    """Fetched once from the stand-in; then from the library's own cache, without network."""
    rows = "\n".join(f"a text with number {n},{'good' if n % 2 else 'bad'}" for n in range(60))
    code = """
import sys
from pathlib import Path
from runner.contract import DatasetRequest
from runner.data import prepare
prepared = prepare(DatasetRequest(name="mood", source="hub", location="org/mood"), Path(sys.argv[1]))
print(prepared.revision, sum(info.rows for info in prepared.splits.values()))
"""

    def run(cache, **environment):
        command = [sys.executable, "-c", code, str(tmp_path / cache)]
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment = kept | {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.endpoint} | environment
        done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=True)
        return done.stdout.split()

    with serving(Hub()) as hub:
        hub.repositories["datasets/org/mood"] = Repository({"main": {"train.csv": f"text,label\n{rows}".encode()}})
        assert run("first") == [commit_of("main"), "60"]
    assert run("second", HF_HUB_OFFLINE="1") == [commit_of("main"), "60"]


# --- Kaggle -----------------------------------------------------------------------------------

HANDLE = "someone/some-reviews"
KAGGLE = DatasetRequest(name="reviews", source="kaggle", location=HANDLE)


@pytest.fixture
def kaggle_cache(tmp_path, monkeypatch):
    """kagglehub's own cache with two complete versions and one half-downloaded."""
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kaggle"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for version, rows in ((1, 20), (2, 40), (10, 60)):
        folder = tmp_path / "kaggle" / "datasets" / HANDLE / "versions" / str(version)
        folder.mkdir(parents=True)
        lines = [f"café number {n} was nice,{n % 2}" for n in range(rows)]
        (folder / "reviews.csv").write_bytes("\n".join(["text,label", *lines]).encode("latin-1"))
        (folder / "LICENSE.txt").write_text("public")
        if version != 10:
            (folder.parents[1] / f"{version}.complete").touch()
    return tmp_path / "kaggle"


def kaggle_request(**settings):
    return DatasetRequest(**{"name": "reviews", "source": "kaggle", "location": HANDLE, **settings})


def test_the_cache_is_laid_out_as_kagglehub_does(kaggle_cache):
    import kagglehub

    assert kagglehub.dataset_download(f"{HANDLE}/versions/2") == kaggle_module._newest_cached(HANDLE)


@pytest.mark.parametrize(
    ("settings", "rows"), [({}, 40), ({"revision": "1"}, 20), ({"files": {"all": "reviews.csv"}}, 40)]
)
def test_kaggle_from_its_cache(kaggle_cache, tmp_path, settings, rows):
    prepared = prepare(kaggle_request(**settings), tmp_path / "cache")
    assert sum(info.rows for info in prepared.splits.values()) == rows
    assert prepared.revision == ("1" if rows == 20 else "2")
    assert "reviews.csv is not UTF-8; it was read as latin-1." in prepared.notes


@pytest.mark.parametrize(
    ("settings", "kind", "message", "hint"),
    [
        ({"files": {"all": "other.csv"}}, "data", "has no file 'other.csv'", "it has: reviews.csv"),
        ({"location": "someone/else"}, "environment", "is not in the local cache and Kaggle", "give file: PATH"),
        ({"revision": "3"}, "environment", "is not in the local cache", "give file: PATH in place of kaggle"),
        ({"location": None}, "configuration", "has no Kaggle handle", "name it with kaggle: OWNER/NAME"),
    ],
)
def test_kaggle_refusals_offline(kaggle_cache, tmp_path, settings, kind, message, hint):
    with pytest.raises(RunnerError) as caught:
        prepare(kaggle_request(**settings), tmp_path / "cache")
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.kind == kind


def test_kaggle_with_several_files(kaggle_cache, tmp_path):
    folder = kaggle_cache / "datasets" / HANDLE / "versions" / "2"
    pq.write_table(pa.table({"a": [1]}), folder / "more.parquet")
    with pytest.raises(RunnerError, match=r"2 readable files: more.parquet, reviews.csv") as caught:
        prepare(kaggle_request(), tmp_path / "cache")
    assert caught.value.hint == "say which to use beside kaggle: file: NAME, or train: NAME and test: NAME"


def http_error(status):
    from kagglehub.exceptions import KaggleApiHTTPError

    response = requests.Response()
    response.status_code = status
    return KaggleApiHTTPError("refused", response=response)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (http_error(403), "environment", "needs Kaggle credentials"),
        (http_error(404), "data", "does not exist"),
        (http_error(500), "network", "HTTP 500"),
        (requests.ConnectionError("x"), "environment", "Kaggle cannot be reached"),
        (OSError(28, "No space left on device"), "disk_full", "no space left"),
        (PermissionError(13, "Permission denied"), "environment", "not yours to write"),
    ],
)
def test_kaggle_errors(tmp_path, monkeypatch, error, kind, message):
    import kagglehub

    def refuse(handle):
        raise error

    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(kagglehub, "dataset_download", refuse)
    with pytest.raises(RunnerError) as caught:
        prepare(KAGGLE, tmp_path / "cache")
    assert message in caught.value.message
    assert "files:" not in caught.value.hint
    assert caught.value.kind == kind


def test_kaggle_downloads_one_dataset_once_at_a_time(kaggle_cache, tmp_path, monkeypatch):
    """kagglehub has no lock: two downloads of one dataset would write the same archive."""
    import kagglehub

    within, most = [], []

    def download(handle):
        within.append(handle)
        time.sleep(0.05)
        most.append(len(within))
        within.pop()
        return kaggle_module._newest_cached(handle)

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(kagglehub, "dataset_download", download)
    requests_ = [kaggle_request(sizes=SplitSizes(train=rows)) for rows in (10, 11, 12)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda request: prepare(request, tmp_path / "cache"), requests_))
    assert most == [1, 1, 1]


def test_kaggle_unreachable_falls_back_on_the_cache(kaggle_cache, tmp_path, monkeypatch):
    import kagglehub

    def refuse(handle):
        raise requests.ConnectionError("no network")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(kagglehub, "dataset_download", refuse)
    assert sum(info.rows for info in prepare(KAGGLE, tmp_path / "cache").splits.values()) == 40
