"""Checks of a model folder without torch: what is there, whether it is whole, and its digests."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from runner.errors import RunnerError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
NOT_WEIGHTS = ("training_args.bin",)  # a pickle that trainers leave beside the weights
MAX_HEADER_BYTES = 100 * 2**20  # the format's own limit
LFS_POINTER = b"version https://git-lfs"


def check_folder(folder: Path, alias: str) -> tuple[Path, ...]:
    """The weights files of a model folder, each of them whole.

    Raises RunnerError("model"): no folder, no config.json, no weights, pickle weights only, a shard missing,
    a file cut short.
    """
    if not folder.is_dir():
        raise RunnerError("model", f"model '{alias}': the folder {folder} does not exist", "correct its path")
    read_config(folder, alias)
    files = weights_files(folder, alias)
    for file in files:
        check_safetensors(file, alias)
    return files


def read_config(folder: Path, alias: str) -> dict[str, Any]:
    """The folder's config.json. Raises RunnerError("model") where it is missing or is not a JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "adapter_config.json").is_file():
            raise RunnerError(
                "model",
                f"model '{alias}': {folder} holds a LoRA adapter, not a model",
                "merge it into its base model (peft: `merge_and_unload`), save that, and point the entry at the result",
            )
        raise RunnerError(
            "model",
            f"model '{alias}': {folder} holds no config.json",
            "point the entry at a folder in the hub's layout",
        )
    return _read_object(path, alias)


def weights_files(folder: Path, alias: str) -> tuple[Path, ...]:
    """`model.safetensors`, or the shards that the index names, in order of name."""
    if (folder / SINGLE).is_file():
        return (folder / SINGLE,)
    if (folder / INDEX).is_file():
        return _shards(folder, alias)
    pickles = pickle_files(folder)
    if pickles:
        raise pickle_error(alias, str(folder), pickles[0], hub=False)
    raise RunnerError(
        "model",
        f"model '{alias}': {folder} holds no weights (neither {SINGLE} nor {INDEX})",
        "download the weights as well, or save the model with `save_pretrained`",
    )


def pickle_files(folder: Path) -> list[str]:
    """Names of the files that look like weights in Python's pickle format."""
    names = {file.name for pattern in PICKLES for file in folder.glob(pattern)}
    return sorted(names.difference(NOT_WEIGHTS))


def pickle_error(alias: str, where: str, file: str, *, hub: bool) -> RunnerError:
    """The refusal of pickle weights; `where` is a folder or, with `hub`, a hub id."""
    convert = (
        f'python -c "from transformers import AutoModel, AutoTokenizer as T; '
        f"AutoModel.from_pretrained('{where}').save_pretrained('converted'); "
        f"T.from_pretrained('{where}').save_pretrained('converted')\""
    )
    remedy = f"convert them once where you trust their source: {convert}, then use `path: converted`"
    if hub:
        remedy = (
            f"set `revision: refs/pr/<N>` to the safetensors conversion among the pull requests at "
            f"https://huggingface.co/{where}/discussions, if there is one, or {remedy}"
        )
    return RunnerError(
        "model",
        f"model '{alias}': {where} has weights only as pickle ({file}), which can run code when it is read",
        remedy,
    )


def _shards(folder: Path, alias: str) -> tuple[Path, ...]:
    mapping = _read_object(folder / INDEX, alias).get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        raise RunnerError("model", f"model '{alias}': {folder / INDEX} has no weight_map", "download the model again")
    names = sorted({str(name) for name in mapping.values()})
    missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise RunnerError(
            "model",
            f"model '{alias}': {len(missing)} of {len(names)} weights files named by {INDEX} are missing: "
            + ", ".join(missing[:4]),
            "download the model again",
        )
    return tuple(folder / name for name in names)


def check_safetensors(file: Path, alias: str) -> None:
    """Compare a safetensors header with the file's size; the tensors themselves are not read.

    Layout: 8 bytes little-endian header length, a JSON header, then the tensors at the offsets it gives
    (https://huggingface.co/docs/safetensors). Raises RunnerError("model").
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if (start + stream.read(32)).startswith(LFS_POINTER):
            raise _broken(file, alias, "is a git-lfs pointer, not the weights", "run `git lfs pull` in that folder")
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise _broken(file, alias, f"is not a safetensors file ({size:,} bytes)")
        if 8 + length > size:
            raise _broken(file, alias, f"is truncated: {size:,} bytes, its header alone needs {8 + length:,}")
        stream.seek(8)
        header = stream.read(length)
    needed = 8 + length + _data_bytes(header, file, alias)
    if needed != size:
        word = "truncated" if size < needed else "damaged"
        raise _broken(file, alias, f"is {word}: {size:,} bytes where its header promises {needed:,}")


def _data_bytes(header: bytes, file: Path, alias: str) -> int:
    """Length of the tensors' part, in bytes: the greatest end offset."""
    try:
        entries = json.loads(header)
        spans = [entry["data_offsets"] for name, entry in entries.items() if name != "__metadata__"]
        end = max((int(stop) for start, stop in spans if 0 <= int(start) <= int(stop)), default=0)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise _broken(file, alias, "has an unreadable safetensors header") from None
    if end == 0:
        raise _broken(file, alias, "holds no tensors")
    return end


def _broken(file: Path, alias: str, what: str, remedy: str = "download or save it again") -> RunnerError:
    return RunnerError("model", f"model '{alias}': {file} {what}", remedy)


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digests(files: tuple[Path, ...], expected: dict[str, str], alias: str) -> dict[str, str]:
    """File name -> sha256, compared with what is expected. Raises RunnerError("model") where they differ."""
    found = {file.name: sha256_of(file) for file in files}
    for name, wanted in expected.items():
        actual = found.get(name)
        if actual is None:
            raise RunnerError(
                "model",
                f"model '{alias}': the configuration expects {name}, but the folder holds {', '.join(found)}",
                "correct `weights_sha256`, or fetch the revision it was written for",
            )
        if actual != wanted.lower():
            raise RunnerError(
                "model",
                f"model '{alias}': sha256 of {name} is {actual}, but {wanted} is expected",
                "the weights changed: fetch them again, or correct `weights_sha256` if the change is meant",
            )
    return found


def _read_object(path: Path, alias: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise RunnerError("model", f"model '{alias}': {path} is not a JSON object", "download or save it again")
    return value
