"""Images: what decides a tag, what a build sends, what its errors say; and with an engine, what an image holds."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import socket
import subprocess
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement

from harness import build_context, images
from harness.build_context import (
    BuildInputs,
    ImageKind,
    image_name,
    normal_name,
    read_pins,
    source_files,
    useful_wheels,
    write_context,
)
from harness.build_output import build_error
from harness.errors import ExitCode, SetupError
from harness.images import (
    BuiltImage,
    Unneeded,
    build_image,
    connect,
    find_image,
    find_unneeded,
    list_images,
    prune_images,
)
from tests.docker import one_build_at_a_time
from tests.support import World

if TYPE_CHECKING:
    from docker import DockerClient

ROOT = Path(__file__).resolve().parents[2]
KINDS: list[ImageKind] = ["cpu", "cuda"]
HOST_PACKAGES_OF_A_CELL = {"msgspec", "numpy", "pandas", "psutil", "pyarrow"}


def context(kind: ImageKind, inputs: BuildInputs, machine: str = "x86_64") -> dict[str, bytes]:
    buffer = io.BytesIO()
    write_context(buffer, kind, inputs, machine)
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as tar:
        members = {member.name: tar.extractfile(member) for member in tar.getmembers()}
    return {name: content.read() if content else b"" for name, content in members.items()}


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The sources of the CPU image, to be changed."""
    files = source_files("cpu")
    monkeypatch.setattr(build_context, "source_files", lambda kind: files)
    return files


# Tags


@pytest.mark.parametrize(
    "name", ["runner/cell.py", "Dockerfile.cpu", "images/constraints.txt", "runner/data/starter.csv"]
)
def test_tag_changes_with_every_source(sources: dict[str, bytes], name: str) -> None:
    before = image_name("cpu")
    sources[name] += b"\n# changed\n"
    assert image_name("cpu") != before


def test_tag_depends_on_names_of_files_too(sources: dict[str, bytes]) -> None:
    before = image_name("cpu")
    sources["runner/other.py"] = sources.pop("runner/cell.py")
    assert image_name("cpu") != before


def test_tags_of_kinds_and_standins_differ() -> None:
    names = {image_name("cpu"), image_name("cuda"), image_name("cuda", standin=True)}
    assert len(names) == 3
    assert image_name("cpu").startswith("moodbench-runner:cpu-")
    assert len(image_name("cpu").rpartition("-")[2]) == 12


def test_base_script_and_inputs_do_not_decide_a_tag() -> None:
    assert not [name for kind in KINDS for name in source_files(kind) if "base" in name.split("/") or "inputs" in name]


# The context


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    pins = read_pins((ROOT / "images/constraints.txt").read_text())
    for name in (
        f"torch-{pins['torch']}+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
        f"torch-{pins['torch']}+cu130-cp311-cp311-manylinux_2_28_x86_64.whl",
        "torch-1.0.0-cp311-cp311-manylinux_2_28_x86_64.whl",
        f"torch-{pins['torch']}-cp311-cp311-macosx_11_0_arm64.whl",
        f"scikit_learn-{pins['scikit-learn']}-cp311-cp311-manylinux_2_28_aarch64.whl",
        f"sympy-{pins['sympy']}-py3-none-any.whl",
        "someone_elses-1.0-py3-none-any.whl",
    ):
        (folder / name).write_bytes(b"wheel")
    (folder / ".env").write_text("HF_TOKEN=secret")
    return folder


