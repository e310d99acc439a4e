"""Where and with what a result was made."""

from __future__ import annotations

import hashlib
import os
import platform
import time

from runner.contract import CellSpec, Place, Provenance, usable_cores
from runner.device import cpu_model, package_versions


def collect(spec: CellSpec, started: float) -> Provenance:
    import psutil

    return Provenance(
        started=started,
        finished=time.time(),
        hostname_hash=hashlib.sha256(platform.node().encode()).hexdigest()[:12],
        os=platform.platform(),
        cpu_model=cpu_model(),
        cores=os.cpu_count() or 1 if spec.cores else usable_cores(),  # one that is kept on some can use no others
        threads=spec.threads,
        ram_mb=psutil.virtual_memory().total / 2**20,
        gpu_model=_gpu_model(spec.device),
        python=platform.python_version(),
        packages=package_versions(),
        code=spec.code,
        model_revision=spec.model.revision,
        weights_sha256=spec.model.weights_sha256,
        dataset_fingerprint=spec.dataset.fingerprint,
        seed=spec.seed,
        executor=spec.executor,
        image_digest=spec.image_digest,
        limits=spec.limits,
    )


def place(spec: CellSpec) -> Place:
    """The same that `place_of` finds in the provenance."""
    return Place(
        executor=spec.executor,
        image_digest=spec.image_digest,
        threads=spec.threads,
        cpus=spec.limits.cpus,
        cpu_model=cpu_model(),
        gpu_model=_gpu_model(spec.device),
    )


def measured_at(there: Place | None) -> str:
    """Why a figure of that place is none of this attempt's."""
    if there is None:
        return "measured in an earlier attempt, which did not tell where"
    threads = f"{there.threads} thread{'' if there.threads == 1 else 's'}"
    image = there.image_digest and f"image {there.image_digest.removeprefix('sha256:')[:12]}"
    cpus = there.cpus and f"at most {there.cpus:g} cores"
    details = [detail for detail in (image, threads, cpus, there.cpu_model, there.gpu_model) if detail]
    return f"measured in an earlier attempt under {there.executor}, {', '.join(details)}"


def _gpu_model(device: str) -> str | None:
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name(0)
    return "Apple GPU" if device == "mps" else None
