"""From texts to probabilities: what scoring, validation and timing all call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from runner import device as devices
from runner.contract import Device, write_atomic
from runner.models.batches import pad_batch
from runner.tasks import classification

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from runner.models.baselines import Baseline


OnRows = Callable[[int], None]


def ignore_rows(done: int) -> None:
    """The default of `on_rows`."""


class Predictor(Protocol):
    """A trained classifier as a user would call it."""

    def predict(self, texts: Sequence[str], batch_size: int, on_rows: OnRows = ignore_rows) -> NDArray[np.float64]:
        """Probabilities (N, K), tokenization included; returns when the device is done. `on_rows` hears how many
        texts are done after each batch."""
        ...

    def token_counts(self, texts: Sequence[str]) -> list[int] | None:
        """Tokens the model reads per text, padding left out; None for models without tokens."""
        ...


@dataclass(frozen=True)
class TransformerPredictor:
    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    pad_token_id: int
    is_decoder: bool
    max_length: int
    device: Device
    dtype: str

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids per text, truncated to `max_length`, unpadded."""
        return self.tokenizer(  # type: ignore[return-value]
            list(texts), truncation=True, max_length=self.max_length, padding=False, return_attention_mask=False
        )["input_ids"]

    def predict(self, texts: Sequence[str], batch_size: int, on_rows: OnRows = ignore_rows) -> NDArray[np.float64]:
        return self.predict_encoded(self.encode(texts), batch_size, on_rows)

    def predict_encoded(
        self, input_ids: Sequence[list[int]], batch_size: int, on_rows: OnRows = ignore_rows
    ) -> NDArray[np.float64]:
        """Longest first, so that a batch pads little and memory peaks at once; returned in the order given."""
        import torch

        self.model.eval()
        order = np.argsort([-len(ids) for ids in input_ids], kind="stable")
        parts = []
        with torch.inference_mode(), devices.autocast(self.device, self.dtype):
            for start in range(0, len(order), batch_size):
                rows = [input_ids[i] for i in order[start : start + batch_size]]
                inputs = pad_batch(rows, self.pad_token_id, decoder=self.is_decoder)
                parts.append(self.model(**{k: v.to(self.device) for k, v in inputs.items()}).logits)
                on_rows(start + len(rows))
            logits = torch.cat(parts)
        probabilities = np.empty(logits.shape, dtype=np.float64)
        probabilities[order] = classification.decode(logits)
        return probabilities

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self.encode(texts)]


@dataclass(frozen=True)
class BaselinePredictor:
    """A fitted baseline; it reads words, not tokens."""

    baseline: Baseline

    def predict(self, texts: Sequence[str], batch_size: int, on_rows: OnRows = ignore_rows) -> NDArray[np.float64]:
        return self.baseline.predict(texts, batch_size)

    def token_counts(self, texts: Sequence[str]) -> None:
        return None


def write_predictions(
    path: Path, ids: Sequence[str], labels: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> None:
    """`predictions.parquet`: id, label, predicted, p_0 … p_{K-1} (float32); one row per test example, in order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, object] = {
        "id": pa.array(ids, pa.string()),
        "label": pa.array(labels, pa.int64()),
        "predicted": pa.array(probabilities.argmax(axis=1), pa.int64()),
    }
    for k in range(probabilities.shape[1]):
        columns[f"p_{k}"] = pa.array(probabilities[:, k].astype(np.float32))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    write_atomic(path, sink.getvalue())
