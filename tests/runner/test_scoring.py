"""Texts to probabilities, and the predictions file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from runner import scoring
from runner.models.load import load
from runner.scoring import BaselinePredictor, TransformerPredictor, write_predictions
from tests.runner.models.small_models import TEXTS, Checkpoint, MakeSpec

LONG = "great " * 500
MIXED = [*TEXTS[:6], LONG, "", "rude", "a warm and funny film " * 4, "dull", LONG + "dull"]
LENGTH = 24


@pytest.fixture
def predictor(checkpoint: Checkpoint, make_spec: MakeSpec, request: pytest.FixtureRequest) -> TransformerPredictor:
    kind = getattr(request, "param", "bert")
    loaded = load(make_spec(checkpoint(kind), "full", max_length=LENGTH, labels=("a", "b", "c")))
    return TransformerPredictor(
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        pad_token_id=loaded.pad_token_id,
        is_decoder=loaded.is_decoder,
        max_length=loaded.max_length,
        device="cpu",
        dtype="float32",
    )


@pytest.mark.parametrize("predictor", ["bert", "gpt2"], indirect=True)
def test_probabilities_come_back_in_the_order_given(predictor: TransformerPredictor) -> None:
    together = predictor.predict(MIXED, len(MIXED))
    alone = np.concatenate([predictor.predict([text], 1) for text in MIXED])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert together.shape == (len(MIXED), 3)
    assert together.dtype == np.float64
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-12)
    assert len(np.unique(together.round(6), axis=0)) > 6  # else any order would do
    backwards = predictor.predict(MIXED[::-1], 4)
    np.testing.assert_allclose(backwards[::-1], together, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 5, 7, 100])
def test_the_batch_size_does_not_change_probabilities(predictor: TransformerPredictor, size: int) -> None:
    np.testing.assert_allclose(predictor.predict(MIXED, size), predictor.predict(MIXED, 3), atol=1e-5)


def test_batches_are_of_like_length_and_the_longest_comes_first(
    predictor: TransformerPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    real = scoring.pad_batch

    def pad(*args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        batch = real(*args, **kwargs)  # type: ignore[arg-type]
        shapes.append(tuple(batch["input_ids"].shape))
        return batch

    monkeypatch.setattr(scoring, "pad_batch", pad)
    predictor.predict(MIXED, 5)
    assert [rows for rows, _ in shapes] == [5, 5, 2]
    lengths = [length for _, length in shapes]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] > lengths[-1]


def test_long_texts_are_cut_at_max_length_and_short_ones_are_whole(predictor: TransformerPredictor) -> None:
    counts = predictor.token_counts([LONG, "great", ""])
    assert counts == [LENGTH, 3, 2]  # [CLS] great [SEP]
    whole, cut = predictor.predict([LONG, "great " * (LENGTH - 2)], 2)
    np.testing.assert_allclose(whole, cut, atol=1e-6)
    assert predictor.encode([LONG])[0][-1] == predictor.tokenizer.sep_token_id


def test_predicting_switches_dropout_off_and_keeps_no_gradients(predictor: TransformerPredictor) -> None:
    predictor.model.train()
    np.testing.assert_array_equal(predictor.predict(TEXTS[:4], 2), predictor.predict(TEXTS[:4], 2))
    assert all(parameter.grad is None for parameter in predictor.model.parameters())


def test_token_counts_leave_padding_out(predictor: TransformerPredictor) -> None:
    assert predictor.token_counts(MIXED) == [len(ids) for ids in predictor.encode(MIXED)]
    assert len(set(predictor.token_counts(MIXED))) > 3


def test_a_baseline_reads_words_not_tokens() -> None:
    from runner.models.baselines import baseline

    fitted = baseline("majority", seed=0)
    fitted.fit(["a", "b", "c"], [0, 1, 1], 2)
    predictor = BaselinePredictor(fitted)
    assert predictor.token_counts(["a"]) is None
    np.testing.assert_allclose(predictor.predict(["x", "y"], 8), [[1 / 3, 2 / 3]] * 2)


# --- predictions.parquet ----------------------------------------------------------------------

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [1 / 3, 1 / 3, 1 / 3]])


def test_predictions_file(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    write_predictions(path, ["b", "a", "ż"], np.array([0, 1, 2]), PROBABILITIES)
    table = pq.ParquetFile(path).read()
    assert {field.name: str(field.type) for field in table.schema} == {
        "id": "string",
        "label": "int64",
        "predicted": "int64",
        "p_0": "float",
        "p_1": "float",
        "p_2": "float",
    }
    assert table["id"].to_pylist() == ["b", "a", "ż"]
    assert table["label"].to_pylist() == [0, 1, 2]
    assert table["predicted"].to_pylist() == [0, 2, 0]
    for k in range(3):
        np.testing.assert_array_equal(table[f"p_{k}"].to_pylist(), PROBABILITIES[:, k].astype(np.float32))
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_no_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("runner.contract.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_predictions(tmp_path / "predictions.parquet", ["a"] * 3, np.array([0, 1, 2]), PROBABILITIES)
    assert list(tmp_path.iterdir()) == []
