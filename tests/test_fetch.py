"""`moodbench fetch` through the real command line, against a stand-in for the hub."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import Hub, Repository, commit_of, serving
from tests.support import COMMAND, Outcome, World, reviews

SECRET = "hf_averySecretToken"
NOWHERE = "http://127.0.0.1:9"  # the discard port: refuses at once


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A BERT with random weights, as a repository holds it."""
    from transformers import BertConfig, BertForSequenceClassification

    from runner.models.tokenizer import learn_wordpiece

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = learn_wordpiece(reviews().splitlines(), 200)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.write(
        "mine.yaml",
        "models: [{alias: Tiny, name: org/tiny}]\n"
        "datasets: [{name: mood, hub: org/mood, text_column: review, label_column: sentiment}]\nseeds: [1]\n",
    )
    return world


@pytest.fixture
def hub(tiny_files: dict[str, bytes]) -> Iterator[Hub]:
    with serving(Hub()) as hub:
        hub.repositories["org/tiny"] = Repository({"main": tiny_files})
        hub.repositories["datasets/org/mood"] = Repository({"main": {"train.csv": reviews(120).encode()}})
        yield hub


def online(hub: Hub) -> dict[str, str]:
    return {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.endpoint}


def table(outcome: Outcome) -> dict[str, dict[str, object]]:
    return {each["name"]: each for each in json.loads(outcome.out)}


def test_afterwards_a_run_needs_no_network(world: World, hub: Hub, tiny_files: dict[str, bytes]) -> None:
    outcome = world.moodbench("fetch", "mine.yaml", "--json", **online(hub))
    assert outcome.code == 0, outcome.err
    found = table(outcome)
    assert {name: each["state"] for name, each in found.items()} == {"Tiny": "fetched", "mood": "fetched"}
    assert found["Tiny"]["revision"] == found["mood"]["revision"] == commit_of("main")
    assert found["Tiny"]["size_bytes"] == sum(map(len, tiny_files.values()))
    assert "model Tiny: fetched" in outcome.err
    asked = len(hub.requests)
    again = world.moodbench("fetch", "mine.yaml", **online(hub))
    assert again.code == 0
    assert len(hub.requests) == asked, "everything is here: nothing is asked for"
    row = next(line for line in again.out.splitlines() if line.startswith("Tiny"))
    assert [commit_of("main")[:12], str(found["Tiny"]["digest"])[:12]] == [row.split()[3], row.split()[6]]
    assert row.endswith("was here")
    for name, environment in {"off": {}, "unreachable": {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": NOWHERE}}.items():
        run = world.moodbench(
            "run", "mine.yaml", "--smoke", "--run", name, "--executor", "native", "--method", "frozen", **environment
        )
        assert run.code == 0, run.err
        assert {result["model"] for result in world.results(name).values()} == {"Tiny"}
    assert len(hub.requests) == asked


def test_a_conversion_is_told_of(world: World, hub: Hub, tiny_files: dict[str, bytes]) -> None:
    weights = tiny_files["model.safetensors"]
    pickled = {name: data for name, data in tiny_files.items() if data is not weights} | {"pytorch_model.bin": b"p"}
    repository = hub.repositories["org/tiny"] = Repository({"main": pickled})
    commit = repository.pull_request(4, pickled | {"model.safetensors": weights})
    fetched = world.moodbench("fetch", "--models", "hub:org/tiny", "--json", **online(hub))
    assert (fetched.code, table(fetched)["tiny"]["revision"]) == (0, commit), fetched.err
    assert "pull request 4 by SFconvertbot" in fetched.err
    run = world.moodbench(
        "run", "demo", "--models", "hub:org/tiny", "--smoke", "--run", "r", "--method", "frozen", "--seeds", "1",
        "--executor", "native",
    )  # fmt: skip
    assert run.code == 0, run.err
    assert "pull request 4 by SFconvertbot" in run.err
    (result,) = world.results("r").values()
    assert result["provenance"]["model_revision"] == commit


def test_what_cannot_be_had(world: World, hub: Hub) -> None:
    outcome = world.moodbench("fetch", "--models", "hub:org/absent,hub:org/tiny", "--datasets", "sst2", **online(hub))
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    assert "model absent: failed" in outcome.err
    assert "the hub has no public model 'org/absent'" in outcome.err
    assert outcome.err.count("hint: ") == 2
    assert [line.split()[-1] for line in outcome.out.splitlines()[1:]] == ["failed", "fetched", "failed"]


def test_the_hint_of_a_run_without_network_works(world: World, hub: Hub) -> None:
    arguments = ("run", "demo", "--models", "hub:org/tiny", "--smoke", "--seeds", "1", "--executor", "native")
    refused = world.moodbench(*arguments, "--run", "a")
    assert refused.code == 3
    command = refused.err.partition("`moodbench ")[2].partition("`")[0]
    assert world.moodbench(*command.split(), **online(hub)).code == 0
    assert world.moodbench(*arguments, "--run", "b", "--method", "frozen").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "nothing to fetch was named"),
        (["nosuch"], 2, "unknown suite"),
        (["--models", "nosuch"], 2, "unknown model"),
        (["--data", "absent.csv"], 2, "no such file"),
    ],
)
def test_refusals(world: World, arguments: list[str], code: int, words: str) -> None:
    outcome = world.moodbench("fetch", *arguments)
    assert outcome.code == code
    assert words in outcome.err


