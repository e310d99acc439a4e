"""The run folder: every path in it, atomic writes, reading back.

results/<run>/
  run.json                              what the run consists of: RunRecord
  journal.jsonl                         the run's own events, one JSON object a line
  leaderboard.json                      the ranking when the run last ended, or when it was last asked for
  evidence.json                         what was read of finished cells, to be read faster
  calibration.json                      the noise floor of the machine, where it was calibrated
  cells/<cell>/attempt-001/             spec.json, events.jsonl, log.txt, and result.json or failure.json,
                                        predictions.parquet, adapter/; checkpoint/ while it is unfinished;
                                        reused.json where it was taken over from another run
Attempts are numbered and never overwritten. A cell is finished when one of its attempts holds `result.json`.

An attempt's folder is also the cell's, who may lay anything there: links, pipes, files without end. What is read from
it is opened by `open_plain`, what is made in it is made anew, and what is wrong with it is a ContractError: that cell's
failure, never the run's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from harness.errors import InputError, SetupError, unknown
from harness.record import RunRecord, extended
from runner import __version__
from runner.contract import (
    ADAPTER_FOLDER,
    CHECKPOINT_FOLDER,
    PREDICTIONS_FILE,
    CellSpec,
    ContractError,
    Failure,
    Result,
    Summary,
    encode,
    grant_file,
    open_plain,
    read,
    slug,
    write_atomic,
)

MESSAGE_CHARS = 2000  # of a cell's own words
# What an operation in an attempt's folder answers where the cell has laid something, or shut the folder.
CELLS_DOING = (
    errno.EACCES, errno.EPERM, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.ELOOP,
)  # fmt: skip

# What a later attempt goes on from -> what it must be.
CARRIED = {CHECKPOINT_FOLDER: stat.S_ISDIR, ADAPTER_FOLDER: stat.S_ISDIR, PREDICTIONS_FILE: stat.S_ISREG}

Left = TypeVar("Left", Result, Failure)

_ATTEMPT = re.compile(r"attempt-(\d+)")


@dataclass(frozen=True)
class AttemptPaths:
    folder: Path
    number: int

    @property
    def spec(self) -> Path:
        return self.folder / "spec.json"

    @property
    def events(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    @property
    def failure(self) -> Path:
        return self.folder / "failure.json"

    @property
    def predictions(self) -> Path:
        return self.folder / PREDICTIONS_FILE

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT_FOLDER

    @property
    def adapter(self) -> Path:
        return self.folder / ADAPTER_FOLDER

    def read_left(self, path: Path, kind: type[Left], cell: str) -> Left | None:
        """`result` or `failure` as the cell left it; None where there is none. Raises ContractError."""
        try:
            left = read(path, kind)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ContractError(f"{path}: cannot be read ({error.strerror})") from None
        if isinstance(left, Result) and left.cell != cell:
            raise ContractError(f"{path}: of another cell")
        return msgspec.structs.replace(left, cell=cell)

    def grant(self, window: int) -> None:
        """Let the cell measure. Raises ContractError where the cell stands in the way; SetupError."""
        path = self.folder / grant_file(window)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self.writing_among(path):
            os.close(os.open(path, flags, 0o666))

    def tell(self, name: str, value: Any) -> None:
        """Leave a small file for the cell. Raises ContractError where the cell stands in the way; SetupError."""
        path = self.folder / name
        with self.writing_among(path):
            write_atomic(path, encode(value), durable=False)  # the cell that reads it goes down with the machine

    def write_failure(self, failure: Failure) -> None:
        """Raises ContractError where the cell stands in the way; SetupError."""
        with self.writing_among(self.failure):
            if self.failure.is_dir():
                self.put_aside(self.failure)
            write_atomic(self.failure, encode(failure))

    def drop_checkpoint(self) -> None:
        """Of a finished attempt. Whatever lies there, nothing else is removed."""
        if os.path.lexists(self.checkpoint):
            shutil.rmtree(self.checkpoint, ignore_errors=True)

    def put_aside(self, path: Path) -> None:
        """Keep what lies there, if anything, under a name that means nothing. Raises OSError."""
        with suppress(FileNotFoundError):
            path.rename(path.with_name(f"{path.name}.{secrets.token_hex(4)}.aside"))

    def open_up(self) -> None:
        """The cell may have shut its folder."""
        with suppress(OSError):
            mode = stat.S_IMODE(self.folder.stat().st_mode)
            if mode & 0o700 != 0o700:
                self.folder.chmod(mode | 0o700)

    @contextmanager
    def writing_among(self, path: Path) -> Iterator[None]:
        """As `writing`, but what the cell can bring about is a ContractError."""
        self.open_up()
        try:
            yield
        except OSError as error:
            if error.errno in CELLS_DOING:
                raise ContractError(f"{path}: cannot be written ({error.strerror})") from None
            raise storage_problem(error, path) from error


@dataclass(frozen=True)
class FinishedCell:
    """What is told of a finished cell; its raw samples are not kept in memory."""

    attempt: AttemptPaths
    summary: Summary
    seconds: float


@dataclass(frozen=True)
class RunFolder:
    """One run on disk. Methods raise SetupError where the folder cannot be written."""

    folder: Path

    @property
    def record_path(self) -> Path:
        return self.folder / "run.json"

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"

    @property
    def leaderboard(self) -> Path:
        return self.folder / "leaderboard.json"

    @property
    def evidence(self) -> Path:
        return self.folder / "evidence.json"

    @property
    def calibration(self) -> Path:
        return self.folder / "calibration.json"

    def cell(self, cell: str) -> Path:
        return self.folder / "cells" / cell

    def attempt(self, cell: str, number: int) -> AttemptPaths:
        return AttemptPaths(folder=self.cell(cell) / f"attempt-{number:03d}", number=number)

    def attempts(self, cell: str) -> list[AttemptPaths]:
        """By number; anything else that lies in the folder is left alone."""
        folder = self.cell(cell)
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return []
        numbered = ((_ATTEMPT.fullmatch(name), name) for name in names)
        found = [AttemptPaths(folder=folder / name, number=int(match[1])) for match, name in numbered if match]
        return sorted(found, key=lambda attempt: attempt.number)

    def new_attempt(self, cell: str) -> AttemptPaths:
        attempt = self.attempt(cell, max((a.number for a in self.attempts(cell)), default=0) + 1)
        with writing(attempt.folder):
            attempt.folder.mkdir(parents=True)
        return attempt

    def finished_attempt(self, cell: str) -> AttemptPaths | None:
        """The last attempt with a result, whatever it may be worth; None while the cell is not finished."""
        return last_finished(self.attempts(cell))

    def finished(self, cells: Iterable[str]) -> dict[str, FinishedCell]:
        """Those of `cells` whose result can be read; one that is damaged is done again, its attempt stays."""
        found: dict[str, FinishedCell] = {}
        for cell in cells:
            attempt = self.finished_attempt(cell)
            if attempt is None:
                continue
            with suppress(ContractError):
                result = attempt.read_left(attempt.result, Result, cell)
                if result is not None:
                    found[cell] = FinishedCell(attempt, result.summary, sum(result.phases.values()))
        return found

    def carry(self, cell: str, attempt: AttemptPaths) -> bool:
        """Move into a new attempt what it can go on from: of each piece the newest that an earlier, unfinished attempt
        has. Whether there was any. Killed within, it leaves pieces in two attempts, and the next call finds them.
        Raises SetupError."""
        earlier = [old for old in self.attempts(cell) if old.number < attempt.number]
        unfinished = [old for old in reversed(earlier) if not os.path.lexists(old.result)]
        carried = [name for name in CARRIED if any(_moved(old, attempt, name) for old in unfinished)]
        return bool(carried)

    def still_running(self, attempt: AttemptPaths) -> bool:
        """Whether a living process writes this attempt's events: it holds their file's lock."""
        try:
            with open_plain(attempt.events, sys.maxsize) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except (ContractError, OSError):  # not there, or nothing that the runner made
            return False
        return False

    def result(self, cell: str) -> Result | None:
        """Raises ContractError."""
        attempt = self.finished_attempt(cell)
        return attempt.read_left(attempt.result, Result, cell) if attempt else None

    def failure(self, cell: str) -> Failure | None:
        """How the last attempt of an unfinished cell ended, as far as it left word. Raises ContractError."""
        attempts = self.attempts(cell)
        return attempts[-1].read_left(attempts[-1].failure, Failure, cell) if attempts else None

    def read_record(self) -> RunRecord:
        try:
            return read(self.record_path, RunRecord)
        except FileNotFoundError:
            raise InputError(
                f"{self.folder} is not a run folder: it holds no run.json", "give a folder under results/"
            ) from None
        except (ContractError, OSError) as error:
            raise InputError(f"cannot read the run: {error}", "choose another --run name") from None

    def write_record(self, record: RunRecord) -> None:
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self.record_path, encode(record))

    def extend(
        self, name: str, suite: dict[str, Any], specs: Iterable[CellSpec], unavailable: Iterable[Failure] = ()
    ) -> RunRecord:
        """Create the run, or add cells to it; a cell whose settings changed takes its predecessor's place, and one that
        can be had now is unavailable no more. Raises InputError where the run holds another version of a dataset."""
        record = RunRecord(name=name, created=time.time(), version=__version__)
        if self.record_path.exists():
            record = self.read_record()
        record = extended(record, suite, list(specs), unavailable)
        self.write_record(record)
        return record


def last_finished(attempts: Sequence[AttemptPaths]) -> AttemptPaths | None:
    return next((attempt for attempt in reversed(attempts) if os.path.lexists(attempt.result)), None)


def _moved(old: AttemptPaths, new: AttemptPaths, name: str) -> bool:
    """Whether this piece was there, is what it should be, and went over. Nothing is followed."""
    old.open_up()
    source = old.folder / name
    try:
        if not CARRIED[name](source.lstat().st_mode):
            return False
        source.rename(new.folder / name)
    except OSError as error:
        if error.errno in (errno.ENOENT, *CELLS_DOING):
            return False
        raise storage_problem(error, new.folder) from error
    return True


def run_folder(results: Path, name: str) -> RunFolder:
    """The folder of a run to be written. Raises InputError for a name that is no plain folder name."""
    if name != name.strip() or name in ("", ".", "..") or {"/", "\\"} & set(name) or not name.isprintable():
        raise InputError(f"'{name}' cannot name a run", "use letters, digits, '-', '_' and '.'")
    return RunFolder(folder=results / name)


def fresh_name(suite: str) -> str:
    return time.strftime("%Y%m%d-%H%M%S-") + slug(suite)


def find_run(given: str, results: Path) -> RunFolder:
    """An existing run, by folder or by name under `results`. Raises InputError with the nearest name."""
    for folder in (Path(given), results / given):
        if os.path.isfile(folder / "run.json"):  # noqa: PTH113  # of what cannot be a name: False, no OSError
            return RunFolder(folder=folder)
    known = [path.parent.name for path in results.glob("*/run.json")]
    remedy = (
        f"runs there: {', '.join(sorted(known)[:8])}" if known else "start one with `moodbench run demo --run demo`"
    )
    raise unknown("run", given, known, remedy)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what a file system may answer into one sentence and a remedy."""
    try:
        yield
    except OSError as error:
        raise storage_problem(error, path) from error


def write_given(path: Path, data: bytes) -> None:
    """Write to a path that the user names. A file is written whole or not at all, where links to it lead; what is there
    and is no file, a device or a pipe, is written into and stays what it is. Raises OSError."""
    if path.exists() and not path.is_file():
        path.write_bytes(data)
    else:
        write_atomic(Path(os.path.realpath(path)), data)  # unlike `resolve`, takes links in a circle


def storage_problem(error: OSError, path: Path) -> SetupError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SetupError(
            f"the disk that holds {path} is full", "free some space and run the same command again: finished cells stay"
        )
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return SetupError(f"cannot write to {path}", "change its permissions, or choose another --results folder")
    return SetupError(f"cannot write to {path}: {error.strerror or error}", "choose another --results folder")
