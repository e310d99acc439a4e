"""Kaggle datasets: download once with kagglehub, then its files are read as any other."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from runner.contract import DatasetRequest, FailureKind, slug
from runner.data.files import SUFFIXES
from runner.data.sources import Source, read_files
from runner.errors import RunnerError
from runner.locks import alone
from runner.transient import is_transient


def read_kaggle(request: DatasetRequest) -> Source:
    """Tables of a Kaggle dataset. Raises RunnerError (`environment`, `disk_full`, `data`, `configuration`)."""
    folder = Path(_fetch(request))
    source = read_files(msgspec.structs.replace(request, files=_files(request, folder)))
    return replace(source, revision=folder.name if folder.parent.name == "versions" else None)


def _files(request: DatasetRequest, folder: Path) -> dict[str, str]:
    """split -> absolute path. `files` names files of the dataset; without it the only readable one is the pool."""
    readable = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    names = ", ".join(str(path.relative_to(folder)) for path in readable) or "none that can be read"
    if not request.files:
        if len(readable) == 1:
            return {"all": str(readable[0])}
        raise RunnerError(
            "configuration",
            f"{request.location} on Kaggle has {len(readable)} readable files: {names}",
            "say which to use beside kaggle: file: NAME, or train: NAME and test: NAME",
        )
    for name in request.files.values():
        if not (folder / name).is_file():
            raise RunnerError("data", f"{request.location} on Kaggle has no file {name!r}", f"it has: {names}")
    return {split: str(folder / name) for split, name in request.files.items()}


def _fetch(request: DatasetRequest) -> str:
    """The folder of the dataset in kagglehub's cache; offline the newest version there."""
    if not request.location:
        raise RunnerError(
            "configuration", f"dataset {request.name!r} has no Kaggle handle", "name it with kaggle: OWNER/NAME"
        )
    try:
        import kagglehub  # type: ignore[import-untyped]
        import requests
        from kagglehub.exceptions import (  # type: ignore[import-untyped]
            CredentialError,
            KaggleApiHTTPError,
            UnauthenticatedError,
        )
    except ImportError as error:
        raise RunnerError(
            "environment", f"the package {error.name!r} is missing", "pip install 'moodbench[runner]'"
        ) from error
    what = f"dataset {request.name!r} ({request.location} on Kaggle)"
    handle = f"{request.location}/versions/{request.revision}" if request.revision else request.location
    cached = _newest_cached(handle)
    if _offline():
        if cached is None:
            raise _unreachable(request, what, ConnectionError())
        return cached
    try:
        with alone(_cache() / f".{slug(handle)}.lock"):  # kagglehub has none of its own
            return str(kagglehub.dataset_download(handle))
    except (CredentialError, UnauthenticatedError) as error:
        raise _no_credentials(what) from error
    except KaggleApiHTTPError as error:
        raise _refused(what, error) from error
    except (requests.RequestException, OSError) as error:
        if isinstance(error, requests.RequestException) and cached:
            return cached
        raise _unreachable(request, what, error) from error
    except ValueError as error:
        raise RunnerError(
            "configuration", f"{what} cannot be loaded: {error}", "a Kaggle handle has the form owner/name"
        ) from error


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def _newest_cached(handle: str) -> str | None:
    """The folder of the newest complete version in kagglehub's cache: unless told a version, kagglehub asks the network
    for the newest even when it has one. Layout: datasets/OWNER/NAME/versions/N and, once complete, N.complete."""
    owner_and_name, _, version = handle.partition("/versions/")
    place = _cache() / "datasets" / owner_and_name
    known = [int(path.stem) for path in place.glob("*.complete") if path.stem.isdecimal()]
    versions = [number for number in known if version in ("", str(number))]
    folder = place / "versions" / str(max(versions, default=0))
    return str(folder) if folder.is_dir() else None


def _cache() -> Path:
    from kagglehub.config import get_cache_folder  # type: ignore[import-untyped]

    return Path(get_cache_folder())


def _no_credentials(what: str) -> RunnerError:
    return RunnerError(
        "environment",
        f"{what} needs Kaggle credentials and there are none",
        "create a token at kaggle.com/settings and set KAGGLE_API_TOKEN (or KAGGLE_USERNAME and KAGGLE_KEY), in the "
        "environment or in .env, or download the dataset by hand and give file: PATH in place of kaggle",
    )


def _refused(what: str, error: Any) -> RunnerError:
    status = error.response.status_code if error.response is not None else None
    if status in (401, 403):
        return _no_credentials(what)
    if status == 404:
        return RunnerError("data", f"{what} does not exist", "check the handle: owner/name")
    kind: FailureKind = "network" if is_transient(error) else "environment"
    return RunnerError(kind, f"Kaggle refused {what} (HTTP {status})", "try again later, or give file: PATH")


def _unreachable(request: DatasetRequest, what: str, error: Exception) -> RunnerError:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunnerError(
            "disk_full",
            f"there is no space left to download {what}",
            "free some space, or move KAGGLEHUB_CACHE elsewhere",
        )
    if isinstance(error, PermissionError):
        return RunnerError(
            "environment",
            f"kagglehub's cache is not yours to write: {error}",
            "set KAGGLEHUB_CACHE to a folder that is",
        )
    if is_transient(error):
        return RunnerError(
            "network", f"{what}: the download broke off ({type(error).__name__})", "run the same command again"
        )
    return RunnerError(
        "environment",
        f"{what} is not in the local cache and Kaggle cannot be reached",
        f"connect to the internet and run `moodbench fetch --datasets {request.name}` once; then it works offline, "
        "or download it by hand and give file: PATH in place of kaggle",
    )
