"""Build, find and remove the images that cells run in.

An image is current when its tag carries the hash of everything that decides its content: its Dockerfile, what it takes
from `images/`, and the runner's source. What a build takes from its surroundings (a wheelhouse, certificates, index
URLs) does not count and never reaches the image; the base image is recorded in a label.

Every function blocks; callers on an event loop use threads. All raise SetupError.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import socket
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, cast, get_args
from urllib.parse import urlsplit

import runner
from harness.errors import SetupError

if TYPE_CHECKING:
    import docker

ImageKind = Literal["cpu", "cuda"]
KINDS: tuple[ImageKind, ...] = get_args(ImageKind)

REPOSITORY = "moodbench-runner"
DEFAULT_BASE = "python:3.12-slim"  # also in both Dockerfiles
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # also in Dockerfile.cpu, whose layers a stand-in then shares
DEFAULT_SOCKET = "unix:///var/run/docker.sock"
IMAGE_LABEL = "dev.moodbench.image"  # cpu, cuda, or cuda-standin
SOURCE_LABEL = "dev.moodbench.source"
BASE_LABEL = "dev.moodbench.base"
STAGE_LABEL = "dev.moodbench.stage"  # what a build leaves behind, so that the next one takes seconds

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
NEEDED_GB = {"cpu": 5.0, "cuda": 20.0}  # cpu: measured, 4.9 at most; cuda: from the sizes of its wheels
BUILD_TIMEOUT_S = 3600  # between two lines of output: a slow download says nothing meanwhile


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
            "package index": self.index_url and _without_password(self.index_url),
            "torch index": self.torch_index_url and _without_password(self.torch_index_url),
        }
        return [f"{name}: {value}" for name, value in given.items() if value]


@dataclass(frozen=True)
class BuiltImage:
    name: str
    kind: ImageKind
    digest: str  # sha256:… of the image
    size_bytes: int
    created: str
    current: bool
    base_image: str | None = None
    standin: bool = False


@dataclass(frozen=True)
class Unneeded:
    """An image that prune may remove."""

    name: str
    reference: str  # what to remove: a tag, or an id where there is none
    size_bytes: int
    why: str
    in_use: bool


# The engine


def connect(timeout_s: float = 10) -> docker.DockerClient:
    """The local engine: of DOCKER_HOST, else of Docker's current context, else of the usual socket."""
    import docker
    import requests

    host = _engine_address()
    _knock(host, timeout_s)
    try:
        client = docker.DockerClient(base_url=host, timeout=timeout_s, max_pool_size=64)
        client.ping()
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise _not_answering(host, error) from error
    client.api.timeout = 60
    return client


def _engine_address() -> str:
    host = os.environ.get("DOCKER_HOST") or _context_address() or DEFAULT_SOCKET
    if not host.startswith("unix://"):
        raise SetupError(
            f"the Docker engine at {_without_password(host)} is reached over a network",
            "use an engine on this machine (DOCKER_HOST=unix://...), because cells share folders with it; "
            "or use --executor native",
        )
    return host


def _context_address() -> str | None:
    from docker.context import ContextAPI

    try:
        context = ContextAPI.get_context(os.environ.get("DOCKER_CONTEXT"))
        host = context.Host if context is not None and context.Name != "default" else None
    except Exception as error:  # the SDK lets whatever is wrong in a file of contexts through
        raise SetupError(
            f"Docker's context cannot be read: {error}", "run `docker context use default`, or set DOCKER_HOST"
        ) from error
    return host


def _knock(host: str, timeout_s: float) -> None:
    """Connect once by hand: the SDK wraps the reason in several layers of text."""
    path = host.removeprefix("unix://")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.settimeout(timeout_s)
            door.connect(path)
    except FileNotFoundError:
        raise SetupError(
            f"no Docker engine is running here: there is no {path}",
            "install or start Docker, or set DOCKER_HOST; or use --executor native",
        ) from None
    except PermissionError:
        raise SetupError(
            f"you may not use the Docker engine at {path}",
            "run `sudo usermod -aG docker $USER` and log in again; or use --executor native",
        ) from None
    except OSError as error:
        raise _not_answering(host, error) from error


