"""Real runs on real reviews, through the real command line, into MLflow and back through its own client."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import World, wait_until

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

DATA = os.environ.get("MOODBENCH_TEST_DATA")
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.long,
    pytest.mark.skipif(DATA is None, reason="MOODBENCH_TEST_DATA is not set"),
    pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="the extra `tracking` is missing"),
    # Of MLflow's own dependencies, when a test is the first to import them.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]

SUITE = """
models: [{models}]
datasets:
  - {{name: uci, file: {data}/uci_sentiment_labelled.csv, text_column: text, label_column: label,
     sizes: {{train: 200, validation: 100, test: 200}}, keep_columns: [source], slice_columns: [source]}}
training: {{epochs: 1, min_steps: 6, evals_per_epoch: 3}}
evaluation: {{windows: 1, repeats: 0, latency_min_s: 0, latency_max_s: 0.2, throughput_batch_sizes: [8, 32],
  throughput_max_s: 1}}
"""


def uci(world: World, *models: str) -> str:
    """A suite file, and its name as an argument."""
    world.write("uci.yaml", SUITE.format(models=", ".join(models), data=Path(str(DATA)).resolve()))
    return "uci.yaml"


def client_of(uri: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def store_of(world: World) -> str:
    return f"sqlite:///{world.folder / 'mlflow.db'}"


def tracked(uri: str, experiment: str = "uci") -> dict[str, MlflowRun]:
    """By name of the cell; every one of them whole."""
    client = client_of(uri)
    found = client.get_experiment_by_name(experiment)
    runs = client.search_runs([found.experiment_id]) if found else []
    assert all(run.info.status == "FINISHED" for run in runs)
    by_cell = {str(run.info.run_name): run for run in runs}
    assert len(by_cell) == len(runs), "one run a cell"
    return by_cell


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A run of two baselines and a small network, tracked as it ended."""
    world = World(tmp_path_factory.mktemp("tracking"))
    suite = uci(world, "majority", "tfidf-logreg", "scratch-tiny")
    outcome = world.moodbench("run", suite, "--run", "real", "--track", "sqlite:///mlflow.db")
    assert outcome.code == 0, outcome.err
    assert "tracked 3 cells in experiment 'uci'" in outcome.out + outcome.err
    return world


def test_every_cell_has_a_run_with_the_figures_of_its_result(world: World) -> None:
    results, kept = world.results("real"), tracked(store_of(world))
    assert set(kept) == set(results)
    for cell, result in results.items():
        run = kept[cell]
        assert run.info.status == "FINISHED"
        where = result["provenance"]
        assert run.info.start_time == round(where["started"] * 1000)
        assert run.info.end_time == round(where["finished"] * 1000)
        metrics = run.data.metrics
        for name, value in result["summary"].items():
            assert metrics.get(name) == (None if isinstance(value, str) else value), name
        for name, value in result["quality"]["metrics"].items():
            assert metrics.get(f"quality/{name}") == value
        for one in result["quality"]["per_class"]:
            assert metrics[f"class/{one['label']}/f1"] == one["f1"]
        for one in result["quality"]["per_slice"]:
            assert metrics[f"slice/source/{one['value']}/accuracy"] == one["accuracy"]
        for one in result["timing"]["throughput"]:
            assert metrics[f"throughput/batch_{one['batch_size']}/samples_per_s"] == one["samples_per_s"]
        for name in ("p50_ms", "p90_ms", "p95_ms", "p99_ms"):
            assert metrics.get(f"latency/{name}") == result["timing"]["latency"][name]
        assert {f"seconds/{phase}": s for phase, s in result["phases"].items()}.items() <= metrics.items()
        tags = run.data.tags
        assert (tags["moodbench.identity"], tags["moodbench.cell"]) == (result["identity"], cell)
        assert tags["moodbench.fingerprint"] == where["dataset_fingerprint"]
        assert tags.get("mlflow.source.git.commit") == where["code"]["commit"]
        assert tags["moodbench.executor"] == "native"


def test_parameters_are_what_was_asked_and_what_was_done(world: World) -> None:
    results, kept = world.results("real"), tracked(store_of(world))
    for cell, result in results.items():
        params = kept[cell].data.params
        for name, value in result["requested"].items():
            text = value if isinstance(value, str) else json.dumps(value)
            assert params.get(f"requested.{name}", "null") == text
        for name, choice in result["effective"].items():
            assert f"effective.{name}" in params or choice["value"] is None
        assert (params["model"], params["dataset"], params["rows.train"]) == (result["model"], "uci", "200")


def test_curves_point_for_point(world: World) -> None:
    [(cell, result)] = [(cell, r) for cell, r in world.results("real").items() if r["model"] == "scratch-tiny"]
    run = tracked(store_of(world))[cell]
    training: dict[str, Any] = result["training"]
    assert len(training["loss_curve"]) >= 6 and training["validation_curve"]
    for name, points in (("train/loss", training["loss_curve"]), ("validation/loss", training["validation_curve"])):
        history = client_of(store_of(world)).get_metric_history(run.info.run_id, name)
        assert [(p.step, p.value) for p in history] == [(p["step"], p["values"]["loss"]) for p in points]
        times = [p.timestamp for p in history]
        assert times == sorted(times)
        assert run.info.start_time <= times[0] and times[-1] <= run.info.end_time


