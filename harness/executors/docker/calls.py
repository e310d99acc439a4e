"""Calls of the SDK: what it raises as what it means, and what killed hosts left in the engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from harness.build_context import ImageKind
from harness.errors import MoodBenchError
from harness.executors.containers import (
    HOST_LABEL,
    LOCK_LABEL,
    StaleContainer,
    described,
    gone,
    host_id,
    image_missing,
    lock_of,
    refused,
)
from harness.executors.mounts import take_back
from harness.scratch import is_held
from harness.store import RunFolder


@contextmanager
def asking(kind: ImageKind = "cpu") -> Iterator[None]:
    """What the SDK raises, as what it means; `kind`: of an image that may be missing. Raises ExecutorError."""
    try:
        yield
    except MoodBenchError:
        raise
    except ImageNotFound as error:
        raise image_missing(said(error), kind) from error
    except APIError as error:
        raise refused(said(error)) from error
    except (DockerException, requests.RequestException, OSError) as error:
        raise gone(type(error).__name__) from error


def said(error: APIError) -> str:
    return str(error.explanation or error).strip()


def remove(api: docker.APIClient, container: str) -> bool:
    """End and remove it; whether it is gone. Somebody else may be removing it."""
    try:
        api.remove_container(container, force=True, v=True)
    except APIError as error:
        return isinstance(error, NotFound) or error.status_code == 409
    except (DockerException, requests.RequestException):
        return False
    return True


def stale_containers(client: docker.DockerClient, own: Path | None = None) -> list[StaleContainer]:
    """Containers of this host whose lock nobody holds; `own` is a lock of the caller, which started none yet. Raises
    ExecutorError."""
    with asking():
        entries = client.api.containers(all=True, filters={"label": f"{HOST_LABEL}={host_id()}"})
    found = []
    for entry in entries:
        lock = Path(entry["Labels"].get(LOCK_LABEL, "/nowhere"))
        if lock == own or not is_held(lock):
            found.append(described(entry))
    return found


def remove_container(client: docker.DockerClient, stale: StaleContainer) -> bool:
    """Also gives what root's cells wrote back to root. Whether it is gone."""
    removed = remove(client.api, stale.id)
    if removed and stale.attempt is not None and os.getuid() == 0:
        take_back(stale.attempt)
    return removed


def sweep(client: docker.DockerClient, run: RunFolder) -> None:
    """Remove what killed hosts left; the lock of `run` is held by the caller. Raises ExecutorError."""
    for stale in stale_containers(client, lock_of(run)):
        remove_container(client, stale)
    if os.getuid() == 0:  # also where the container was gone already
        for attempt in run.folder.glob("cells/*/attempt-*"):
            take_back(attempt)
