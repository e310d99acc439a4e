"""`python -m runner run | prepare | fetch | export | calibrate | info`: what an executor calls, and what works by hand.

run SPEC.json --out DIR      one attempt at one cell; leaves result.json or failure.json in DIR
prepare REQUEST.json --out FILE --cache DIR   a dataset into canonical splits; FILE gets the PreparedDataset
fetch MODEL.json --out FILE  find (or download) a model's files and check them; FILE gets the FetchedModel
export REQUEST.json --out FILE --to DIR   a trained model as transformers loads it, in DIR; FILE gets the ExportedFiles
calibrate --out FILE --windows N   time one model again and again; FILE gets the Timing
info                         devices and package versions, as JSON on stdout

Exit codes: 0 done; 1 failed, failure.json (run) or FILE (others) says why; 2 usage or an unreadable spec.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec

from runner import __version__
from runner.contract import (
    CellSpec,
    Choice,
    ContractError,
    DatasetRequest,
    ExportRequest,
    Failed,
    Failure,
    FailureKind,
    ModelSpec,
    Phase,
    encode,
    read,
    usable_cores,
    write_atomic,
)
from runner.errors import RunnerError
from runner.events import EventLog

if TYPE_CHECKING:
    from runner.cell import Cell

HINTS: dict[FailureKind, str] = {
    "out_of_memory": "lower training.batch_size (raise training.accumulation to match) or dataset max_length, "
    "or choose a smaller model",
    "disk_full": "free some space, then run the same command again: finished cells are kept",
    "interrupted": "run the same command again: finished cells are kept",
    "code": "this is a fault of MoodBench: please report it with the traceback in failure.json",
    "model": "fetch the model again, or choose another",
    "environment": "run `moodbench doctor` to see what is missing",
    "gpu_lost": "check the GPU with `nvidia-smi`, then run the same command again: finished cells are kept",
}


# torch has a type of its own for CUDA's allocator only; the rest is told in words.
SIGNS: dict[FailureKind, re.Pattern[str]] = {
    "out_of_memory": re.compile(
        r"can't allocate memory"  # CPU on Linux and macOS
        r"|not enough memory"  # CPU on Windows
        r"|out of memory"  # Metal, and CUDA outside the allocator
        r"|CUBLAS_STATUS_ALLOC_FAILED"
    ),
    "gpu_lost": re.compile(  # a device that was there: CUDA's words, the driver's, and those of nvidia-smi's library
        r"device(?:\(s\))? (?:is/are |is |was )?(?:lost|unavailable|busy or unavailable)"
        r"|GPU (?:is|was) lost|fallen off the bus|uncorrectable (?:NVLink |ECC )|\bXid\b"
        r"|no CUDA-capable device|CUDA driver initialization failed",
        re.IGNORECASE,
    ),
}
FULL = re.compile("No space left on device|Disk quota exceeded|File too large")  # what writes weights tells no number


class Terminated(BaseException):
    """SIGTERM, as an exception, so that a failure report is still written."""


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    if args.watch_stdin:
        threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        code: int = args.function(args)
    except ContractError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except OSError as error:  # while reading what was given or opening what was asked for; work has its own reports
        print(f"error: {error.strerror or error}: {error.filename}", file=sys.stderr)  # noqa: T201
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m runner", description="The cell side of MoodBench.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--watch-stdin", action="store_true", help="end when standard input closes (the host has gone)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run one attempt at one cell")
    run.add_argument("spec", type=Path, metavar="SPEC.json")
    run.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for result, events and adapter")
    run.set_defaults(function=run_cell)
    prepare = commands.add_parser("prepare", help="turn a dataset into canonical splits")
    prepare.add_argument("request", type=Path, metavar="REQUEST.json")
    prepare.add_argument("--out", type=Path, required=True, metavar="FILE")
    prepare.add_argument("--cache", type=Path, required=True, metavar="DIR")
    prepare.set_defaults(function=prepare_dataset)
    fetch = commands.add_parser("fetch", help="find or download a model and check its files")
    fetch.add_argument("request", type=Path, metavar="MODEL.json")
    fetch.add_argument("--out", type=Path, required=True, metavar="FILE")
    fetch.set_defaults(function=fetch_model)
    export = commands.add_parser("export", help="write a trained model as transformers loads it")
    export.add_argument("request", type=Path, metavar="REQUEST.json")
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    export.add_argument("--to", type=Path, required=True, metavar="DIR", help="an empty folder")
    export.set_defaults(function=export_model)
    calibrate = commands.add_parser("calibrate", help="time one and the same model again and again")
    calibrate.add_argument("--out", type=Path, required=True, metavar="FILE")
    calibrate.add_argument("--windows", type=int, required=True, metavar="N")
    calibrate.set_defaults(function=calibrate_host)
    info = commands.add_parser("info", help="devices and package versions as JSON")
    info.set_defaults(function=print_info)
    return parser


def run_cell(args: argparse.Namespace) -> int:
    spec = read(args.spec, CellSpec)
    args.out.mkdir(parents=True, exist_ok=True)
    _refuse_used(args.out)
    _prepare_environment(spec.threads)
    from runner.device import keep_on

    cores = keep_on(spec.cores) if spec.cores else None
    signal.signal(signal.SIGTERM, _terminate)
    if not args.watch_stdin:  # by hand: there is no host that could grant a lease
        spec = msgspec.structs.replace(spec, lease=False)
    with EventLog(args.out / "events.jsonl", spec.cell) as events:
        return _run_cell(spec, args.out, events, cores)


def _refuse_used(folder: Path) -> None:
    """An attempt is never overwritten, and an old result.json must not pass for this attempt's success."""
    for name in ("result.json", "failure.json", "events.jsonl"):
        if (folder / name).exists():
            raise FileExistsError(errno.EEXIST, "another attempt left this here, give a new folder", folder / name)


