"""A small prepared dataset and the specs that use it; process-wide settings that a cell changes are put back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.contract import (
    CellEvent,
    CellSpec,
    DatasetRequest,
    EvaluationSpec,
    ModelSpec,
    PreparedDataset,
    ScratchSpec,
    SplitSizes,
    TrainingSpec,
)
from tests.runner.models.conftest import checkpoint, make_spec, tokenizer

__all__ = ["checkpoint", "make_spec", "tokenizer"]  # fixtures that tests beside models/ use too

TINY = ScratchSpec(hidden_size=16, layers=1, heads=2, intermediate_size=32, vocab_size=150)
QUICK_TRAINING = TrainingSpec(epochs=2, batch_size=8, accumulation=2, learning_rate=5e-3)
QUICK_EVALUATION = EvaluationSpec(
    batch_size=8,
    windows=1,
    warmup_requests=1,
    min_requests=12,
    max_requests=12,
    latency_min_s=0.0,
    latency_max_s=0.0,
    throughput_batch_sizes=(1, 4),
    throughput_texts=8,
    throughput_min_s=0.0,
    throughput_max_s=5.0,
)


@pytest.fixture(autouse=True)
def _one_thread_and_no_traces() -> Iterator[None]:
    import torch

    environment, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    yield
    torch.use_deterministic_algorithms(deterministic)
    signal.signal(signal.SIGTERM, handler)
    os.environ.clear()
    os.environ.update(environment)


def _toy_csv() -> str:
    """120 short texts of two classes, told apart by one word; `place` is their slice."""
    good, bad = ("great", "lovely", "superb"), ("awful", "dreadful", "poor")
    things = ("food", "room", "staff", "film", "plot", "sound", "price", "view", "seat", "wine")
    lines = ["text,label,place"]
    for number in range(120):
        word, label = (good[number % 3], "positive") if number % 2 else (bad[number % 3], "negative")
        tail = "and again " * (number % 4)
        lines.append(
            f"the {things[number % 10]} was {word} {tail}on day {number},{label},{'here' if number % 4 else ''}"
        )
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """80 train, 20 validation and 20 test rows of two classes, in canonical form."""
    from runner.data import prepare

    folder = tmp_path_factory.mktemp("toy")
    source = folder / "toy.csv"
    source.write_text(_toy_csv())
    request = DatasetRequest(
        name="toy",
        source="file",
        files={"all": str(source)},
        text_column="text",
        label_column="label",
        keep_columns=("place",),
        slice_columns=("place",),
        sizes=SplitSizes(train=80, validation=20, test=20),
        max_length=24,
    )
    return prepare(request, folder / "cache")


@pytest.fixture
def cell_spec(toy: PreparedDataset) -> Callable[..., CellSpec]:
    """cell_spec("scratch" | "majority" | "tfidf-logreg", **changes): a quick cell on the toy dataset."""

    def make(name: str = "majority", **changes: Any) -> CellSpec:
        if name == "scratch":
            model, method = ModelSpec(alias="Tiny", kind="scratch", name="tiny", scratch=TINY), "full"
        else:
            model, method = ModelSpec(alias=name, kind="baseline", name=name), "none"
        settings: dict[str, Any] = {"cell": f"{name}--toy", "identity": "1f", "runner_version": "0", **changes}
        return CellSpec(
            **{
                "model": model,
                "method": method,
                "dataset": toy,
                "training": QUICK_TRAINING,
                "evaluation": QUICK_EVALUATION,
                **settings,
            }
        )

    return make


@pytest.fixture
def events_of() -> Callable[[Path], list[Any]]:
    """events_of(folder): the decoded lines of its events.jsonl."""
    import msgspec

    def read(folder: Path) -> list[Any]:
        lines = (folder / "events.jsonl").read_bytes().splitlines()
        return [msgspec.json.decode(line, type=CellEvent) for line in lines]

    return read
