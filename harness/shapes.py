"""What a cell's size is computed from: the architecture of its model, and how long its texts are.

Both are read from files that others made: whatever cannot be read is estimated from less.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from runner.contract import ContractError, ModelSpec, PreparedDataset, ScratchSpec, open_plain

CONFIG_BYTES = 2**20
DATASET_BYTES = 16 * 2**30
SAMPLE_ROWS = 2_000
# Of UTF-8. English has 4.5 and more a token, and scripts that tokenizers split into characters use three a character.
BYTES_A_TOKEN = 4.5
FEWEST_BYTES_A_TOKEN = 3.0  # of the longest text: memory is sized by it
SPECIAL_TOKENS = 2
USUAL_PARAMETERS = 110_000_000  # of a model of which nothing is known: BERT's
USUAL_VOCABULARY = 30_522
SCRATCH_POSITIONS = 512

# The names that model types have for the same figure.
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
INTERMEDIATE = ("intermediate_size", "n_inner", "hidden_dim", "ffn_dim", "d_ff")
ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")
ACTIVATION = ("hidden_act", "hidden_activation", "activation_function", "activation")
GATED = ("silu", "swiglu", "geglu", "gelu_pytorch_tanh")


@dataclass(frozen=True)
class Shape:
    """A transformer's body. `gated`: its feed-forward layers have a third matrix. `keeps_scores`: training holds the
    attention scores of whole sequences, because they are dropped out or biased by position."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int | None = None
    kv_share: float = 1.0  # of the heads, those with keys and values of their own
    gated: bool = False
    keeps_scores: bool = True
    score_copies: int = 1  # disentangled attention has scores of content and of position
    parameters_given: int | None = None

    @property
    def layer_parameters(self) -> int:
        attention = (2 + 2 * self.kv_share) * self.hidden**2
        return round(attention + (3 if self.gated else 2) * self.hidden * self.intermediate)

    @property
    def body_parameters(self) -> int:
        """Those that every token goes through."""
        return self.layers * self.layer_parameters

    @property
    def parameters(self) -> int:
        tables = (self.vocabulary + (self.positions or 0) * (not self.gated)) * self.hidden
        return self.parameters_given or self.body_parameters + tables + 2 * self.hidden**2


@dataclass(frozen=True)
class Lengths:
    """Of a dataset's texts in tokens, as the model reads them. `mean_bytes`: of the whole text, cut by no limit."""

    mean: float
    longest: int
    mean_bytes: float = 0.0


def shape_of(model: ModelSpec) -> Shape | None:
    """From config.json, else from the entry, else from the number of parameters alone; None for a baseline."""
    if model.kind == "baseline":
        return None
    if model.kind == "scratch":
        return _of_scratch(model.scratch or ScratchSpec())
    config = _config(model.folder) if model.folder is not None else None
    return (_of_config(config, model.parameters) if config else None) or _of_parameters(model.parameters)


def lengths_of(dataset: PreparedDataset) -> Lengths:
    """From a sample of the training texts; the dataset's `max_length` where they cannot be read."""
    mean, longest = _sampled(dataset.folder, dataset.fingerprint)
    if mean is None or longest is None:
        return Lengths(float(dataset.max_length), dataset.max_length, dataset.max_length * BYTES_A_TOKEN)
    return Lengths(
        mean=min(mean / BYTES_A_TOKEN + SPECIAL_TOKENS, dataset.max_length),
        longest=min(math.ceil(longest / FEWEST_BYTES_A_TOKEN) + SPECIAL_TOKENS, dataset.max_length),
        mean_bytes=mean,
    )


@lru_cache(maxsize=1_000)
def _sampled(folder: str, fingerprint: str) -> tuple[float | None, int | None]:
    """Mean and greatest length in bytes; the fingerprint is what makes the answer last."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with open_plain(Path(folder) / "train.parquet", DATASET_BYTES) as file, pq.ParquetFile(file) as parquet:
            batch = next(parquet.iter_batches(SAMPLE_ROWS, columns=["text"], use_threads=False), None)
            if batch is None or not batch.num_rows:
                return None, None
            lengths = pc.binary_length(batch.column("text"))
            return pc.mean(lengths).as_py(), pc.max(lengths).as_py()
    except (ContractError, OSError, pa.ArrowException, KeyError):
        return None, None


@lru_cache(maxsize=1_000)
def _config(folder: str) -> Mapping[str, Any] | None:
    """Links are followed: the hub's cache is made of them, and the model's folder is no cell's."""
    try:
        with (Path(folder) / "config.json").open("rb") as file:
            found = json.loads(file.read(CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    text = found.get("text_config")
    return {**found, **text} if isinstance(text, dict) else found


def _of_scratch(scratch: ScratchSpec) -> Shape:
    return Shape(
        hidden=scratch.hidden_size,
        layers=scratch.layers,
        heads=scratch.heads,
        intermediate=scratch.intermediate_size,
        vocabulary=scratch.vocab_size,
        positions=SCRATCH_POSITIONS,
    )


def _of_config(config: Mapping[str, Any], parameters: int | None) -> Shape | None:
    hidden, layers, heads = (_count(config, names) for names in (HIDDEN, LAYERS, HEADS))
    if hidden is None or layers is None or heads is None:
        return None
    dropout = next((config[name] for name in ATTENTION_DROPOUT if name in config), 0.0)
    disentangled = bool(config.get("relative_attention"))
    return Shape(
        hidden=hidden,
        layers=layers,
        heads=heads,
        intermediate=_count(config, INTERMEDIATE) or 4 * hidden,
        vocabulary=_count(config, ("vocab_size",)) or USUAL_VOCABULARY,
        positions=_count(config, ("max_position_embeddings", "n_positions")),
        kv_share=min(1.0, (_count(config, ("num_key_value_heads",)) or heads) / heads),
        gated=next((config[name] for name in ACTIVATION if name in config), "") in GATED,
        keeps_scores=disentangled or dropout != 0.0,
        score_copies=3 if disentangled else 1,
        parameters_given=parameters,
    )


def _count(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    value = next((config[name] for name in names if config.get(name) is not None), None)
    return value if isinstance(value, int) and 0 < value < 2**40 else None


def _of_parameters(parameters: int | None) -> Shape:
    """An encoder of that size with the usual proportions: heads of 64, four times as wide within, one layer for every
    64 of its width. 12 h² a layer and the vocabulary's table: parameters = 12 h³ / 64 + vocabulary · h, solved by
    halving."""
    wanted = parameters or USUAL_PARAMETERS
    low, high = 1, 10**6
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if 12 * middle**3 / 64 + USUAL_VOCABULARY * middle <= wanted else (low, middle)
    layers = max(1, round(low / 64))
    return Shape(low, layers, layers, 4 * low, USUAL_VOCABULARY, parameters_given=wanted)
