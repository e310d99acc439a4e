"""What may be exported, where to, and what the card and the record say; the runner's part is in tests/runner."""

from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from harness import exporting
from harness.cli import main
from harness.errors import InputError, SetupError
from harness.executors import Answer, Capacity, Handle, Question
from harness.exporting import Exported, ExportRecord, export_cell, trained_cell
from harness.model_card import model_card
from harness.store import AttemptPaths, RunFolder
from runner.contract import (
    CellSpec,
    Choice,
    ClassFigures,
    ExportedFiles,
    ExportRequest,
    Failure,
    FetchedModel,
    LoraSpec,
    ModelSpec,
    Quality,
    Result,
    cell_name,
    encode,
    identity_of,
    read,
    slug,
    write_atomic,
)
from tests.harness.builders import cell, prepared, result

HUB = ModelSpec(alias="Tiny", kind="hub", name="org/tiny", revision="a" * 40, weights_sha256={"model.safetensors": "w"})
KEYS = ("models", "datasets", "methods", "seeds")
changed = msgspec.structs.replace


def lora(**changes: Any) -> CellSpec:
    fields: dict[str, Any] = {
        "model": HUB, "method": "lora", "lora": LoraSpec(rank=4), "dataset": prepared(), "seed": 1,
    }  # fmt: skip
    spec = CellSpec(**(fields | changes))
    identity = identity_of(spec)
    return changed(spec, identity=identity, cell=cell_name(spec, identity))


class Run:
    """A run of one finished LoRA cell, one unfinished and one baseline."""

    def __init__(self, folder: Path, spec: CellSpec | None = None) -> None:
        self.spec = spec or lora()
        self.folder = RunFolder(folder / "results" / "r")
        self.unfinished, self.baseline = lora(seed=2), cell("majority")
        self.folder.extend("r", {}, [self.spec, self.unfinished, self.baseline])
        self.attempt = self.folder.new_attempt(self.spec.cell)
        self.attempt.adapter.mkdir()
        write_atomic(self.attempt.spec, encode(self.spec))
        write_atomic(self.attempt.result, encode(result(self.spec)))

    def refusal(self, name: str | None = None) -> InputError:
        with pytest.raises(InputError) as caught:
            trained_cell(self.folder, name or self.spec.cell)
        return caught.value


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


