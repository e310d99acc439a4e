"""Every YAML file that is shipped loads and makes sense. Run by `make check`, so it needs no torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.catalog import load_catalog, read_datasets, read_models, shipped_config
from harness.strict import load_yaml
from harness.suite import Selection, build_suite, evaluation_spec, jobs_of, training_spec

FILES = sorted(shipped_config().rglob("*.yaml"))
SUITES = [path.stem for path in FILES if path.parent.name == "suites"]
READERS = {"models.yaml": read_models, "datasets.yaml": read_datasets}


def test_the_folder_holds_what_the_catalogue_reads() -> None:
    names = {str(path.relative_to(shipped_config())) for path in FILES}
    assert {"models.yaml", "datasets.yaml", "training.yaml", "evaluation.yaml", "suites/demo.yaml"} <= names
    assert {name for name in names if "/" not in name} == {*READERS, "training.yaml", "evaluation.yaml"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(shipped_config())))
def test_every_file_is_read_by_its_reader(path: Path) -> None:
    if path.name in READERS:
        assert READERS[path.name](path)
    elif path.parent.name == "suites":
        assert load_catalog().suites[path.stem] == path
        assert build_suite(path.stem, Selection()) == build_suite(str(path), Selection())
    else:
        assert load_yaml(path)
        assert getattr(load_catalog(), path.stem)


@pytest.mark.parametrize("smoke", [False, True], ids=["whole", "smoke"])
@pytest.mark.parametrize("name", SUITES)
def test_every_suite_builds(name: str, smoke: bool) -> None:
    suite = build_suite(name, Selection(smoke=smoke))
    for job in jobs_of(suite):
        training = training_spec(job, suite, "cpu", 10_000)
        assert training.epochs >= 1
        asked = suite.training.effective_batch_size
        examples = training.batch_size * training.accumulation
        assert examples == asked if asked else 32 <= examples <= 64
    assert evaluation_spec(suite).min_requests <= evaluation_spec(suite).max_requests


def test_demo_needs_no_network() -> None:
    suite = build_suite("demo", Selection())
    assert {model.kind for model in suite.models} <= {"baseline", "scratch", "package"}
    assert {request.source for request in suite.requests} == {"embedded"}


def test_hyper_parameters_of_the_facts() -> None:
    suite = build_suite(None, Selection(models=["BERT-base"], datasets=["starter-sentiment"]))
    spec = training_spec(jobs_of(suite)[0], suite, "mps", 10_000)
    assert (spec.epochs, spec.learning_rate, spec.weight_decay) == (3, 2e-4, 0.01)
    assert (spec.warmup_fraction, spec.warmup_max_steps, spec.max_grad_norm) == (0.1, 500, 1.0)
    assert (spec.batch_size, spec.accumulation) == (16, 4)
    assert (spec.adam_beta1, spec.adam_beta2, spec.adam_epsilon) == (0.9, 0.999, 1e-8)
    assert (spec.eval_every_steps, spec.evals_per_epoch, spec.patience, spec.min_delta) == (500, 3, 3, 0.001)
    evaluation = load_catalog().evaluation.defaults
    assert (evaluation.warmup_requests, evaluation.min_requests, evaluation.throughput_texts) == (10, 100, 1000)
    assert evaluation.throughput_batch_sizes == (1, 4, 8, 16, 32)
