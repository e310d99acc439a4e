"""Small sources made on the spot, and a short way to prepare them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from runner.contract import DatasetRequest, PreparedDataset, SplitSizes
from runner.data import prepare
from runner.errors import RunnerError

ALL_ROWS = SplitSizes(train=None, validation=None, test=None)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Write a file below tmp_path: make("a.csv", "text,label\\n..."), or bytes."""

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def prepare_files(tmp_path: Path) -> Callable[..., PreparedDataset]:
    """prepare_files({"all": path}, label_column=...): prepare files with all their rows in tmp_path's cache."""

    def run(files: Mapping[str, Path], **settings: Any) -> PreparedDataset:
        settings = {"name": "Own data", "source": "file", "sizes": ALL_ROWS, **settings}
        request = DatasetRequest(files={split: str(path) for split, path in files.items()}, **settings)
        return prepare(request, tmp_path / "cache")

    return run


@pytest.fixture
def refusal(prepare_files: Callable[..., PreparedDataset]) -> Callable[..., RunnerError]:
    """The RunnerError that preparing these files ends in."""

    def run(files: Mapping[str, Path], **settings: Any) -> RunnerError:
        with pytest.raises(RunnerError) as caught:
            prepare_files(files, **settings)
        assert caught.value.message
        assert caught.value.hint
        return caught.value

    return run


def _csv_of(rows: Sequence[tuple[object, ...]], header: str = "text,label") -> str:
    return "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"


@pytest.fixture
def csv_of() -> Callable[..., str]:
    """csv_of([("a text", "good"), ...], header="text,label"): plain CSV; no field may need quoting."""
    return _csv_of


@pytest.fixture
def reviews() -> Callable[..., str]:
    """reviews({"good": 30, "bad": 20}): a CSV with so many different texts of each class."""

    def write(classes: Mapping[str, int], start: str = "review") -> str:
        rows = [(f"{start} {name} number {n} of many", name) for name, count in classes.items() for n in range(count)]
        return _csv_of(rows)

    return write
