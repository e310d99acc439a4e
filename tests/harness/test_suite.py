from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness import suite as suites
from harness.catalog import DatasetEntry, ModelEntry
from harness.errors import InputError
from harness.suite import (
    CellPlace,
    Job,
    Selection,
    Suite,
    build_suite,
    evaluation_spec,
    jobs_of,
    resolve_cell,
    training_spec,
)
from runner.contract import Choice, CodeVersion, Limits, SplitSizes, TrainingSpec
from tests.harness.builders import prepared

SMALL = "models: [majority, BERT-tiny]\ndatasets: [sst2]\n"


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Suite]:
    """build(yaml, **selection): the suite of a file `mine.yaml` in tmp_path."""

    def make(text: str = SMALL, **selection: object) -> Suite:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return build_suite(str(path), Selection(**selection))  # type: ignore[arg-type]

    return make


def cells(suite: Suite) -> list[tuple[str, str, str, int]]:
    return [(job.model.alias, job.request.name, job.method, job.seed) for job in jobs_of(suite)]


def training(entry: ModelEntry, suite: Suite, method: str = "lora", rows: int = 10_000) -> TrainingSpec:
    return training_spec(Job(model=entry, request=suite.requests[0], method=method, seed=1), suite, "cpu", rows)  # type: ignore[arg-type]


def test_expansion_has_seeds_outermost(build: Callable[..., Suite]) -> None:
    suite = build("models: [BERT-tiny]\ndatasets: [sst2, imdb]\nmethods: [lora, full]\nseeds: [2, 1]")
    assert cells(suite) == [
        ("BERT-tiny", dataset, method, seed)
        for seed in (2, 1)
        for dataset in ("sst2", "imdb")
        for method in ("lora", "full")
    ]


def test_baselines_ignore_methods_and_random_weights_train_in_full(build: Callable[..., Suite]) -> None:
    suite = build("models: [majority, tfidf-logreg, scratch-tiny]\ndatasets: [sst2]\nmethods: [lora, frozen]")
    assert [cell[2] for cell in cells(suite)] == ["none", "none", "full"]


def test_inline_datasets_start_from_the_suites_folder(build: Callable[..., Suite], tmp_path: Path) -> None:
    suite = build(
        "models: [majority]\n"
        "datasets:\n"
        "  - starter-sentiment\n"
        "  - {name: own, train: data/train.csv, test: ../dev.csv, text_column: text, label_column: label,\n"
        "     sizes: {train: null, validation: 2000, test: null}}\n"
    )
    request = suite.requests[1]
    assert request.files == {"train": str(tmp_path / "data/train.csv"), "test": str(tmp_path.parent / "dev.csv")}
    assert request.sizes == SplitSizes(train=None, validation=2000, test=None)
    assert (request.text_column, request.label_column) == ("text", "label")


