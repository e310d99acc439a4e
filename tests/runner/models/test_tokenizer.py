"""Learning a tokenizer, and loading one that can batch."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from runner.errors import RunnerError
from runner.models.tokenizer import ensure_pad_token, learn_wordpiece, load_tokenizer
from tests.runner.models.small_models import TEXTS

LEARN = """
import hashlib, json, random
from runner.models.tokenizer import learn_wordpiece
random.seed(0)
words = ["".join(random.choices("abcdefghijklmnopqrstuvwxyzé", k=random.randint(1, 7))) for _ in range(500)]
texts = [" ".join(random.choices(words, k=9)) for _ in range(400)]
vocabulary = learn_wordpiece(texts, 600).get_vocab()
print(len(vocabulary), hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode()).hexdigest())
"""


def test_learnt_vocabulary_is_the_same_in_every_process() -> None:
    runs = {subprocess.run([sys.executable, "-c", LEARN], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(runs) == 1
    assert runs.pop().startswith(b"600 ")


def test_learnt_tokenizer_round_trip(tmp_path: Path) -> None:
    tokenizer = learn_wordpiece(TEXTS, 200)
    ids = tokenizer("The food was GREAT, a \u4f60 b?")["input_ids"]
    assert tokenizer.convert_ids_to_tokens([ids[0], ids[-1]]) == ["[CLS]", "[SEP]"]
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [0, 1, 2, 3, 4]
    assert "great" in tokenizer.convert_ids_to_tokens(ids)
    assert tokenizer.unk_token_id in ids
    assert len(tokenizer) <= 200
    assert len(tokenizer.all_special_tokens) == 5
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path, "x")("The food was GREAT, a \u4f60 b?")["input_ids"] == ids


def test_nothing_to_learn_from() -> None:
    with pytest.raises(RunnerError) as caught:
        learn_wordpiece(["", "  "], 100)
    assert caught.value.kind == "data"


@pytest.mark.parametrize(("present", "used"), [("eos_token", "eos_token"), ("unk_token", "unk_token")])
def test_pad_token_stands_in(present: str, used: str) -> None:
    tokenizer = learn_wordpiece(TEXTS, 200)
    assert ensure_pad_token(tokenizer, "x").reason == "the tokenizer's own pad token"
    tokenizer.pad_token = None
    tokenizer.unk_token = None
    setattr(tokenizer, present, "[SEP]")
    choice = ensure_pad_token(tokenizer, "x")
    assert choice.value == tokenizer.pad_token == "[SEP]"
    assert used in choice.reason


def test_no_pad_token_at_all() -> None:
    tokenizer = learn_wordpiece(TEXTS, 200)
    tokenizer.pad_token = tokenizer.unk_token = None
    with pytest.raises(RunnerError) as caught:
        ensure_pad_token(tokenizer, "x")
    assert caught.value.kind == "model"


def test_vocabulary_file_alone_is_enough(tmp_path: Path) -> None:
    """BERT-tiny's repository has nothing but `vocab.txt`."""
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "##s"]))
    assert load_tokenizer(tmp_path, "x")("Goods")["input_ids"] == [2, 5, 6, 3]


def test_folder_without_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(RunnerError, match="holds no tokenizer"):
        load_tokenizer(tmp_path, "x")


def test_broken_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for text in (json.dumps({"version": "1.0"}), '{"model": ', "[]"):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(RunnerError, match="is damaged") as caught:
            load_tokenizer(tmp_path, "x")
        assert caught.value.kind == "model"


def test_sentencepiece_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)  # as where it is not installed
    (tmp_path / "config.json").write_text('{"model_type": "deberta-v2"}')
    (tmp_path / "spm.model").write_bytes(hashlib.sha256(b"").digest())
    with pytest.raises(RunnerError) as caught:
        load_tokenizer(tmp_path, "x")
    assert caught.value.kind == "environment"
    assert "pip install sentencepiece" in caught.value.hint
