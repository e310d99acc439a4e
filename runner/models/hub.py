"""Snapshots of Hugging Face hub repositories: the local cache first, and every failure in one sentence."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from runner.contract import ModelSpec
from runner.errors import RunnerError
from runner.models import weights

# Never pickles, ONNX or another framework's files; nothing in subfolders belongs to the model itself.
PATTERNS = ("model.safetensors", "model-*.safetensors", "*.json", "*.txt", "*.model")
CODE_PATTERN = "*.py"


def snapshot(spec: ModelSpec, *, offline: bool, cache: Path | None, endpoint: str | None) -> Path:
    """The folder of a repository's snapshot; its name is the commit hash. Raises RunnerError."""
    cached = _cached(spec, cache)
    if cached is not None and _has_weights(cached):
        return cached
    if offline:
        if cached is not None and weights.pickle_files(cached):
            raise weights.pickle_error(spec.alias, spec.name, weights.pickle_files(cached)[0], hub=True)
        raise _unreachable(spec)
    return _download(spec, cache, endpoint)


def _has_weights(folder: Path) -> bool:
    """False for a snapshot that something else cached in part, such as the tokenizer alone."""
    return (folder / weights.SINGLE).is_file() or (folder / weights.INDEX).is_file()


def _patterns(spec: ModelSpec) -> list[str]:
    return [*PATTERNS, CODE_PATTERN] if spec.trust_remote_code else list(PATTERNS)


def _cached(spec: ModelSpec, cache: Path | None) -> Path | None:
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return _snapshot(spec, cache, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    except HFValidationError:
        raise RunnerError(
            "configuration",
            f"model '{spec.alias}': '{spec.name}' is not a hub id",
            "write it as `organisation/name`, or use `path:` for a folder",
        ) from None


def _snapshot(spec: ModelSpec, cache: Path | None, **options: Any) -> Path:
    """The model's folder in the hub's cache, with the files that loading needs and no others."""
    from huggingface_hub import snapshot_download

    found = snapshot_download(
        spec.name,
        revision=spec.revision,
        cache_dir=cache,
        allow_patterns=_patterns(spec),
        ignore_patterns=["*/*"],
        **options,
    )
    return Path(found)


def _download(spec: ModelSpec, cache: Path | None, endpoint: str | None) -> Path:
    from huggingface_hub.errors import HTTPError

    try:
        folder = _snapshot(spec, cache, endpoint=endpoint)
    except (HTTPError, OSError) as error:
        raise hub_error(spec, error) from error
    if not _has_weights(folder):
        _refuse_pickles(spec, folder.name, endpoint)
    return folder


def _refuse_pickles(spec: ModelSpec, commit: str, endpoint: str | None) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    try:
        names = HfApi(endpoint=endpoint).list_repo_files(spec.name, revision=commit)
    except (HTTPError, OSError) as error:
        raise hub_error(spec, error) from error
    pickles = sorted(name for name in names if any(Path(name).match(pattern) for pattern in weights.PICKLES))
    if pickles:
        raise weights.pickle_error(spec.alias, spec.name, pickles[0], hub=True)


def hub_error(spec: ModelSpec, error: Exception) -> RunnerError:
    """What a failed download means to the user."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    page = f"https://huggingface.co/{spec.name}"
    if isinstance(error, GatedRepoError):  # a kind of RepositoryNotFoundError: first
        return RunnerError(
            "environment",
            f"model '{spec.alias}' ({spec.name}) is gated: its owner must grant access",
            f"accept its terms at {page} and set HF_TOKEN to a token of that account",
        )
    if isinstance(error, RepositoryNotFoundError):
        return RunnerError(
            "model",
            f"model '{spec.alias}': the hub has no public model '{spec.name}'",
            "correct its name, or set HF_TOKEN to a token that may read it if it is private",
        )
    if isinstance(error, RevisionNotFoundError):
        return RunnerError(
            "model", f"model '{spec.alias}': {spec.name} has no revision '{spec.revision}'", f"choose one from {page}"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return RunnerError(
            "disk_full",
            f"model '{spec.alias}': the disk is full",
            "free space, or set HF_HOME to a folder on a larger disk",
        )
    if isinstance(error, PermissionError):
        return RunnerError(
            "environment",
            f"model '{spec.alias}': the hub cache cannot be written ({error.filename})",
            "set HF_HOME to a folder that you may write",
        )
    return _unreachable(spec)


def _unreachable(spec: ModelSpec) -> RunnerError:
    return RunnerError(
        "environment",
        f"model '{spec.alias}' ({spec.name}) is not in the local cache and the Hugging Face hub cannot be reached",
        f"connect to the internet and run `hf download {spec.name}` once (then it works offline), "
        "or point a `path:` entry at a folder that holds it",
    )