def test_files_of_ones_own(world: World) -> None:
    world.write("a.csv", reviews())
    world.write("b.csv", reviews(80))
    outcome = world.moodbench("fetch", "--data", "a.csv", "--data", "b.csv", "--json")
    assert outcome.code == 0, outcome.err
    assert {name: each["source"] for name, each in table(outcome).items()} == {
        "a": f"file: {world.folder}/a.csv", "b": f"file: {world.folder}/b.csv",
    }  # fmt: skip


# --- the token --------------------------------------------------------------------------------


def everything_written(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("by", ["environment", ".env", "login"])
def test_the_token_reaches_the_hub_and_nothing_else(world: World, hub: Hub, by: str) -> None:
    given = {"HF_TOKEN": SECRET} if by == "environment" else {}
    if by == ".env":
        world.write(".env", f"HF_TOKEN={SECRET}\n")
    elif by == "login":
        login = world.folder / "home/.cache/huggingface/token"
        login.parent.mkdir(parents=True)
        login.write_text(SECRET)
    run = ["run", "mine.yaml", "--smoke", "--run", "r", "--method", "frozen", "--executor", "native"]
    outcome = world.moodbench(*(run if by == "environment" else ["fetch", "mine.yaml"]), **online(hub), **given)
    assert outcome.code == 0, outcome.err
    assert f"Bearer {SECRET}" in hub.tokens
    assert SECRET not in outcome.out + outcome.err
    for place in ("results", "cache"):
        assert SECRET not in everything_written(world.folder / place)


@pytest.mark.parametrize("value", [f"{SECRET}\nX-Other: 1", f"{SECRET} x", f"{SECRET}ä"])
def test_a_token_that_cannot_be_one_is_never_shown(world: World, hub: Hub, value: str) -> None:
    outcome = world.moodbench("fetch", "mine.yaml", **online(hub), HF_TOKEN=value)
    assert outcome.code == 2
    assert "HF_TOKEN" in outcome.err
    assert SECRET not in outcome.out + outcome.err


def test_stopping_removes_what_was_handed_over(world: World) -> None:
    """The hub does not answer; SIGTERM ends the wait."""
    import signal
    import socket
    import time

    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = world.environment | {
            "HF_TOKEN": SECRET, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }  # fmt: skip
        process = subprocess.Popen(
            [*COMMAND, "fetch", "mine.yaml"], cwd=world.folder, env=environment, stderr=subprocess.PIPE, text=True
        )
        scratch = world.folder / "cache" / "scratch"
        deadline = time.monotonic() + 30
        while not list(scratch.rglob("token")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err.strip().splitlines()[-1]) == (130, "interrupted")
    assert list(scratch.iterdir()) == []