def test_context_holds_sources_and_inputs_only(wheelhouse: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "certificates.crt"
    bundle.write_text("certificates")
    names = set(context("cpu", BuildInputs(wheelhouse=wheelhouse, ca_bundle=bundle)))
    inputs = {name for name in names if name.startswith("images/inputs")}
    code = {name for name in names if name.startswith("runner/")}
    pins = read_pins((ROOT / "images/constraints.txt").read_text())
    assert inputs == {
        "images/inputs",
        "images/inputs/ca.pem",
        f"images/inputs/wheels/torch-{pins['torch']}+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
        f"images/inputs/wheels/sympy-{pins['sympy']}-py3-none-any.whl",
    }
    assert {"runner/__main__.py", "runner/data/starter.csv", "runner/models/load.py"} <= code
    assert {Path(name).suffix for name in code} == {".py", ".csv"}
    recipe = {"Dockerfile.cpu", "images/install.py", "images/constraints.txt", "images/requirements.txt"}
    assert names == inputs | code | recipe


def test_context_is_the_same_everywhere() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    write_context(first, "cuda", BuildInputs(), "x86_64")
    write_context(second, "cuda", BuildInputs(), "x86_64")
    assert first.getvalue() == second.getvalue()


def test_dockerignore_lets_the_same_through() -> None:
    """A build by hand sends what ours sends (and the note in images/inputs)."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    needed = {name for kind in KINDS for name in source_files(kind) if not name.startswith("Dockerfile")}
    assert not [name for name in needed if not any(name == path or name.startswith(f"{path}/") for path in allowed)]
    assert set(allowed) - {"runner", "images/inputs"} <= needed


def test_wheels_fit_machine_and_kind(wheelhouse: Path) -> None:
    def names(kind: ImageKind, torch_build: ImageKind, machine: str) -> list[str]:
        return ["-".join(p.name.split("-")[:2]) for p in useful_wheels(wheelhouse, kind, torch_build, machine)]

    pins = read_pins((ROOT / "images/constraints.txt").read_text())
    sympy, torch = f"sympy-{pins['sympy']}", f"torch-{pins['torch']}"
    assert names("cpu", "cpu", "amd64") == [sympy, f"{torch}+cpu"]
    assert names("cuda", "cuda", "x86_64") == [sympy, f"{torch}+cu130"]
    assert names("cuda", "cpu", "x86_64") == [sympy, f"{torch}+cpu"]
    assert names("cpu", "cpu", "arm64") == [f"scikit_learn-{pins['scikit-learn']}", sympy]


def test_files_and_addresses_that_are_none_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "torch.whl").touch()
    assert useful_wheels(tmp_path, "cpu", "cpu", "x86_64") == []
    assert BuildInputs(index_url="https://user:secret[@host").described() == ["package index: (not a URL)"]


def test_unreadable_bundle_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"the CA bundle .* cannot be read"):
        context("cpu", BuildInputs(ca_bundle=tmp_path / "none.pem"))


def test_inputs_from_the_environment(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    inputs = BuildInputs.from_environment(
        {
            "PIP_FIND_LINKS": str(tmp_path),
            "SSL_CERT_FILE": str(bundle),
            "PIP_INDEX_URL": "https://me:secret@index.example/simple",
        }
    )
    assert (inputs.wheelhouse, inputs.ca_bundle) == (tmp_path, bundle)
    assert inputs.described()[-1] == "package index: https://index.example/simple"
    assert "secret" not in repr(inputs)
    nothing = {"PIP_FIND_LINKS": "https://links.example/", "SSL_CERT_FILE": str(tmp_path / "none")}
    assert BuildInputs.from_environment(nothing) == BuildInputs()


# Requirements


def requirement_names(path: str) -> set[str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / path).read_text().splitlines())
    return {normal_name(line) for line in lines if line}


def declared() -> dict[str, list[Requirement]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    host = [Requirement(line) for line in project["dependencies"]]
    extras = {name: [Requirement(line) for line in lines] for name, lines in project["optional-dependencies"].items()}
    return {"host": [need for need in host if need.name in HOST_PACKAGES_OF_A_CELL], **extras}


def test_requirements_are_those_of_the_project() -> None:
    needs = declared()
    runner = {normal_name(need.name) for need in needs["runner"]} | HOST_PACKAGES_OF_A_CELL
    assert requirement_names("images/requirements.txt") == runner
    assert requirement_names("images/requirements-cuda.txt") == {normal_name(need.name) for need in needs["cuda"]}


def test_pins_lie_within_the_bounds_of_the_project() -> None:
    pins = read_pins((ROOT / "images/constraints.txt").read_text())
    needs = declared()
    for need in [*needs["host"], *needs["runner"], *needs["cuda"]]:
        assert need.specifier.contains(pins[normal_name(need.name)]), need


# Errors


FAILED = "The command '/bin/sh -c install' returned a non-zero code: 1"


@pytest.mark.parametrize(
    ("step", "told", "error", "message", "hint"),
    [
        (
            "FROM ${BASE_IMAGE} AS build",
            [],
            "pull access denied for nosuch",
            "the base image cannot be had: pull",
            "--base",
        ),
        ("RUN install", ["write: No space left on device"], FAILED, "the disk of", "images prune"),
        ("COPY", [], "copying: no space left on device", "the disk of", "images prune"),
        (
            "RUN install",
            [
                " ---> Running in 12",
                "WARNING: SSLError(CERTIFICATE_VERIFY_FAILED)",
                "ERROR: Cannot install x",
                "ERROR: Y",
            ],
            FAILED,
            "a certificate that is not trusted (SSLError)",
            "--ca-bundle",
        ),
        (
            "RUN install",
            ["WARNING: Failed to establish a new connection: [Errno 111] refused')", "ERROR: Cannot install x"],
            FAILED,
            "cannot reach the package index: Failed to establish a new connection: [Errno 111] refused",
            "--index-url",
        ),
        (
            "RUN install",
            ["ERROR: Could not find a version that satisfies x==1", "ERROR: No matching distribution", " ---> Z"],
            FAILED,
            "cannot be installed: Could not find a version that satisfies x==1",
            "--wheelhouse",
        ),
        (
            "RUN install",
            ["ERROR: No matching distribution for torch", "error: no torch wheel of the wheelhouse fits Python 3.12"],
            FAILED,
            "cannot be installed: no torch wheel of the wheelhouse fits Python 3.12",
            "--wheelhouse",
        ),
        (
            "RUN install",
            [
                "WARNING: The repository located at mirror.local is not a trusted or secure host and is being ignored.",
                "ERROR: Could not find a version that satisfies x==1",
            ],
            FAILED,
            "does not use the package index mirror.local, because its address is not https",
            "--index-url",
        ),
        ("RUN install", ["a", "error: torch is a cuda build"], FAILED, "failed: torch is a cuda build", FAILED),
        ("RUN install", ["a", "last words"], FAILED, "failed: last words", FAILED),
        ("RUN install", ["a"], "failed to create endpoint", "failed: failed to create endpoint", "log of the Docker"),
        ("", [], "dockerfile parse error", "failed: dockerfile parse error", "log of the Docker"),
    ],
)
def test_build_errors_are_sentences(step: str, told: list[str], error: str, message: str, hint: str) -> None:
    found = build_error(f"Step 2/9 : {step}", told, error)
    assert message in found.message
    assert hint in found.hint
    assert found.exit_code == ExitCode.ENVIRONMENT


class FakeEngine:
    """As much of the SDK's client as a build needs."""

    def __init__(self, output: list[dict[str, Any]], root: str = "/nowhere") -> None:
        self.output, self.root = output, root
        self.api = self
        self.images = self

    def info(self) -> dict[str, str]:
        return {"DockerRootDir": self.root, "Architecture": "x86_64"}

    def get(self, name: str) -> Any:
        import docker

        raise docker.errors.ImageNotFound(name)

    def build(self, **arguments: Any) -> Iterator[dict[str, Any]]:
        assert arguments["custom_context"]
        yield from self.output


def test_output_is_told_line_by_line_without_escapes() -> None:
    told: list[str] = []
    engine = FakeEngine(
        [
            {"stream": "Step 1/2 : RUN x\n"},
            {"stream": "\x1b[31mre"},
            {"stream": "d\x1b[0m\nnext\r\n"},
            {"status": "Downloading", "progressDetail": {"current": 1}},
            {"status": "Pull complete"},
            {"error": "\x1b[2Jboom"},
        ]
    )
    with pytest.raises(SetupError, match=r"the build failed: .*boom"):
        build_image(engine, "cpu", BuildInputs(), told.append)
    assert told == ["Step 1/2 : RUN x", "red", "next", "Pull complete"]


def test_full_disk_is_found_before_a_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(images.NEEDED_GB, "cpu", 1e9)
    with pytest.raises(SetupError, match=r"the cpu image needs .* GB free"):
        build_image(FakeEngine([], str(tmp_path)), "cpu", BuildInputs(), print)


def test_engine_that_goes_away_is_one_sentence() -> None:
    import requests

    class Gone(FakeEngine):
        def build(self, **arguments: Any) -> Iterator[dict[str, Any]]:
            raise requests.exceptions.ConnectionError("Connection aborted")

    with pytest.raises(SetupError, match="the Docker engine stopped answering"):
        build_image(Gone([]), "cpu", BuildInputs(), print)


@contextmanager
def short_folder() -> Iterator[Path]:
    """A path of a socket holds about 100 characters; pytest's folders are longer on some systems."""
    with tempfile.TemporaryDirectory(prefix="mb") as folder:
        yield Path(folder)


def test_connect_without_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(SetupError, match="no Docker engine is running here"):
        connect()


def test_connect_where_nobody_listens_or_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as door:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/d.sock")
        door.bind(f"{folder}/d.sock")
        with pytest.raises(SetupError, match=r"does not answer: .*refused"):
            connect()
        door.listen()
        with pytest.raises(SetupError, match="does not answer"):
            connect(timeout_s=0.2)


@pytest.mark.skipif(os.getuid() == 0, reason="root may use every socket")
def test_connect_without_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    with short_folder() as folder, socket.socket(socket.AF_UNIX) as door:
        door.bind(f"{folder}/d.sock")
        (folder / "d.sock").chmod(0)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/d.sock")
        with pytest.raises(SetupError, match="you may not use"):
            connect()


def test_connect_refuses_engines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("tcp://me:secret@far.example:2375", "ssh://far.example"):
        monkeypatch.setenv("DOCKER_HOST", host)
        with pytest.raises(SetupError, match="over a network") as caught:
            connect()
        assert "secret" not in caught.value.message


def test_connect_follows_the_context(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import hashlib

    folder = tmp_path / "contexts/meta" / hashlib.sha256(b"desktop").hexdigest()
    folder.mkdir(parents=True)
    endpoint = {"docker": {"Host": f"unix://{tmp_path}/desktop.sock", "SkipTLSVerify": False}}
    (folder / "meta.json").write_text(json.dumps({"Name": "desktop", "Metadata": {}, "Endpoints": endpoint}))
    (tmp_path / "config.json").write_text(json.dumps({"currentContext": "desktop"}))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(SetupError, match=r"there is no .*/desktop.sock"):
        connect()


def test_command_without_engine_ends_with_3(tmp_path: Path) -> None:
    world = World(tmp_path)
    done = world.moodbench("images", "list", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert done.code == ExitCode.ENVIRONMENT
    assert done.err.startswith("error: no Docker engine")
    assert "hint: " in done.err


# Packaging


def test_wheel_carries_what_a_build_needs() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    carried = wheel["force-include"]
    needed = {name for kind in KINDS for name in source_files(kind) if not name.startswith("runner/")}
    assert needed <= set(carried)
    assert all(target == f"harness/context/{source}" for source, target in carried.items())
    assert all((ROOT / source).is_file() for source in carried)


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["--tag"], 2), (["--nonsense"], 2)])
def test_base_script_says_how_it_is_used(arguments: list[str], code: int) -> None:
    done = subprocess.run(
        ["sh", ROOT / "images/base/build.sh", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert "--tag IMAGE" in done.stdout + done.stderr


# With an engine

docker_test = pytest.mark.docker


@docker_test
def test_second_build_does_nothing(docker_client: DockerClient, cpu_image: BuiltImage) -> None:
    told: list[str] = []
    again = build_image(docker_client, "cpu", BuildInputs(base_image=cpu_image.base_image), told.append)
    assert again == cpu_image == find_image(docker_client, "cpu")
    assert told == [f"{cpu_image.name} is there already"]
    assert cpu_image in list_images(docker_client)


@docker_test
def test_commands_answer_on_stdout(cpu_image: BuiltImage, tmp_path: Path) -> None:
    world = World(tmp_path)
    built = world.moodbench("images", "build", MOODBENCH_BASE_IMAGE=cpu_image.base_image or "")
    assert (built.code, built.out) == (0, f"{cpu_image.name} {cpu_image.digest}\n"), built.err
    listed = world.moodbench("images", "list", "--json")
    assert [entry["digest"] for entry in json.loads(listed.out) if entry["current"]] == [cpu_image.digest]
    assert cpu_image.name in world.moodbench("images", "list").out


@docker_test
def test_image_is_small_labelled_and_not_root(docker_client: DockerClient, cpu_image: BuiltImage) -> None:
    config = docker_client.images.get(cpu_image.digest).attrs["Config"]
    assert cpu_image.current and cpu_image.kind == "cpu" and cpu_image.digest.startswith("sha256:")
    assert cpu_image.size_bytes <= 1.7e9
    assert config["User"] == "65532:65532"
    assert config["Labels"]["dev.moodbench.image"] == "cpu"
    assert config["Labels"]["dev.moodbench.source"].startswith(cpu_image.name.rpartition("-")[2])
    assert config["Entrypoint"] == ["python", "-P", "-m", "runner"]


@docker_test
def test_nothing_of_the_build_stays(docker_client: DockerClient, cpu_image: BuiltImage) -> None:
    """Neither in the history nor in a layer: index URLs, wheels, certificates, pip."""
    image = docker_client.images.get(cpu_image.digest)
    history = json.dumps(image.history())
    assert not [
        word for word in ("INDEX_URL", "TORCH_BUILD", "images/inputs", "install.py", "https://") if word in history
    ]
    base = len(docker_client.images.get(cpu_image.base_image).attrs["RootFS"]["Layers"])
    script = (
        "import pathlib; root = pathlib.Path('/'); venv = root / 'moodbench'; "
        "bad = [str(p) for pattern in ('**/*.whl', '**/ca.pem', '**/pip', '**/inputs') for p in venv.glob(pattern) "
        "if 'transformers' not in p.parts]; "
        "bad += [str(p) for p in (root / 'build', ) if p.exists()]; print(bad)"
    )
    assert in_container(docker_client, cpu_image, ["-c", script], user="0").strip() == "[]"
    added = [entry for entry in image.history() if entry["Size"]][: len(image.attrs["RootFS"]["Layers"]) - base]
    assert (
        0 < len(added) <= 4
    )  # the virtual environment, the runner, its compiled files: no layer hides another's files


IMPORTS = (
    "import torch, transformers, peft, accelerate, sklearn, datasets, kagglehub, sentencepiece, google.protobuf, "
    "pandas, pyarrow.parquet, psutil, getpass, os; from transformers import AutoModelForSequenceClassification; "
    "assert torch.version.cuda is None; print(getpass.getuser(), os.getuid())"
)


@docker_test
@pytest.mark.slow
def test_cell_works_without_network_root_or_writable_root(docker_client: DockerClient, cpu_image: BuiltImage) -> None:
    assert in_container(docker_client, cpu_image, ["-P", "-c", IMPORTS]).split() == ["cell", "4321"]
    info = json.loads(in_container(docker_client, cpu_image, ["-P", "-m", "runner", "info"]))
    assert info["device"] == "cpu"
    assert info["missing"] == []


@docker_test
@pytest.mark.slow
def test_cuda_file_builds_with_a_cpu_wheel(docker_client: DockerClient, cpu_image: BuiltImage) -> None:
    """So that Dockerfile.cuda cannot rot where no CUDA wheel is at hand; the image is never taken for the real one."""
    inputs = dataclasses.replace(BuildInputs.from_environment(), base_image=cpu_image.base_image, torch_build="cpu")
    real = find_image(docker_client, "cuda")
    with one_build_at_a_time():
        standin = build_image(docker_client, "cuda", inputs, lambda line: None)
    try:
        assert standin.standin and not standin.current
        assert find_image(docker_client, "cuda") == real
        code = "import bitsandbytes, torch; print(bitsandbytes.__version__)"
        pins = read_pins((ROOT / "images/constraints.txt").read_text())
        assert in_container(docker_client, standin, ["-P", "-c", code]).split()[-1] == pins["bitsandbytes"]
    finally:
        docker_client.images.remove(standin.name)


@docker_test
def test_prune_keeps_what_a_container_has(docker_client: DockerClient, cpu_image: BuiltImage) -> None:
    old = "moodbench-runner:cpu-0000000000ff"
    scratch = docker_client.containers.create(cpu_image.name, ["info"])
    scratch.commit("moodbench-runner", "cpu-0000000000ff")  # an image of its own: other tests use the current one
    scratch.remove()

    def find() -> Unneeded:
        (found,) = (image for image in find_unneeded(docker_client, everything=False) if image.name == old)
        return found

    container = docker_client.containers.create(old, ["info"])
    try:
        assert (find().why, find().in_use) == ("old", True)
        assert prune_images(docker_client, everything=False, chosen=[find()]) == []
        unaware = dataclasses.replace(find(), in_use=False)  # a container that was created after the list
        assert prune_images(docker_client, everything=False, chosen=[unaware]) == []
    finally:
        container.remove()
    assert prune_images(docker_client, everything=False, chosen=[find()]) == [unaware]
    assert find_image(docker_client, "cpu") == cpu_image


def in_container(client: DockerClient, image: BuiltImage, arguments: list[str], user: str = "4321:4321") -> str:
    output: bytes = client.containers.run(
        image.name,
        arguments,
        entrypoint=["python"],
        user=user,
        network_mode="none",
        read_only=True,
        tmpfs={"/tmp": ""},
        cap_drop=["ALL"],
        remove=True,
    )
    return output.decode()
