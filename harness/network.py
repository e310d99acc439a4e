"""What a job with network needs of the user's own settings: caches, proxies, certificates, the hub's address.

A child process has most of them anyway; a container has what is named here and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PASSED_ON = (
    "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_XET",
    "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT",
    "DO_NOT_TRACK", *PROXIES, *(name.lower() for name in PROXIES), *CERTIFICATES,
)  # fmt: skip


@dataclass(frozen=True)
class Outside:
    """Variables, what they name, and the caches that downloads go to."""

    environment: dict[str, str]
    reads: tuple[Path, ...]
    writes: tuple[Path, ...]


def outside(environment: Mapping[str, str], folder: Path) -> Outside:
    """`folder` takes what the hub's library leaves in its home besides downloads: the user's own home of it may hold
    a token, which a job gets in one way only (harness.credentials)."""
    passed = {name: environment[name] for name in PASSED_ON if environment.get(name)}
    for name in CERTIFICATES:
        if name in passed:
            passed[name] = str(Path(passed[name]).absolute())
    caches = _caches(environment)
    for cache in caches.values():
        with suppress(OSError):  # whoever needs it says what is wrong with it
            cache.mkdir(parents=True, exist_ok=True)
    reads = [Path(passed[name]) for name in CERTIFICATES if name in passed]
    return Outside(
        environment=passed | {name: str(cache) for name, cache in caches.items()} | {"HF_HOME": str(folder / "hf")},
        reads=tuple(path for path in reads if path.exists()),
        writes=tuple(cache for cache in caches.values() if cache.is_dir()),
    )


def _caches(environment: Mapping[str, str]) -> dict[str, Path]:
    """Where the libraries themselves would put things (huggingface_hub, datasets and kagglehub: their `config`)."""

    def place(default: Path, *names: str) -> Path:
        given = next((environment[name] for name in names if environment.get(name)), None)
        return Path(os.path.expandvars(given)).expanduser().absolute() if given else default

    base = place(Path.home() / ".cache", "XDG_CACHE_HOME")
    home = place(base / "huggingface", "HF_HOME")
    return {
        "HF_HUB_CACHE": place(home / "hub", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"),
        "HF_DATASETS_CACHE": place(home / "datasets", "HF_DATASETS_CACHE"),
        "KAGGLEHUB_CACHE": place(Path.home() / ".cache" / "kagglehub", "KAGGLEHUB_CACHE"),
    }
