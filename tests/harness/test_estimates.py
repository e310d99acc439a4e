"""Estimates beside peaks that were measured, and how they move with what a cell is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace as changed

from harness.estimates import CONTEXT_MB, CUDA_HOST_MB, Estimate, computed, epochs_of, estimate_of
from harness.shapes import Lengths, Shape, lengths_of, shape_of
from runner.contract import (
    CellSpec,
    EvaluationSpec,
    Fallback,
    Method,
    ModelSpec,
    PreparedDataset,
    ScratchSpec,
    SplitInfo,
    TrainingSpec,
)
from tests.harness.builders import cell, prepared

MINILM = Shape(384, 6, 12, 1536, 30_522, positions=512)
TINY = Shape(128, 2, 2, 512, 1_000, positions=512)
WIDE = Shape(512, 8, 8, 2048, 1_000, positions=512)


def rows(train: int = 160, validation: int = 32, test: int = 64) -> PreparedDataset:
    numbers = {"train": train, "validation": validation, "test": test}
    splits = {name: SplitInfo(rows=number, classes={}, sha256="0" * 64) for name, number in numbers.items()}
    return prepared(splits=splits)


def encoder(method: Method = "lora", batch: int = 16, **changes: Any) -> CellSpec:
    training = TrainingSpec(epochs=1, batch_size=batch, accumulation=2, gradient_checkpointing=False)
    model = ModelSpec(alias="m", kind="hub", name="a/m")
    fields: dict[str, Any] = {"model": model, "method": method, "training": training, "dataset": rows()}
    return changed(cell(), **(fields | {"phases": ("load", "tokenize", "train", "export", "score")} | changes))


def estimated(shape: Shape, method: Method = "lora", batch: int = 16, length: int = 128, **changes: Any) -> Estimate:
    return computed(encoder(method, batch, **changes), shape, Lengths(length, length))


# --- beside measurements ----------------------------------------------------------------------

# Peaks of resident memory of real cells on a CPU, one thread, texts longer than the limit (benchmarks/estimates.py).
MEASURED = [
    (MINILM, "lora", 8, 128, 1101), (MINILM, "lora", 16, 128, 1609), (MINILM, "lora", 32, 128, 2290),
    (MINILM, "full", 8, 128, 1445), (MINILM, "full", 16, 128, 1817), (MINILM, "full", 32, 128, 2276),
    (MINILM, "frozen", 8, 128, 786), (MINILM, "frozen", 16, 128, 756), (MINILM, "frozen", 32, 128, 817),
    (MINILM, "lora", 16, 24, 715), (MINILM, "full", 16, 24, 1094), (MINILM, "frozen", 16, 24, 636),
    (MINILM, "lora", 16, 256, 3005), (MINILM, "lora", 8, 512, 3825),
    (TINY, "full", 16, 24, 540), (TINY, "full", 32, 128, 696),
    (WIDE, "full", 8, 256, 2624), (WIDE, "full", 16, 256, 4100),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "method", "batch", "length", "peak_mb"), MEASURED)
def test_memory_is_near_what_was_measured(shape: Shape, method: Method, batch: int, length: int, peak_mb: int) -> None:
    found = estimated(shape, method, batch, length).memory_mb
    assert 0.85 * peak_mb < found < 1.3 * peak_mb


@pytest.mark.parametrize(("method", "peak_mb"), [("lora", 1405), ("full", 1884)])
def test_recomputed_activations_are_not_kept(method: Method, peak_mb: int) -> None:
    training = TrainingSpec(batch_size=16, gradient_checkpointing=True)
    found = estimated(MINILM, method, length=256, training=training).memory_mb
    assert 0.85 * peak_mb < found < 1.3 * peak_mb


# --- how they move ----------------------------------------------------------------------------


def test_a_larger_batch_or_length_takes_more_memory_and_no_longer_training() -> None:
    small, batch, length = estimated(MINILM), estimated(MINILM, batch=32), estimated(MINILM, length=256)
    assert small.memory_mb < batch.memory_mb < length.memory_mb  # scores grow with the square of the length
    assert small.seconds == pytest.approx(batch.seconds, rel=0.2)
    assert length.seconds > 1.5 * small.seconds


def test_methods_by_what_they_train() -> None:
    full, lora, frozen = (estimated(MINILM, method) for method in ("full", "lora", "frozen"))
    assert full.memory_mb > lora.memory_mb > frozen.memory_mb
    assert full.seconds > lora.seconds > frozen.seconds
    assert full.kept_mb > 80  # all weights
    assert lora.kept_mb < 10
    assert full.disk_mb > 8 * 80  # a checkpoint and the next one


def test_a_fallback_takes_less() -> None:
    evaluation = EvaluationSpec(batch_size=512)
    before = estimated(MINILM, batch=32, evaluation=evaluation)
    training = Fallback(batch_size=16, accumulation=4, reason="memory")
    assert estimated(MINILM, batch=32, evaluation=EvaluationSpec(), fallback=training) == Estimate(
        **{**vars(estimated(MINILM, batch=32)), "memory_mb": estimated(MINILM, batch=16).memory_mb}
    )
    inference = Fallback(evaluation_batch_size=64, reason="memory")
    assert estimated(MINILM, batch=32, evaluation=evaluation, fallback=inference).memory_mb < before.memory_mb


def test_throughput_batches_count_where_there_is_timing() -> None:
    evaluation = EvaluationSpec(batch_size=1, throughput_batch_sizes=(1, 1024))
    timed = encoder("frozen", evaluation=evaluation, phases=("train", "score", "time"))
    lengths = Lengths(128, 128)
    untimed = changed(timed, phases=("train", "score"))
    assert computed(timed, MINILM, lengths).memory_mb > 2 * computed(untimed, MINILM, lengths).memory_mb
    capped = changed(timed, fallback=Fallback(throughput_batch_size=64, reason="memory"))
    assert computed(capped, MINILM, lengths).memory_mb < 2 * computed(untimed, MINILM, lengths).memory_mb


def test_timing_is_part_of_the_seconds() -> None:
    timed = computed(encoder(phases=("train", "score", "time")), MINILM, Lengths(128, 128))
    untimed = estimated(MINILM)
    assert untimed.timing_s == 0
    assert 5 < timed.timing_s < 120
    assert timed.seconds == pytest.approx(untimed.seconds + timed.timing_s)


def test_timing_keeps_to_its_bounds() -> None:
    """Of a model that takes no time: 200 requests of 2 ms, and 5 batch sizes for a second each."""
    spec = changed(cell(), evaluation=EvaluationSpec(max_requests=200, latency_min_s=0, throughput_texts=1))
    found = estimate_of(spec).timing_s
    assert 0.4 + 5 <= found < 0.4 + 5 + 1


def test_on_cuda_the_device_holds_the_model_and_the_host_loads_it() -> None:
    on_cpu, on_cuda = estimated(MINILM), estimated(MINILM, device="cuda")
    assert (on_cpu.device_mb, on_cuda.device_mb > CONTEXT_MB) == (0, True)
    assert on_cuda.memory_mb > CUDA_HOST_MB
    many = estimated(changed_shape(keeps_scores=False), batch=64, length=256)
    on_gpu = estimated(changed_shape(keeps_scores=False), batch=64, length=256, device="cuda")
    assert on_gpu.device_mb - CONTEXT_MB < 0.85 * many.memory_mb  # half precision
    assert on_cuda.seconds < on_cpu.seconds
    assert estimated(MINILM, device="mps").memory_mb == on_cpu.memory_mb


def test_small_data_get_more_epochs() -> None:
    training = TrainingSpec(epochs=3, min_steps=200, batch_size=16, accumulation=2)
    assert epochs_of(encoder(dataset=rows(320), training=training)) == 20
    assert epochs_of(encoder(dataset=rows(32_000), training=training)) == 3


def baseline(name: str, texts: int, mean_bytes: float) -> Estimate:
    return computed(changed(cell(name), dataset=rows(texts)), None, Lengths(100, 128, mean_bytes))


@pytest.mark.parametrize(("texts", "mean_bytes", "peak_mb"), [(1000, 730, 279), (5000, 730, 456), (10_000, 1460, 950)])
def test_memory_of_words_and_word_pairs(texts: int, mean_bytes: float, peak_mb: int) -> None:
    """Beside peaks measured on random words with a Zipf distribution, two classes."""
    assert 0.85 * peak_mb < baseline("tfidf-logreg", texts, mean_bytes).memory_mb < 1.3 * peak_mb


def test_a_baseline_without_words_takes_little() -> None:
    found = baseline("majority", 10_000, 500)
    assert (found.memory_mb < 150, found.device_mb) == (True, 0)


def test_the_length_of_whole_texts_counts_for_a_baseline(tmp_path: Path) -> None:
    spec = changed(cell(), model=ModelSpec(alias="t", kind="baseline", name="tfidf-logreg"))
    short, long = (changed(spec, dataset=texts(tmp_path / str(size), size)) for size in (1_000, 5_000_000))
    assert estimate_of(long).memory_mb > estimate_of(short).memory_mb + 500


# --- the model --------------------------------------------------------------------------------


def model(folder: Path, config: Any, parameters: int | None = None) -> ModelSpec:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return ModelSpec(alias="m", kind="path", name=str(folder), folder=str(folder), parameters=parameters)


BERT = {
    "model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "hidden_act": "gelu",
    "intermediate_size": 1536, "vocab_size": 30522, "max_position_embeddings": 512, "attention_probs_dropout_prob": 0.1,
}  # fmt: skip
DISTILBERT = {
    "dim": 768,
    "n_layers": 6,
    "n_heads": 12,
    "hidden_dim": 3072,
    "vocab_size": 30522,
    "attention_dropout": 0.1,
}
GPT2 = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None, "vocab_size": 50257, "attn_pdrop": 0.1}
QWEN2 = {
    "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "intermediate_size": 4864, "vocab_size": 151936, "hidden_act": "silu", "attention_dropout": 0.0,
    "max_position_embeddings": 32768,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(BERT, 22_713_986), (DISTILBERT, 66_955_010), (GPT2, 124_441_344), (QWEN2, 494_032_768)],
)
def test_parameters_follow_from_config_json(tmp_path: Path, config: dict[str, Any], parameters: int) -> None:
    shape = shape_of(model(tmp_path, config))
    assert shape is not None
    assert shape.parameters == pytest.approx(parameters, rel=0.03)


def test_what_attention_keeps() -> None:
    assert MINILM.keeps_scores
    kept, fused = (estimated(changed_shape(keeps_scores=keeps), length=512).memory_mb for keeps in (True, False))
    assert kept > 1.5 * fused


def changed_shape(**changes: Any) -> Shape:
    return Shape(**{**vars(MINILM), **changes})


def test_a_decoder_is_gated_and_drops_nothing(tmp_path: Path) -> None:
    shape = shape_of(model(tmp_path, {"text_config": QWEN2, "hidden_size": 1}))
    assert shape is not None
    assert (shape.hidden, shape.gated, shape.keeps_scores) == (896, True, False)


def test_the_number_of_parameters_given_stands(tmp_path: Path) -> None:
    shape = shape_of(model(tmp_path, BERT, parameters=23))
    assert shape is not None
    assert shape.parameters == 23


def test_a_scratch_model_by_its_entry() -> None:
    shape = shape_of(ModelSpec(alias="s", kind="scratch", name="s", scratch=ScratchSpec(hidden_size=256, heads=4)))
    assert shape is not None
    assert (shape.hidden, shape.heads, shape.layers) == (256, 4, 2)
    assert shape_of(ModelSpec(alias="b", kind="baseline", name="majority")) is None


@pytest.mark.parametrize(
    "config", ["", "{", "[]", "[" * 100_000, '{"hidden_size": "wide"}', '{"n_embd": -1, "n_layer": 2, "n_head": 2}']
)
def test_without_a_config_the_parameters_tell(tmp_path: Path, config: str) -> None:
    shape = shape_of(model(tmp_path, config, parameters=110_000_000))
    assert shape is not None
    assert (shape.parameters, 600 < shape.hidden < 900, 9 < shape.layers < 14) == (110_000_000, True, True)
    assert shape_of(ModelSpec(alias="m", kind="hub", name="a/m")) is not None


# --- the texts --------------------------------------------------------------------------------


def texts(folder: Path, *lengths: int, max_length: int = 128) -> PreparedDataset:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"text": ["x" * length for length in lengths]}), folder / "train.parquet")
    return prepared(folder=str(folder), fingerprint=str(folder), max_length=max_length)


def test_lengths_come_from_the_texts(tmp_path: Path) -> None:
    assert lengths_of(texts(tmp_path, 45, 135)) == Lengths(mean=22, longest=47, mean_bytes=90)


def test_lengths_end_at_the_limit(tmp_path: Path) -> None:
    assert lengths_of(texts(tmp_path, 9000, max_length=64)) == Lengths(mean=64, longest=64, mean_bytes=9000)


UNREAD = Lengths(128, 128, 576)


def test_texts_that_cannot_be_read_are_taken_for_long(tmp_path: Path) -> None:
    assert lengths_of(prepared(folder=str(tmp_path / "none"), fingerprint="1")) == UNREAD
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no Parquet")
    assert lengths_of(prepared(folder=str(tmp_path), fingerprint="2")) == UNREAD
    pq.write_table(pa.table({"words": ["x"]}), tmp_path / "train.parquet")
    assert lengths_of(prepared(folder=str(tmp_path), fingerprint="3")) == UNREAD


def test_a_sample_is_read_once(tmp_path: Path) -> None:
    dataset = texts(tmp_path, 45)
    before = lengths_of(dataset)
    (tmp_path / "train.parquet").unlink()
    assert lengths_of(dataset) == before
