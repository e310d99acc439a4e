"""Runs made of small files, brought into MLflow stores of SQLite and read back through MLflow's own client."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from harness.cli import main
from harness.errors import InputError, SetupError
from harness.record import RunRecord
from harness.request import Control, RunOptions
from harness.store import AttemptPaths, RunFolder
from harness.suite import Suite, as_mapping
from harness.tracking import TrackingReport, track
from harness.tracking.address import checked_uri
from harness.tracking.cells import Origin, finished_cell, safe
from harness.tracking.credentials import masked
from harness.tracking.ending import report_lines, track_ended_run
from harness.tracking.store import opened
from runner.contract import (
    CellSpec,
    Choice,
    ClassFigures,
    CurvePoint,
    DatasetRequest,
    Failure,
    Quality,
    Result,
    SliceFigures,
    TrainingReport,
    encode,
    write_atomic,
)
from tests.harness.builders import cell, prepared, result, write_result

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

needs_mlflow = pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="the extra `tracking` is missing")
# Of MLflow's own dependencies, when a test is the first to import them.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

LABELS = (0, 1) * 10
SUITE = Suite(name="nightly", models=(), requests=(), methods=("lora",), seeds=(1,))


def spec_of(model: str = "good", **changes: Any) -> CellSpec:
    return cell(model, dataset=prepared(rows=20), **changes)


def trained(spec: CellSpec) -> Result:
    """A result with everything that MLflow is told of."""
    made = result(spec)
    quality = Quality(
        rows=20,
        metrics={"accuracy": 0.75, "f1": 0.7, "mcc": 0.5, "roc_auc": None},
        per_class=(
            ClassFigures(label="good/../x", precision=0.9, recall=0.8, f1=0.85, support=10),
            ClassFigures(label="Good_x", precision=0.7, recall=0.6, f1=0.65, support=10),
        ),
        per_slice=(SliceFigures(column="source", value="imdb", rows=20, accuracy=0.75, f1=0.7),),
    )
    training = TrainingReport(
        steps=4, epochs=1.0, samples_seen=64, seconds=3.0, samples_per_s=20.0, best_step=4, best_f1=0.7,
        stopped_early=False,
        loss_curve=tuple(CurvePoint(step=step, values={"loss": 1 / step}) for step in (1, 2, 3, 4)),
        validation_curve=(CurvePoint(step=4, values={"loss": 0.5, "f1": 0.7, "accuracy": None}),),
    )  # fmt: skip
    return msgspec.structs.replace(
        made,
        quality=quality,
        training=training,
        phases={"load": 1.0, "tokenize": 1.0, "train": 4.0, "score": 1.0},
        requested={"batch_size": 16, "method": "none"},
        effective={"batch_size": Choice(value=8, reason="halved: memory ran out")},
        reasons={"latency_p99_ms": "100 requests were timed"},
        warnings=("see ![x](http://example.org/x.png) <b>\x1b[2J",),
    )


class Run:
    """A run folder, and a store that it is tracked to."""

    def __init__(self, folder: Path, store: Path, *specs: CellSpec) -> None:
        self.folder = RunFolder(folder)
        self.uri = f"sqlite:///{store}"
        self.folder.extend("r", dict(as_mapping(SUITE)), specs or [spec_of()])

    def finish(self, spec: CellSpec, outcome: Result | None = None) -> AttemptPaths:
        attempt = self.folder.new_attempt(spec.cell)
        write_atomic(attempt.spec, encode(spec))
        attempt.log.write_text("all went well\n")
        write_result(attempt, spec, LABELS, LABELS)
        write_atomic(attempt.result, encode(outcome or result(spec)))
        return attempt

    def fail(self, spec: CellSpec, **changes: Any) -> AttemptPaths:
        attempt = self.folder.new_attempt(spec.cell)
        write_atomic(attempt.spec, encode(spec))
        t = attempt.spec.stat().st_mtime + 5
        fields = {"cell": spec.cell, "kind": "data", "message": "no rows", "hint": "add some", "t": t} | changes
        write_atomic(attempt.failure, encode(Failure(**fields)))
        return attempt

    def track(self, **options: Any) -> TrackingReport:
        return track(self.folder, self.uri, **options)

    @property
    def client(self) -> MlflowClient:
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=self.uri)

    def kept(self, experiment: str = "r", *, in_trash: bool = False) -> list[MlflowRun]:
        """By name. Suites of no models have no cell, so that the experiment has the run's name."""
        from mlflow.entities import ViewType

        view = ViewType.DELETED_ONLY if in_trash else ViewType.ACTIVE_ONLY
        found = self.client.get_experiment_by_name(experiment)
        runs = self.client.search_runs([found.experiment_id], run_view_type=view) if found else []
        return sorted(runs, key=lambda run: str(run.info.run_name))

    def files(self, run: MlflowRun, folder: str | None = None) -> list[str]:
        return [file.path for file in self.client.list_artifacts(run.info.run_id, folder)]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Making the tables takes MLflow seconds."""
    folder = tmp_path_factory.mktemp("store")
    code = "import sys; from mlflow.tracking import MlflowClient; MlflowClient(sys.argv[1]).search_experiments()"
    subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{folder / 's.db'}"], check=True, capture_output=True, cwd=folder
    )
    return folder / "s.db"


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db"))


@pytest.fixture
def run(tmp_path: Path, store: Path) -> Run:
    return Run(tmp_path / "r", store)


# --- what MLflow is told, without MLflow ---------------------------------------------------------


def origin(spec: CellSpec, tmp_path: Path) -> Origin:
    record = RunFolder(tmp_path / "r").extend("r", {}, [spec])
    return Origin("r", record.created, record.cells[0], 1, "0" * 64)


def test_every_point_of_a_curve_lies_within_the_training(tmp_path: Path) -> None:
    told = finished_cell(origin(spec_of(), tmp_path), trained(spec_of()), spec_of())
    assert (told.started_ms, told.ended_ms) == (100_000, 107_000)
    losses = [(p.step, p.t_ms, p.value) for p in told.points if p.name == "train/loss"]
    assert losses == [(1, 103_000, 1.0), (2, 104_000, 0.5), (3, 105_000, 1 / 3), (4, 106_000, 0.25)]
    assert [(p.name, p.step) for p in told.points if p.name.startswith("validation/")] == [
        ("validation/loss", 4), ("validation/f1", 4),
    ]  # fmt: skip


@pytest.mark.parametrize("started", [-5.0, 1e12])
def test_times_that_a_cell_made_up_stay_in_order(tmp_path: Path, started: float) -> None:
    spec = spec_of()
    odd = trained(spec)
    odd = msgspec.structs.replace(odd, provenance=msgspec.structs.replace(odd.provenance, started=started))
    told = finished_cell(origin(spec, tmp_path), odd, spec)
    assert 0 <= told.started_ms <= told.ended_ms < 2**63
    assert all(told.started_ms <= point.t_ms <= told.ended_ms for point in told.points)


def test_null_is_left_out_and_its_reason_told(tmp_path: Path) -> None:
    told = finished_cell(origin(spec_of(), tmp_path), trained(spec_of()), spec_of())
    names = [point.name for point in told.points]
    assert "accuracy" in names and "latency_p99_ms" not in names and "quality/roc_auc" not in names
    note = told.tags["mlflow.note.content"].splitlines()
    assert note[0] == r"- latency\_p99\_ms is missing: 100 requests were timed"
    assert note[-1] == r"- batch\_size is 8 instead of 16: halved: memory ran out"


def test_what_a_cell_wrote_is_no_markup(tmp_path: Path) -> None:
    told = finished_cell(origin(spec_of(), tmp_path), trained(spec_of()), spec_of())
    assert r"see !\[x\](http://example.org/x.png) \<b\>" in told.tags["mlflow.note.content"]
    assert "\x1b" not in told.tags["mlflow.note.content"]


def test_classes_whose_names_look_alike_stay_apart(tmp_path: Path) -> None:
    told = finished_cell(origin(spec_of(), tmp_path), trained(spec_of()), spec_of())
    f1 = {point.name: point.value for point in told.points if point.name.startswith("class/") and "/f1" in point.name}
    assert f1 == {"class/good_x/f1": 0.85, "class/Good_x_2/f1": 0.65}


@pytest.mark.parametrize(
    ("text", "name"),
    [("très bon", "très bon"), ("..", "_"), ("", "_"), ("a/b:c", "a_b_c"), (" x", "x"), ("y" * 99, "y" * 60)],
)
def test_names_that_mlflow_takes(text: str, name: str) -> None:
    assert safe(text) == name


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("", ["is a folder or file", "sqlite:///mlflow.db"]),
        ("./mlruns", ["'./mlruns' is a folder or file", "sqlite:///mlflow.db"]),
        ("file:///srv/mlruns", ["MLflow has given up folders"]),
        ("sqlite://", ["names no file"]),
        ("sqlite:///:memory:", ["names no file"]),
        ("ftp://host", ["no address of an MLflow store"]),
        ("http://", ["no address of an MLflow store"]),
        ("http://[bad", ["no address of an MLflow store"]),
        ("https://me:hunter2@host", ["holds a user or password", "MLFLOW_TRACKING_PASSWORD"]),
        ("https://hunter2@host", ["holds a user or password", "MLFLOW_TRACKING_TOKEN"]),
        ("https://me:hunter2/x@host", ["holds a user or password"]),
        ("https://host/?key=hunter2", ["a '?' or '#'", "MLFLOW_TRACKING_TOKEN"]),
        ("https://host/#hunter2", ["a '?' or '#'"]),
        ("databricks://me:hunter2@host", ["holds a user or password"]),
        ("me:hunter2@host:5000", ["that is no address of an MLflow store"]),
        ("hunter2@host", ["that is a folder or file"]),
        ("http:/me:hunter2@host", ["that is no address of an MLflow store"]),
        ("http://me:hunter2@host\u2100", ["that is no address of an MLflow store"]),  # urlsplit would quote it
        ("ht\ntp://me:hunter2@host", ["that is no address of an MLflow store"]),
        ("sqlite://me:hunter2@host/x", ["that names no file"]),
        ("postgresql:me:hunter2@host/db", ["that is no address of an MLflow store"]),
        ("postgresql:///db", ["no address of an MLflow store"]),
        ("postgresql://me:hunter2/x@host/db", ["holds a password"]),
        ("postgresql://me:hunter2#x@host/db", ["holds a password"]),
        ("mssql+pyodbc://host/db?odbc_connect=PWD+%3D+hunter2", ["holds a password"]),
        ("postgresql://me:hunter2@host/db", ["holds a password", "pgpass"]),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dhunter2", ["holds a password"]),
    ],
)
def test_addresses_that_are_refused(given: str, parts: Sequence[str]) -> None:
    with pytest.raises(InputError) as caught:
        checked_uri(given)
    said = f"{caught.value.message} {caught.value.hint}"
    assert all(part in said for part in parts) and "hunter2" not in said


@pytest.mark.parametrize(
    "given",
    ["http://localhost:5000", "https://host/x", "postgresql+psycopg://me@h:5432/d?sslmode=require", "databricks"],
)
def test_addresses_that_are_taken_as_they_are(given: str) -> None:
    assert checked_uri(given) == given


def test_a_database_is_the_same_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert checked_uri("sqlite:///a/b.db") == f"sqlite:///{tmp_path}/a/b.db"
    assert checked_uri(f"sqlite:///{tmp_path}/b.db") == f"sqlite:///{tmp_path}/b.db"


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_USERNAME"])
def test_what_cannot_be_sent_is_refused_unquoted(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setenv(name, "hunter2\nx")
    assert main(["track", str(run.folder.folder), "--uri", "http://127.0.0.1:9"]) == 2
    [_, kept] = end_of_run(run, "http://127.0.0.1:9")
    for said in (capsys.readouterr().err, kept):
        assert f"{name} holds a line break" in said and "hunter2" not in said


@pytest.mark.parametrize("secret", ["hunter2", "h\\unter2\u20ac"])
def test_secrets_are_masked_in_every_form(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", f"{secret}-token")  # of which the other is a part
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", secret)
    basic = base64.b64encode(f"me:{secret}".encode()).decode()
    said = f"{secret}-token, {secret}, {secret!r}, {secret!a}, {secret.encode()!r}, Basic {basic}"
    assert masked(said) == "***, ***, '***', '***', b'***', Basic ***"


@needs_mlflow
def test_what_mlflow_quotes_is_masked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("invalid header value: b'Bearer hunter2'")

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hunter2")
    monkeypatch.setattr(MlflowClient, "search_experiments", refuse)
    [_, said] = end_of_run(run, run.uri)
    assert "refused: invalid header value: b'Bearer ***'" in said


def test_without_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Run(tmp_path / "r", tmp_path / "mlflow.db")
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as if it were not installed
    for command in (["track", str(tmp_path / "r"), "--uri"], ["run", "demo", "--run", "x", "--track"]):
        assert main([*command, f"sqlite:///{tmp_path}/mlflow.db", "--results", str(tmp_path)]) == 3
        assert "pip install 'moodbench[tracking]'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists(), "nothing has begun"


def test_a_run_keeps_where_it_is_tracked(tmp_path: Path) -> None:
    options = RunOptions(track="sqlite:////srv/mlflow.db")
    assert msgspec.json.decode(msgspec.json.encode(options), type=RunOptions) == options
    assert msgspec.json.decode(b"{}", type=RunOptions).track is None


# --- in a store ----------------------------------------------------------------------------------


@needs_mlflow
def test_a_finished_cell(run: Run) -> None:
    run.finish(spec_of(), trained(spec_of()))
    report = run.track()
    assert (report.added, report.present, report.left) == ((spec_of().cell,), 0, 0)
    assert report.experiments == ("r",)
    [kept] = run.kept()
    assert (kept.info.run_name, kept.info.status) == (spec_of().cell, "FINISHED")
    assert (kept.info.start_time, kept.info.end_time) == (100_000, 107_000)
    metrics = kept.data.metrics
    assert metrics["accuracy"] == metrics["quality/accuracy"] == 0.75
    assert (metrics["seconds/train"], metrics["slice/source/imdb/f1"], metrics["training/steps"]) == (4.0, 0.7, 4.0)
    history = run.client.get_metric_history(kept.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    params = kept.data.params
    assert (params["requested.batch_size"], params["effective.batch_size"]) == ("16", "8")
    assert (params["model"], params["rows.test"], params["training.learning_rate"]) == ("good", "20", "0.0002")
    tags = kept.data.tags
    assert (tags["moodbench.attempt"], tags["moodbench.seed"], tags["moodbench.run"]) == ("1", "1", "r")
    assert run.files(kept) == ["log.txt", "predictions.parquet", "result.json", "spec.json"]


@needs_mlflow
def test_files_lie_beside_the_database(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run.finish(spec_of())
    run.track()
    assert [path.name for path in tmp_path.glob("mlartifacts/r/*/artifacts/result.json")] == ["result.json"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


@needs_mlflow
def test_failed_and_unfinished_cells(tmp_path: Path, store: Path) -> None:
    bad, stopped, begun, never = (spec_of(name) for name in ("bad", "stopped", "begun", "never"))
    run = Run(tmp_path / "r", store, bad, stopped, begun, never)
    attempt = run.fail(bad, message="no <rows>")
    run.fail(stopped, kind="interrupted")
    run.folder.new_attempt(begun.cell)
    report = run.track()
    assert (report.added, report.left) == ((bad.cell,), 3)
    [kept] = run.kept()
    assert kept.info.status == "FAILED"
    assert kept.info.end_time - kept.info.start_time == pytest.approx(5000, abs=1)
    assert kept.data.tags["moodbench.failure"] == "data" and kept.data.metrics == {}
    assert r"no \<rows\>" in kept.data.tags["mlflow.note.content"]
    assert run.files(kept) == ["failure.json", "spec.json"]
    assert attempt.failure.exists()


@needs_mlflow
def test_again_adds_what_is_new(tmp_path: Path, store: Path) -> None:
    first, second = spec_of("a"), spec_of("b")
    run = Run(tmp_path / "r", store, first, second)
    run.finish(first)
    assert run.track().added == (first.cell,)
    [before] = run.kept()
    run.finish(second)
    again = run.track()
    assert (again.added, again.present) == ((second.cell,), 1)
    assert run.track().added == ()
    assert [kept.info.run_name for kept in run.kept()] == [first.cell, second.cell]
    assert run.kept()[0].info.run_id == before.info.run_id
    assert run.kept(in_trash=True) == []


@needs_mlflow
def test_more_runs_than_a_page_holds(tmp_path: Path, store: Path) -> None:
    specs = [spec_of(name) for name in "abc"]
    run = Run(tmp_path / "r", store, *specs)
    for spec in specs:
        run.finish(spec)
    run.track()
    with opened(run.uri) as answering:
        known = replace(answering, runs_a_page=1).known("r", run.folder.read_record().created)
    assert set(known.runs) == {spec.cell for spec in specs}


@needs_mlflow
def test_what_was_tried_again_takes_the_place_of_what_failed(run: Run) -> None:
    run.fail(spec_of())
    run.track()
    run.finish(spec_of())
    assert run.track().added == (spec_of().cell,)
    [kept], [old] = run.kept(), run.kept(in_trash=True)
    assert (kept.info.status, kept.data.tags["moodbench.attempt"]) == ("FINISHED", "2")
    assert (old.info.status, old.data.tags["moodbench.attempt"]) == ("FAILED", "1")


@needs_mlflow
def test_what_was_done_again_under_the_same_number_is_another(run: Run) -> None:
    attempt = run.finish(spec_of())
    run.track()
    shutil.rmtree(attempt.folder)
    run.finish(spec_of(), result(spec_of(), accuracy=0.5))
    run.track()
    [kept] = run.kept()
    assert kept.data.metrics["accuracy"] == 0.5


@needs_mlflow
def test_mlflow_prints_nothing_whatever_the_user_has_set(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT as SILENT

    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "false")
    with opened(run.uri):
        assert SILENT.get()
    assert os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "false"


KILLED_AT = """
import os, signal, sys
from pathlib import Path
from mlflow.tracking import MlflowClient
from harness.store import RunFolder
from harness.tracking import track

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(MlflowClient, sys.argv[3], die)
track(RunFolder(Path(sys.argv[1])), sys.argv[2])
"""


@needs_mlflow
@pytest.mark.parametrize("call", ["log_batch", "log_artifacts", "set_terminated"])
def test_killed_halfway_it_is_made_whole(tmp_path: Path, store: Path, call: str) -> None:
    first, second = spec_of("a"), spec_of("b")
    run = Run(tmp_path / "r", store, first, second)
    run.finish(first)
    run.track()
    run.finish(second, trained(second))
    child = subprocess.run(
        [sys.executable, "-c", KILLED_AT, str(run.folder.folder), run.uri, call], capture_output=True, check=False
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert len(run.kept()) == 2, "the half one is there"
    report = run.track()
    assert (report.added, report.present) == ((second.cell,), 1)
    assert [kept.info.run_name for kept in run.kept()] == [first.cell, second.cell]
    assert run.kept()[1].data.metrics["train/loss"] == 0.25
    assert "result.json" in run.files(run.kept()[1])


KILLED_MAKING = """
import os, signal, sys
from pathlib import Path
from alembic.operations import Operations
from harness.store import RunFolder
from harness.tracking import track

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