def _not_answering(host: str, error: Exception) -> SetupError:
    return SetupError(
        f"the Docker engine at {host} does not answer: {_short(error)}",
        "start or restart Docker (for example `sudo systemctl restart docker`); or use --executor native",
    )


@contextmanager
def _engine_errors(doing: str) -> Iterator[None]:
    import docker
    import requests

    try:
        yield
    except docker.errors.APIError as error:
        if _NO_SPACE.search(str(error)):
            raise _disk_full() from error
        raise SetupError(
            f"{doing} failed: {error.explanation or _short(error)}", "see the log of the Docker engine"
        ) from error
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise SetupError(
            f"{doing} failed, the Docker engine stopped answering: {_short(error)}",
            "check that Docker runs (`docker info`), then run the same command again",
        ) from error


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


# Names and sources


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
    files = {name: (_recipe_folder() / name).read_bytes() for name in RECIPES[kind]}
    assert runner.__file__ is not None
    source = Path(runner.__file__).resolve().parent
    for path in sorted(source.rglob("*")):
        if path.suffix in RUNNER_SUFFIXES and path.is_file() and "__pycache__" not in path.parts:
            files[f"runner/{path.relative_to(source).as_posix()}"] = path.read_bytes()
    return files


def _recipe_folder() -> Path:
    """The Dockerfiles and `images/`: at the root of a checkout, inside `harness` in an installed wheel."""
    here = Path(__file__).resolve().parent
    installed = here / "context"
    return installed if installed.is_dir() else here.parent


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


# Finding


def find_image(client: docker.DockerClient, kind: ImageKind) -> BuiltImage | None:
    """The current image of that kind, if it has been built."""
    import docker

    name = image_name(kind)
    with _engine_errors("looking for the image"):
        try:
            return _built(name, client.images.get(name).attrs)
        except docker.errors.ImageNotFound:
            return None


def list_images(client: docker.DockerClient) -> list[BuiltImage]:
    """All images of ours, current and old, one for each name; the newest first."""
    with _engine_errors("listing images"):
        found = client.images.list(filters={"label": IMAGE_LABEL})
        images = [_built(name, image.attrs) for image in found for name in _names(image)]
    return sorted(images, key=lambda image: image.created, reverse=True)


def _names(image: Any) -> list[str]:
    tags = [tag for tag in image.tags if tag.startswith(f"{REPOSITORY}:")]
    return tags or ([] if image.tags else [image.id.removeprefix("sha256:")[:12]])


def _built(name: str, attributes: Mapping[str, Any]) -> BuiltImage:
    labels = attributes["Config"].get("Labels") or {}
    kind, _, rest = labels.get(IMAGE_LABEL, "cpu").partition("-")
    return BuiltImage(
        name=name,
        kind=cast(ImageKind, kind),
        digest=attributes["Id"],
        size_bytes=attributes["Size"],
        created=attributes["Created"],
        current=kind in KINDS and name == image_name(cast(ImageKind, kind)),
        base_image=labels.get(BASE_LABEL),
        standin=rest == "standin",
    )


# Building


