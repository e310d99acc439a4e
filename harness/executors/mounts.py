"""The host's files in a container: each at the path it has on the host, so that a spec means the same in both."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ExecutorError
from harness.store import AttemptPaths
from runner.contract import CellSpec

NOBODY = 65532  # uid and gid of cells where the user is root; the image's own user too
MODEL_SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".py")  # of what transformers loads
READ_SUFFIXES = (".parquet", *MODEL_SUFFIXES)


@dataclass(frozen=True)
class HostMount:
    """`source` is the real file or folder, `target` the path by which it is asked for."""

    source: Path
    target: Path
    writable: bool = False


def cell_mounts(attempt: AttemptPaths, spec: CellSpec) -> list[HostMount]:
    """The attempt's folder to write; dataset and model to read. Raises ExecutorError."""
    return [*read_mounts(spec), *mounts([], [attempt.folder])]


def read_mounts(spec: CellSpec) -> list[HostMount]:
    """The prepared dataset, and of the model's folder the files that loading needs and nothing else: it may be a folder
    of the user's that holds more. Raises ExecutorError."""
    folders = [spec.dataset.folder] + ([spec.model.folder] if spec.model.folder else [])
    dataset, *models = [_as_asked(Path(folder)) for folder in folders]
    missing = next((folder for folder in (dataset, *models) if not folder.is_dir()), None)
    if missing is not None:
        raise ExecutorError(
            "environment", f"what a cell needs is gone: there is no {missing}", "run the same command again"
        )
    found = [HostMount(dataset.resolve(), dataset)]
    for model in models:
        entries = sorted(entry for entry in model.iterdir() if entry.suffix in MODEL_SUFFIXES)
        found += [HostMount(entry.resolve(), entry) for entry in entries if _is_the_models_own(entry)]
    return found


def mounts(reads: Iterable[Path], writes: Iterable[Path]) -> list[HostMount]:
    """One mount a target; where something is both read and written, it is writable. What is read and not there is left
    to its reader to miss."""
    found: dict[Path, HostMount] = {}
    for path in reads:
        for mount in _with_links(_as_asked(path)):
            found[mount.target] = mount
    for path in writes:
        target = _as_asked(path)
        found[target] = HostMount(target.resolve(), target, writable=True)
    return list(found.values())


def _as_asked(path: Path) -> Path:
    """Absolute, but by the links by which it is asked for."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _with_links(path: Path) -> Iterator[HostMount]:
    """A file or folder, and what the links in it point to: a snapshot of the Hugging Face hub holds nothing else."""
    if not path.exists():
        return
    yield HostMount(path.resolve(), path)
    if not path.is_dir():
        return
    for link in (entry for entry in path.iterdir() if entry.is_symlink() and _is_the_models_own(entry)):
        target = _hop(link)
        if not target.is_relative_to(path):
            yield HostMount(link.resolve(), target)


def _is_the_models_own(entry: Path) -> bool:
    """A regular file, here or in the blobs of its hub repository, or weights that lie elsewhere. Where a link leads to
    is up to whoever made the folder, so it must not open anything else of the user's: no folder, no socket, no text."""
    try:
        real = entry.resolve(strict=True)
        if not stat.S_ISREG(real.stat().st_mode):
            return False
    except (OSError, RuntimeError):  # broken, or a ring of links
        return False
    hop = _hop(entry)
    if hop.parent == entry.parent:
        return hop == entry or _is_the_models_own(hop)
    return hop.parent == entry.parent.parent.parent / "blobs" or entry.suffix == real.suffix == ".safetensors"


def _hop(entry: Path) -> Path:
    """What a link says, as a container follows it: there the folder is one, whatever links lead to it here."""
    return Path(os.path.normpath(entry.parent / entry.readlink())) if entry.is_symlink() else entry


def check_readable(mounted: Iterable[HostMount]) -> None:
    """Where the user is root, cells run as somebody else, who must be let in. Raises ExecutorError."""
    for mount in mounted:
        closed = None if mount.writable else _closed_to_others(mount.source)
        if closed is not None:
            raise ExecutorError(
                "environment",
                f"a cell may not read {closed}: cells of root run without its rights, and others are kept out",
                f"chmod -R o+rX '{mount.target}', or run as the user whom it belongs to",
            )


def _closed_to_others(path: Path) -> Path | None:
    if path.is_dir():
        if path.stat().st_mode & 0o005 != 0o005:
            return path
        files = [entry for entry in path.iterdir() if entry.suffix in READ_SUFFIXES and entry.is_file()]
        return next((entry for entry in files if not entry.stat().st_mode & 0o004), None)
    return None if path.stat().st_mode & 0o004 else path


def groups_of(mounted: Iterable[HostMount]) -> list[int]:
    """Those of the user's groups by which what is mounted may be read, such as that of a shared folder of models."""
    if os.getuid() == 0:
        return []
    owners = {mount.source.stat().st_gid for mount in mounted}
    return sorted(owners & (set(os.getgroups()) - {os.getgid()}))


# --- root's cells run as nobody ------------------------------------------------------------------


def hand_over(folder: Path) -> None:
    """Give an attempt's folder and what is in it to NOBODY. Raises OSError."""
    for path in _everything_in(folder):
        os.lchown(path, NOBODY, NOBODY)


def take_back(folder: Path) -> None:
    """Give what a cell made to root, for as far as it goes. The links it may have laid are not followed, and the kernel
    takes the setuid bit from what it gives away."""
    for path in _everything_in(folder):
        with suppress(OSError):
            if path.lstat().st_uid == NOBODY:
                os.lchown(path, 0, 0)


def _everything_in(folder: Path) -> Iterator[Path]:
    """`folder` itself, then what is in it; folders that links point to are not entered. By hand: os.walk recurses, and
    a cell may nest folders deeper than that goes."""
    left = [folder] if folder.is_dir() and not folder.is_symlink() else []
    while left:
        parent = left.pop()
        yield parent
        with suppress(OSError):  # a path may be longer than the system takes
            for entry in os.scandir(parent):
                if entry.is_dir(follow_symlinks=False):
                    left.append(Path(entry.path))
                else:
                    yield Path(entry.path)
