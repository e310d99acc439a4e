"""A new SQLite database of MLflow's. Killed while it makes its tables, it would never open that file again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from harness.store import writing
from harness.tracking.address import SQLITE


def make_database(uri: str, connect: Callable[[str], object]) -> None:
    """Where there is none yet: `connect` makes it out of sight, and it gets its name when it is whole. Raises
    SetupError."""
    path = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or "?" in uri or os.path.lexists(path):
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        making = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-", ignore_cleanup_errors=True)
    with making as folder:
        whole = Path(folder) / path.name
        connect(SQLITE + str(whole))
        with writing(path), suppress(FileExistsError):  # another has made it meanwhile
            _name(whole, path)


def _name(whole: Path, path: Path) -> None:
    try:
        os.link(whole, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        whole.rename(path)
