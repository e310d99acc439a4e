"""Parameter counts of the shipped models, from their true configurations, on the meta device (no weights)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from runner.contract import LoraSpec
from runner.models.adapt import TARGETS, adapt, head_modules
from tests.runner.models.small_models import MakeSpec

BERT = {"vocab_size": 30522}


def bert(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {**BERT, **sizes, "intermediate_size": 4 * hidden}


def llama(hidden: int, layers: int, heads: int, *, kv_heads: int, inner: int, vocabulary: int) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {**sizes, "num_key_value_heads": kv_heads, "intermediate_size": inner, "vocab_size": vocabulary}


def neox(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {**sizes, "intermediate_size": 4 * hidden, "vocab_size": 50304, "max_position_embeddings": 2048}


ELECTRA = {**BERT, "embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}
ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
DEBERTA = {
    **{"vocab_size": 128100, "hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12},
    **{"intermediate_size": 3072, "relative_attention": True, "position_buckets": 256, "norm_rel_ebd": "layer_norm"},
    **{"share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0},
    "max_relative_positions": -1,
}
GEMMA = {**llama(640, 18, 4, kv_heads=1, inner=2048, vocabulary=262144), "head_dim": 256}
# alias: model type, configuration, rank, parameters with 2 labels, LoRA parameters
FACTS: dict[str, tuple[str, dict[str, Any], int, int, int]] = {
    "BERT-tiny": ("bert", bert(128, 2, 2), 4, 4_386_178, 4_096),
    "BERT-mini": ("bert", bert(256, 4, 4), 4, 11_171_074, 16_384),
    "ELECTRA-small": ("electra", ELECTRA, 4, 13_549_314, 49_152),
    "BERT-small": ("bert", bert(512, 4, 8), 8, 28_764_674, 65_536),
    "MiniLM-L12": ("bert", bert(384, 12, 12), 8, 33_360_770, 147_456),
    "DistilBERT-base": ("distilbert", BERT, 8, 66_955_010, 147_456),
    "Pythia-70m": ("gpt_neox", neox(512, 6, 8), 8, 44_672_000, 98_304),
    "DistilRoBERTa": ("roberta", {**ROBERTA, "num_hidden_layers": 6}, 8, 82_119_938, 147_456),
    "DeBERTa-v3-small": ("deberta-v2", DEBERTA, 8, 141_896_450, 147_456),
    "BERT-base": ("bert", BERT, 8, 109_483_778, 294_912),
    "GPT2-small": ("gpt2", {}, 8, 124_441_344, 294_912),
    "RoBERTa-base": ("roberta", ROBERTA, 8, 124_647_170, 294_912),
    "Pythia-160m": ("gpt_neox", neox(768, 12, 12), 8, 123_691_008, 294_912),
    "Gemma-3-270m": ("gemma3_text", GEMMA, 8, 268_099_456, 737_280),
    "TinyLlama-1.1B": (
        "llama",
        llama(2048, 22, 32, kv_heads=4, inner=5632, vocabulary=32000),
        8,
        1_034_516_480,
        2_252_800,
    ),
    "Qwen2.5-1.5B": (
        "qwen2",
        llama(1536, 28, 12, kv_heads=2, inner=8960, vocabulary=151936),
        8,
        1_543_717_376,
        2_179_072,
    ),
    "SmolLM2-1.7B": (
        "llama",
        llama(2048, 24, 32, kv_heads=32, inner=8192, vocabulary=49152),
        8,
        1_711_380_480,
        3_145_728,
    ),
}


@pytest.mark.parametrize("alias", FACTS)
def test_parameter_counts(alias: str, make_spec: MakeSpec) -> None:
    import msgspec
    from transformers import AutoConfig, AutoModelForSequenceClassification

    kind, changes, rank, total, adapters = FACTS[alias]
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, num_labels=2, **changes))
        assert sum(p.numel() for p in model.parameters()) == total
        spec = msgspec.structs.replace(make_spec(None), lora=LoraSpec(rank=rank, alpha=2 * rank))
        adapted = adapt(model, spec, head_modules(model))
    found = sum(p.numel() for name, p in adapted.model.named_parameters() if "lora_" in name)
    assert found == adapters
    assert set(adapted.adapted_modules) == set(TARGETS[kind])
    assert adapted.choices["gradient_checkpointing"].value == (total >= 1e9)
