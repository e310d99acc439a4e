"""Snapshots of Hugging Face hub repositories: the local cache first, and every failure in one sentence.

Weights are safetensors. A repository whose main revision has pickles alone often has the hub's own conversion waiting
as a pull request of its bot; that is taken, and remembered in the hub's cache as refs/moodbench/pr/N beside its own
refs, so that it is found again without network.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.contract import ModelSpec, write_atomic
from runner.errors import RunnerError
from runner.locks import alone
from runner.models import weights
from runner.transient import is_transient

# Never pickles, ONNX or another framework's files; nothing in subfolders belongs to the model itself.
PATTERNS = ("model.safetensors", "model-*.safetensors", "*.json", "*.txt", "*.model")
CODE_PATTERN = "*.py"
# What the hub's converter calls its pull requests (https://huggingface.co/spaces/safetensors/convert).
BOT = "SFconvertbot"
BOT_TITLE = "Adding `safetensors` variant of this model"
CONVERSIONS = "moodbench/pr"  # under a repository's refs/: pull request -> commit


@dataclass(frozen=True)
class Snapshot:
    folder: Path  # its name is the commit hash
    downloaded: bool
    notes: tuple[str, ...] = ()


def snapshot(spec: ModelSpec, *, offline: bool, cache: Path | None, endpoint: str | None) -> Snapshot:
    """A repository's snapshot that has weights. Raises RunnerError."""
    _check_id(spec)
    repository = _repository(spec, cache)
    with alone(repository.parent / ".locks" / repository.name / "moodbench.lock"):
        cached = _cached(spec, cache)
        if cached is not None and _has_weights(cached):
            return Snapshot(cached, downloaded=False)
        conversion = _cached_conversion(spec, cache, repository)
        if conversion is not None:
            return conversion
        if offline:
            if cached is not None and weights.pickle_files(cached):
                raise weights.pickle_error(spec.alias, spec.name, weights.pickle_files(cached)[0], hub=True)
            raise _unreachable(spec)
        return _download(spec, cache, endpoint)


def _check_id(spec: ModelSpec) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(spec.name)
    except HFValidationError:
        raise RunnerError(
            "configuration",
            f"model '{spec.alias}': '{spec.name}' is not a hub id",
            "write it as `organisation/name`, or use `path:` for a folder",
        ) from None


def _repository(spec: ModelSpec, cache: Path | None) -> Path:
    """The repository's folder in the hub's cache."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(cache or constants.HF_HUB_CACHE) / repo_folder_name(repo_id=spec.name, repo_type="model")


def _has_weights(folder: Path) -> bool:
    """False for a snapshot that is here in part: something cached the tokenizer alone, a download was broken off."""
    if (folder / weights.SINGLE).is_file():
        return True
    try:
        return bool(weights.weights_files(folder, ""))
    except RunnerError:
        return False


def _patterns(spec: ModelSpec) -> list[str]:
    return [*PATTERNS, CODE_PATTERN] if spec.trust_remote_code else list(PATTERNS)


def _cached(spec: ModelSpec, cache: Path | None) -> Path | None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return _snapshot(spec, cache, local_files_only=True)
    except LocalEntryNotFoundError:
        return None


def _snapshot(spec: ModelSpec, cache: Path | None, revision: str | None = None, **options: Any) -> Path:
    """The model's folder in the hub's cache, with the files that loading needs and no others."""
    from huggingface_hub import snapshot_download

    found = snapshot_download(
        spec.name,
        revision=revision or spec.revision,
        cache_dir=cache,
        allow_patterns=_patterns(spec),
        ignore_patterns=["*/*"],
        **options,
    )
    return Path(found)


def _download(spec: ModelSpec, cache: Path | None, endpoint: str | None) -> Snapshot:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    try:
        folder = _snapshot(spec, cache, endpoint=endpoint)
        if _has_weights(folder):
            return Snapshot(folder, downloaded=True)
        names = set(HfApi(endpoint=endpoint).list_repo_files(spec.name, revision=folder.name))
        pickles = sorted(name for name in names.difference(weights.NOT_WEIGHTS) if _matches(name, weights.PICKLES))
        if not pickles:
            return Snapshot(folder, downloaded=True)  # what is wrong with it is for the checks of the folder to say
        conversion = _download_conversion(spec, names, cache, endpoint)
    except (HTTPError, OSError) as error:
        raise hub_error(spec, error) from error
    if conversion is None:
        raise weights.pickle_error(spec.alias, spec.name, pickles[0], hub=True)
    return conversion


# --- the hub's own conversions ----------------------------------------------------------------


def _download_conversion(spec: ModelSpec, names: set[str], cache: Path | None, endpoint: str | None) -> Snapshot | None:
    """The newest open conversion of main, whose files are `names`; None without one that is whole: it must have
    weights, and every file that loading needs beside them."""
    from huggingface_hub import HfApi

    if spec.revision not in (None, "main"):
        return None  # it converts main, not what was asked for
    for number in _conversions(spec, endpoint):
        revision = f"refs/pr/{number}"
        offered = set(HfApi(endpoint=endpoint).list_repo_files(spec.name, revision=revision))
        if not {name for name in names if _matches(name, PATTERNS)} <= offered:
            continue
        if not offered & {weights.SINGLE, weights.INDEX}:
            continue
        folder = _snapshot(spec, cache, revision, endpoint=endpoint)
        if _has_weights(folder):
            _remember(_repository(spec, cache), number, folder.name)
            return Snapshot(folder, downloaded=True, notes=(_note(spec, number, folder.name),))
    return None


def _conversions(spec: ModelSpec, endpoint: str | None) -> list[int]:
    """Numbers of the open pull requests by the hub's converter, newest first."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = list(HfApi(endpoint=endpoint).get_repo_discussions(spec.name, author=BOT, discussion_status="open"))
    except HfHubHTTPError:  # the repository takes no pull requests
        return []
    # What the hub was asked for is checked again: nobody else's weights are taken.
    return sorted((d.num for d in found if _is_conversion(d)), reverse=True)


