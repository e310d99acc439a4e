"""What is exported answers as the cell did, when nothing but transformers (and peft) reads it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from runner.__main__ import main
from runner.contract import CellSpec, ExportedFiles, ExportRequest, Failure, Method, ScratchSpec, encode, read
from runner.errors import RunnerError
from runner.export import export
from runner.models import quiet
from runner.models.adapt import peft_warnings_off
from runner.models.load import LoadedModel, load
from runner.models.merge import deployable, save
from runner.scoring import TransformerPredictor
from tests.runner.models.small_models import DECODERS, TEXTS, Checkpoint, MakeSpec

TOLERANCE = 1e-5
LABELS = ("bad", "so-so", "good")
LONG = " ".join(TEXTS[:6])
ASKED = [*TEXTS[:6], "great", LONG]
KINDS = ("bert", "roberta", "deberta-v2", "gpt2", "llama")


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    quiet()


def train(spec: CellSpec, folder: Path) -> np.ndarray:
    """Leave in `folder` what a cell's training leaves; the probabilities that the cell gives to ASKED."""
    loaded = load(spec, TEXTS)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    save(loaded, folder)
    return predictor(loaded).predict(ASKED, batch_size=4)


def predictor(loaded: LoadedModel) -> TransformerPredictor:
    return TransformerPredictor(
        model=deployable(loaded),
        tokenizer=loaded.tokenizer,
        pad_token_id=loaded.pad_token_id,
        is_decoder=loaded.is_decoder,
        max_length=loaded.max_length,
        device="cpu",
        dtype="float32",
    )


