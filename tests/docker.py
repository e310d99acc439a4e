"""Fixtures for tests with the real engine. Without one they skip; under MOODBENCH_REQUIRE_DOCKER=1 they fail.

The image is built from what the environment gives: MOODBENCH_BASE_IMAGE, PIP_FIND_LINKS, SSL_CERT_FILE, PIP_INDEX_URL.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.build_context import BuildInputs
from harness.errors import SetupError
from harness.images import BuiltImage, build_image, connect

if TYPE_CHECKING:
    from docker import DockerClient


@pytest.fixture(scope="session")
def docker_client() -> Iterator[DockerClient]:
    with skip_unless_required("no Docker engine"):
        client = connect()
    yield client
    client.close()


@pytest.fixture(scope="session")
def cpu_image(docker_client: DockerClient) -> BuiltImage:
    """The current CPU image, built if there is none."""
    with skip_unless_required("no CPU image"), one_build_at_a_time():
        return build_image(docker_client, "cpu", BuildInputs.from_environment(), lambda line: None)


@contextmanager
def skip_unless_required(lacking: str) -> Iterator[None]:
    try:
        yield
    except SetupError as error:
        reason = f"{lacking}: {error.message} ({error.hint})"
        if os.environ.get("MOODBENCH_REQUIRE_DOCKER") == "1":
            pytest.fail(f"MOODBENCH_REQUIRE_DOCKER=1, but {reason}")
        pytest.skip(reason)


@contextmanager
def one_build_at_a_time() -> Iterator[None]:
    """Workers of one test run share the engine: the second finds what the first has built."""
    with (Path(tempfile.gettempdir()) / f"moodbench-test-build-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