def _is_conversion(found: Any) -> bool:
    title_is_right = found.title.strip() == BOT_TITLE
    return bool(found.author == BOT and title_is_right and found.is_pull_request and found.status == "open")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether it lies at the top of the repository and its name is one of these."""
    return "/" not in name and any(Path(name).match(pattern) for pattern in patterns)


def _remember(repository: Path, number: int, commit: str) -> None:
    reference = repository / "refs" / CONVERSIONS / str(number)
    reference.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(reference, commit.encode())


def _cached_conversion(spec: ModelSpec, cache: Path | None, repository: Path) -> Snapshot | None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    if spec.revision not in (None, "main"):
        return None
    for number, commit in _remembered(repository):
        try:
            folder = _snapshot(spec, cache, commit, local_files_only=True)
        except LocalEntryNotFoundError:
            continue
        if _has_weights(folder):
            return Snapshot(folder, downloaded=False, notes=(_note(spec, number, commit),))
    return None


def _remembered(repository: Path) -> Iterator[tuple[int, str]]:
    """Pull request and commit, newest first."""
    found = (repository / "refs" / CONVERSIONS).glob("*")
    for reference in sorted((path for path in found if path.name.isdecimal()), key=lambda path: -int(path.name)):
        yield int(reference.name), reference.read_text().strip()


def _note(spec: ModelSpec, number: int, commit: str) -> str:
    return (
        f"the main revision of {spec.name} has weights only as pickle; the hub's own conversion to safetensors was "
        f"taken (pull request {number} by {BOT}, commit {commit[:12]})"
    )


# --- what goes wrong --------------------------------------------------------------------------


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
    return _broken_off(spec, error)


def _broken_off(spec: ModelSpec, error: Exception) -> RunnerError:
    """Nothing is wrong with what was asked for."""
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
    if is_transient(error):
        return RunnerError(
            "network",
            f"model '{spec.alias}' ({spec.name}): the download broke off ({type(error).__name__})",
            "run the same command again: what has come is kept",
        )
    return _unreachable(spec)


def _unreachable(spec: ModelSpec) -> RunnerError:
    return RunnerError(
        "environment",
        f"model '{spec.alias}' ({spec.name}) is not in the local cache and the Hugging Face hub cannot be reached",
        f"connect to the internet and run `{_fetching(spec)}` once (then it works offline), "
        "or point a `path:` entry at a folder that holds it",
    )


def _fetching(spec: ModelSpec) -> str:
    """A command that fetches it; the command line has no way to name a revision."""
    if spec.revision is None:
        return f"moodbench fetch --models hub:{spec.name}"
    return f"hf download {spec.name} --revision {spec.revision}"
