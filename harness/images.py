"""Build, find and remove the images that cells run in.

An image is current when its tag is that of today's sources (harness.build_context); the base image is recorded in a
label. Every function blocks; callers on an event loop use threads. All raise SetupError.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.build_context import (
    KINDS,
    REPOSITORY,
    BuildInputs,
    ImageKind,
    image_name,
    source_hash,
    without_password,
    write_context,
)
from harness.build_output import NO_SPACE, disk_full, follow
from harness.errors import SetupError
from harness.store import writing

if TYPE_CHECKING:
    import docker

DEFAULT_BASE = "python:3.12-slim"  # also in both Dockerfiles
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # also in Dockerfile.cpu, whose layers a stand-in then shares
DEFAULT_SOCKET = "unix:///var/run/docker.sock"
IMAGE_LABEL = "dev.moodbench.image"  # cpu, cuda, or cuda-standin
SOURCE_LABEL = "dev.moodbench.source"
BASE_LABEL = "dev.moodbench.base"
STAGE_LABEL = "dev.moodbench.stage"  # what a build leaves behind, so that the next one takes seconds

NEEDED_GB = {"cpu": 5.0, "cuda": 20.0}  # cpu: measured, 4.9 at most; cuda: from the sizes of its wheels
BUILD_TIMEOUT_S = 3600  # between two lines of output: a slow download says nothing meanwhile


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

    host = engine_address()
    _knock(host, timeout_s)
    try:
        client = docker.DockerClient(base_url=host, timeout=timeout_s, max_pool_size=64)
        client.ping()
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise _not_answering(host, error) from error
    client.api.timeout = 60
    return client


def engine_address() -> str:
    host = os.environ.get("DOCKER_HOST") or _context_address() or DEFAULT_SOCKET
    if not host.startswith("unix://"):
        raise SetupError(
            f"the Docker engine at {without_password(host)} is reached over a network",
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
        if NO_SPACE.search(str(error)):
            raise disk_full() from error
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
        found = _inspected(client, {"label": IMAGE_LABEL})
        images = [_built(name, image.attrs) for image in found for name in _names(image)]
    return sorted(images, key=lambda image: image.created, reverse=True)


def _inspected(client: docker.DockerClient, filters: dict[str, Any]) -> list[Any]:
    """One that somebody removes meanwhile is left out; the SDK's own list would fail."""
    import docker

    found = []
    for entry in client.api.images(filters=filters):
        with suppress(docker.errors.ImageNotFound):
            found.append(client.images.get(entry["Id"]))
    return found


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
        with writing(Path(tempfile.gettempdir())):
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
        follow(output, tell)
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


# Removing


def find_unneeded(client: docker.DockerClient, *, everything: bool) -> list[Unneeded]:
    """Old images and what old builds left; with `everything` also the current images and the build cache."""
    with _engine_errors("listing images"):
        used = {container["ImageID"] for container in client.api.containers(all=True)}
        stages = _inspected(client, {"label": STAGE_LABEL, "dangling": True})
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
