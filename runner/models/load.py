"""A cell's model, ready to train: weights, tokenizer, head, and what the method makes trainable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from runner.contract import CellSpec, Choice, Method, ScratchSpec
from runner.errors import RunnerError
from runner.models.adapt import Adapted, adapt, check_method
from runner.models.batches import Side, pad_batch
from runner.models.tokenizer import SCRATCH_LENGTH, ensure_pad_token, learn_wordpiece, load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NO_LIMIT = 1_000_000  # tokenizers say 1e30 where they know no limit
MAX_MISSING = 0.5  # share of the backbone
SINGLE_LABEL = "single_label_classification"


@dataclass(frozen=True)
class LoadedModel:
    """A model under its method, float32 on the CPU, in training mode.

    `parameters_total` counts the model as deployed, without adapters; `parameters_trainable` what training changes.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    method: Method
    model_type: str  # architecture family as transformers names it: "bert", "gpt2", ...
    is_decoder: bool  # causal attention, positions given by the mask, pooled at the last token
    pad_token_id: int
    max_length: int  # tokens, special ones included
    new_modules: tuple[str, ...]  # initialised at random
    trained_modules: tuple[str, ...]  # trained in full: the new ones, or the head where none is new
    adapted_modules: dict[str, int]  # LoRA target -> modules matched
    parameters_total: int
    parameters_trainable: int
    choices: dict[str, Choice] = field(default_factory=dict)

    def pad(self, input_ids: Sequence[Sequence[int]], side: Side = "right") -> dict[str, torch.Tensor]:
        """`pad_batch` with this model's pad token: int64 (n, L) tensors on the CPU."""
        return pad_batch(input_ids, self.pad_token_id, side, decoder=self.is_decoder)


@dataclass(frozen=True)
class Base:
    """A model before its method: `new_modules` are those that no checkpoint filled."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    new_modules: tuple[str, ...]
    choices: dict[str, Choice]


def load(spec: CellSpec, train_texts: Sequence[str] | None = None) -> LoadedModel:
    """Load a resolved model and prepare it for `spec.method`; new weights depend on `spec.seed` alone.

    `train_texts` are needed by `scratch` models only, which learn their tokenizer from them. Sets torch's seed.
    Raises RunnerError: `configuration`, `model`, `environment`, `data`.
    """
    check_method(spec)
    torch.manual_seed(spec.seed)
    if spec.model.kind == "scratch":
        base = _scratch(spec, train_texts)
    else:
        if spec.model.folder is None:
            raise RunnerError("configuration", f"model '{spec.model.alias}' is not resolved", "resolve it first")
        base = pretrained(spec, Path(spec.model.folder))
    return under_method(base, spec)


def under_method(base: Base, spec: CellSpec) -> LoadedModel:
    """Apply the method to a base model."""
    model, config = base.model, base.model.config
    pad = ensure_pad_token(base.tokenizer, spec.model.alias)
    pad_token_id = _set_pad_token(model, base.tokenizer, spec.model.alias)
    config.use_cache = False  # one forward per text: keys and values are never read again
    limit, lengths = _max_length(base, spec.dataset.max_length)
    total = sum(parameter.numel() for parameter in model.parameters())
    adapted: Adapted = adapt(model, spec, base.new_modules)
    return LoadedModel(
        model=adapted.model.train(),
        tokenizer=base.tokenizer,
        method=spec.method,
        model_type=str(config.model_type),
        is_decoder=_is_decoder(model),
        pad_token_id=pad_token_id,
        max_length=limit,
        new_modules=base.new_modules,
        trained_modules=adapted.trained_modules,
        adapted_modules=adapted.adapted_modules,
        parameters_total=total,
        parameters_trainable=sum(p.numel() for p in adapted.model.parameters() if p.requires_grad),
        choices={**base.choices, "pad_token": pad, **lengths, **adapted.choices},
    )


# --- from a folder ----------------------------------------------------------------------------


def pretrained(spec: CellSpec, folder: Path) -> Base:
    """The model in a folder, with a head for the dataset's labels."""
    alias, trust = spec.model.alias, spec.model.trust_remote_code
    tokenizer = load_tokenizer(folder, alias, trust_remote_code=trust)
    model, info = _from_pretrained(folder, alias, spec.dataset.label_names, trust)
    mismatched = {key for key, *_ in info["mismatched_keys"]}
    _check_backbone(model, set(info["missing_keys"]), mismatched, alias)
    new = new_modules(model, set(info["missing_keys"]) | mismatched)
    return Base(model, tokenizer, new, {"new_modules": _describe(new, mismatched, spec.seed)})