def test_files_are_those_of_the_attempt(world: World, tmp_path: Path) -> None:
    client = client_of(store_of(world))
    for cell, run in tracked(store_of(world)).items():
        attempt = world.run_folder("real").attempt(cell, 1)
        got = Path(client.download_artifacts(run.info.run_id, "", str(tmp_path)))
        for name in ("result.json", "predictions.parquet", "spec.json", "log.txt"):
            assert (got / name).read_bytes() == (attempt.folder / name).read_bytes()
        if attempt.adapter.exists():
            assert {p.name for p in (got / "adapter").iterdir()} == {p.name for p in attempt.adapter.iterdir()}


def test_tracking_again_and_running_again_add_nothing(world: World) -> None:
    before = {cell: run.info.run_id for cell, run in tracked(store_of(world)).items()}
    again = world.moodbench("track", "real", "--uri", "sqlite:///mlflow.db")
    assert (again.code, again.err) == (0, "")
    assert "tracked 0 cells in experiment 'uci'" in again.out and "3 were there before" in again.out
    assert world.moodbench("resume", "real").code == 0
    assert {cell: run.info.run_id for cell, run in tracked(store_of(world)).items()} == before


def test_an_extended_run_adds_what_is_new(world: World) -> None:
    """It was asked to be tracked before; what extends it is asked again."""
    before = set(tracked(store_of(world)))
    suite = uci(world, "majority", "tfidf-logreg", "scratch-tiny")
    more = ["--models", "tfidf-logreg", "--seeds", "7,8", "--track", "sqlite:///mlflow.db"]
    assert world.moodbench("run", suite, "--run", "real", *more).code == 0
    new = set(tracked(store_of(world))) - before
    assert sorted(cell.rpartition("--")[0] for cell in new) == [
        "tfidf-logreg--uci--none--s7",
        "tfidf-logreg--uci--none--s8",
    ]


def test_an_interrupted_run_is_tracked_as_far_as_it_came(tmp_path: Path) -> None:
    world = World(tmp_path)
    seeds = ",".join(map(str, range(40)))
    asked = [
        "run",
        uci(world, "tfidf-logreg"),
        "--run",
        "r",
        "--seeds",
        seeds,
        "--jobs",
        "1",
        "--track",
        "sqlite:///mlflow.db",
    ]
    assert world.moodbench(*asked, "--detach").code == 0
    wait_until(lambda: world.results("r"), within_s=120)
    assert world.moodbench("stop", "r").code == 0
    wait_until(lambda: world.journal("r")[-1]["event"] == "run_finished", within_s=60)
    assert world.journal("r")[-1]["outcome"] == "interrupted"
    assert 1 <= len(world.results("r")) < 40
    assert set(tracked(store_of(world))) == set(world.results("r"))


def test_a_server_that_is_not_there_fails_no_run(world: World) -> None:
    suite = uci(world, "majority", "tfidf-logreg", "scratch-tiny")
    outcome = world.moodbench("run", suite, "--run", "real", "--track", "http://127.0.0.1:9")
    assert outcome.code == 0, outcome.err
    said = outcome.out + outcome.err
    assert "not tracked: cannot reach MLflow at http://127.0.0.1:9" in said
    assert "moodbench track " in said


def test_a_password_is_kept_nowhere(tmp_path: Path) -> None:
    world = World(tmp_path)
    outcome = world.moodbench("run", uci(world, "majority"), "--run", "r", "--track", "https://me:hunter2@127.0.0.1:9")
    assert outcome.code == 2 and "MLFLOW_TRACKING_PASSWORD" in outcome.err
    assert "hunter2" not in outcome.out + outcome.err
    assert not world.run_folder("r").folder.exists()


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """MLflow's own server, on a port that was free."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}",
               "--artifacts-destination", str(folder / "served"), "--host", "127.0.0.1", "--port", str(port),
               "--workers", "1"]  # fmt: skip
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: _answers(uri) or server.poll() is not None, within_s=120)
        assert server.poll() is None, (folder / "server.log").read_text()
        yield uri
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


def _answers(uri: str) -> bool:
    try:
        with urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_over_http_to_a_server(world: World, tmp_path: Path) -> None:
    results = world.results("real")
    [(cell, result)] = [(cell, r) for cell, r in results.items() if r["model"] == "scratch-tiny"]
    with mlflow_server(tmp_path) as uri:
        outcome = world.moodbench("track", "real", "--uri", uri, "--json")
        assert (outcome.code, outcome.err) == (0, "")
        assert sorted(json.loads(outcome.out)["added"]) == sorted(results)
        kept = tracked(uri)
        assert set(kept) == set(results)
        assert kept[cell].data.metrics["accuracy"] == result["summary"]["accuracy"]
        losses = client_of(uri).get_metric_history(kept[cell].info.run_id, "train/loss")
        assert [point.value for point in losses] == [p["values"]["loss"] for p in result["training"]["loss_curve"]]
        got = Path(client_of(uri).download_artifacts(kept[cell].info.run_id, "adapter", str(tmp_path)))
        adapter = world.run_folder("real").attempt(cell, 1).adapter
        assert {p.name: p.read_bytes() for p in got.iterdir()} == {p.name: p.read_bytes() for p in adapter.iterdir()}
        again = world.moodbench("track", "real", "--uri", uri)
        assert again.code == 0 and "tracked 0 cells" in again.out
