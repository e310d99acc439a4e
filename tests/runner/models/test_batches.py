"""Padding must not change what a model says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from runner.models.batches import Side, pad_batch
from tests.runner.models.small_models import DECODERS, small_config

PAD = 0
ROWS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]
WITH_PAD_TOKENS = [[5, PAD, 7, 8, 9, PAD, 11], [12, PAD, PAD], [PAD, 15, 16, 17], [PAD], []]


def model_of(kind: str, **changes: Any) -> torch.nn.Module:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(1)
    config = small_config(kind, 50, num_labels=3, use_cache=False, **changes)
    return AutoModelForSequenceClassification.from_config(config).eval()


def logits(model: torch.nn.Module, rows: list[list[int]], side: Side, *, decoder: bool = True) -> torch.Tensor:
    with torch.no_grad():
        return model(**pad_batch(rows, PAD, side, decoder=decoder)).logits


def test_layout() -> None:
    batch = pad_batch([[5, 6, 7], [8]], PAD, "left", decoder=True)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]]
    batch = pad_batch([[5, 6, 7], []], PAD, decoder=False)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert "position_ids" not in batch


def test_encoders_are_padded_on_the_right() -> None:
    with pytest.raises(ValueError, match="pad on the right"):
        pad_batch(ROWS, PAD, "left", decoder=False)


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("rows", [ROWS, WITH_PAD_TOKENS], ids=["plain", "pad token in the text"])
def test_decoders_see_no_padding(kind: str, rows: list[list[int]]) -> None:
    model = model_of(kind, eos_token_id=PAD)  # as in GPT-2 and Pythia, whose pad token is eos
    alone = torch.cat([logits(model, [row], "right") for row in rows])
    assert torch.isfinite(alone).all()
    for side in ("right", "left"):
        torch.testing.assert_close(logits(model, rows, side), alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "distilbert", "deberta-v2"])
def test_encoders_see_no_padding(kind: str) -> None:
    model = model_of(kind, **({"pad_token_id": PAD} if kind == "roberta" else {}))
    alone = torch.cat([logits(model, [row], "right", decoder=False) for row in ROWS])
    torch.testing.assert_close(logits(model, ROWS, "right", decoder=False), alone, atol=1e-5, rtol=1e-4)
