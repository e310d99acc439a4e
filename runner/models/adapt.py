"""What of a model is trained: everything (`full`), its new modules (`frozen`), or LoRA and its new modules."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from runner.contract import CellSpec, Choice, LoraSpec
from runner.errors import RunnerError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LLAMA_LIKE = ("q_proj", "k_proj", "v_proj", "o_proj")
TARGETS: dict[str, tuple[str, ...]] = {
    "bert": ("query", "value"),
    "roberta": ("query", "value"),
    "electra": ("query", "value"),
    "distilbert": ("q_lin", "v_lin"),
    "deberta-v2": ("query_proj", "value_proj"),
    "gpt2": ("c_attn",),
    "gpt_neox": ("query_key_value",),
    "llama": LLAMA_LIKE,
    "mistral": LLAMA_LIKE,
    "qwen2": LLAMA_LIKE,
    "gemma": LLAMA_LIKE,
    "gemma3_text": LLAMA_LIKE,
    "phi3": ("qkv_proj", "o_proj"),
}
# For other architectures: the first of these whose names are all there.
KNOWN = (
    ("query", "value"),
    LLAMA_LIKE,
    ("qkv_proj", "o_proj"),
    ("query_key_value",),
    ("q_lin", "v_lin"),
    ("query_proj", "value_proj"),
    ("q_proj", "v_proj"),
    ("c_attn",),
    ("Wqkv",),
    ("in_proj",),
)
CHECKPOINT_FROM = 1_000_000_000  # parameters
ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class Adapted:
    """`adapted_modules`: LoRA target -> number of modules it matched. `trained_modules`: trained in full."""

    model: nn.Module
    adapted_modules: dict[str, int] = field(default_factory=dict)
    trained_modules: tuple[str, ...] = ()
    choices: dict[str, Choice] = field(default_factory=dict)


def check_method(spec: CellSpec) -> None:
    """Raises RunnerError("configuration") where the method does not go with the kind of model."""
    alias, kind, method = spec.model.alias, spec.model.kind, spec.method
    if kind == "baseline":
        raise RunnerError(
            "configuration",
            f"baseline '{alias}' is fitted, not loaded: method '{method}' does not apply",
            "use method `none`",
        )
    if method == "none":
        raise RunnerError(
            "configuration",
            f"model '{alias}' must be trained: method 'none' is for baselines",
            "use lora, full or frozen",
        )
    if method == "qlora":
        raise RunnerError("configuration", "qlora is not available in this version", "use method `lora`")
    if kind == "scratch" and method != "full":
        raise RunnerError(
            "configuration",
            f"model '{alias}' starts from random weights: there is nothing pretrained that '{method}' could keep",
            "use method `full`",
        )


def adapt(model: PreTrainedModel, spec: CellSpec, new_modules: Sequence[str]) -> Adapted:
    """Make trainable what the method trains, and nothing else. `model` is changed in place.

    Raises RunnerError("configuration"): LoRA targets that the model does not have.
    """
    trained = tuple(new_modules) or head_modules(model)
    total = sum(parameter.numel() for parameter in model.parameters())  # before PEFT adds its own
    if spec.method == "lora":
        adapted = _lora(model, spec, trained)
    elif spec.method == "frozen":
        model.requires_grad_(False)
        for name in trained:
            model.get_submodule(name).requires_grad_(True)
        adapted = Adapted(model=model, trained_modules=trained)
    else:
        model.requires_grad_(True)
        adapted = Adapted(model=model, trained_modules=trained)
    if spec.method != "frozen":
        adapted.choices["gradient_checkpointing"] = _checkpoint_gradients(model, spec, total)
    return adapted


def head_modules(model: PreTrainedModel) -> tuple[str, ...]:
    """The modules beside the backbone that hold parameters."""
    backbone = model.base_model_prefix
    return tuple(n for n, m in model.named_children() if n != backbone and next(m.parameters(), None) is not None)


# --- LoRA -------------------------------------------------------------------------------------


def _lora(model: PreTrainedModel, spec: CellSpec, trained: tuple[str, ...]) -> Adapted:
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers.pytorch_utils import Conv1D

    lora = spec.lora or LoraSpec()
    linear = linear_modules(model, trained)
    targets = choose_targets(str(model.config.model_type), lora.target_modules, linear, spec.model.alias)
    names = tuple(str(targets.value).split(", "))
    matched = {name: _matches(linear, name) for name in names}
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        bias="none",
        target_modules=list(names),
        modules_to_save=list(trained),
        fan_in_fan_out=all(isinstance(linear[path], Conv1D) for paths in matched.values() for path in paths),
    )
    with peft_warnings_off():
        wrapped = get_peft_model(model, config)
    if spec.model.kind == "hub":  # peft notes the local folder, which means nothing elsewhere
        wrapped.peft_config["default"].base_model_name_or_path = spec.model.name
        wrapped.peft_config["default"].revision = spec.model.revision
    _check_trained(wrapped, trained)
    counts = {name: len(paths) for name, paths in matched.items()}
    return Adapted(
        model=wrapped, adapted_modules=counts, trained_modules=trained, choices={"lora_target_modules": targets}
    )


def linear_modules(model: nn.Module, trained: Sequence[str]) -> dict[str, nn.Module]:
    """Path -> module of the linear layers that LoRA may adapt: those outside the modules trained in full."""
    from transformers.pytorch_utils import Conv1D

    inside = tuple(f"{name}." for name in trained)
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not f"{path}.".startswith(inside)
    }


def choose_targets(model_type: str, wanted: tuple[str, ...] | None, linear: dict[str, nn.Module], alias: str) -> Choice:
    """The target names, joined by ", ", each of them matching at least one linear layer.

    Raises RunnerError("configuration") that lists the names present.
    """
    present = Counter(path.rpartition(".")[2] for path in linear)
    if wanted == (ALL_LINEAR,):
        return Choice(value=", ".join(sorted(present)), reason="all linear layers of the backbone, as configured")
    default = wanted or TARGETS.get(model_type)
    if default is None:
        default = next((names for names in KNOWN if all(name in present for name in names)), None)
        if default is None:
            raise _unmatched(alias, f"no LoRA targets are known for model type '{model_type}'", present)
        return Choice(value=", ".join(default), reason=f"usual names, found in model type '{model_type}'")
    missing = [name for name in default if not _matches(linear, name)]
    if missing:
        # A list that matches in part would train less than asked, in silence: Phi-3 has o_proj but no q_proj.
        cause = f"LoRA targets {', '.join(missing)} match no linear layer of model type '{model_type}'"
        raise _unmatched(alias, cause, present)
    return Choice(value=", ".join(default), reason="as configured" if wanted else f"default for '{model_type}'")


def _matches(linear: dict[str, nn.Module], name: str) -> list[str]:
    return [path for path in linear if path == name or path.endswith(f".{name}")]


def _unmatched(alias: str, cause: str, present: Counter[str]) -> RunnerError:
    names = ", ".join(f"{name} ({count})" for name, count in sorted(present.items()))
    return RunnerError(
        "configuration", f"model '{alias}': {cause}", f"set lora.target_modules to some of those present: {names}"
    )


def _check_trained(model: nn.Module, trained: Sequence[str]) -> None:
    """PEFT trains only what it recognises as a head (it leaves DeBERTa's new pooler frozen unless told)."""
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for module in trained:
        if not any(f".{module}." in name for name in trainable):
            raise RunnerError(
                "code", f"PEFT left the new module '{module}' frozen", "report this with your peft version"
            )


@contextmanager
def peft_warnings_off() -> Iterator[None]:
    """Silence peft's use of names that transformers 5.23 deprecates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*_gradient_checkpointing`? is deprecated", category=FutureWarning)
        yield


# --- gradient checkpointing -------------------------------------------------------------------


def _checkpoint_gradients(model: PreTrainedModel, spec: CellSpec, total: int) -> Choice:
    """Recompute activations instead of keeping them, where asked for or where the model is large."""
    wanted, reason = spec.training.gradient_checkpointing, "as configured"
    if wanted is None:
        wanted = total >= CHECKPOINT_FROM
        reason = f"{total:,} parameters, {'at least' if wanted else 'below'} {CHECKPOINT_FROM:,}"
    if wanted and not model.supports_gradient_checkpointing:
        return Choice(value=False, reason=f"model type '{model.config.model_type}' does not support it")
    if wanted:
        # `activation_` replaced `gradient_` in the names within transformers 5.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        if spec.method == "lora":
            model.enable_input_require_grads()
    return Choice(value=wanted, reason=reason)
