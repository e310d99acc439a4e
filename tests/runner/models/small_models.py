"""Shrunk configurations of every architecture, and texts to learn a tokenizer from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.contract import CellSpec

TEXTS = [
    "a warm and funny film that earns its laughs",
    "dull, slow and far too long",
    "the service was friendly and the food was great",
    "the room was dirty and nobody cared",
    "great value, great staff, great place",
    "never again: rude staff and a long wait",
] * 4
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
LLAMA = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
DEBERTA = {**SMALL, "relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]}
NEOX = {**SMALL, "max_position_embeddings": 128}
SLIDING = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": SMALL,
    "roberta": {**SMALL, "max_position_embeddings": 66, "pad_token_id": 1},
    "electra": {**SMALL, "embedding_size": 16},
    "distilbert": DISTIL,
    "deberta-v2": DEBERTA,
    "gpt2": GPT2,
    "gpt_neox": NEOX,
    "llama": LLAMA,
    "qwen2": LLAMA,
    "gemma3_text": {**LLAMA, **SLIDING},
    "phi3": {**LLAMA, **SLIDING},
}
DECODERS = ("gpt2", "gpt_neox", "llama", "qwen2", "gemma3_text", "phi3")
Checkpoint = Callable[..., Path]
MakeSpec = Callable[..., CellSpec]


def small_config(kind: str, vocab_size: int, **changes: Any) -> Any:
    from transformers import AutoConfig

    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    return AutoConfig.for_model(kind, vocab_size=vocab_size, **{**tokens, **CONFIGS[kind], **changes})
