"""Bad input through the real command line: one clear sentence, a remedy, the right exit code, nothing lost."""

from __future__ import annotations

import json
import signal
import struct
import time
from pathlib import Path

import pytest

from tests.support import Outcome, World, reviews


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def refused(outcome: Outcome, code: int, *phrases: str) -> None:
    """One sentence of cause, one of remedy, no traceback."""
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err
    for phrase in phrases:
        assert phrase in outcome.err, outcome.err
    lines = outcome.err.strip().splitlines()
    assert any(line.startswith(("error: ", "Error: ", "    hint: ")) for line in lines), outcome.err


@pytest.mark.parametrize(
    ("arguments", "phrases"),
    [
        (["run", "demmo"], ["unknown suite 'demmo'", "did you mean 'demo'"]),
        (["run", "nothing.yaml"], ["no such suite file"]),
        (["run"], ["nothing to run"]),
        (["run", "demo", "--models", "MiniLM-L7"], ["unknown model 'MiniLM-L7'", "did you mean 'MiniLM-L6'"]),
        (["run", "demo", "--datasets", "starter-sentimnt"], ["unknown dataset", "did you mean 'starter-"]),
        (["run", "demo", "--method", "lorra"], ["unknown method 'lorra'", "did you mean 'lora'"]),
        (["run", "demo", "--method", "qlora"], ["method 'qlora'", "lora, full, frozen"]),
        (["run", "demo", "--seeds", "one"], ["whole numbers"]),
        (["run", "demo", "--run", "a/b"], ["cannot name a run"]),
        (["run", "--data", "absent.csv"], ["no such file: absent.csv"]),
        (["run", "demo", "--text-column", "x"], ["--data"]),
        (["leaderboard", "absent"], ["unknown run 'absent'"]),
        (["models", "show", "BERT-tinny"], ["did you mean 'BERT-tiny'"]),
        (["datasets", "show", "imbd"], ["did you mean 'imdb'"]),
        (["schema", "Reslt"], ["did you mean 'Result'"]),
        (["lederboard"], ["did you mean 'leaderboard'"]),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, list) and value and "did you" not in value[0] else "",
)
def test_names(world: World, arguments: list[str], phrases: list[str]) -> None:
    refused(world.moodbench(*arguments), 2, *phrases)


@pytest.mark.parametrize(
    ("suite", "phrases"),
    [
        ("models: [majority]\ndatasets: [starter-sentiment]\nsedes: [1]\n", ["bad.yaml", "'sedes'", "'seeds'"]),
        (
            "models: [{alias: X, name: a/b, lora: {rnak: 3}}]\ndatasets: [starter-sentiment]\n",
            ["bad.yaml", "models[0].lora.rnak", "'rank'"],
        ),
        ("models: [majority]\nmodels: [tfidf-logreg]\ndatasets: [starter-sentiment]\n", ["line 2", "stands twice"]),
        (
            "models: majority\ndatasets: [starter-sentiment]\n",
            ["models: expected a list, such as [a, b]; got text", "hint: correct models in bad.yaml"],
        ),
        ("models: [majority\ndatasets: [x]\n", ["bad.yaml", "line"]),
        ("models: [majority]\ndatasets: [{name: x}]\n", ["exactly one source"]),
        ("models: [majority, majority]\ndatasets: [starter-sentiment]\n", ["majority", "twice"]),
        ("- majority\n", ["mapping"]),
    ],
)
def test_suite_files(world: World, suite: str, phrases: list[str]) -> None:
    world.write("bad.yaml", suite)
    refused(world.moodbench("run", "bad.yaml"), 2, *phrases)


def two_label_columns() -> str:
    """Two columns that could each be the label, under names that say nothing."""
    rows = reviews().splitlines()[1:]
    return "\n".join(["review,first,second", *(f"{row},{row.rpartition(',')[2]}" for row in rows)]) + "\n"


@pytest.mark.parametrize(
    ("text", "options", "phrases"),
    [
        ("", [], ["empty"]),
        ("review,sentiment\n", [], ["no rows"]),
        (reviews(), ["--text-column", "reviw"], ["'reviw'", "'review'"]),
        (reviews(), ["--label-column", "sentimnt"], ["'sentimnt'", "'sentiment'"]),
        (reviews().replace(",bad", ",good"), [], ["one class"]),
        (reviews() + '"a lone voice",mixed\n', [], ["mixed"]),
        ('review,sentiment\n"never closed,good\nx,bad\n', [], ["quot"]),
        ("review,sentiment\na,b,c,d\n", [], ["line 2"]),
        (two_label_columns(), [], ["'first'", "'second'", "--label-column"]),
    ],
    ids=["empty", "header", "text column", "label column", "one class", "rare class", "quoting", "ragged", "ambiguous"],
)
def test_data_that_cannot_be_used(world: World, text: str, options: list[str], phrases: list[str]) -> None:
    world.write("data.csv", text)
    outcome = world.moodbench("run", "--data", "data.csv", "--models", "majority", *options)
    refused(outcome, 2, *phrases)
    assert not list((world.folder / "results").glob("*/cells"))


def with_long_text(csv: str) -> str:
    return csv + '"' + "very " * 400_000 + '",good\n'


