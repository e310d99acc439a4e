"""A trained model as a folder that transformers loads as it is, with the predictions that the cell had.

Merged, or trained as a whole, it is the model alone. Unmerged it is the base model with the adapter beside it, which
transformers loads as one where peft is installed. The base's weights are there on purpose: loaded by its name alone, a
base knows neither how many labels there are nor what they are called, and is whatever its name means by then.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from runner.contract import CellSpec, ExportedFiles, ExportRequest, digests
from runner.errors import RunnerError
from runner.models.load import Base, LoadedModel, pretrained, under_method
from runner.models.merge import deployable, load_saved, save

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PEFT_CARD = "README.md"  # peft writes one of empty headings
OF_THE_LOADING = ("is_local", "local_files_only")  # what transformers notes in a tokenizer's settings beside its own


def export(request: ExportRequest, to: Path) -> ExportedFiles:
    """Write the model, its tokenizer and the names of its labels into the folder `to`, which is new or empty.

    Raises RunnerError: `model` (what training left is gone, damaged or of another model), `configuration`.
    """
    spec, trained = request.spec, Path(request.adapter)
    if not trained.is_dir():
        raise RunnerError("model", f"what cell '{spec.cell}' trained is gone: there is no {trained}", "train it again")
    _check_empty(to)
    loaded = load_saved(spec, trained) if spec.method == "lora" else _whole(spec, trained)
    merged = request.merge and spec.method == "lora"
    if spec.method == "lora" and not merged:
        _save_adapted(loaded, spec, to)
    else:
        model: Any = deployable(loaded)
        model.save_pretrained(str(to))
    _as_fed(loaded.tokenizer, loaded.max_length).save_pretrained(str(to))
    return ExportedFiles(files=_settle(to), merged=merged, max_length=loaded.max_length)


def _check_empty(to: Path) -> None:
    try:
        to.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise RunnerError("configuration", f"{to} is not a folder", "give a new or empty folder") from None
    if any(to.iterdir()):
        raise RunnerError("configuration", f"{to} is not empty", "give a new or empty folder")


def _whole(spec: CellSpec, trained: Path) -> LoadedModel:
    """A model that was saved whole. Its base is not needed, and need not be there any more."""
    base: Base = pretrained(spec, trained)
    if base.new_modules:
        raise RunnerError(
            "model",
            f"the weights in {trained} lack {', '.join(base.new_modules)}",
            "train the cell again in a new run",
        )
    return under_method(base, spec)


def _save_adapted(loaded: LoadedModel, spec: CellSpec, to: Path) -> None:
    """The adapter with the modules trained beside it, and the base as it was, told of labels and pad token. What the
    adapter holds anew is zero in the base: without peft, which transformers does not miss, all labels are equal."""
    assert spec.model.folder is not None
    adapted: Any = loaded.model
    if spec.model.kind != "hub":  # peft notes where the base lay on this machine; transformers takes the one beside it
        adapted.peft_config["default"].base_model_name_or_path = ""  # None would be filled in again
    save(loaded, to)
    base = pretrained(spec, Path(spec.model.folder)).model
    base.config.get_text_config().pad_token_id = adapted.config.get_text_config().pad_token_id
    for name in loaded.trained_modules:
        for parameter in base.get_submodule(name).parameters():
            torch.nn.init.zeros_(parameter)
    base.save_pretrained(str(to))
    (to / PEFT_CARD).unlink(missing_ok=True)


def _as_fed(tokenizer: PreTrainedTokenizerBase, max_length: int) -> PreTrainedTokenizerBase:
    """With the settings by which the cell's model got its texts, so that a plain call gives it the same."""
    settings = {
        "model_max_length": max_length,
        "padding_side": "right",  # decoders count positions from the left where nobody gives them
        "model_input_names": ["input_ids", "attention_mask"],
    }
    for name, value in settings.items():
        setattr(tokenizer, name, value)
    tokenizer.init_kwargs.update(settings)  # what is not in there is not saved
    for name in OF_THE_LOADING:
        tokenizer.init_kwargs.pop(name, None)
    tokenizer("", truncation=True, max_length=max_length)  # tokenizer.json keeps the truncation of the last call
    return tokenizer


def _settle(folder: Path) -> dict[str, str]:
    """Let weights be read by whoever may read the rest, which safetensors does not; the digests of all files."""
    mode = (folder / "config.json").stat().st_mode & 0o777
    names = sorted(path.name for path in folder.iterdir())
    for name in names:
        (folder / name).chmod(mode)
    return digests(folder, names)