class Runner:
    """Answers in the runner's place, and remembers what it was asked."""

    name = "native"
    image_digest = None
    capacity = Capacity(cores=(0,))

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.requests: list[ExportRequest] = []
        self.failure: Failure | None = None
        self.is_closed = False

    def refusal(self, spec: CellSpec) -> Failure | None:
        return None

    async def start(self, attempt: AttemptPaths, spec: CellSpec) -> Handle:
        raise NotImplementedError

    async def ask(self, question: Question) -> Answer:
        self.questions.append(question)
        verb, request, _, out, *rest = question.arguments
        if verb == "fetch":
            model = changed(read(Path(request), ModelSpec), folder="/models/tiny")
            write_atomic(Path(out), encode(FetchedModel(model=model)))
            return Answer(0, b"", b"")
        self.requests.append(read(Path(request), ExportRequest))
        (Path(rest[1]) / "model.safetensors").write_text("weights")
        if self.failure is not None:
            write_atomic(Path(out), encode(self.failure))
            return Answer(1, b"", b"")
        files = ExportedFiles(files={"model.safetensors": "1" * 64}, merged=self.requests[-1].merge, max_length=96)
        write_atomic(Path(out), encode(files))
        return Answer(0, b"", b"")

    async def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runner:
    runner = Runner()

    async def executor() -> Runner:
        return runner

    monkeypatch.setattr(exporting, "executor_of_jobs", executor)
    monkeypatch.setenv("MOODBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return runner


def exported(run: Run, to: Path, *, merge: bool = False) -> Exported:
    return asyncio.run(export_cell(trained_cell(run.folder, run.spec.cell), to, merge=merge))


# --- what may be exported -----------------------------------------------------------------------


def test_a_finished_cell_may_be(run: Run) -> None:
    found = trained_cell(run.folder, run.spec.cell)
    assert (found.run, found.attempt.number, found.spec, found.result) == ("r", 1, run.spec, result(run.spec))


def test_a_baseline_may_not(run: Run) -> None:
    refused = run.refusal(run.baseline.cell)
    assert "is a baseline" in refused.message
    assert run.spec.cell in refused.hint


def test_what_has_no_result_may_not(run: Run) -> None:
    refused = run.refusal(run.unfinished.cell)
    assert "no result" in refused.message
    assert "moodbench resume r" in refused.hint


def test_a_model_that_could_not_be_had(run: Run) -> None:
    failure = Failure(cell="gone--reviews--lora--s1", kind="model", message="no such model", hint="another")
    run.folder.extend("r", {}, [], [failure])
    assert "no result" in run.refusal(failure.cell).message


def test_a_folder_that_is_gone_or_none_of_the_runners(run: Run, tmp_path: Path) -> None:
    run.attempt.adapter.rmdir()
    assert "is gone" in run.refusal().message
    assert "--no-reuse" in run.refusal().hint
    run.attempt.adapter.symlink_to(tmp_path)
    assert "is gone" in run.refusal().message


@pytest.mark.parametrize(
    "spoil",
    [
        lambda attempt, spec: attempt.result.write_text("{"),
        lambda attempt, spec: attempt.spec.write_text("{"),
        lambda attempt, spec: attempt.spec.unlink(),
        lambda attempt, spec: write_atomic(attempt.spec, encode(lora(seed=9))),
        lambda attempt, spec: write_atomic(
            attempt.spec, encode(changed(spec, dataset=changed(spec.dataset, label_names=("good", "bad"))))
        ),
        lambda attempt, spec: write_atomic(
            attempt.spec, encode(changed(spec, model=changed(spec.model, trust_remote_code=True)))
        ),
    ],
    ids=["no JSON", "no spec", "gone", "another cell", "other labels", "code of its own"],
)
def test_what_a_cell_may_have_laid_there(run: Run, spoil: Callable[[AttemptPaths, CellSpec], object]) -> None:
    spoil(run.attempt, run.spec)
    assert "cannot be exported" in run.refusal().message


def test_code_that_the_user_trusts(tmp_path: Path) -> None:
    run = Run(tmp_path, lora(model=changed(HUB, trust_remote_code=True)))
    assert trained_cell(run.folder, run.spec.cell).spec.model.trust_remote_code


# --- where to -----------------------------------------------------------------------------------


def test_the_folder_is_whole_or_not_there(run: Run, runner: Runner, tmp_path: Path) -> None:
    runner.failure = Failure(cell="c", kind="model", message="no weights", hint="train again")
    with pytest.raises(InputError, match="no weights"):
        exported(run, tmp_path / "out/model")
    runner.failure = changed(runner.failure, kind="disk_full", message="full")
    with pytest.raises(SetupError, match="full"):
        exported(run, tmp_path / "out/model")
    assert not (tmp_path / "out").exists()
    assert runner.is_closed
    runner.failure = None
    (tmp_path / "out/model").mkdir(parents=True)
    assert exported(run, tmp_path / "out/model").folder == tmp_path / "out/model"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]
    names = {path.name for path in (tmp_path / "out/model").iterdir()}
    assert names == {"model.safetensors", "README.md", "moodbench.json"}


def test_what_is_filled_meanwhile_stays(run: Run, runner: Runner, tmp_path: Path) -> None:
    found = trained_cell(run.folder, run.spec.cell)
    to = tmp_path / "to"
    asking = runner.ask

    async def ask(question: Question) -> Answer:
        to.mkdir(exist_ok=True)
        (to / "mine.txt").write_text("mine")
        return await asking(question)

    runner.ask = ask  # type: ignore[method-assign]
    with pytest.raises(SetupError) as caught:
        asyncio.run(export_cell(found, to, merge=False))
    assert "--to" in caught.value.hint
    assert [path.name for path in to.iterdir()] == ["mine.txt"]
    assert not list(tmp_path.glob(".moodbench*"))


# --- what the runner is asked -------------------------------------------------------------------


def test_an_adapters_base_is_looked_for_anew(run: Run, runner: Runner, tmp_path: Path) -> None:
    done = exported(run, tmp_path / "to", merge=True)
    fetched, asked = runner.questions
    assert (fetched.arguments[0], fetched.network) == ("fetch", True)
    assert (asked.arguments[0], asked.network) == ("export", False)
    assert asked.reads == (run.attempt.adapter,)
    (unfinished,) = asked.writes
    assert (unfinished.parent.parent, asked.arguments[-2:]) == (tmp_path, ("--to", str(unfinished)))
    (request,) = runner.requests
    assert (request.merge, request.adapter) == (True, str(run.attempt.adapter))
    assert request.spec == changed(run.spec, model=changed(HUB, folder="/models/tiny"))
    assert done.notes == ()


def test_a_whole_models_base_is_not(tmp_path: Path, runner: Runner) -> None:
    run = Run(tmp_path, lora(method="full", lora=None))
    done = exported(run, tmp_path / "to", merge=True)
    assert [question.arguments[0] for question in runner.questions] == ["export"]
    assert "nothing to merge" in done.notes[0]