@pytest.mark.parametrize(
    ("name", "text", "encoding", "phrase"),
    [
        ("latin.csv", reviews().replace("cold", "très froid"), "latin-1", "latin-1"),
        ("empty-texts.csv", reviews() + '"  ",good\n"",bad\n', "utf-8", "2 "),
        ("missing-labels.csv", reviews() + "no label here,\n", "utf-8", "1 "),
        ("long.csv", with_long_text(reviews()), "utf-8", ""),
        ("ints.csv", reviews().replace(",good", ",1").replace(",bad", ",0"), "utf-8", ""),
        ("floats.csv", reviews().replace(",good", ",1.0").replace(",bad", ",0.0"), "utf-8", ""),
        ("booleans.csv", reviews().replace(",good", ",True").replace(",bad", ",False"), "utf-8", ""),
    ],
)
def test_data_that_is_odd_but_usable(world: World, name: str, text: str, encoding: str, phrase: str) -> None:
    world.write(name, text, encoding)
    outcome = world.moodbench("run", "--data", name, "--models", "tfidf-logreg", "--run", "odd", "--smoke")
    assert outcome.code == 0, outcome.err
    assert phrase in outcome.err
    [result] = world.results("odd").values()
    assert len(result["label_names"]) == 2


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT folder with random weights and a tokenizer, as a user might have one."""
    from transformers import BertConfig, BertForSequenceClassification

    from runner.models.tokenizer import learn_wordpiece

    folder = tmp_path_factory.mktemp("model")
    tokenizer = learn_wordpiece(reviews().splitlines(), 200)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def damaged(source: Path, target: Path, damage: str) -> None:
    import shutil

    shutil.copytree(source, target)
    weights = target / "model.safetensors"
    if damage == "no weights":
        weights.unlink()
    elif damage == "pickle only":
        weights.rename(target / "pytorch_model.bin")
    elif damage == "truncated":
        data = weights.read_bytes()
        assert struct.unpack("<Q", data[:8])[0] < len(data) // 2
        weights.write_bytes(data[: len(data) // 2])
    elif damage == "no config":
        (target / "config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "phrase"),
    [
        ("no weights", "safetensors"),
        ("pickle only", "pickle"),
        ("truncated", "truncated"),
        ("no config", "config.json"),
        ("no folder", "folder"),
    ],
)
def test_model_folders(world: World, tiny_model: Path, damage: str, phrase: str) -> None:
    if damage != "no folder":
        damaged(tiny_model, world.folder / "mine", damage)
    outcome = world.moodbench("run", "demo", "--models", "majority,path:mine", "--run", "r")
    refused(outcome, 2, "mine", phrase)
    assert not (world.folder / "results/r/cells").exists()


def test_target_modules_that_do_not_exist(world: World, tiny_model: Path) -> None:
    world.write(
        "targets.yaml",
        f"models:\n  - majority\n  - {{alias: Mine, path: {tiny_model}, lora: {{target_modules: [query, valeu]}}}}\n"
        "datasets: [starter-sentiment]\n",
    )
    outcome = world.moodbench("run", "targets.yaml", "--run", "r", "--smoke")
    refused(outcome, 1, "valeu", "query", "hint:")
    assert [r["model"] for r in world.results("r").values()] == ["majority"], "the other cell is kept"
    [failure] = (world.folder / "results/r").rglob("failure.json")
    assert json.loads(failure.read_text())["kind"] == "configuration"


def test_a_model_of_ones_own_runs(world: World, tiny_model: Path) -> None:
    outcome = world.moodbench("run", "demo", "--models", f"path:{tiny_model}", "--run", "r", "--smoke", "--seeds", "1")
    assert outcome.code == 0, outcome.err


def test_hub_model_without_network_takes_only_its_own_cells(world: World) -> None:
    outcome = world.moodbench("run", "demo", "--models", "majority,BERT-tiny", "--run", "r", "--smoke", "--seeds", "1")
    refused(outcome, 1, "prajjwal1/bert-tiny", "moodbench fetch --models hub:prajjwal1/bert-tiny")
    assert [r["model"] for r in world.results("r").values()] == ["majority"]
    afterwards = world.moodbench("leaderboard", "r")
    assert afterwards.code == 0
    assert "failed: bert-tiny--starter-sentiment--lora--s1" in afterwards.err
    assert "moodbench fetch --models hub:prajjwal1/bert-tiny" in afterwards.err


def test_ctrl_c_while_preparing_ends_the_json_lines(world: World) -> None:
    process = world.start("run", "demo", "--models", "majority", "--run", "r", "--json")
    while not (world.folder / "results/r/.lock").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    last = json.loads(out.splitlines()[-1])
    assert (last["event"], last["outcome"], last["exit_code"]) == ("run_finished", "interrupted", 130)
    assert (process.returncode, err.strip()) == (130, "interrupted")


def test_nothing_but_a_hub_model_without_network(world: World) -> None:
    outcome = world.moodbench("run", "demo", "--models", "BERT-tiny", "--run", "r", "--smoke")
    refused(outcome, 3, "prajjwal1/bert-tiny", "moodbench fetch --models hub:prajjwal1/bert-tiny")


def test_hub_dataset_without_network(world: World) -> None:
    refused(world.moodbench("datasets", "preview", "sst2"), 3, "stanfordnlp/sst2")


def test_absent_device(world: World) -> None:
    refused(world.moodbench("run", "demo", "--models", "majority", "--device", "mps"), 3, "device 'mps'", "auto")


def test_results_that_cannot_be_written(world: World) -> None:
    world.write("taken", "a file")
    refused(world.moodbench("run", "demo", "--results", "taken"), 3, "cannot write to", "--results")


def test_a_second_process_on_one_run(world: World) -> None:
    import fcntl

    folder = world.folder / "results" / "r"
    folder.mkdir(parents=True)
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(world.moodbench("run", "demo", "--run", "r"), 2, "another moodbench", "--run")
