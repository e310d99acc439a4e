"""No test here touches the user's home, configuration or cache, or asks the network."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.catalog import load_catalog


@pytest.fixture(autouse=True)
def _own_world(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    world = tmp_path_factory.mktemp("world")
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING", "KAGGLE", "XDG_CACHE")):
            monkeypatch.delenv(name)
    for name in ("MOODBENCH_CONFIG", "MOODBENCH_TEST_MODE", "MOODBENCH_EXECUTOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(world / "home"))
    monkeypatch.setenv("MOODBENCH_CACHE", str(world / "cache"))
    monkeypatch.setenv("MOODBENCH_RESULTS", str(world / "results"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("COLUMNS", "160")
    load_catalog.cache_clear()
    yield
    load_catalog.cache_clear()


@pytest.fixture
def own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that MOODBENCH_CONFIG names."""
    folder = tmp_path / "own-config"
    (folder / "suites").mkdir(parents=True)
    monkeypatch.setenv("MOODBENCH_CONFIG", str(folder))
    return folder


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 4 kB left."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    (folder / "filler").write_bytes(b"x" * 15 * 4096)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
