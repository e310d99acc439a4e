"""What is deployed and what is saved says the same as what was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from runner.contract import CellSpec, Method, ScratchSpec, TrainingSpec
from runner.errors import RunnerError
from runner.models import quiet
from runner.models.adapt import peft_warnings_off
from runner.models.load import LoadedModel, load
from runner.models.merge import deployable, load_saved, save
from tests.runner.models.small_models import CONFIGS, TEXTS, Checkpoint, MakeSpec

TOLERANCE = 1e-4


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    quiet()


def logits(loaded: LoadedModel, model: torch.nn.Module) -> torch.Tensor:
    batch = loaded.pad([loaded.tokenizer(text)["input_ids"] for text in TEXTS[:6]])
    with torch.no_grad():
        return model(**batch).logits


def trained(spec: CellSpec) -> LoadedModel:
    """As training leaves it: every trainable weight moved, LoRA's B no longer zero."""
    loaded = load(spec, TEXTS)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    loaded.model.eval()
    return loaded


@pytest.mark.parametrize("kind", CONFIGS)
def test_merged_equals_unmerged_and_saved(
    kind: str, checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec(checkpoint(kind), training=TrainingSpec(gradient_checkpointing=kind == "llama"))
    loaded = trained(spec)
    untrained = logits(loaded, load(spec).model.eval())
    expected = logits(loaded, loaded.model)
    assert (expected - untrained).abs().max() > 10 * TOLERANCE
    save(loaded, tmp_path)
    merged = deployable(loaded)
    assert not merged.training
    assert not any("lora" in name or "modules_to_save" in name for name, _ in merged.named_modules())
    assert not any(p.requires_grad for p in merged.parameters())
    torch.testing.assert_close(logits(loaded, merged), expected, atol=TOLERANCE, rtol=0)
    again = load_saved(spec, tmp_path)
    torch.testing.assert_close(logits(again, again.model.eval()), expected, atol=1e-6, rtol=0)
    assert again.parameters_trainable == loaded.parameters_trainable
    assert {file.suffix for file in tmp_path.iterdir()}.isdisjoint({".bin", ".pt", ".pkl"})


@pytest.mark.parametrize(("kind", "method"), [("bert", "full"), ("deberta-v2", "frozen"), ("gpt2", "full")])
def test_whole_model_round_trip(
    kind: str, method: Method, checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    spec = make_spec(checkpoint(kind), method)
    loaded = trained(spec)
    save(loaded, tmp_path)
    expected = logits(loaded, loaded.model)
    again = load_saved(spec, tmp_path)
    torch.testing.assert_close(logits(again, again.model.eval()), expected)
    assert again.trained_modules == loaded.trained_modules
    assert again.parameters_trainable == loaded.parameters_trainable
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()  # without MoodBench
    torch.testing.assert_close(logits(loaded, plain), expected)
    assert plain.config.label2id == {"negative": 0, "positive": 1}
    assert AutoTokenizer.from_pretrained(tmp_path)(TEXTS[0]) == loaded.tokenizer(TEXTS[0])


def test_adapter_without_moodbench(checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    loaded = trained(make_spec(checkpoint("deberta-v2")))
    save(loaded, tmp_path)
    base = AutoModelForSequenceClassification.from_pretrained(checkpoint("deberta-v2"))
    with peft_warnings_off():
        plain = PeftModel.from_pretrained(base, tmp_path).eval()
    torch.testing.assert_close(logits(loaded, plain), logits(loaded, loaded.model))


def test_adapter_of_a_hub_model_names_the_hub(checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path) -> None:
    from peft import PeftConfig

    spec = make_spec(checkpoint("bert"), kind="hub", name="prajjwal1/bert-tiny", revision="0" * 40)
    save(load(spec), tmp_path)
    config = PeftConfig.from_pretrained(tmp_path)
    assert (config.base_model_name_or_path, config.revision) == ("prajjwal1/bert-tiny", "0" * 40)


def test_scratch_round_trip(make_spec: MakeSpec, tmp_path: Path) -> None:
    shape = ScratchSpec(hidden_size=32, layers=1, heads=2, intermediate_size=64, vocab_size=200)
    spec = make_spec(None, "full", kind="scratch", folder=None, scratch=shape)
    loaded = trained(spec)
    save(loaded, tmp_path)
    again = load_saved(spec, tmp_path)
    torch.testing.assert_close(logits(again, again.model.eval()), logits(loaded, loaded.model))
    assert again.parameters_trainable == loaded.parameters_trainable
    assert again.max_length == loaded.max_length


def test_no_adapter_in_the_folder(checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match="holds no adapter"):
        load_saved(make_spec(checkpoint("bert")), tmp_path)


def test_adapter_of_another_shape(checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path) -> None:
    save(load(make_spec(checkpoint("bert"), targets=("query", "value", "key"))), tmp_path)
    with pytest.raises(RunnerError, match="has no place for"):
        load_saved(make_spec(checkpoint("bert")), tmp_path)


def test_an_adapter_that_lacks_what_was_trained(checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(checkpoint("bert"))
    save(load(spec), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(next(name for name in tensors if "lora_A" in name))
    save_file(tensors, path)
    with pytest.raises(RunnerError, match=r"lacks weights that were trained .*lora_A"):
        load_saved(spec, tmp_path)
