"""The whole job through the real command line: suite -> cells -> child processes -> results -> leaderboard."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from runner.contract import Result, read
from tests.support import Outcome, World, reviews

SUMMARY_NAMES = {
    "model_name", "accuracy", "f1", "precision", "recall", "ttft_mean_ms", "latency_median_ms", "latency_p99_ms",
    "throughput_tokens_per_sec", "throughput_samples_per_sec", "memory_allocated_mb", "training_time_hours",
}  # fmt: skip


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Outcome]:
    """The shipped demo in smoke mode, two seeds, two cells at a time, as JSON lines."""
    world = World(tmp_path_factory.mktemp("demo"))
    return world, world.moodbench("run", "demo", "--smoke", "--run", "demo", "--seeds", "1,2", "--jobs", "2", "--json")


def test_demo_finishes_and_tells_it_in_json_lines(demo: tuple[World, Outcome]) -> None:
    world, outcome = demo
    assert outcome.code == 0, outcome.err
    events = outcome.events  # every line is JSON
    assert events[-1]["event"] == "run_finished"
    assert {k: events[-1][k] for k in ("outcome", "exit_code", "total", "done", "failed")} == {
        "outcome": "finished", "exit_code": 0, "total": 8, "done": 8, "failed": 0,
    }  # fmt: skip
    assert {e["cell"] for e in events if e["event"] == "cell_finished"} == set(world.results("demo"))


def test_results_are_whole(demo: tuple[World, Outcome]) -> None:
    world, _ = demo
    for attempt in world.attempts("demo"):
        result = read(attempt / "result.json", Result)
        raw = json.loads((attempt / "result.json").read_text())
        assert set(raw["summary"]) == SUMMARY_NAMES
        for name, value in raw["summary"].items():
            assert value is not None or name in raw["reasons"], f"{name} is null without a reason"
        predictions = pq.read_table(attempt / "predictions.parquet")
        assert predictions.num_rows == result.quality.rows == 20
        right = np.mean(predictions["predicted"].to_numpy() == predictions["label"].to_numpy())
        assert right == pytest.approx(result.summary.accuracy)
        assert list(result.phases) == ["load", "tokenize", "train", "export", "score", "time"]
        assert result.provenance.dataset_fingerprint
        assert not list(attempt.glob("*.tmp")) and not (attempt / "checkpoint").exists()


def test_adapter_is_kept_as_safetensors(demo: tuple[World, Outcome]) -> None:
    world, _ = demo
    lora = next(a for a in world.attempts("demo") if "minilm" in str(a))
    assert (lora / "adapter" / "adapter_model.safetensors").exists()
    assert not list(lora.rglob("*.bin")) and not list(lora.rglob("*.pt"))
    result = read(lora / "result.json", Result)
    digest = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert result.provenance.weights_sha256 == {"model.safetensors": digest}
    assert result.parameters_trainable < result.parameters_total / 20
    assert result.timing.merged


def test_while_one_cell_is_timed_the_other_stands_still(demo: tuple[World, Outcome]) -> None:
    """With two cells at a time, nothing of the other one happens within a window."""
    _, outcome = demo
    windows: list[tuple[str, float, float]] = []
    granted: dict[str, float] = {}
    frozen = 0
    for event in outcome.events:
        if event["event"] == "lease_granted":
            granted[event["cell"]] = event["t"]
            frozen += len(event["frozen"])
        elif event["event"] == "lease_ended":
            windows.append((event["cell"], granted.pop(event["cell"]), event["t"]))
    assert len({cell for cell, _, _ in windows}) == 8
    assert frozen  # else this shows nothing
    own = [e for e in outcome.events if e["event"] in ("phase_started", "phase_finished", "progress", "metrics")]
    for cell, start, end in windows:
        others = [event for event in own if event["cell"] != cell and start < event["t"] < end]
        assert not others, f"{cell} was timed beside {others}"


def test_running_again_does_nothing(demo: tuple[World, Outcome]) -> None:
    world, _ = demo
    before = world.attempts("demo")
    again = world.moodbench("run", "demo", "--smoke", "--run", "demo", "--seeds", "1,2", "--json")
    assert again.code == 0, again.err
    assert (again.events[-1]["reused"], again.events[-1]["done"]) == (8, 0)
    assert world.attempts("demo") == before


def test_leaderboard_in_every_format(demo: tuple[World, Outcome]) -> None:
    world, _ = demo
    models = {"majority", "tfidf-logreg", "scratch-tiny", "MiniLM-L6"}
    board = json.loads(world.moodbench("leaderboard", "results/demo", "--format", "json").out)
    assert {row["model"] for row in board["rows"]} == models
    assert sorted(row["rank"] for row in board["rows"])[0] == 1
    for row in board["rows"]:
        assert row["dataset"] == "starter-sentiment" and row["seeds"] == [1, 2]
        assert isinstance(row["flags"], list) and row["method"] in ("none", "full", "lora")
        for metric in ("accuracy", "f1", "score"):
            assert row[metric]["low"] <= row[metric]["value"] <= row[metric]["high"]
    rows = list(csv.DictReader(io.StringIO(world.moodbench("leaderboard", "demo", "--format", "csv").out)))
    assert {row["model"] for row in rows} == models
    markdown = world.moodbench("leaderboard", "demo", "--format", "markdown").out
    table = world.moodbench("leaderboard", "demo").out
    assert all(model in markdown and model in table for model in models)


def test_adding_a_dataset_extends_the_run(demo: tuple[World, Outcome]) -> None:
    world, _ = demo
    more = world.moodbench(
        "run", "demo", "--smoke", "--run", "demo", "--seeds", "1,2", "--models", "majority",
        "--datasets", "starter-emotion", "--json",
    )  # fmt: skip
    assert more.code == 0, more.err
    board = json.loads(world.moodbench("leaderboard", "demo", "--format", "json").out)
    assert {row["dataset"] for row in board["rows"]} == {"starter-sentiment", "starter-emotion"}


def test_another_version_of_a_dataset_is_refused(demo: tuple[World, Outcome]) -> None:
    world, _ = demo
    outcome = world.moodbench("run", "demo", "--run", "demo", "--seeds", "1", "--models", "majority")
    assert outcome.code == 2
    assert "another version of 'starter-sentiment'" in outcome.err and "--run" in outcome.err


def test_own_file_with_guessed_columns(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write("reviews.csv", reviews())
    models = ("--models", "tfidf-logreg,majority", "--seeds", "1,2", "--smoke")
    outcome = world.moodbench("run", "--data", "reviews.csv", *models)
    assert outcome.code == 0, outcome.err
    assert "'review' (guessed)" in outcome.err and "'sentiment' (guessed)" in outcome.err
    assert "tfidf-logreg" in outcome.out and "Next:" in outcome.out
    assert list((tmp_path / "results").glob("*-reviews/leaderboard.json"))


def test_inline_suite_with_official_splits(tmp_path: Path) -> None:
    world = World(tmp_path)
    (tmp_path / "data").mkdir()
    world.write("data/train.csv", reviews(80, "text,label"))
    world.write("data/dev.csv", reviews(20, "text,label").replace("visit", "trip"))
    world.write(
        "mine.yaml",
        "models: [tfidf-logreg]\n"
        "datasets:\n"
        "  - starter-sentiment\n"
        "  - {name: local, train: data/train.csv, test: data/dev.csv, text_column: text, label_column: label,\n"
        "     sizes: {train: null, validation: 20, test: null}}\n"
        "methods: [lora]\n"
        "seeds: [3]\n"
        "evaluation: {windows: 1, repeats: 0, latency_min_s: 0, throughput_texts: 20, throughput_min_s: 0}\n",
    )
    outcome = world.moodbench("run", "mine.yaml", "--run", "mine", "--json")
    assert outcome.code == 0, outcome.err
    by_dataset = {r["dataset"]: r for r in world.results("mine").values()}
    assert by_dataset["local"]["quality"]["rows"] == 20
    assert by_dataset["starter-sentiment"]["quality"]["rows"] > 200


def test_one_cell_by_hand_repeats_the_run(demo: tuple[World, Outcome], tmp_path: Path) -> None:
    """`python -m runner run SPEC.json --out DIR` gives the predictions the harness got."""
    import subprocess
    import sys

    world, _ = demo
    attempt = next(a for a in world.attempts("demo") if "scratch-tiny" in str(a))
    command = [sys.executable, "-m", "runner", "run", str(attempt / "spec.json"), "--out", str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True, env=world.environment, timeout=300)
    assert pq.read_table(tmp_path / "out" / "predictions.parquet").equals(
        pq.read_table(attempt / "predictions.parquet")
    )


SHORT = """models: [majority, MiniLM-L6]
datasets: [starter-sentiment]
seeds: [1]
training: {min_steps: 0, epochs: 1}
evaluation: {latency_min_s: 0, latency_max_s: 0.2, throughput_batch_sizes: [8], throughput_max_s: 0.5}
"""


def test_ctrl_c_keeps_what_is_finished_and_running_again_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write("short.yaml", SHORT)
    command = ("run", "short.yaml", "--run", "r", "--json")
    process = world.start(*command)
    assert process.stdout is not None
    children: list[psutil.Process] = []
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "phase_started" and event["phase"] == "train" and "minilm" in event["cell"]:
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            break
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    last = json.loads(rest.splitlines()[-1])
    assert (last["event"], last["outcome"], last["failed"]) == ("run_finished", "interrupted", 0)
    assert children and not any(child.is_running() and child.status() != "zombie" for child in children)
    assert [r["model"] for r in world.results("r").values()] == ["majority"]
    assert "1 cells have not run to their end" in world.moodbench("leaderboard", "r").err

    again = world.moodbench(*command)
    assert again.code == 0, again.err
    assert {k: again.events[-1][k] for k in ("done", "reused")} == {"done": 1, "reused": 1}
    assert sorted(a.name for a in world.attempts("r")) == ["attempt-001", "attempt-001", "attempt-002"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_stopped_while_it_prepares_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    world = World(tmp_path)
    process = world.start("run", "demo", "--run", "r", "--json")
    host = psutil.Process(process.pid)
    while not (children := host.children(recursive=True)):
        assert process.poll() is None
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert json.loads(out.splitlines()[-1])["outcome"] == "interrupted"
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert not (tmp_path / "results" / "r").exists()


def test_cells_end_when_their_engine_is_killed(tmp_path: Path) -> None:
    world = World(tmp_path)
    process = world.start("run", "demo", "--run", "r", "--seeds", "1", "--models", "MiniLM-L6", "--json")
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "phase_started":
            break
    engine = world.engine("r")
    children = engine.children(recursive=True)
    assert children
    os.kill(engine.pid, signal.SIGKILL)
    rest, errors = process.communicate(timeout=60)
    assert (process.returncode, "is gone (killed?)" in errors) == (1, True)
    assert json.loads(rest.splitlines()[-1])["outcome"] == "broken"
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert not world.results("r")
    assert world.status("r")["state"] == "killed"


def test_training_is_deterministic_across_runs(demo: tuple[World, Outcome]) -> None:
    world, _ = demo
    outcome = world.moodbench(
        "run", "demo", "--smoke", "--run", "twin", "--seeds", "1", "--models", "MiniLM-L6", "--json"
    )
    assert outcome.code == 0, outcome.err
    [twin] = world.attempts("twin")
    first = next(a for a in world.attempts("demo") if a.parent.name == twin.parent.name)
    mine, theirs = (pq.read_table(a / "predictions.parquet") for a in (twin, first))
    threads = [json.loads((a / "spec.json").read_text())["threads"] for a in (twin, first)]
    assert mine["predicted"].equals(theirs["predicted"])
    assert threads[0] != threads[1] or mine.equals(theirs)
