"""What a container of ours is: its labels, its confinement, what its end means. Nothing here asks the engine."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import signal
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import ExecutorError
from harness.executors import Exit, Question
from harness.executors.machine import MACHINE_OUT_OF_MEMORY
from harness.executors.mounts import NOBODY, HostMount, groups_of
from harness.failures import HINTS
from harness.scratch import LOCK
from harness.store import AttemptPaths, RunFolder
from runner.contract import CellSpec, FailureKind, Limits

RUN_LABEL = "dev.moodbench.run"
CELL_LABEL = "dev.moodbench.cell"  # a cell's name, or the verb of a question
ATTEMPT_LABEL = "dev.moodbench.attempt"  # its number; empty for a question
LOCK_LABEL = "dev.moodbench.lock"  # held by the process that the container belongs to
HOST_LABEL = "dev.moodbench.host"  # where that lock can be asked for
EXECUTOR_LABEL = "dev.moodbench.executor"  # this process's own

QUESTION_LIMITS = Limits(pids=512)
CELL_TMP_MB = 1024  # counts as the cell's memory
QUESTION_TMP_MB = 4096
CELL_ENVIRONMENT = {
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "USER": "cell",  # the uid has no name in the image
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "JOBLIB_MULTIPROCESSING": "0",  # it would try semaphores in /dev/shm and complain
    "PYTHONHASHSEED": "0",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class ContainerSpec:
    """One container, as the engine is to make it."""

    name: str
    image: str
    command: tuple[str, ...]
    labels: Mapping[str, str]
    user: str
    mounts: tuple[HostMount, ...]
    environment: Mapping[str, str]
    tmp_mb: int
    limits: Limits = QUESTION_LIMITS
    network: bool = False
    cores: tuple[int, ...] = ()  # it is kept on these; (): on any
    gpus: tuple[str, ...] = ()
    cdi: bool = False  # how the engine knows GPUs: by the Container Device Interface, or NVIDIA's own runtime
    selinux: bool = False
    entrypoint: tuple[str, ...] | None = None

    def config(self) -> dict[str, Any]:
        """The body of POST /containers/create."""
        config: dict[str, Any] = {
            "Image": self.image,
            "Cmd": list(self.command),
            "User": self.user,
            "Env": [f"{name}={value}" for name, value in self.environment.items()],
            "Labels": dict(self.labels),
            "Hostname": platform.node()[:63],  # results carry its hash
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "OpenStdin": True,
            "StdinOnce": True,  # when this process is gone the runner's input ends, and then the runner itself
            "NetworkDisabled": not self.network,
            "HostConfig": self._host_config(),
        }
        return config | ({"Entrypoint": list(self.entrypoint)} if self.entrypoint else {})

    def _host_config(self) -> dict[str, Any]:
        # /tmp: GPU kernels are compiled there, so it may hold programs, as the attempt's folder may.
        tmpfs = {"/tmp": f"rw,nosuid,nodev,exec,size={self.tmp_mb}m,mode=1777"}
        closed = [path for path in ("/dev/shm", "/dev/mqueue") if not self._holds_a_mount(path)]
        security = ["no-new-privileges"] + ["label=disable"] * self.selinux  # else SELinux closes the mounts
        memory = (self.limits.memory_mb or 0) * 2**20
        return {
            "NetworkMode": "bridge" if self.network else "none",
            "ReadonlyRootfs": True,
            "Tmpfs": tmpfs | dict.fromkeys(closed, "ro,nosuid,nodev,noexec,size=4k"),
            "Mounts": [_mount(mount) for mount in self.mounts],
            "CapDrop": ["ALL"],
            "SecurityOpt": security,
            "GroupAdd": [str(group) for group in groups_of(self.mounts)],
            "Init": True,
            "IpcMode": "private",
            "PidsLimit": self.limits.pids,
            "Memory": memory,
            "MemorySwap": memory,  # equal: no swap
            "NanoCpus": 0 if self.cores else int((self.limits.cpus or 0) * 1e9),  # a quota makes a cell wait on its own
            "CpusetCpus": ",".join(map(str, self.cores)),
            "LogConfig": {"Type": "none"},  # what it prints is read as it comes and is nowhere else
            "DeviceRequests": self._gpu_requests(),
        }

    def _holds_a_mount(self, path: str) -> bool:
        return any(mount.target.is_relative_to(path) for mount in self.mounts)

    def _gpu_requests(self) -> list[dict[str, Any]]:
        if not self.gpus:
            return []
        if self.cdi:
            return [{"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={gpu}" for gpu in self.gpus]}]
        return [{"Driver": "nvidia", "DeviceIDs": list(self.gpus), "Capabilities": [["gpu"]]}]


def _mount(mount: HostMount) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": str(mount.source),
        "Target": str(mount.target),
        "ReadOnly": not mount.writable,
    }


def fresh_name(*parts: str) -> str:
    """Readable and unique."""
    readable = "-".join(re.sub(r"[^a-zA-Z0-9_.-]+", "-", part) for part in parts)
    return f"moodbench-{readable[:180]}-{secrets.token_hex(3)}"


def cell_labels(attempt: AttemptPaths, spec: CellSpec, run: RunFolder) -> dict[str, str]:
    return {
        RUN_LABEL: run.folder.name,
        CELL_LABEL: spec.cell,
        ATTEMPT_LABEL: str(attempt.number),
        LOCK_LABEL: str(lock_of(run)),
        HOST_LABEL: host_id(),
    }


def question_labels(question: Question, run: RunFolder | None) -> dict[str, str]:
    return {
        RUN_LABEL: run.folder.name if run else "",
        CELL_LABEL: question.arguments[0],
        ATTEMPT_LABEL: "",
        LOCK_LABEL: str(question.lock.resolve()),
        HOST_LABEL: host_id(),
    }


def lock_of(run: RunFolder) -> Path:
    return run.folder.resolve() / LOCK


def cell_user() -> str:
    """The user's own ids, so that results are theirs; never root's."""
    return f"{os.getuid()}:{os.getgid()}" if os.getuid() != 0 else f"{NOBODY}:{NOBODY}"


def own_user() -> str:
    """For questions, which write the user's own caches; root's have none of its capabilities."""
    return f"{os.getuid()}:{os.getgid()}"


@cache
def host_id() -> str:
    """This system as far as its files and locks reach: machines may share an engine, and so may containers with their
    host, and none can ask for another's locks."""
    root = Path("/").stat()
    parts = (_machine_id() or f"{uuid.getnode():x}", platform.node(), str(root.st_dev), str(root.st_ino))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _machine_id() -> str:
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with suppress(OSError):
            return Path(path).read_text().strip()
    return ""


