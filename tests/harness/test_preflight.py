"""Real child processes of the runner answer; stand-ins where it cannot be made to answer badly."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import preflight as preflights
from harness.catalog import DatasetEntry, ModelEntry
from harness.errors import InputError, SetupError
from harness.preflight import Preflight, cache_folder, choose_device, device_info, preflight, prepare_one
from harness.runs import resolve
from harness.suite import Selection, Suite, build_suite
from runner.contract import DeviceInfo

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
        monkeypatch.setattr(preflights, "runner_command", lambda *arguments: [sys.executable, "-c", code, *arguments])

    return use


@pytest.fixture
def quick_info(stand_in: Callable[[str], None]) -> None:
    """The real runner, but for `info`, which would load torch."""
    stand_in(QUICK_INFO)


def answer(suite: Suite, device: str = "auto") -> tuple[Preflight, list[str]]:
    notes: list[str] = []
    return asyncio.run(preflight(suite, device, notes.append)), notes


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
    specs, unavailable = resolve(suite, found, threads=1)
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


def test_one_dataset_alone(tmp_path: Path) -> None:
    assert asyncio.run(prepare_one(reviews(tmp_path).request(tmp_path))).name == "reviews"
    with pytest.raises(InputError):
        asyncio.run(prepare_one(DatasetEntry(name="d", file="absent.csv").request(tmp_path)))
    with pytest.raises(SetupError):
        asyncio.run(prepare_one(DatasetEntry(name="d", hub="org/absent").request(tmp_path)))


@pytest.mark.parametrize(
    ("asked", "value", "reason"), [("auto", "cuda", "a GPU was found"), ("cpu", "cpu", "asked for")]
)
def test_choosing_a_device(asked: str, value: str, reason: str) -> None:
    choice = choose_device(asked, INFO)
    assert (choice.value, choice.reason) == (value, reason)


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(SetupError, match="'mps' was asked for, but this machine offers cpu, cuda"):
        choose_device("mps", INFO)


@pytest.mark.parametrize(
    ("own", "base", "folder"),
    [("/own", "/base", "/own"), ("", "/base", "/base/moodbench"), ("", "", "HOME/.cache/moodbench")],
)
def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str, base: str, folder: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in (("MOODBENCH_CACHE", own), ("XDG_CACHE_HOME", base)):
        monkeypatch.setenv(name, value)
    assert str(cache_folder()) == folder.replace("HOME", str(tmp_path))


# --- a runner that does not answer ------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("raise ImportError('no module')", "ImportError: no module"),
        ("print('a banner of some library')", "cannot be read"),
        ("import os; os.kill(os.getpid(), 9)", "does not start"),
    ],
)
def test_no_device_info(stand_in: Callable[[str], None], code: str, part: str) -> None:
    stand_in(code)
    with pytest.raises(SetupError, match=part):
        asyncio.run(device_info())


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("raise ImportError('no module')", "ImportError: no module"),
        ("", "exit code 0"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9"),
        ("import sys; open(sys.argv[4], 'w').write('{')", "exit code 0"),
    ],
)
def test_no_answer(stand_in: Callable[[str], None], tmp_path: Path, code: str, part: str) -> None:
    stand_in(code)
    with pytest.raises(SetupError) as caught:
        asyncio.run(prepare_one(reviews(tmp_path).request(tmp_path)))
    assert "could not prepare 'reviews'" in caught.value.message
    assert part in caught.value.message


def test_missing_packages_are_named(stand_in: Callable[[str], None]) -> None:
    stand_in(
        "import sys; from runner.__main__ import main\n"
        "if sys.argv[1] != 'info': sys.exit(main(sys.argv[1:]))\n"
        'print(\'{"device": "cpu", "device_reason": "", "available": [], "missing": ["torch", "peft"]}\')'
    )
    with pytest.raises(SetupError, match="torch, peft not installed") as caught:
        answer(starter("majority"))
    assert "moodbench[runner]" in caught.value.hint


def test_nothing_is_left_running_when_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ending a child takes a moment; every one is waited for, not only the first that has ended."""
    running: set[str] = set()

    async def slow_to_end(verb: str, *_: str) -> tuple[int, bytes, bytes]:
        running.add(verb)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep({"info": 0.0, "fetch": 0.05, "prepare": 0.1}[verb])
            running.remove(verb)
            raise
        return 0, b"", b""

    async def stop_while_asking() -> set[str]:
        task = asyncio.ensure_future(preflight(starter("majority"), "auto", lambda _: None))
        while not running >= {"info", "fetch"}:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return set(running)

    monkeypatch.setattr(preflights, "_child", slow_to_end)
    assert asyncio.run(stop_while_asking()) == set()