def _from_pretrained(
    folder: Path, alias: str, label_names: Sequence[str], trust: bool
) -> tuple[PreTrainedModel, dict[str, Any]]:
    from transformers import AutoModelForSequenceClassification

    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            str(folder),
            num_labels=len(label_names),
            id2label=dict(enumerate(label_names)),
            label2id={name: index for index, name in enumerate(label_names)},
            problem_type=SINGLE_LABEL,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trust,
            ignore_mismatched_sizes=True,  # a head of another size; the backbone is checked afterwards
            output_loading_info=True,
            dtype=torch.float32,
        )
    except (ValueError, KeyError, OSError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise RunnerError(
            "model",
            f"model '{alias}' cannot be loaded for classification: {first}",
            "use a model type that the installed transformers supports, or download it again",
        ) from error
    return model, info


def _check_backbone(model: PreTrainedModel, missing: set[str], mismatched: set[str], alias: str) -> None:
    """Raises RunnerError("model") where the checkpoint is not one of this architecture or of this size."""
    prefix = f"{model.base_model_prefix}."
    resized = sorted(name for name in mismatched if name.startswith(prefix))
    if resized:
        raise RunnerError(
            "model",
            f"model '{alias}': config.json and weights disagree on the size of {resized[0]}",
            "use the config.json that was saved with these weights",
        )
    # The embeddings are counted apart: in a small model they outweigh the layers, and another architecture's fit.
    tables = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    sizes = {name: p.numel() for name, p in model.named_parameters() if name.startswith(prefix)}
    layers = {name: size for name, size in sizes.items() if name not in tables}
    absent = max(_share(sizes, missing), _share(layers, missing))
    if absent > MAX_MISSING:
        raise RunnerError(
            "model",
            f"model '{alias}': the weights lack {absent:.0%} of what model type '{model.config.model_type}' needs",
            "correct model_type in config.json, or use the weights that belong to it",
        )


def _share(sizes: Mapping[str, int], missing: set[str]) -> float:
    return sum(size for name, size in sizes.items() if name in missing) / max(1, sum(sizes.values()))


def new_modules(model: PreTrainedModel, unfilled: set[str]) -> tuple[str, ...]:
    """The fewest modules that cover the parameters in `unfilled`; a head counts as one, if any of it is new."""
    found: list[str] = []

    def visit(path: str, module: nn.Module) -> None:
        own = {f"{path}.{name}" for name, _ in module.named_parameters()}
        new = own & unfilled
        direct = {f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)}
        head = "." not in path and path != model.base_model_prefix
        if new and (head or new == own or new & direct):
            found.append(path)
        elif new:
            for name, child in module.named_children():
                visit(f"{path}.{name}", child)

    for name, child in model.named_children():
        visit(name, child)
    return tuple(found)


def _describe(new: Sequence[str], mismatched: set[str], seed: int) -> Choice:
    if not new:
        return Choice(value="", reason="the checkpoint fills the whole model, its head included")
    why = "the checkpoint's head has another number of labels" if mismatched else "not in the checkpoint"
    return Choice(value=", ".join(new), reason=f"{why}: initialised at random (seed {seed}) and trained")


# --- from scratch -----------------------------------------------------------------------------


def _scratch(spec: CellSpec, train_texts: Sequence[str] | None) -> Base:
    from transformers import AutoModelForSequenceClassification, BertConfig

    if train_texts is None:
        raise RunnerError(
            "configuration", f"model '{spec.model.alias}' learns its tokenizer from training texts", "give them"
        )
    shape = spec.model.scratch or ScratchSpec()
    if shape.hidden_size % shape.heads:
        raise RunnerError(
            "configuration",
            f"model '{spec.model.alias}': hidden_size {shape.hidden_size} is not a multiple of heads {shape.heads}",
            "correct one of them",
        )
    tokenizer = learn_wordpiece(train_texts, shape.vocab_size)
    names = spec.dataset.label_names
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=SCRATCH_LENGTH,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        problem_type=SINGLE_LABEL,
    )
    torch.manual_seed(spec.seed)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    new = tuple(name for name, child in model.named_children() if next(child.parameters(), None) is not None)
    return Base(model, tokenizer, new, {"new_modules": Choice(value=", ".join(new), reason="from scratch")})


# --- limits and layout ------------------------------------------------------------------------


def _set_pad_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, alias: str) -> int:
    """Tell the model the tokenizer's pad token: decoders look for the last token that is another. RoBERTa's family
    counts positions from its own, by which it is built again from what is saved."""
    pad, embeddings = tokenizer.pad_token_id, model.get_input_embeddings()
    rows = embeddings.num_embeddings if isinstance(embeddings, nn.Embedding) else None
    if pad is None or (rows is not None and pad >= rows):
        raise RunnerError(
            "model",
            f"model '{alias}': the tokenizer's pad token has id {pad}, but the model knows {rows} tokens",
            "use the tokenizer that was saved with these weights",
        )
    if not _position_offset(model):
        model.config.get_text_config().pad_token_id = int(pad)
    return int(pad)


def _max_length(base: Base, wanted: int) -> tuple[int, dict[str, Choice]]:
    """The dataset's length in tokens, or the shorter one that the model or its tokenizer can take."""
    limits: dict[str, int] = {}
    if base.tokenizer.model_max_length < NO_LIMIT:
        limits["tokenizer"] = int(base.tokenizer.model_max_length)
    positions = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limits["model"] = positions - _position_offset(base.model)
    if not limits or min(limits.values()) >= wanted:
        return wanted, {}
    source, limit = min(limits.items(), key=lambda item: item[1])
    reason = f"the dataset asks for {wanted} tokens, the {source} takes {limit}"
    return limit, {"max_length": Choice(value=limit, reason=reason)}


def _position_offset(model: nn.Module) -> int:
    """RoBERTa's family counts positions from `padding_idx + 1`: that many rows of the table are not usable."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def _is_decoder(model: PreTrainedModel) -> bool:
    """Causal models whose forward takes positions; BERT's family also has causal variants, but masked ones too."""
    import inspect

    from transformers.models.auto import modeling_auto

    causal: Mapping[str, Any] = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    masked: Mapping[str, Any] = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    forward: Callable[..., Any] = type(model).forward
    kind = str(model.config.model_type)
    return kind in causal and kind not in masked and "position_ids" in inspect.signature(forward).parameters