def test_a_model_in_a_folder_is_found_from_anywhere(tmp_path: Path, runner: Runner) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    run = Run(tmp_path, lora(model=ModelSpec(alias="Mine", kind="path", name="mine", folder=str(mine))))
    done = exported(run, tmp_path / "to")
    assert runner.questions[0].reads == (mine,)
    assert "needs peft and transformers 5.18 or newer" in done.notes[0]
    assert (done.record.model.name, done.record.model.folder) == ("", None)
    assert str(tmp_path) not in (tmp_path / "to/README.md").read_text() + (tmp_path / "to/moodbench.json").read_text()


# --- the record and the card ----------------------------------------------------------------------


def test_the_record(run: Run, runner: Runner, tmp_path: Path) -> None:
    done = exported(run, tmp_path / "to")
    record = read(tmp_path / "to/moodbench.json", ExportRecord)
    assert record == done.record
    assert (record.run, record.cell, record.identity, record.attempt) == ("r", run.spec.cell, run.spec.identity, 1)
    assert (record.max_length, record.lora, record.merged) == (96, LoraSpec(rank=4), False)
    assert record.files == {"model.safetensors": "1" * 64}
    assert record.summary == result(run.spec).summary


def record(**changes: Any) -> ExportRecord:
    spec = lora()
    told = result(spec)
    fields: dict[str, Any] = {
        "version": "1.2.3", "run": "r", "cell": spec.cell, "identity": spec.identity, "attempt": 1, "model": HUB,
        "method": "lora", "lora": spec.lora, "merged": False, "dataset": "reviews", "fingerprint": "f" * 64,
        "label_names": ("bad", "good"), "max_length": 96, "seed": 1, "training": spec.training,
        "summary": told.summary, "provenance": told.provenance, "files": {},
    }  # fmt: skip
    return ExportRecord(**(fields | changes))


def scored(**changes: Any) -> Result:
    quality = Quality(
        rows=200,
        metrics={"accuracy": 0.9, "f1": 0.85, "precision": 0.84, "recall": 0.86, "mcc": None},
        per_class=(ClassFigures(label="bad", precision=0.9, recall=0.8, f1=0.847, support=100),),
        confusion=((90, 10), (10, 90)),
    )
    return changed(result(lora()), **({"quality": quality} | changes))


def front(card: str) -> dict[str, Any]:
    start, text, _ = card.split("---\n", 2)
    assert start == ""
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_the_card_as_the_hub_reads_it() -> None:
    from huggingface_hub import ModelCard

    found = ModelCard(model_card(record(), scored())).data
    assert (found.base_model, found.pipeline_tag, found.library_name) == (
        "org/tiny", "text-classification", "transformers",
    )  # fmt: skip
    assert found.eval_results is not None
    assert {one.dataset_name for one in found.eval_results} == {"reviews"}
    told = {one.metric_type: one.metric_value for one in found.eval_results}
    assert told == {"accuracy": 0.9, "f1": 0.85, "precision": 0.84, "recall": 0.86}
    assert found.license is None and found.language is None, "nobody told"


def test_the_card_says_what_was_measured() -> None:
    card = model_card(
        record(), scored(effective={"dtype": Choice(value="bfloat16", reason="a GPU")}, warnings=("hot",))
    )
    for words in (
        "| Accuracy | 0.900 [0.851–0.934] |",  # Wilson's for 180 of 200, by the formula of 1927
        "| F1 macro | 0.850 |",
        "| bad | 0.900 | 0.800 | 0.847 | 100 |",
        "| Latency p50 | 2.50 ms |",
        "| LoRA | rank 4, alpha 16, dropout 0.05 |",
        "| computed in | bfloat16 |",
        f"| fingerprint of the dataset | {'f' * 64} |",
        "On the 200 examples of the test split",
        "after 96 tokens",
        "seed 1",
        "- hot",
    ):
        assert words in card
    assert "MCC" not in card, "it has no value"