def build_image(
    client: docker.DockerClient,
    kind: ImageKind,
    inputs: BuildInputs,
    tell: Callable[[str], None],
    *,
    force: bool = False,
) -> BuiltImage:
    """Build the image unless it is there already; `tell` gets every line of the build's output."""
    standin = (inputs.torch_build or kind) != kind
    name = image_name(kind, standin=standin)
    present = None if standin else find_image(client, kind)
    if present and not force and inputs.base_image in (None, present.base_image):
        tell(f"{name} is there already")
        return present
    _check_disk(client, "cpu" if standin else kind)
    with _engine_errors("the build"), tempfile.TemporaryFile() as context:
        write_context(context, kind, inputs, client.info()["Architecture"])
        context.seek(0)
        output = client.api.build(
            fileobj=context,
            custom_context=True,
            dockerfile=f"Dockerfile.{kind}",
            tag=name,
            buildargs=_arguments(inputs),
            labels={
                IMAGE_LABEL: f"{kind}-standin" if standin else kind,
                SOURCE_LABEL: source_hash(kind),
                BASE_LABEL: inputs.base_image or DEFAULT_BASE,
            },
            nocache=force,
            rm=True,
            forcerm=True,
            timeout=BUILD_TIMEOUT_S,
            decode=True,
        )
        _follow(output, tell)
        return _built(name, client.images.get(name).attrs)


def _arguments(inputs: BuildInputs) -> dict[str, str]:
    arguments = {
        "BASE_IMAGE": inputs.base_image,
        "INDEX_URL": inputs.index_url,
        "TORCH_INDEX_URL": inputs.torch_index_url or (TORCH_CPU_INDEX if inputs.torch_build == "cpu" else None),
        "TORCH_BUILD": inputs.torch_build,
    }
    return {name: value for name, value in arguments.items() if value}


def _check_disk(client: docker.DockerClient, kind: ImageKind) -> None:
    """Before, because a full disk harms more than this build. An engine in a virtual machine hides its disk."""
    with _engine_errors("asking for the engine's folder"):
        folder = Path(client.info().get("DockerRootDir") or "/nowhere")
    try:
        free_gb = shutil.disk_usage(folder).free / 1e9
    except OSError:
        return
    if free_gb < NEEDED_GB[kind]:
        raise SetupError(
            f"the {kind} image needs {NEEDED_GB[kind]} GB while it is built, and {folder} has {free_gb:.1f} GB free",
            "free some space: `moodbench images prune` removes old images",
        )


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
    pins = read_pins((_recipe_folder() / "images" / "constraints.txt").read_text())
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    useful = []
    for path in sorted(wheelhouse.glob("*.whl")):
        distribution, version, *_, platform = path.stem.split("-")
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


# The build's output

_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|.)")
_CHATTER = re.compile(r"^\s*(Step \d|-+>|Removing intermediate|Successfully |\s*$)")
_NO_SPACE = re.compile(r"no space left on device", re.IGNORECASE)
_CERTIFICATE = re.compile(r"CERTIFICATE_VERIFY_FAILED|SSLError|x509: [^'\")]*", re.IGNORECASE)
_UNREACHABLE = re.compile(
    r"Failed to establish a new connection(: [^'\")]*)?|Temporary failure in name resolution|Connection refused"
    r"|(Connect|Read) ?timed? ?out|Max retries exceeded",
    re.IGNORECASE,
)
_NOT_FOUND = re.compile(r"No matching distribution|Could not find a version|HTTP error|no torch wheel", re.IGNORECASE)


def _follow(output: Iterable[Mapping[str, Any]], tell: Callable[[str], None]) -> None:
    """Pass every line on. Raises SetupError with the last line that says something."""
    from harness.display.words import clean

    step, told, rest = "", [""], ""
    for message in output:
        if "error" in message:
            raise build_error(step, told, clean(_ESCAPES.sub("", str(message["error"]))))
        status = message.get("status") if not message.get("progressDetail") else None
        rest += message.get("stream") or (f"{status}\n" if status else "")
        *lines, rest = re.split(r"[\r\n]+", rest)
        for line in (clean(_ESCAPES.sub("", line))[:2000].rstrip() for line in lines):
            if not line:
                continue
            step = line if line.startswith("Step ") else step
            told = [*told[-50:], line]
            tell(line)


