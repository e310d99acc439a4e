"""Real child processes of the runner answer; stand-ins where it cannot be made to answer badly."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from harness.catalog import DatasetEntry, ModelEntry
from harness.errors import InputError, SetupError
from harness.executors import Answer, Question, native
from harness.executors.choice import Executors
from harness.executors.native import NativeExecutor
from harness.preflight import Preflight, choose_device, preflight
from harness.resolve import resolve
from harness.scratch import cache_folder
from harness.suite import Selection, Suite, build_suite
from runner.contract import DeviceInfo, FetchedModel, Limits, ModelSpec, encode

INFO = DeviceInfo(device="cuda", device_reason="a GPU was found", available=("cpu", "cuda"))


QUICK_INFO = """
import sys
from runner.__main__ import main
if sys.argv[1] != "info":
    sys.exit(main(sys.argv[1:]))
print('{"device": "cpu", "device_reason": "", "available": ["cpu"]}')
"""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """stand_in(code): Python code in the place of the runner."""

    def use(code: str) -> None:
        monkeypatch.setattr(native, "runner_command", lambda *arguments: [sys.executable, "-c", code, *arguments])

    return use


@pytest.fixture
def quick_info(stand_in: Callable[[str], None]) -> None:
    """The real runner, but for `info`, which would load torch."""
    stand_in(QUICK_INFO)


def answer(suite: Suite, device: str = "auto") -> tuple[Preflight, list[str]]:
    notes: list[str] = []
    native = NativeExecutor()
    return asyncio.run(preflight(suite, device, Executors(native, native, "asked for"), notes.append)), notes


def starter(*models: str, **selection: object) -> Suite:
    return build_suite(None, Selection(models=models, datasets=["starter-sentiment"], smoke=True, **selection))  # type: ignore[arg-type]


def reviews(folder: Path, name: str = "reviews", rows: int = 60) -> DatasetEntry:
    path = folder / f"{name}.csv"
    lines = [f"text {i} is {i % 2},{'good' if i % 2 else 'bad'}" for i in range(rows)]
    path.write_text("\n".join(["review,mood", *lines]))
    return DatasetEntry(name=name, file=str(path))


def test_the_starter_and_the_embedded_models() -> None:
    found, _ = answer(starter("majority", "MiniLM-L6"))
    assert (found.device.value, found.failures) == (found.info.device, [])
    prepared = found.datasets["starter-sentiment"]
    assert {split: info.rows for split, info in prepared.splits.items()} == {"train": 50, "validation": 20, "test": 20}
    assert Path(prepared.folder).is_relative_to(cache_folder())
    encoder = found.models["MiniLM-L6"]
    assert encoder.folder is not None
    assert (Path(encoder.folder) / "model.safetensors").is_file()
    assert encoder.weights_sha256["model.safetensors"].startswith("53aa5117")


@pytest.mark.usefixtures("quick_info")
def test_guesses_are_told(tmp_path: Path) -> None:
    suite = build_suite(None, Selection(models=["majority"], data=reviews(tmp_path)))
    found, notes = answer(suite)
    assert found.datasets["reviews"].text_column == "review"
    assert any(note.startswith("reviews: ") and "mood" in note for note in notes)


@pytest.mark.usefixtures("quick_info")
def test_a_model_folder_that_is_missing_is_the_users_fault(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="/absent does not exist"):
        answer(starter("majority", f"path:{tmp_path}/absent"))


@pytest.mark.usefixtures("quick_info")
def test_data_that_cannot_be_used_is_the_users_fault(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("text,label\na good thing,good\nanother,good\n")
    data = DatasetEntry(name="one", file=str(tmp_path / "one.csv"))
    with pytest.raises(InputError, match="the same label, 'good'"):
        answer(build_suite(None, Selection(models=["majority"], data=data)))


@pytest.mark.usefixtures("quick_info")
def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        answer(starter(f"path:{tmp_path}/first", f"path:{tmp_path}/second"))
    assert "first" in caught.value.message
    assert "second" in caught.value.message


@pytest.mark.usefixtures("quick_info")
def test_a_hub_model_offline_takes_only_its_own_cells_out() -> None:
    suite = starter("majority", "BERT-tiny")
    found, _ = answer(suite)
    assert found.missing_models["BERT-tiny"].kind == "environment"
    specs, unavailable = resolve(
        suite, found, Executors(NativeExecutor(), NativeExecutor(), "asked for"), Limits(), threads=1
    )
    assert [spec.model.alias for spec in specs] == ["majority"]
    (plan, failure) = unavailable[0]
    assert (plan.model, failure.cell) == ("BERT-tiny", plan.cell)


@pytest.mark.usefixtures("quick_info")
def test_nothing_but_a_hub_model_offline() -> None:
    with pytest.raises(SetupError, match="BERT-tiny"):
        answer(starter("BERT-tiny"))


@pytest.mark.usefixtures("quick_info")
def test_a_dataset_and_a_model_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    suite = build_suite(None, Selection(models=["majority", "hub:org/reviews"], data=reviews(tmp_path)))
    found, _ = answer(suite)
    assert "reviews" in found.datasets
    assert found.missing("majority", "reviews") is None
    assert found.missing("reviews", "reviews") is found.missing_models["reviews"]


@pytest.mark.usefixtures("quick_info")
def test_names_that_look_alike_as_files_do_not_mix(tmp_path: Path) -> None:
    long = "a" * 60
    first, second = reviews(tmp_path, f"{long}-1", rows=60), reviews(tmp_path, f"{long}-2", rows=80)
    suite = build_suite(None, Selection(models=["majority"], data=first))
    both = Suite(
        name="s", models=(ModelEntry(alias="majority", baseline="majority"),), methods=("lora",), seeds=(1,),
        requests=(*suite.requests, second.request(tmp_path)),
    )  # fmt: skip
    found, _ = answer(both)
    rows = [sum(info.rows for info in found.datasets[name].splits.values()) for name in (first.name, second.name)]
    assert rows == [60, 80]


@pytest.mark.parametrize(
    ("asked", "value", "reason"), [("auto", "cuda", "a GPU was found"), ("cpu", "cpu", "asked for")]
)
def test_choosing_a_device(asked: str, value: str, reason: str) -> None:
    choice = choose_device(asked, INFO)
    assert (choice.value, choice.reason) == (value, reason)


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(SetupError, match="'mps' was asked for, but this machine offers cpu, cuda"):
        choose_device("mps", INFO)


# --- a runner that cannot run cells, and stopping -----------------------------------------------


def test_missing_packages_are_named(stand_in: Callable[[str], None]) -> None:
    stand_in(
        "import sys; from runner.__main__ import main\n"
        "if sys.argv[1] != 'info': sys.exit(main(sys.argv[1:]))\n"
        'print(\'{"device": "cpu", "device_reason": "", "available": [], "missing": ["torch", "peft"]}\')'
    )
    with pytest.raises(SetupError, match="torch, peft not installed") as caught:
        answer(starter("majority"))
    assert "moodbench[runner]" in caught.value.hint


class SlowToEnd(NativeExecutor):
    def __init__(self) -> None:
        self.running: set[str] = set()

    async def ask(self, question: Question) -> Answer:
        verb = question.arguments[0]
        self.running.add(verb)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep({"info": 0.0, "fetch": 0.05, "prepare": 0.1}[verb])
            self.running.remove(verb)
            raise
        return Answer(0, b"", b"")


def test_nothing_is_left_running_when_stopped() -> None:
    """Ending a child takes a moment; every one is waited for, not only the first that has ended."""
    slow = SlowToEnd()

    async def stop_while_asking() -> None:
        suite = starter("hub:org/name")
        task = asyncio.ensure_future(preflight(suite, "auto", Executors(slow, slow, ""), lambda _: None))
        while not slow.running >= {"info", "fetch", "prepare"}:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(stop_while_asking())
    assert slow.running == set()


def test_cells_answer_for_devices_jobs_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is asked about devices cannot see what the others are given."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    asked: dict[str, list[Question]] = {"cells": [], "jobs": []}

    class Noting(NativeExecutor):
        def __init__(self, role: str) -> None:
            self._role = role

        async def ask(self, question: Question) -> Answer:
            asked[self._role].append(question)
            if question.arguments[0] != "info":
                return await super().ask(question)
            await asyncio.sleep(0.3)  # until the others have what they need
            assert not [path for path in question.folder.rglob("*") if path.name != ".lock"]
            return Answer(0, b'{"device": "cpu", "device_reason": "", "available": ["cpu"]}', b"")

    executors = Executors(Noting("cells"), Noting("jobs"), "")
    asyncio.run(preflight(starter("majority", "BERT-tiny"), "auto", executors, lambda _: None))
    assert [question.arguments for question in asked["cells"]] == [("info",)]
    assert sorted(question.arguments[0] for question in asked["jobs"]) == ["fetch", "prepare"]
    assert not {question.folder for question in asked["cells"]} & {question.folder for question in asked["jobs"]}


def test_notes_on_models_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Telling(NativeExecutor):
        async def ask(self, question: Question) -> Answer:
            answer = await super().ask(question)
            if question.arguments[0] == "fetch":
                model = msgspec.json.decode(Path(question.arguments[1]).read_bytes(), type=ModelSpec)
                fetched = FetchedModel(model=model, notes=("a conversion was taken",))
                Path(question.arguments[3]).write_bytes(encode(fetched))
                return Answer(0, b"", b"")
            return answer

    notes: list[str] = []
    telling = Telling()
    asyncio.run(preflight(starter("BERT-tiny"), "auto", Executors(telling, telling, ""), notes.append))
    assert "BERT-tiny: a conversion was taken" in notes