def _run_cell(spec: CellSpec, out: Path, events: EventLog, cores: Choice | None) -> int:
    attempts: list[Cell] = []

    def work() -> None:
        from runner.cell import Cell, check
        from runner.models.noise import quiet

        quiet()
        check(spec)
        attempts.append(Cell(spec, out, events, cores))
        attempts[0].run()

    failure = _guarded(work, spec.cell, lambda: attempts[0].phase if attempts else None)
    if failure is None:
        print(out / "result.json")  # noqa: T201
        return 0
    print(failure.traceback or "", file=sys.stderr)  # noqa: T201
    print(f"error: {failure.message}\nhint: {failure.hint}", file=sys.stderr)  # noqa: T201
    try:
        write_atomic(out / "failure.json", encode(failure))
        events.emit(Failed(kind=failure.kind, message=failure.message))
    except OSError as error:  # a full disk refuses the report too; the executor still sees exit code and log
        print(f"error: the failure could not be written: {error}", file=sys.stderr)  # noqa: T201
    return 1


def prepare_dataset(args: argparse.Namespace) -> int:
    request = read(args.request, DatasetRequest)

    def work() -> object:
        from runner.data import prepare

        return prepare(request, args.cache)

    return _answer(args.out, request.name, work)


def fetch_model(args: argparse.Namespace) -> int:
    request = read(args.request, ModelSpec)

    def work() -> object:
        from runner.models.resolve import fetch

        return fetch(request)

    return _answer(args.out, request.alias, work)


def export_model(args: argparse.Namespace) -> int:
    request = read(args.request, ExportRequest)
    _prepare_environment(usable_cores())

    def work() -> object:
        from runner.export import export
        from runner.models.noise import quiet

        quiet()
        return export(request, args.to)

    return _answer(args.out, request.name, work)


def calibrate_host(args: argparse.Namespace) -> int:
    _prepare_environment(threads=1)

    def work() -> object:
        from runner.calibrate import calibrate
        from runner.models.noise import quiet

        quiet()
        return calibrate(args.windows)

    return _answer(args.out, "calibration", work)


def print_info(args: argparse.Namespace) -> int:
    from runner.device import info

    sys.stdout.buffer.write(encode(info()))
    return 0


def _answer(out: Path, name: str, work: Callable[[], Any]) -> int:
    """Run `work`; FILE gets what it returns, or the Failure."""
    answer: list[Any] = []
    failure = _guarded(lambda: answer.append(work()), name, lambda: None)
    write_atomic(out, encode(failure or answer[0]))
    return 1 if failure else 0


def _guarded(work: Callable[[], object], name: str, phase: Callable[[], Phase | None]) -> Failure | None:
    """Run `work`; what goes wrong becomes a Failure with its class, a hint and the whole traceback."""
    try:
        work()
    except RunnerError as error:
        return _failure(name, error.kind, error.message, error.hint, phase())
    except Terminated:
        return _failure(name, "interrupted", "the cell was asked to stop (SIGTERM)", HINTS["interrupted"], phase())
    except KeyboardInterrupt:
        return _failure(name, "interrupted", "the cell was interrupted", HINTS["interrupted"], phase())
    except Exception as error:  # noqa: BLE001 - the process boundary: every fault must reach failure.json
        kind = classify(error)
        message = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        return _failure(name, kind, message, HINTS[kind], phase())
    return None


def _failure(name: str, kind: FailureKind, message: str, hint: str, phase: Phase | None) -> Failure:
    return Failure(
        cell=name, kind=kind, message=message, hint=hint, phase=phase, traceback=traceback.format_exc(), t=time.time()
    )


def classify(error: BaseException) -> FailureKind:
    """The class of an exception that no one raised on purpose."""
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    code = error.errno if isinstance(error, OSError) else None
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names or code == errno.ENOMEM:
        return "out_of_memory"
    if isinstance(error, RuntimeError):
        for kind, words in SIGNS.items():
            if words.search(text):
                return kind
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or FULL.search(text):
        return "disk_full"
    if "SafetensorError" in names:
        return "model"
    if isinstance(error, ImportError | PermissionError) or code == errno.EROFS:
        return "environment"
    return "code"


def _prepare_environment(threads: int) -> None:
    """Before any numeric library is imported: later the thread pools already exist."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["OMP_WAIT_POLICY"] = "passive"  # idle threads that spin take a core from whatever else runs
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a cell looks nothing up
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA needs it to be deterministic


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the report
    raise Terminated


def _die_with_parent() -> None:
    """Standard input ends when the host ends, however it ends: then nobody wants this cell. Read without
    Python's buffer, whose lock a daemon thread would still hold when the interpreter shuts down."""
    while os.read(0, 4096):
        pass
    os._exit(143)


if __name__ == "__main__":
    sys.exit(main())