# --- how a container ended -----------------------------------------------------------------------


@dataclass(frozen=True)
class End:
    """What is known of it. `killed_outside`: the engine was asked to by somebody else."""

    code: int
    out_of_memory: bool = False
    machine_out_of_memory: bool = False
    killed_by_us: bool = False
    killed_outside: bool = False

    @property
    def is_unexplained_kill(self) -> bool:
        return self.code == 128 + signal.SIGKILL and not (
            self.killed_by_us or self.killed_outside or self.out_of_memory
        )


def exit_of(end: End, memory_mb: int | None) -> Exit:
    """A shell's convention, which the container's init follows: 128 + n for signal n."""
    number = end.code - 128 if 128 < end.code <= 128 + signal.SIGRTMAX else None
    code = None if number else end.code
    if end.out_of_memory and end.code != 0 and not end.killed_by_us:
        limit = f"its limit of {memory_mb} MB of memory" if memory_mb else "what memory there is"
        return Exit(code, number, "out_of_memory", f"the cell needed more than {limit}")
    if end.is_unexplained_kill and end.machine_out_of_memory:
        return Exit(code, number, "out_of_memory", MACHINE_OUT_OF_MEMORY)
    if number == signal.SIGKILL and end.killed_outside:
        return Exit(code, number, "killed", "the cell's container was killed from outside (SIGKILL)")
    return Exit(code, number)


# --- what the engine says ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sign:
    words: tuple[str, ...]
    kind: FailureKind
    message: str
    hint: str


_SIGNS = (
    _Sign(
        ("no space left on device", "disk quota exceeded"),
        "disk_full",
        "the disk of the container engine is full",
        "free some space (`moodbench images prune`, `docker system df`), then run the same command again",
    ),
    _Sign(
        ("could not select device driver", "unresolvable cdi devices", "nvidia-container-cli: not found"),
        "environment",
        "the container engine cannot give a GPU to containers",
        "install the NVIDIA Container Toolkit, or use --device cpu or --executor native",
    ),
    _Sign(
        ("nvidia-container-cli", "nvml", "cuda error", "libnvidia"),
        "gpu_lost",
        "the GPU cannot be used (any more)",
        HINTS["gpu_lost"],
    ),
    _Sign(
        ("bind source path does not exist", "mounts denied", "is not shared"),
        "environment",
        "the container engine does not see a folder that a cell needs",
        "share it with the engine (Docker Desktop: Settings, Resources, File sharing), or use --executor native",
    ),
    _Sign(
        ("is shutting down", "shutdown in progress", "context canceled", "containerd.sock", "connection refused"),
        "engine_gone",
        "the container engine stopped",
        HINTS["engine_gone"],
    ),
)