@pytest.mark.parametrize(
    ("changes", "words", "no_words"),
    [
        ({}, "torch, peft and transformers 5.18 or newer", "merged into"),
        ({"merged": True}, "merged into the weights", "peft."),
        ({"method": "full", "lora": None}, "torch and transformers 5.", "adapter"),
        ({"model": changed(HUB, trust_remote_code=True)}, "trust_remote_code=True", "merged into"),
    ],
)
def test_the_card_says_how_to_load_it(changes: dict[str, Any], words: str, no_words: str) -> None:
    card = model_card(record(**changes), scored())
    assert words in card and no_words not in card
    assert ("peft" in front(card)["tags"]) == ("peft and transformers 5.18 or newer" in card)


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        ({"transformers": "5.17.0", "peft": "0.18"}, "transformers>=5.18 is required"),
        ({"transformers": "5.18.0"}, "'peft' distribution was not found"),
        ({"transformers": "5.18.0", "peft": "0.18"}, None),
        ({"transformers": "6.0", "peft": "0.18"}, None),
    ],
)
def test_what_the_card_says_to_run_stops_where_the_adapter_would_be_passed_over(
    installed: dict[str, str], words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers", reason="the runner's packages are not installed")
    code = model_card(record(), scored()).split("```python\n")[1].split("```")[0]
    before, loading, _ = code.partition("classify = ")
    assert loading

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    script = compile(before, "card", "exec")
    exec(compile("import transformers.utils.versions, transformers.pipelines", "before", "exec"), {})
    monkeypatch.setattr(importlib.metadata, "version", version)
    if words is None:
        exec(script, {})
        return
    with pytest.raises(ImportError) as caught:
        exec(script, {})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (HUB, f"org/tiny of the Hugging Face hub at revision {'a' * 40}"),
        (
            ModelSpec(alias="M", kind="package", name="gt-x", revision="0.1"),
            "the model in the Python package gt-x at version 0.1",
        ),
        (ModelSpec(alias="M", kind="path", name=""), "a model kept in a folder, there called M"),
        (ModelSpec(alias="M", kind="scratch", name="m"), "random weights"),
    ],
)
def test_the_card_names_the_base(model: ModelSpec, words: str) -> None:
    card = model_card(record(model=model), scored())
    assert f"from {words}." in card
    assert ("base_model" in front(card)) == (model.kind == "hub"), "only what the hub can find"


def test_names_are_no_markup() -> None:
    nasty = "<script>alert(1)</script> | **x** [a](javascript:b) `c`\n---\nlicense: mit\n# big"
    spec = lora(dataset=prepared(name=nasty))
    card = model_card(
        record(dataset=nasty, label_names=(nasty, "good"), run=nasty, model=changed(HUB, alias=nasty, name=nasty)),
        scored(cell=spec.cell, warnings=(nasty,)),
    )
    found = front(card)
    assert "license" not in found
    assert found["base_model"].startswith("<script>") and "\n" not in found["base_model"]
    page = rendered(card)
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt; | **x** [a](javascript:b) `c` --- license: mit # big") == 8
    assert not any(mark in page for mark in ("<script", "<a ", "<strong>x", "<code>c"))
    assert page.count("<h1>") == 1
    assert rows_of(page) == rows_of(rendered(model_card(record(), scored(warnings=("hot",)))))


def rendered(card: str) -> str:
    """HTML as a page of Markdown becomes it, raw HTML in it included."""
    from markdown_it import MarkdownIt

    return str(MarkdownIt("commonmark").enable("table").render(card.split("---\n", 2)[2]))


def rows_of(page: str) -> tuple[int, int]:
    return page.count("<tr>"), page.count("<td>")


def test_a_model_whose_quality_is_not_known() -> None:
    card = model_card(record(), scored(quality=None))
    assert "was not measured" in card
    assert front(card)["model-index"][0]["results"][0]["metrics"] == []


# --- the command ----------------------------------------------------------------------------------


def command(run: Run, *arguments: str | Path) -> int:
    return main(["export", str(run.folder.folder), *map(str, arguments)])


def test_the_command(run: Run, runner: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(run, "tiny--reviews--lora--s1", "--to", tmp_path / "to") == 0
    told = capsys.readouterr()
    assert told.out.replace("\n", "") == str(tmp_path / "to")
    assert "transformers 5.18 or newer" in told.err.replace("\n", " ")
    assert command(run, "tiny--reviews--lora--s1", "--to", tmp_path / "to") == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert len(runner.requests) == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("tiny", "may be any of 2 cells"),
        ("tinny--reviews--lora--s1", "nearest names: tiny--reviews--lora--s1"),
        ("majority", "is a baseline"),
    ],
)
def test_a_cell_that_is_not_meant(
    run: Run, given: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(run, given, "--to", tmp_path / "to") == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_no_such_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "nowhere", "x", "--to", str(tmp_path / "to"), "--results", str(tmp_path)]) == 2
    assert "unknown run 'nowhere'" in capsys.readouterr().err


def test_the_examples_name_cells_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--help"]) == 0
    told = capsys.readouterr().out
    assert "peft and transformers 5.18 or newer" in told
    demo = yaml.safe_load((Path(__file__).parents[2] / "config/suites/demo.yaml").read_text())
    cells = [
        f"{slug(model)}--{dataset}--{method}--s{seed}"
        for model, dataset, method, seed in itertools.product(*(demo[key] for key in KEYS))
    ]
    assert re.findall(r"export demo (\S+)", told)[0] in cells
