"""Shrunk models with random weights, saved once a session in the hub's layout, and the specs that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from runner.contract import CellSpec, LoraSpec, Method, ModelSpec, PreparedDataset, TrainingSpec
from runner.models.tokenizer import learn_wordpiece
from tests.runner.models.small_models import TEXTS, Checkpoint, MakeSpec, small_config


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return learn_wordpiece(TEXTS, 200)


@pytest.fixture(scope="session")
def checkpoint(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """`checkpoint("bert")`: a folder with the backbone, as pretraining leaves it, and the tokenizer."""
    from transformers import AutoModel, AutoModelForSequenceClassification

    made: dict[tuple[Any, ...], Path] = {}

    def make(kind: str, *, labels: int | None = None) -> Path:
        key = (kind, labels)
        if key not in made:
            torch.manual_seed(0)
            changes = {} if labels is None else {"num_labels": labels}
            config = small_config(kind, len(tokenizer), **changes)
            model = (AutoModel if labels is None else AutoModelForSequenceClassification).from_config(config)
            folder = tmp_path_factory.mktemp(f"{kind}-{labels}")
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture
def make_spec() -> MakeSpec:
    def make(
        folder: Path | None,
        method: Method = "lora",
        /,
        *,
        labels: tuple[str, ...] = ("negative", "positive"),
        targets: tuple[str, ...] | None = None,
        max_length: int = 32,
        seed: int = 42,
        training: TrainingSpec | None = None,
        **model: Any,
    ) -> CellSpec:
        entry = {"alias": "Small", "kind": "path", "name": str(folder), "folder": str(folder), **model}
        return CellSpec(
            model=ModelSpec(**entry),
            method=method,
            lora=LoraSpec(rank=4, alpha=8, dropout=0.0, target_modules=targets),
            dataset=PreparedDataset(
                name="toy",
                folder="",
                fingerprint="0",
                label_names=labels,
                splits={},
                text_column="text",
                label_column="label",
                max_length=max_length,
            ),
            training=training or TrainingSpec(),
            seed=seed,
        )

    return make