Operations.batch_alter_table = die
track(RunFolder(Path(sys.argv[1])), sys.argv[2])
"""


@needs_mlflow
def test_killed_while_the_database_is_made_it_is_made_again(run: Run, store: Path) -> None:
    run.finish(spec_of())
    store.unlink()
    child = subprocess.run(
        [sys.executable, "-c", KILLED_MAKING, str(run.folder.folder), run.uri], capture_output=True, check=False
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert not store.exists(), "what is half made has no name"
    assert run.track().added == (spec_of().cell,)
    assert len(run.kept()) == 1


@needs_mlflow
def test_a_database_that_mlflow_left_half_made(run: Run, store: Path) -> None:
    with closing(sqlite3.connect(store)) as half, half:
        half.execute("DROP TABLE runs")  # so that MLflow takes it for one to be made
        half.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")  # what follows it has been done
    with pytest.raises(SetupError) as caught:
        run.track()
    assert "move it away, or bring back your copy" in caught.value.hint, caught.value.message


@needs_mlflow
def test_one_at_a_time(run: Run) -> None:
    inner: list[str] = []

    def told(done: int, total: int) -> None:
        with pytest.raises(InputError) as caught:
            run.track()
        inner.append(caught.value.message)

    run.finish(spec_of())
    run.track(told=told)
    assert inner == ["another moodbench is tracking the run 'r'"]


@needs_mlflow
def test_the_suite_that_had_a_cell_first_names_its_experiment(tmp_path: Path, store: Path) -> None:
    from harness.catalog import ModelEntry

    def suite(name: str, *models: str) -> dict[str, Any]:
        entries = tuple(ModelEntry(alias=model, baseline="majority") for model in models)
        request = DatasetRequest(name="reviews", source="embedded")
        return dict(as_mapping(Suite(name=name, models=entries, requests=(request,), methods=("lora",), seeds=(1,))))

    first, second = spec_of("a"), spec_of("b")
    run = Run(tmp_path / "r", store, first, second)
    run.folder.extend("r", suite("old", "a"), [first])
    run.folder.extend("r", suite("new", "a", "b"), [first, second])
    for spec in (first, second):
        run.finish(spec)
    assert run.track().experiments == ("old", "new")
    assert [kept.info.run_name for kept in run.kept("old")] == [first.cell]
    assert [kept.info.run_name for kept in run.kept("new")] == [second.cell]
    assert len(run.track(experiment="/Users/me/all").added) == 2
    assert len(run.kept("/Users/me/all")) == 2


@needs_mlflow
def test_an_experiment_in_the_trash(run: Run) -> None:
    run.finish(spec_of())
    run.track()
    run.client.delete_experiment(run.client.get_experiment_by_name("r").experiment_id)
    with pytest.raises(SetupError, match="'r' is in MLflow's trash"):
        run.track()
    assert run.track(experiment="other").added


@needs_mlflow
def test_nothing_that_a_cell_links_to_leaves_the_machine(tmp_path: Path, store: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    sly, bold = spec_of("sly"), spec_of("bold")
    run = Run(tmp_path / "r", store, sly, bold)
    attempt = run.finish(sly)
    attempt.log.unlink()
    attempt.log.symlink_to(secret)
    attempt.adapter.mkdir()
    (attempt.adapter / "weights").symlink_to(secret)
    (attempt.adapter / "config.json").write_text("{}")
    damaged = run.finish(bold)
    damaged.predictions.unlink()
    damaged.predictions.symlink_to(secret)
    report = run.track()
    assert report.added == (sly.cell,)
    assert [(failure.cell, failure.kind) for failure in report.unreadable] == [(bold.cell, "no_result")]
    [kept] = run.kept()
    assert kept.data.tags["moodbench.left_out"] == "log.txt: not a plain file"
    assert run.files(kept, "adapter") == ["adapter/config.json"]
    assert not [
        path for path in tmp_path.glob("mlartifacts/**/*") if path.is_file() and "hunter2" in path.read_text("latin-1")
    ]


@needs_mlflow
def test_what_the_leaderboard_would_not_count_is_not_tracked(run: Run) -> None:
    write_result(run.finish(spec_of()), spec_of(), LABELS[:4], LABELS[:4])
    report = run.track()
    assert report.added == () and "4 rows instead of 20" in report.unreadable[0].message


@needs_mlflow
def test_large_adapters_stay_where_they_are(tmp_path: Path, store: Path) -> None:
    small, large = spec_of("a"), spec_of("b")
    run = Run(tmp_path / "r", store, small, large)
    for spec, size in ((small, 2**20), (large, 2**20 + 1)):
        attempt = run.finish(spec)
        attempt.adapter.mkdir()
        (attempt.adapter / "weights").write_bytes(b"x" * size)
    run.track(adapter_mb=1)
    kept_small, kept_large = run.kept()
    assert run.files(kept_small, "adapter") == ["adapter/weights"]
    assert "adapter" not in run.files(kept_large)
    assert kept_large.data.tags["moodbench.left_out"] == "adapter: 1 MB, more than 1"


@needs_mlflow
def test_two_thousand_points_and_long_words(run: Run) -> None:
    spec = spec_of()
    long = trained(spec)
    assert long.training is not None
    curve = tuple(CurvePoint(step=step, values={"loss": 1.0 / (step + 1)}) for step in range(2000))
    long = msgspec.structs.replace(
        long,
        training=msgspec.structs.replace(long.training, loss_curve=curve),
        requested={f"setting {number}": "x" * 9000 for number in range(150)},
        warnings=("y" * 9000,),
    )
    run.finish(spec, long)
    assert run.track().added
    [kept] = run.kept()
    assert len(run.client.get_metric_history(kept.info.run_id, "train/loss")) == 2000
    assert len(kept.data.params["requested.setting 149"]) == 6000
    assert len(kept.data.tags["mlflow.note.content"]) == 8000


def test_words_are_cut_to_what_every_store_takes(tmp_path: Path) -> None:
    long = msgspec.structs.replace(trained(spec_of()), requested={"s" * 300: "x" * 9000}, warnings=("y" * 9000,))
    told = finished_cell(origin(spec_of(), tmp_path), long, spec_of())
    assert max(map(len, told.params)) < 250 and max(map(len, told.params.values())) == 6000
    assert max(map(len, told.tags.values())) == 8000


@needs_mlflow
def test_a_result_without_end_is_damaged(run: Run) -> None:
    odd = trained(spec_of())
    run.finish(spec_of(), msgspec.structs.replace(odd, requested={f"s{number}": 1 for number in range(2000)}))
    report = run.track()
    assert report.added == () and "more than" in report.unreadable[0].message


@needs_mlflow
def test_it_leaves_no_trace_in_the_process(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    run.finish(spec_of())
    before, threads = dict(os.environ), set(threading.enumerate())
    run.track()
    assert dict(os.environ) == before
    assert set(threading.enumerate()) == threads


ALONE = """
import sys

