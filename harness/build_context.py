"""What an image is built from: the recipes, the runner's source, and what a build takes from its surroundings.

An image's tag carries the hash of everything that decides its content: its Dockerfile, what it takes from `images/`,
and the runner's source. A wheelhouse, certificates and index URLs do not count and never reach the image.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, get_args
from urllib.parse import urlsplit

import runner
from harness.errors import SetupError

ImageKind = Literal["cpu", "cuda"]
KINDS: tuple[ImageKind, ...] = get_args(ImageKind)

REPOSITORY = "moodbench-runner"
RECIPES: dict[ImageKind, tuple[str, ...]] = {
    "cpu": ("Dockerfile.cpu", "images/install.py", "images/constraints.txt", "images/requirements.txt"),
    "cuda": (
        "Dockerfile.cuda",
        "images/install.py",
        "images/constraints.txt",
        "images/requirements.txt",
        "images/requirements-cuda.txt",
    ),
}
RUNNER_SUFFIXES = (".py", ".csv")


@dataclass(frozen=True)
class BuildInputs:
    """What a build takes from its surroundings. None: the Dockerfile's own default, or nothing."""

    base_image: str | None = None
    wheelhouse: Path | None = None
    ca_bundle: Path | None = None
    index_url: str | None = field(default=None, repr=False)  # may hold a password
    torch_index_url: str | None = field(default=None, repr=False)
    torch_build: ImageKind | None = None  # cpu for the cuda image: a stand-in that only shows that it builds

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> BuildInputs:
        wheelhouse = environment.get("PIP_FIND_LINKS")
        ca_bundle = environment.get("SSL_CERT_FILE")
        return cls(
            base_image=environment.get("MOODBENCH_BASE_IMAGE") or None,
            wheelhouse=Path(wheelhouse) if wheelhouse and Path(wheelhouse).is_dir() else None,
            ca_bundle=Path(ca_bundle) if ca_bundle and Path(ca_bundle).is_file() else None,
            index_url=environment.get("PIP_INDEX_URL") or None,
        )

    def described(self) -> list[str]:
        """One line an input that is given; passwords in URLs are left out."""
        given = {
            "base image": self.base_image,
            "wheelhouse": self.wheelhouse,
            "CA bundle": self.ca_bundle,
            "package index": self.index_url and without_password(self.index_url),
            "torch index": self.torch_index_url and without_password(self.torch_index_url),
        }
        return [f"{name}: {value}" for name, value in given.items() if value]


def image_name(kind: ImageKind, *, standin: bool = False) -> str:
    """`moodbench-runner:cpu-3f9c01ab24de`. A stand-in has another name, so that no cell takes it for the real one."""
    return f"{REPOSITORY}:{kind}-{'standin-' if standin else ''}{source_hash(kind)[:12]}"


def source_hash(kind: ImageKind) -> str:
    total = hashlib.sha256()
    for name, content in sorted(source_files(kind).items()):
        total.update(f"{name}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()


def source_files(kind: ImageKind) -> dict[str, bytes]:
    """Everything that decides an image, by its path in the build context."""
    files = {name: (recipe_folder() / name).read_bytes() for name in RECIPES[kind]}
    assert runner.__file__ is not None
    source = Path(runner.__file__).resolve().parent
    for path in sorted(source.rglob("*")):
        if path.suffix in RUNNER_SUFFIXES and path.is_file() and "__pycache__" not in path.parts:
            files[f"runner/{path.relative_to(source).as_posix()}"] = path.read_bytes()
    return files


def recipe_folder() -> Path:
    """The Dockerfiles and `images/`: at the root of a checkout, inside `harness` in an installed wheel."""
    here = Path(__file__).resolve().parent
    installed = here / "context"
    return installed if installed.is_dir() else here.parent


def without_password(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:  # whoever opens it says so
        return "(not a URL)"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def write_context(target: IO[bytes], kind: ImageKind, inputs: BuildInputs, machine: str) -> None:
    """The build context as a tar: the sources, and the wheels and certificates that are given, nothing else."""
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, content in source_files(kind).items():
            _add(tar, name, io.BytesIO(content), len(content))
        folder = tarfile.TarInfo("images/inputs")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
        if inputs.ca_bundle:
            with _readable(inputs.ca_bundle, "CA bundle") as content_file:
                _add(tar, "images/inputs/ca.pem", content_file, inputs.ca_bundle.stat().st_size)
        for wheel in useful_wheels(inputs.wheelhouse, kind, inputs.torch_build or kind, machine):
            with _readable(wheel, "wheel") as content_file:
                _add(tar, f"images/inputs/wheels/{wheel.name}", content_file, wheel.stat().st_size)


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes], size: int) -> None:
    entry = tarfile.TarInfo(name)  # owner, time and mode are the same on every machine
    entry.size, entry.mode = size, 0o644
    tar.addfile(entry, content)


@contextmanager
def _readable(path: Path, what: str) -> Iterator[IO[bytes]]:
    try:
        opened = path.open("rb")
    except OSError as error:
        raise SetupError(
            f"the {what} {path} cannot be read: {error.strerror}", "correct its path or its mode"
        ) from None
    with opened:
        yield opened


def useful_wheels(wheelhouse: Path | None, kind: ImageKind, torch_build: ImageKind, machine: str) -> list[Path]:
    """Those that the constraints name, for Linux on that machine, and of torch the build that is wanted."""
    if wheelhouse is None:
        return []
    pins = read_pins((recipe_folder() / "images" / "constraints.txt").read_text())
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    useful = []
    for path in sorted(wheelhouse.glob("*.whl")):
        distribution, _, rest = path.stem.partition("-")
        version, platform = rest.partition("-")[0], rest.rpartition("-")[2]
        public, _, local = version.partition("+")
        name = normal_name(distribution)
        fits = platform == "any" or ("linux" in platform and platform.endswith(machine))
        other_torch = name == "torch" and local and local.startswith("cu") != (torch_build == "cuda")
        if fits and pins.get(name) == public and not other_torch:
            useful.append(path)
    return useful


def read_pins(constraints: str) -> dict[str, str]:
    """Normalised name -> version."""
    lines = (line.partition("#")[0].strip() for line in constraints.splitlines())
    return {normal_name(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def normal_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
