"""A real model trained on real data through the real command line, then read by a process that knows nothing of us.

The folder of the data is named by MOODBENCH_TEST_DATA; nothing of it is kept.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from harness import exporting
from harness.executors.docker import DockerExecutor
from harness.explain import find_cell
from harness.exporting import ExportRecord, export_cell, trained_cell
from harness.images import BuiltImage
from runner.contract import read
from tests.support import World

DATA = os.environ.get("MOODBENCH_TEST_DATA")
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.long,
    pytest.mark.skipif(DATA is None, reason="MOODBENCH_TEST_DATA is not set"),
]

TOLERANCE = 1e-5
SUITE = """
models: [MiniLM-L6, majority]
methods: [lora, frozen, full]
seeds: [1]
datasets:
  - {name: uci, file: DATA/uci_sentiment_labelled.csv, text_column: text, label_column: label, max_length: 24,
     label_map: {"0": negative, "1": positive}, sizes: {train: 64, validation: 20, test: 60}}
training: {epochs: 1, min_steps: 8, effective_batch_size: 16, learning_rate: 0.005}
evaluation: {windows: 1, repeats: 0, latency_min_s: 0, latency_max_s: 0.1, min_requests: 1, max_requests: 2,
  throughput_batch_sizes: [8], throughput_texts: 8, throughput_min_s: 0, throughput_max_s: 0.1}
"""

PLAIN = """
import json, sys
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
import torch

folder, texts = sys.argv[1], json.load(sys.stdin)
model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
probabilities = []
with torch.no_grad():
    for start in range(0, len(texts), 16):
        batch = tokenizer(texts[start : start + 16], padding=True, truncation=True, return_tensors="pt")
        probabilities += torch.softmax(model.eval()(**batch).logits, dim=-1).tolist()
piped = pipeline("text-classification", folder, truncation=True)(texts, batch_size=8)
ours = sorted(name for name in sys.modules if name.split(".")[0] in ("harness", "runner"))
print(json.dumps({"probabilities": probabilities, "piped": piped, "ours": ours}))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """With a finished run `real`."""
    world = World(tmp_path_factory.mktemp("export"))
    world.write("real.yaml", SUITE.replace("DATA", str(Path(str(DATA)).resolve())))
    outcome = world.moodbench("run", "real.yaml", "--run", "real")
    assert outcome.code == 0, outcome.err
    return world


def exported(world: World, method: str, to: Path, *options: str, **environment: str) -> ExportRecord:
    outcome = world.moodbench("export", "real", f"minilm-l6--uci--{method}", "--to", to, *options, **environment)
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip() == str(to)
    return read(to / "moodbench.json", ExportRecord)


def asked_plainly(folder: Path, texts: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", PLAIN, str(folder)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        cwd=folder.parent,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def assert_same(world: World, method: str, folder: Path) -> None:
    """Labels and probabilities of the whole test split, as predictions.parquet has them."""
    [attempt] = [path for path in world.attempts("real") if f"--{method}--" in path.parent.name]
    spec = json.loads((attempt / "spec.json").read_text())
    texts = pq.read_table(Path(spec["dataset"]["folder"]) / "test.parquet")["text"].to_pylist()
    kept = pq.read_table(attempt / "predictions.parquet")
    expected = np.column_stack([kept["p_0"], kept["p_1"]])
    assert len(texts) == 60 and max(len(text.split()) for text in texts) > 24, "some are truncated"
    found = asked_plainly(folder, texts)
    assert found["ours"] == []
    np.testing.assert_allclose(found["probabilities"], expected, atol=TOLERANCE, rtol=0)
    names = [("negative", "positive")[index] for index in kept["predicted"].to_pylist()]
    assert [one["label"] for one in found["piped"]] == names
    assert np.ptp(expected[:, 0]) > 100 * TOLERANCE, "texts are told apart"
    np.testing.assert_allclose([one["score"] for one in found["piped"]], expected.max(axis=1), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("method", "options"), [("lora", ()), ("lora", ("--merge",)), ("frozen", ()), ("full", ("--merge",))]
)
def test_plain_transformers_gives_the_same_predictions(
    world: World, method: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    record = exported(world, method, tmp_path / "model", *options)
    assert record.merged == (method == "lora" and bool(options))
    shutil.move(tmp_path / "model", tmp_path / "elsewhere")
    assert_same(world, method, tmp_path / "elsewhere")
    figures = next(one for cell, one in world.results("real").items() if f"--{method}--" in cell)
    assert msgspec.to_builtins(record.summary) == figures["summary"]
    assert f"Accuracy | {figures['summary']['accuracy']:.3f} [" in (tmp_path / "elsewhere/README.md").read_text()


@pytest.mark.docker
@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "merged"])
def test_where_the_host_has_none_of_the_runners_packages(
    world: World, cpu_image: BuiltImage, merge: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container, which is given the adapter, the base and the new folder."""
    monkeypatch.setenv("MOODBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(exporting, "executor_of_jobs", lambda: DockerExecutor.open("cpu", None))
    run = world.run_folder("real")
    trained = trained_cell(run, find_cell(run, "--lora--"))
    done = asyncio.run(export_cell(trained, tmp_path / "new/model", merge=merge))
    assert {path.stat().st_uid for path in done.folder.iterdir()} == {os.getuid()}
    assert done.record.files.keys() == {path.name for path in done.folder.iterdir()} - {"README.md", "moodbench.json"}
    assert_same(world, "lora", done.folder)


def test_a_damaged_adapter_leaves_nothing(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "results/real", tmp_path / "results/copy")
    [weights] = tmp_path.glob("results/copy/cells/*--lora--*/attempt-001/adapter/adapter_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    outcome = world.moodbench("export", tmp_path / "results/copy", "lora", "--to", tmp_path / "out/model")
    assert outcome.code == 2
    assert "error: " in outcome.err and "hint: " in outcome.err and "Traceback" not in outcome.err
    assert not (tmp_path / "out").exists()


def test_what_has_nothing_to_export(world: World, tmp_path: Path) -> None:
    outcome = world.moodbench("export", "real", "majority", "--to", tmp_path / "model")
    assert outcome.code == 2
    assert "is a baseline" in outcome.err
    assert not (tmp_path / "model").exists()