def test_model_folders_start_from_the_suite_or_from_here(
    build: Callable[..., Suite], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    text = "models: ['path:weights/a', {alias: B, path: weights/b}]\ndatasets: [sst2]"
    assert [model.path for model in build(text).models] == [str(tmp_path / "weights" / name) for name in "ab"]
    chosen = build(text, models=["path:weights/c", "hub:org/d"])
    assert [model.spec().name for model in chosen.models] == [str(here / "weights/c"), "org/d"]
    assert [model.alias for model in chosen.models] == ["c", "d"]


@pytest.mark.parametrize("by", ["option", "environment"])
def test_smoke_sizes_and_epochs(build: Callable[..., Suite], monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    if by == "environment":
        monkeypatch.setenv("MOODBENCH_TEST_MODE", "1")
    suite = build(SMALL + "training: {epochs: 9}\nevaluation: {min_requests: 500}", smoke=by == "option")
    assert suite.smoke
    assert [request.sizes for request in suite.requests] == [SplitSizes(train=50, validation=20, test=20)]
    assert training(suite.models[1], suite).epochs == 1
    assert evaluation_spec(suite).min_requests == 20


@pytest.mark.parametrize("value", ["", "0"])
def test_test_mode_can_be_off(build: Callable[..., Suite], monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MOODBENCH_TEST_MODE", value)
    assert not suites.test_mode()
    assert build().requests[0].sizes == SplitSizes()


@pytest.mark.parametrize(
    ("batch", "accumulation"),
    [(1, 32), (2, 16), (4, 8), (6, 6), (8, 4), (12, 4), (16, 4), (24, 2), (32, 2), (48, 1), (64, 1)],
)
def test_a_step_sees_32_to_64_examples(build: Callable[..., Suite], batch: int, accumulation: int) -> None:
    spec = training(ModelEntry(alias="m", name="a/b"), build(SMALL + f"training: {{batch_size: {batch}}}"))
    assert (spec.batch_size, spec.accumulation) == (batch, accumulation)
    assert 32 <= spec.batch_size * spec.accumulation <= 64


@pytest.mark.parametrize(
    ("given", "batch", "accumulation"),
    [
        ("batch_size: 16, effective_batch_size: 128", 16, 8),
        ("batch_size: 16, effective_batch_size: 8", 8, 1),
        ("effective_batch_size: 16", 16, 1),  # of BERT-tiny's own 16 on a CPU
    ],
)
def test_another_effective_batch(build: Callable[..., Suite], given: str, batch: int, accumulation: int) -> None:
    suite = build(SMALL + f"training: {{{given}}}")
    spec = training(suite.models[1], suite)
    assert (spec.batch_size, spec.accumulation) == (batch, accumulation)


@pytest.mark.parametrize(
    ("method", "model_rate", "suite_rate", "rate"),
    [
        ("lora", "", "", 2e-4),
        ("full", "", "", 2e-5),
        ("frozen", "", "", 1e-3),
        ("lora", "3e-3", "", 3e-3),
        ("full", "3e-3", "5e-5", 5e-5),
    ],
)
def test_later_layers_win(
    build: Callable[..., Suite], method: str, model_rate: str, suite_rate: str, rate: float
) -> None:
    own = f", training: {{learning_rate: {model_rate}}}" if model_rate else ""
    last = f"\ntraining: {{learning_rate: {suite_rate}}}" if suite_rate else ""
    suite = build(f"models: [{{alias: M, name: a/b{own}}}]\ndatasets: [sst2]{last}")
    assert training(suite.models[0], suite, method).learning_rate == rate


def test_random_weights_have_a_rate_of_their_own(build: Callable[..., Suite]) -> None:
    suite = build("models: [scratch-tiny]\ndatasets: [sst2]")
    assert training(suite.models[0], suite, "full").learning_rate == 5e-4


def test_the_command_line_replaces_what_the_suite_says(build: Callable[..., Suite], tmp_path: Path) -> None:
    suite = build(models=["majority"], datasets=["imdb"], methods=["frozen"], seeds=[7])
    assert cells(suite) == [("majority", "imdb", "none", 7)]
    assert suite.methods == ("frozen",)
    data = DatasetEntry(name="own", file=str(tmp_path / "own.csv"))
    assert [request.name for request in build(data=data).requests] == ["own"]
    assert [request.name for request in build(data=data, datasets=["imdb"]).requests] == ["own", "imdb"]


def test_without_a_suite_the_demo_lends_its_models(tmp_path: Path) -> None:
    data = DatasetEntry(name="own", file=str(tmp_path / "own.csv"))
    suite = build_suite(None, Selection(data=data))
    assert [model.alias for model in suite.models] == ["majority", "tfidf-logreg", "scratch-tiny", "MiniLM-L6"]
    assert (suite.name, suite.seeds, suite.methods) == ("own", (42,), ("lora",))


def test_a_file_named_like_a_suite_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").write_text("not a suite")
    assert len(build_suite("demo", Selection()).models) == 4


@pytest.mark.parametrize(
    ("text", "selection", "parts"),
    [
        (SMALL, {"models": ["MiniLM-L7"]}, ["unknown model 'MiniLM-L7'", "'MiniLM-L6'"]),
        (SMALL, {"datasets": ["sst3"]}, ["unknown dataset 'sst3'", "'sst2'"]),
        (SMALL, {"methods": ["lorra"]}, ["unknown method 'lorra'", "'lora'"]),
        (SMALL, {"methods": ["qlora"]}, ["'qlora' cannot be run by this version"]),
        (SMALL + "sedes: [1]", {}, ["mine.yaml: unknown key 'sedes'", "'seeds'"]),
        (SMALL + "training: {learning_rat: 1}", {}, ["training.learning_rat", "'learning_rate'"]),
        (SMALL + "training: {batch_size: 0}", {}, ["training.batch_size"]),
        (SMALL + "training: {warmup_fraction: 1.5}", {}, ["training.warmup_fraction"]),
        (SMALL + "seeds: [-1]", {}, ["seeds lie between 0"]),
        (SMALL + "seeds: [4294967296]", {}, ["seeds lie between 0"]),
        (SMALL + "seeds: []", {}, ["names no seed"]),
        (SMALL + "seeds: [1, 1]", {}, ["the seed 1 twice"]),
        (SMALL + "methods: [lora, lora]", {}, ["the method lora twice"]),
        ("models: [BERT-tiny, bert-TINY]\ndatasets: [sst2]", {}, ["the model BERT-tiny twice"]),
        ("models: [BERT-tiny]\ndatasets: [sst2, SST2]", {}, ["the dataset sst2 twice"]),
        ("models: []\ndatasets: [sst2]", {}, ["names no model"]),
        ("models: [{alias: A}]\ndatasets: [sst2]", {}, ["exactly one source"]),
        ("models: [majority]\ndatasets: [{name: d}]", {}, ["exactly one source"]),
        ("datasets: [sst2]", {}, ["mine.yaml", "`models`"]),
        ("- majority", {}, ["a suite is a mapping"]),
    ],
)
def test_refused(build: Callable[..., Suite], text: str, selection: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        build(text, **selection)
    for part in parts:
        assert part in caught.value.message
    assert caught.value.hint


def test_suites_that_cannot_be_found() -> None:
    with pytest.raises(InputError, match="unknown suite 'demmo'"):
        build_suite("demmo", Selection())
    with pytest.raises(InputError, match="no such suite file"):
        build_suite("absent.yaml", Selection())
    with pytest.raises(InputError, match="nothing to run"):
        build_suite(None, Selection(models=["majority"]))


def test_a_small_dataset_takes_the_smallest_steps(build: Callable[..., Suite]) -> None:
    """200 steps of 64 examples are 4,267 rows three times over: below that a step sees 32."""
    suite = build()
    entry = suite.models[1]
    enough, few = (training(entry, suite, rows=rows) for rows in (4267, 4266))
    assert (enough.batch_size * enough.accumulation, few.batch_size * few.accumulation) == (64, 32)
    assert enough.min_steps == few.min_steps == 200
    asked = build(SMALL + "training: {effective_batch_size: 16}\n")
    assert training(entry, asked, rows=100).batch_size == 16


def test_a_resolved_cell(build: Callable[..., Suite]) -> None:
    suite = build(seeds=[7])
    baseline, encoder = (
        resolve_cell(
            job,
            suite,
            model=job.model.spec(),
            dataset=prepared("sst2"),
            device=Choice(value="cuda", reason="a GPU was found"),
            place=CellPlace("docker", "asked for", "sha256:1", Limits(memory_mb=2048), threads=3),
            code=CodeVersion(),
        )
        for job in jobs_of(suite)
    )
    assert encoder.cell == f"bert-tiny--sst2--lora--s7--cuda--{encoder.identity[:6]}"
    assert (encoder.device, encoder.device_reason, encoder.threads, encoder.lease) == (
        "cuda",
        "a GPU was found",
        3,
        True,
    )
    assert (encoder.executor, encoder.executor_reason, encoder.image_digest) == ("docker", "asked for", "sha256:1")
    assert encoder.limits == Limits(memory_mb=2048)
    assert encoder.lora is not None
    assert (encoder.lora.rank, encoder.training.batch_size) == (4, 32), "few rows: the smallest step"
    assert baseline.cell == f"majority--sst2--none--s7--{baseline.identity[:6]}"
    assert (baseline.device, baseline.device_reason) == ("cpu", "baselines run on the CPU")
    assert baseline.lora is None
