"""A trained model as it is kept on disk, and as it is deployed. Save before merging: merging consumes the adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from runner.contract import CellSpec
from runner.errors import RunnerError
from runner.models.adapt import peft_warnings_off
from runner.models.load import LoadedModel, load, pretrained, under_method

if TYPE_CHECKING:
    from peft import PeftModel


def deployable(loaded: LoadedModel) -> nn.Module:
    """The plain model for inference: adapter merged into the weights, evaluation mode, no gradients.

    Works in place: `loaded.model` is not to be used afterwards, and `save` comes before.
    """
    model: Any = loaded.model
    if loaded.method == "lora":
        model = model.merge_and_unload()
    checkpointing = loaded.choices.get("gradient_checkpointing")
    if checkpointing is not None and checkpointing.value:
        disable = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
        disable()
        if loaded.method == "lora":
            model.disable_input_require_grads()
    return cast(nn.Module, model.requires_grad_(False).eval())


def save(loaded: LoadedModel, folder: Path) -> None:
    """Write what training made: the LoRA adapter with its heads, else the whole model; and the tokenizer.

    Safetensors only. `load_saved` and the libraries' own `from_pretrained` read it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model: Any = loaded.model
    if loaded.method == "lora":
        # Left at "auto", peft asks the hub whether the vocabulary was resized; ours never is.
        model.save_pretrained(str(folder), save_embedding_layers=False)
    else:
        model.save_pretrained(str(folder))
    loaded.tokenizer.save_pretrained(str(folder))


def load_saved(spec: CellSpec, folder: Path) -> LoadedModel:
    """What `save` wrote, as `load` gives it, with the trained weights: for phases after training.

    `spec` is the cell's own; LoRA needs its base model's folder. Raises RunnerError.
    """
    if spec.model.kind == "scratch":
        return under_method(pretrained(spec, folder), spec)
    loaded = load(spec)
    if spec.method == "lora":
        _load_adapter(cast("PeftModel", loaded.model), folder, spec.model.alias)
        return loaded
    loaded.model.load_state_dict(pretrained(spec, folder).model.state_dict())
    return loaded


def _load_adapter(model: PeftModel, folder: Path, alias: str) -> None:
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise RunnerError("model", f"model '{alias}': {folder} holds no adapter", "run the training phase again")
    with peft_warnings_off():
        outcome = set_peft_model_state_dict(model, load_file(path))
    if outcome.unexpected_keys:
        raise RunnerError(
            "model",
            f"model '{alias}': the adapter in {folder} has weights the model has no place for "
            f"({outcome.unexpected_keys[0]})",
            "use the spec it was trained with",
        )
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if lacking := sorted(trained & set(outcome.missing_keys)):
        raise RunnerError(
            "model",
            f"model '{alias}': the adapter in {folder} lacks weights that were trained ({lacking[0]})",
            "run the training phase again",
        )
