"""Fixtures that several folders of tests use, and the order of the files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker import cpu_image, docker_client
from tests.support import WORLDS

__all__ = ["cpu_image", "docker_client"]


@pytest.fixture(autouse=True)
def _no_engine_is_left() -> Iterator[None]:
    yield
    left = [f"{world.folder.name}/{run}" for world in WORLDS for run in world.end_engines()]
    assert not left, f"engines were still at work: {', '.join(left)}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files beside this one first: they take minutes each, and workers take whole files (`--dist loadfile`), so the
    last one taken decides how long all of them wait. Within a file nothing changes."""
    here = Path(__file__).parent
    items.sort(key=lambda item: item.path.parent != here)