def load_plain(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    with peft_warnings_off():
        model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def answers(folder: Path) -> np.ndarray:
    """As plain code would ask: one padded batch, truncated as the tokenizer says."""
    model, tokenizer = load_plain(folder)
    with torch.no_grad():
        logits = model(**tokenizer(ASKED, padding=True, truncation=True, return_tensors="pt")).logits
    return np.asarray(torch.softmax(logits, dim=-1))


def exported(spec: CellSpec, trained: Path, to: Path, *, merge: bool = False) -> ExportedFiles:
    to.mkdir()
    return export(ExportRequest(spec=spec, adapter=str(trained), merge=merge), to)


@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "merged"])
@pytest.mark.parametrize("kind", KINDS)
def test_lora(kind: str, merge: bool, checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(checkpoint(kind), labels=LABELS)
    expected = train(spec, tmp_path / "adapter")
    found = exported(spec, tmp_path / "adapter", tmp_path / "to", merge=merge)
    assert (found.merged, found.max_length) == (merge, 32)
    np.testing.assert_allclose(answers(tmp_path / "to"), expected, atol=TOLERANCE, rtol=0)
    assert np.ptp(expected, axis=0).max() > 0.01, "texts are told apart"
    assert (tmp_path / "to/adapter_config.json").exists() != merge


@pytest.mark.parametrize("method", ["full", "frozen"])
def test_whole_models_need_their_base_no_more(
    method: Method, checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec(checkpoint("gpt2"), method, labels=LABELS)
    expected = train(spec, tmp_path / "trained")
    spec = msgspec.structs.replace(spec, model=msgspec.structs.replace(spec.model, folder=str(tmp_path / "gone")))
    assert not exported(spec, tmp_path / "trained", tmp_path / "to", merge=True).merged
    np.testing.assert_allclose(answers(tmp_path / "to"), expected, atol=TOLERANCE, rtol=0)


def test_scratch(make_spec: MakeSpec, tmp_path: Path) -> None:
    shape = ScratchSpec(hidden_size=32, layers=1, heads=2, intermediate_size=64, vocab_size=200)
    spec = make_spec(None, "full", kind="scratch", folder=None, scratch=shape)
    expected = train(spec, tmp_path / "trained")
    exported(spec, tmp_path / "trained", tmp_path / "to")
    np.testing.assert_allclose(answers(tmp_path / "to"), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "merged"])
@pytest.mark.parametrize("kind", DECODERS)
def test_what_plain_code_does_otherwise_with_a_decoder(
    kind: str, merge: bool, checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path
) -> None:
    """It gives no positions, so that padding on the left would shift them; it passes on whatever the tokenizer makes;
    and without a pad token it takes no batch."""
    base = tmp_path / "base"
    shutil.copytree(checkpoint(kind), base)
    alter(
        base / "tokenizer_config.json",
        padding_side="left",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    alter(base / "config.json", pad_token_id=None)
    spec = make_spec(base)
    expected = train(spec, tmp_path / "adapter")
    exported(spec, tmp_path / "adapter", tmp_path / "to", merge=merge)
    np.testing.assert_allclose(answers(tmp_path / "to"), expected, atol=TOLERANCE, rtol=0)


def alter(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_label_names_and_limits_go_along(checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path) -> None:
    from transformers import pipeline

    spec = make_spec(checkpoint("gpt2"), labels=LABELS, max_length=9)
    expected = train(spec, tmp_path / "adapter")
    exported(spec, tmp_path / "adapter", tmp_path / "to")
    config = json.loads((tmp_path / "to/config.json").read_text())
    assert config["id2label"] == {"0": "bad", "1": "so-so", "2": "good"}
    assert config["label2id"] == {"bad": 0, "so-so": 1, "good": 2}
    assert (config["problem_type"], config["pad_token_id"]) == ("single_label_classification", 0)
    assert config["architectures"] == ["GPT2ForSequenceClassification"]
    settings = json.loads((tmp_path / "to/tokenizer_config.json").read_text())
    assert (settings["model_max_length"], settings["padding_side"]) == (9, "right")
    assert "local_files_only" not in settings
    assert json.loads((tmp_path / "to/tokenizer.json").read_text())["truncation"]["max_length"] == 9
    with peft_warnings_off():
        classify = pipeline("text-classification", str(tmp_path / "to"), truncation=True, device="cpu")
    found = classify(ASKED, batch_size=4)
    assert [one["label"] for one in found] == [LABELS[index] for index in expected.argmax(axis=1)]
    np.testing.assert_allclose([one["score"] for one in found], expected.max(axis=1), atol=TOLERANCE)


def test_without_peft_it_is_seen_that_something_is_missing(
    checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path
) -> None:
    """Transformers then loads the base and says nothing: it must not pass for a trained model."""
    from transformers import AutoModelForSequenceClassification

    base = checkpoint("bert", labels=2)  # has a head of its own
    spec = make_spec(base)
    train(spec, tmp_path / "adapter")
    exported(spec, tmp_path / "adapter", tmp_path / "to")
    (tmp_path / "to/adapter_config.json").unlink()
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "to").eval()
    with torch.no_grad():
        logits = model(**load_plain(tmp_path / "to")[1](ASKED, padding=True, return_tensors="pt")).logits
    assert not logits.any()
    kept, original = load_file(tmp_path / "to/model.safetensors"), load_file(base / "model.safetensors")
    assert all(torch.equal(kept[name], original[name]) for name in original if not name.startswith("classifier"))


def test_an_adapter_names_the_base_of_the_hub(checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(checkpoint("bert"), kind="hub", name="prajjwal1/bert-tiny", revision="0" * 40)
    expected = train(spec, tmp_path / "adapter")
    exported(spec, tmp_path / "adapter", tmp_path / "to")
    config = json.loads((tmp_path / "to/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("prajjwal1/bert-tiny", "0" * 40)
    assert sorted(config["modules_to_save"])[0] == "classifier"
    np.testing.assert_allclose(answers(tmp_path / "to"), expected, atol=TOLERANCE, rtol=0)  # which is not looked for


PLAIN = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder, texts = sys.argv[1], json.load(sys.stdin)
model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
with torch.no_grad():
    logits = model.eval()(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits
print(json.dumps(torch.softmax(logits, dim=-1).tolist()))
"""


@pytest.mark.parametrize("origin", ["path", "package"])
def test_an_adapter_of_a_local_base_is_moved(
    origin: str, checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path
) -> None:
    base = tmp_path / "users-own-base"
    shutil.copytree(checkpoint("bert"), base)
    spec = make_spec(base, kind=origin, labels=LABELS)
    expected = train(spec, tmp_path / "adapter")
    exported(spec, tmp_path / "adapter", tmp_path / "to")
    shutil.rmtree(base)
    moved = (tmp_path / "to").rename(tmp_path / "elsewhere")
    done = subprocess.run(
        [sys.executable, "-P", "-c", PLAIN, str(moved)],
        input=json.dumps(ASKED),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("method", "merge"), [("lora", False), ("lora", True), ("full", False), ("frozen", False)])
def test_no_file_says_where_the_base_lay(
    method: Method, merge: bool, checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path
) -> None:
    base = tmp_path / "users-own-base"
    shutil.copytree(checkpoint("bert"), base)
    spec = make_spec(base, method, kind="path", name=str(base))
    train(spec, tmp_path / "adapter")
    exported(spec, tmp_path / "adapter", tmp_path / "to", merge=merge)
    for path in (tmp_path / "to").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name


def test_the_adapter_is_the_one_that_was_trained(checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(checkpoint("bert"))
    train(spec, tmp_path / "adapter")
    found = exported(spec, tmp_path / "adapter", tmp_path / "to")
    trained, kept = (load_file(tmp_path / place / "adapter_model.safetensors") for place in ("adapter", "to"))
    assert trained.keys() == kept.keys()
    assert all(torch.equal(trained[name], kept[name]) for name in trained)
    names = {path.name for path in (tmp_path / "to").iterdir()}
    assert set(found.files) == names
    assert "README.md" not in names, "the host writes the card"
    for name, digest in found.files.items():
        assert hashlib.sha256((tmp_path / "to" / name).read_bytes()).hexdigest() == digest
    modes = {stat.S_IMODE((tmp_path / "to" / name).stat().st_mode) for name in names}
    assert len(modes) == 1, "who may read one may read all"


# --- what cannot be exported --------------------------------------------------------------------


def test_what_was_trained_is_gone(checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match="is gone"):
        exported(make_spec(checkpoint("bert")), tmp_path / "absent", tmp_path / "to")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunnerError, match="holds no adapter"):
        exported(make_spec(checkpoint("bert")), tmp_path / "empty", tmp_path / "to2")


def test_nothing_is_overwritten(checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(checkpoint("bert"))
    train(spec, tmp_path / "adapter")
    (tmp_path / "to").mkdir()
    (tmp_path / "to/mine.txt").write_text("mine")
    with pytest.raises(RunnerError, match="not empty"):
        export(ExportRequest(spec=spec, adapter=str(tmp_path / "adapter")), tmp_path / "to")
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["mine.txt"]


def test_the_folder_is_made_where_it_is_not(checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(checkpoint("bert"))
    train(spec, tmp_path / "adapter")
    request = ExportRequest(spec=spec, adapter=str(tmp_path / "adapter"), merge=True)
    export(request, tmp_path / "new/to")
    assert (tmp_path / "new/to/config.json").exists()
    (tmp_path / "file").touch()
    for to in (tmp_path / "file", tmp_path / "file/to"):
        with pytest.raises(RunnerError, match="is not a folder") as caught:
            export(request, to)
        assert caught.value.kind == "configuration"


def test_weights_that_lack_the_head(checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path) -> None:
    """Transformers would fill it at random."""
    spec = make_spec(checkpoint("bert"), "full")
    train(spec, tmp_path / "trained")
    path = tmp_path / "trained/model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if not name.startswith("classifier")}
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(RunnerError, match="lack classifier"):
        exported(spec, tmp_path / "trained", tmp_path / "to")


def test_as_a_command(checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(checkpoint("bert"))
    expected = train(spec, tmp_path / "adapter")
    request, answer, to = tmp_path / "request.json", tmp_path / "answer.json", tmp_path / "to"
    to.mkdir()
    request.write_bytes(encode(ExportRequest(spec=spec, adapter=str(tmp_path / "adapter"), merge=True)))
    command = ["export", str(request), "--out", str(answer), "--to", str(to)]
    assert main(command) == 0
    assert read(answer, ExportedFiles).merged
    np.testing.assert_allclose(answers(to), expected, atol=TOLERANCE, rtol=0)
    assert main(command) == 1, "it is not empty any more"
    assert read(answer, Failure).kind == "configuration"