def build_error(step: str, told: list[str], error: str) -> SetupError:
    """The sentence and remedy for a build that failed in `step` after the lines `told`."""
    if _NO_SPACE.search("\n".join([error, *told])):
        return _disk_full()
    if " : FROM " in step:
        return SetupError(
            f"the base image cannot be had: {error}",
            "name one that this machine has or can pull: --base-image IMAGE; without a registry, build one from Debian "
            f"packages with {_recipe_folder() / 'images/base/build.sh'}",
        )
    if "non-zero code" not in error:
        return SetupError(f"the build failed: {error}", "see the log of the Docker engine")
    return _command_failed(told, error)


def _command_failed(told: list[str], error: str) -> SetupError:
    telling = [line for line in told if line and not _CHATTER.match(line)]
    ours = [line for line in telling if line.startswith("error: ")][-1:]  # of images/install.py
    pips = [line for line in telling if line.startswith("ERROR: ")][:1]  # its first says what, the others where to read
    cause = (ours or pips or telling[-1:] or [error])[0].removeprefix("error: ").removeprefix("ERROR: ")
    text = "\n".join(telling)
    if found := _CERTIFICATE.search(text):
        return SetupError(
            f"the package index presents a certificate that is not trusted ({found[0]})",
            "give the certificates of your network with --ca-bundle FILE",
        )
    if not ours and (found := _UNREACHABLE.search(text)):
        return SetupError(
            f"the build cannot reach the package index: {found[0]}",
            "check that containers have network, or name another: --index-url, --torch-index-url, --wheelhouse",
        )
    if _NOT_FOUND.search(text):
        return SetupError(
            f"the packages of the image cannot be installed: {cause}",
            "name an index or a folder that has them: --index-url, --torch-index-url, --wheelhouse",
        )
    return SetupError(f"the build failed: {cause}", f"the output above says more ({error})")


def _disk_full() -> SetupError:
    return SetupError(
        "the disk of the Docker engine is full",
        "free some space: `moodbench images prune` removes old images, `docker system df` shows the rest",
    )


# Removing


def find_unneeded(client: docker.DockerClient, *, everything: bool) -> list[Unneeded]:
    """Old images and what old builds left; with `everything` also the current images and the build cache."""
    with _engine_errors("listing images"):
        used = {container["ImageID"] for container in client.api.containers(all=True)}
        stages = client.images.list(filters={"label": STAGE_LABEL, "dangling": True})
    unneeded = [
        Unneeded(
            name=image.name,
            reference=image.name,
            size_bytes=image.size_bytes,
            why="current" if image.current else "stand-in" if image.standin else "old",
            in_use=image.digest in used,
        )
        for image in list_images(client)
        if everything or not image.current
    ]
    seen: set[str] = set()
    for stage in sorted(stages, key=lambda stage: cast(str, stage.attrs["Created"]), reverse=True):
        kind = stage.labels[STAGE_LABEL]
        if everything or kind in seen | {"unfinished"}:  # the newest of each kind is what makes the next build fast
            name = stage.id.removeprefix("sha256:")[:12]
            unneeded.append(Unneeded(name, stage.id, stage.attrs["Size"], "build cache", stage.id in used))
        seen.add(kind)
    return unneeded


def prune_images(
    client: docker.DockerClient, *, everything: bool, chosen: Iterable[Unneeded] | None = None
) -> list[Unneeded]:
    """Remove what `find_unneeded` finds (or of that only `chosen`); an image with a container stays. Returns what
    was removed."""
    import docker

    removed = []
    for image in find_unneeded(client, everything=everything) if chosen is None else chosen:
        if image.in_use:
            continue
        with _engine_errors(f"removing {image.name}"):
            try:
                client.images.remove(image.reference)  # never by force: the engine refuses where a container has it
            except docker.errors.ImageNotFound:
                pass  # somebody else was faster
            except docker.errors.APIError as error:
                if error.status_code != 409:
                    raise
                continue
        removed.append(image)
    return removed