def hear(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        print("it asked the network:", event, arguments, file=sys.stderr, flush=True)

sys.addaudithook(hear)
from harness.cli import main

sys.exit(main(["track", sys.argv[1], "--uri", sys.argv[2]]))
"""


@needs_mlflow
def test_a_process_of_its_own_is_quiet_and_contacts_nobody(run: Run, tmp_path: Path) -> None:
    """Where MLflow has to make its tables, and nothing tells it that this is a test."""
    run.finish(spec_of())
    kept = ("PATH", "HOME", "PYTHONPATH", "MOODBENCH_CACHE")
    child = subprocess.run(
        [sys.executable, "-c", ALONE, str(run.folder.folder), f"sqlite:///{tmp_path}/new.db"],
        env={name: os.environ[name] for name in kept if name in os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout.startswith("tracked 1 cell")


# --- the command, and the end of a run -----------------------------------------------------------


@needs_mlflow
def test_the_command(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run.finish(spec_of())
    command = ["track", "r", "--results", str(tmp_path)]
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(command) == 2
    assert "MLFLOW_TRACKING_URI" in capsys.readouterr().err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", run.uri)
    assert main(command) == 0
    assert f"tracked 1 cell in experiment 'r' at {run.uri}; 0 were there before" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["present"] == 1


def test_words_for_one_and_for_many() -> None:
    one = TrackingReport(uri="u", experiments=("a",), added=("x",), present=0, left=1)
    many = msgspec.structs.replace(one, experiments=("a", "b"), added=("x", "y"), left=2)
    assert list(report_lines(one, "again")) == [
        "tracked 1 cell in experiment 'a' at u; 0 were there before",
        "1 cell has not run to its end; when it has: again",
    ]
    assert list(report_lines(many, "again")) == [
        "tracked 2 cells in experiments 'a', 'b' at u; 0 were there before",
        "2 cells have not run to their end; when they have: again",
    ]


@needs_mlflow
def test_the_command_says_what_is_damaged(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run.finish(spec_of()).predictions.unlink()
    assert main(["track", "r", "--uri", run.uri, "--results", str(tmp_path)]) == 1
    assert f"not tracked: {spec_of().cell}: its result cannot be read" in capsys.readouterr().err


@needs_mlflow
@pytest.mark.parametrize(
    ("uri", "part"),
    [
        ("http://127.0.0.1:9", "cannot reach MLflow at http://127.0.0.1:9"),
        ("sqlite:///{}/r/run.json", "not a database"),
    ],
)
def test_a_store_that_does_not_answer(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], uri: str, part: str
) -> None:
    run.finish(spec_of())
    assert main(["track", "r", "--uri", uri.format(tmp_path), "--results", str(tmp_path)]) == 3
    assert part in capsys.readouterr().err


def end_of_run(run: Run, uri: str, *, stopped: bool = False, at_once: bool = False) -> list[str]:
    """What the engine tells when the run ends; `stopped`: it was asked to before, `at_once`: again, meanwhile."""
    notes: list[str] = []

    async def end() -> None:
        control = Control()
        if stopped:
            control.stop()
        if at_once:
            asyncio.get_running_loop().call_soon(lambda: control.stop(now=True))
        await track_ended_run(run.folder, uri, notes.append, control)

    asyncio.run(end())
    return notes


@needs_mlflow
def test_a_run_that_cannot_be_tracked_says_how_it_can_later(run: Run) -> None:
    run.finish(spec_of())
    [_, said] = end_of_run(run, "http://127.0.0.1:9")
    assert said.startswith("not tracked: cannot reach MLflow at http://127.0.0.1:9; check the address")
    assert said.endswith(f"moodbench track {run.folder.folder} --uri http://127.0.0.1:9")


@needs_mlflow
def test_an_interrupted_run_is_tracked(run: Run) -> None:
    run.finish(spec_of())
    [_, said] = end_of_run(run, run.uri, stopped=True)
    assert said.startswith("tracked 1 cell") and len(run.kept()) == 1


@needs_mlflow
def test_who_asks_to_stop_at_once_does_not_wait_for_the_rest(run: Run) -> None:
    run.finish(spec_of())
    [_, first, rest] = end_of_run(run, run.uri, stopped=True, at_once=True)
    assert first.startswith("tracked 0 cells") and rest.startswith("stopped before all were tracked")
    assert run.kept() == []


class Faulty(RunFolder):
    def read_record(self) -> RunRecord:
        raise RuntimeError("a fault of ours")


def test_a_fault_of_ours_fails_no_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.folder = Faulty(run.folder.folder)
    [_, said] = end_of_run(run, run.uri)
    assert said.startswith("not tracked: RuntimeError: a fault of ours")
    assert "Traceback" in capsys.readouterr().err