def gone(reason: str = "") -> ExecutorError:
    return ExecutorError(
        "engine_gone",
        f"the container engine stopped answering{reason and f': {reason}'}",
        HINTS["engine_gone"],
    )


def image_missing(name: str, device: str) -> ExecutorError:
    build = "moodbench images build" + (" --device cuda" if device == "cuda" else "")
    return ExecutorError(
        "image_missing", f"the image of the cells has not been built for this version ({name})", f"run `{build}`"
    )


def refused(said: str) -> ExecutorError:
    """What the engine's own words mean, when it does not make or start a container."""
    lowered = said.lower()
    for sign in _SIGNS:
        if any(word in lowered for word in sign.words):
            return ExecutorError(sign.kind, f"{sign.message}: {said}", sign.hint)
    return ExecutorError("environment", f"the container engine refused: {said}", "see `moodbench doctor`")


@dataclass(frozen=True)
class Facilities:
    """What an engine offers."""

    cores: int
    memory_mb: int
    gpu: bool = False
    cdi: bool = False
    cdi_ids: bool = False  # by the ids that are unique to each card, not by their numbers alone
    selinux: bool = False


def facilities(info: Mapping[str, Any], *, hook: bool = False) -> Facilities:
    """From the engine's `info`; `hook`: NVIDIA's hook is installed beside it. Raises ExecutorError for an engine whose
    containers could not give results to the user."""
    security = {option.split(",")[0] for option in info.get("SecurityOptions") or ()}
    if info.get("OSType", "linux") != "linux":
        raise _unfit("runs no Linux containers", "switch it to Linux containers, or use --executor native")
    for option, why in (("name=rootless", "runs without root"), ("name=userns", "maps user ids")):
        if option in security:
            raise _unfit(
                f"{why}, so that what cells write would belong to somebody else",
                "use an engine that runs as root and without userns-remap, or --executor native",
            )
    runtime = hook or "nvidia" in (info.get("Runtimes") or {})
    devices = [str(device.get("ID", "")) for device in info.get("DiscoveredDevices") or ()]
    cdi = any(device.startswith("nvidia.com/gpu") for device in devices)
    return Facilities(
        cores=int(info.get("NCPU") or 1),
        memory_mb=int(info.get("MemTotal") or 0) // 2**20,
        gpu=runtime or cdi,
        cdi=cdi and not runtime,
        cdi_ids=any(device.startswith("nvidia.com/gpu=GPU-") for device in devices),
        selinux="name=selinux" in security,
    )


def _unfit(why: str, hint: str) -> ExecutorError:
    return ExecutorError("environment", f"the container engine cannot be used: it {why}", hint)


def first_gpu() -> tuple[str, ...]:
    """The GPU that a native cell would take: the first that CUDA_VISIBLE_DEVICES lets it see."""
    return (os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0",)


def no_gpu() -> ExecutorError:
    return ExecutorError(
        "environment",
        "the container engine offers no GPU",
        "install the NVIDIA Container Toolkit and restart the engine, or use --device cpu or --executor native",
    )


# --- what was left behind ------------------------------------------------------------------------


@dataclass(frozen=True)
class StaleContainer:
    """A container whose owner is gone."""

    id: str
    name: str
    run: str
    cell: str
    state: str
    attempt: Path | None = field(default=None, repr=False)  # the folder it wrote to


def described(entry: Mapping[str, Any]) -> StaleContainer:
    """From one entry of GET /containers/json."""
    labels = entry.get("Labels") or {}
    written = [mount["Source"] for mount in entry.get("Mounts") or () if mount.get("RW") and mount["Type"] == "bind"]
    names: Iterable[str] = entry.get("Names") or [entry["Id"][:12]]
    return StaleContainer(
        id=entry["Id"],
        name=next(iter(names)).lstrip("/"),
        run=labels.get(RUN_LABEL, ""),
        cell=labels.get(CELL_LABEL, ""),
        state=entry.get("State", ""),
        attempt=Path(written[0]) if written and labels.get(ATTEMPT_LABEL) else None,
    )
