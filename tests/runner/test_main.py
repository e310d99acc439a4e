"""`python -m runner`: exit codes, the failure report, and its end from outside."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from runner import __main__ as program
from runner.__main__ import classify, main
from runner.contract import (
    CellSpec,
    DatasetRequest,
    DeviceInfo,
    Failed,
    Failure,
    FetchedModel,
    ModelSpec,
    PreparedDataset,
    Result,
    SplitSizes,
    encode,
    read,
)
from runner.errors import RunnerError
from tests.runner.models.small_models import Checkpoint

COMMAND = [sys.executable, "-P", "-m", "runner"]
REPOSITORY = Path(program.__file__).parents[1]
MakeCell = Callable[..., CellSpec]
Read = Callable[[Path], list[Any]]


@pytest.fixture
def run_cell(tmp_path: Path) -> Callable[..., tuple[int, Path]]:
    """run_cell(spec, *options): the exit code of `run`, and its folder."""

    def run(spec: CellSpec, *options: str) -> tuple[int, Path]:
        (tmp_path / "spec.json").write_bytes(encode(spec))
        return main([*options, "run", str(tmp_path / "spec.json"), "--out", str(tmp_path / "out")]), tmp_path / "out"

    return run


def failure_of(folder: Path) -> Failure:
    assert not (folder / "result.json").exists()
    return read(folder / "failure.json", Failure)


# --- what was given cannot be used: exit code 2 -------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"{}", "missing required field"),
        (b'{"schema_version": 99}', "newer than this program's"),
    ],
)
@pytest.mark.parametrize("command", ["run", "prepare", "fetch"])
def test_an_unreadable_request(
    command: str, content: bytes | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "in.json"
    if content is not None:
        file.write_bytes(content)
    more = ["--cache", str(tmp_path)] if command == "prepare" else []
    assert main([command, str(file), "--out", str(tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "in.json" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_folder_is_no_spec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "not a plain file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["result.json", "failure.json", "events.jsonl"])
def test_an_attempt_is_never_overwritten(
    name: str, cell_spec: MakeCell, run_cell: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An old result.json beside a new failure would pass for success."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("old")
    code, folder = run_cell(cell_spec())
    assert code == 2
    assert name in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(name, "old")]


@pytest.mark.parametrize("arguments", [[], ["party"], ["run"], ["run", "x"], ["prepare", "x", "--out", "y"]])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m runner" in capsys.readouterr().err


# --- failure.json -----------------------------------------------------------------------------


def test_an_unknown_model_folder(
    cell_spec: MakeCell, run_cell: Any, events_of: Read, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = ModelSpec(alias="Gone", kind="path", name="/no/such", folder="/no/such/folder")
    code, folder = run_cell(cell_spec("scratch", model=gone, cell="gone--toy"))
    failure = failure_of(folder)
    assert code == 1
    assert (failure.kind, failure.cell, failure.phase) == ("model", "gone--toy", "load")
    assert "/no/such/folder" in failure.message
    assert failure.hint
    assert failure.traceback is not None
    assert failure.traceback.startswith("Traceback")
    assert "RunnerError" in failure.traceback
    assert events_of(folder)[-1] == Failed(
        kind="model", message=failure.message, t=events_of(folder)[-1].t, seq=1, cell="gone--toy"
    )
    error = capsys.readouterr().err
    assert failure.traceback in error
    assert error.rstrip().endswith(f"error: {failure.message}\nhint: {failure.hint}")


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"phases": ("load", "score")}, "configuration", "'train' and 'score'"),
        ({"method": "lora"}, "configuration", "has no method 'lora'"),
        ({"model": ModelSpec(alias="b", kind="baseline", name="bayes")}, "configuration", "no baseline 'bayes'"),
    ],
)
def test_a_cell_that_cannot_be(
    changes: dict[str, Any], kind: str, words: str, cell_spec: MakeCell, run_cell: Any
) -> None:
    code, folder = run_cell(cell_spec(**changes))
    assert code == 1
    assert failure_of(folder).kind == kind
    assert words in failure_of(folder).message


def test_a_dataset_that_is_gone(cell_spec: MakeCell, run_cell: Any, tmp_path: Path) -> None:
    dataset = msgspec.structs.replace(cell_spec().dataset, folder=str(tmp_path / "gone"))
    code, folder = run_cell(cell_spec(dataset=dataset))
    assert (code, failure_of(folder).kind, failure_of(folder).phase) == (1, "data", None)


class ArbitraryError(Exception):
    pass


def _too_much_memory() -> BaseException:
    try:
        torch.empty(1 << 50)
    except BaseException as error:  # noqa: BLE001 - whatever torch raises on this system
        return error
    raise AssertionError("a pebibyte was granted")


def _unreadable_weights(tmp: Path) -> BaseException:
    from safetensors.torch import load_file

    (tmp / "w.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(SafetensorError) as caught:
        load_file(tmp / "w.safetensors")
    return caught.value


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "out_of_memory"),
        (np.exceptions.AxisError("axis"), "code"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (_too_much_memory(), "out_of_memory"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (ValueError("a text about running out of memory"), "code"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk_full"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk_full"),
        (OSError(errno.EFBIG, "File too large"), "disk_full"),
        (SafetensorError("Error while serializing: I/O error: Disk quota exceeded (os error 122)"), "disk_full"),
        (SafetensorError("Error while serializing: I/O error: File too large (os error 27)"), "disk_full"),
        (SafetensorError("Error while deserializing header: header too large"), "model"),
        (ModuleNotFoundError("No module named 'sentencepiece'"), "environment"),
        (PermissionError(errno.EACCES, "Permission denied"), "environment"),
        (OSError(errno.EROFS, "Read-only file system"), "environment"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "code"),
        (torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), "gpu_lost"),
        (RuntimeError("CUDA error: no CUDA-capable device is detected"), "gpu_lost"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "gpu_lost"),
        (RuntimeError("Unable to determine the device handle for GPU0: GPU is lost. Reboot the system"), "gpu_lost"),
        (RuntimeError("NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus."), "gpu_lost"),
        (RuntimeError("CUDA error: device lost"), "gpu_lost"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "code"),
        (RuntimeError("CUDA error: device-side assert triggered"), "code"),
        (ValueError("the label 'GPU is lost'"), "code"),
        (RuntimeError("shape mismatch"), "code"),
        (ArbitraryError(), "code"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_classes_of_unexpected_errors(error: BaseException, kind: str) -> None:
    assert classify(error) == kind
    assert program.HINTS[classify(error)]


def test_real_broken_weights_are_the_models_fault(tmp_path: Path) -> None:
    assert classify(_unreadable_weights(tmp_path)) == "model"


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (RunnerError("nan_loss", "the loss became nan", "lower it"), "nan_loss", "the loss became nan"),
        (RunnerError("timeout", "too slow", "wait"), "timeout", "too slow"),
        (MemoryError("many bytes\nand a dump"), "out_of_memory", "MemoryError: many bytes"),
        (ArbitraryError(), "code", "ArbitraryError:"),
        (KeyboardInterrupt(), "interrupted", "interrupted"),
    ],
)
def test_what_a_phase_raises_reaches_failure_json(
    error: BaseException, kind: str, message: str, cell_spec: MakeCell, run_cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("runner.subjects.BaselineSubject.train", fail)
    code, folder = run_cell(cell_spec())
    failure = failure_of(folder)
    assert (code, failure.kind, failure.phase) == (1, kind, "train")
    assert message in failure.message
    assert "\n" not in failure.message
    assert failure.hint == (error.hint if isinstance(error, RunnerError) else program.HINTS[failure.kind])
    assert type(error).__name__ in str(failure.traceback)
    assert "in fail" in str(failure.traceback)


def test_a_failure_after_the_phases_is_blamed_on_none_of_them(
    cell_spec: MakeCell, run_cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.cell.provenance.collect", lambda *_: 1 / 0)
    _, folder = run_cell(cell_spec())
    assert (failure_of(folder).kind, failure_of(folder).phase) == ("code", None)


def test_a_disk_that_refuses_the_report_too(
    cell_spec: MakeCell, run_cell: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("runner.contract.os.fsync", full)
    code, folder = run_cell(cell_spec())
    assert code == 1
    assert {path.name for path in folder.iterdir()} == {"events.jsonl"}
    assert "the failure could not be written" in capsys.readouterr().err


def test_by_hand_no_host_can_grant_a_lease_and_none_is_waited_for(cell_spec: MakeCell, run_cell: Any) -> None:
    """The specs that a run leaves ask for the lease."""
    code, folder = run_cell(cell_spec(lease=True))
    assert (code, (folder / "result.json").exists()) == (0, True)


# --- ended from outside -------------------------------------------------------------------------


def test_sigterm_leaves_a_report(
    cell_spec: MakeCell, run_cell: Any, events_of: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cell waits for a lease that never comes; the host loses patience, twice."""
    monkeypatch.setattr(program, "_die_with_parent", lambda: None)  # pytest's own input is no host
    monkeypatch.setattr("runner.leases.time.sleep", lambda seconds: os.kill(os.getpid(), signal.SIGTERM))
    write = program.write_atomic

    def write_under_fire(path: Path, data: bytes) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        write(path, data)

    monkeypatch.setattr(program, "write_atomic", write_under_fire)
    code, folder = run_cell(cell_spec(lease=True), "--watch-stdin")
    failure = failure_of(folder)
    assert (code, failure.kind, failure.phase) == (1, "interrupted", "time")
    assert "SIGTERM" in failure.message
    assert [type(event).__name__ for event in events_of(folder)][-3:] == ["LeaseWanted", "LeaseReleased", "Failed"]


def _start(tmp_path: Path, spec: CellSpec) -> subprocess.Popen[bytes]:
    (tmp_path / "spec.json").write_bytes(encode(spec))
    arguments = ["--watch-stdin", "run", str(tmp_path / "spec.json"), "--out", str(tmp_path / "out")]
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_a_cell_ends_when_the_host_has_gone(cell_spec: MakeCell, tmp_path: Path) -> None:
    """Without the lease, which never comes, it would wait for ever."""
    with _start(tmp_path, cell_spec(lease=True)) as process:
        output, _ = process.communicate(timeout=120)  # closes standard input
    assert (process.returncode, output) == (143, b"")
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_whole_cell_in_a_process_of_its_own(cell_spec: MakeCell, tmp_path: Path, events_of: Read) -> None:
    with _start(tmp_path, cell_spec("tfidf-logreg")) as process:
        assert process.stdout is not None
        output = process.stdout.read()  # standard input stays open
        assert process.wait(timeout=120) == 0
    assert output.decode().split() == [str(tmp_path / "out" / "result.json")]
    result = read(tmp_path / "out" / "result.json", Result)
    assert result.summary.accuracy == 1.0
    assert events_of(tmp_path / "out")[-1].seconds > 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "events.jsonl",
        "predictions.parquet",
        "result.json",
    ]


# --- prepare, fetch, info -----------------------------------------------------------------------


def _write(tmp_path: Path, request: Any) -> list[str]:
    (tmp_path / "in.json").write_bytes(encode(request))
    return [str(tmp_path / "in.json"), "--out", str(tmp_path / "answer.json")]


def test_prepare_answers_with_the_dataset(tmp_path: Path) -> None:
    request = DatasetRequest(name="starter-sentiment", source="embedded", sizes=SplitSizes(train=60, test=30))
    assert main(["prepare", *_write(tmp_path, request), "--cache", str(tmp_path / "cache")]) == 0
    prepared = read(tmp_path / "answer.json", PreparedDataset)
    assert prepared.splits["test"].rows == 30
    assert Path(prepared.folder).parent == tmp_path / "cache"


def test_prepare_answers_with_the_failure(tmp_path: Path) -> None:
    request = DatasetRequest(name="lost", source="file", files={"all": str(tmp_path / "lost.csv")})
    assert main(["prepare", *_write(tmp_path, request), "--cache", str(tmp_path / "cache")]) == 1
    failure = read(tmp_path / "answer.json", Failure)
    assert (failure.kind, failure.cell) == ("data", "lost")
    assert "lost.csv" in failure.message


def test_fetch_answers_with_the_resolved_model(tmp_path: Path, checkpoint: Checkpoint) -> None:
    folder = checkpoint("bert")
    assert main(["fetch", *_write(tmp_path, ModelSpec(alias="Small", kind="path", name=str(folder)))]) == 0
    fetched = read(tmp_path / "answer.json", FetchedModel)
    model = fetched.model
    assert (fetched.downloaded, fetched.notes) == (False, ())
    assert model.folder == str(folder)
    assert list(model.weights_sha256) == ["model.safetensors"]


def test_fetch_answers_with_the_failure(tmp_path: Path) -> None:
    assert main(["fetch", *_write(tmp_path, ModelSpec(alias="Gone", kind="path", name=str(tmp_path / "gone")))]) == 1
    assert read(tmp_path / "answer.json", Failure).kind == "model"


@pytest.mark.parametrize("command", ["prepare", "fetch"])
def test_a_missing_package_is_an_answer_too(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = {
        "prepare": DatasetRequest(name="any", source="embedded"),
        "fetch": ModelSpec(alias="any", kind="path", name="x"),
    }
    monkeypatch.setitem(sys.modules, {"prepare": "runner.data", "fetch": "runner.models.resolve"}[command], None)
    more = ["--cache", str(tmp_path)] if command == "prepare" else []
    assert main([command, *_write(tmp_path, request[command]), *more]) == 1
    failure = read(tmp_path / "answer.json", Failure)
    assert failure.kind == "environment"
    assert "doctor" in failure.hint


def test_info_is_json_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    info = msgspec.json.decode(capsys.readouterr().out, type=DeviceInfo)
    assert "cpu" in info.available
    assert info.packages["torch"] == torch.__version__.partition("+")[0] or info.packages["torch"] == torch.__version__
    assert json.loads(encode(info))["missing"] == []
    assert info.cpu_model


def test_threads_are_limited_before_any_library_loads(cell_spec: MakeCell, run_cell: Any) -> None:
    run_cell(cell_spec(threads=1, phases=("load",)))
    assert {os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")} == {"1"}
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    heavy = "import sys; import runner.__main__; print({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", heavy], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


# --- placement ----------------------------------------------------------------------------------


@pytest.fixture
def any_core() -> Iterator[set[int]]:
    before = os.sched_getaffinity(0)
    yield before
    os.sched_setaffinity(0, before)


def test_a_cell_is_kept_on_its_cores(cell_spec: MakeCell, run_cell: Any, any_core: set[int]) -> None:
    core = max(any_core)
    code, folder = run_cell(cell_spec(cores=(core,)))
    result = read(folder / "result.json", Result)
    assert (code, os.sched_getaffinity(0)) == (0, {core})
    assert (result.requested["cores"], result.effective["cores"].value) == (str(core), str(core))
    assert result.provenance.cores == os.cpu_count()
    assert not any("its cores" in warning for warning in result.warnings)


@pytest.mark.parametrize("absent", [1000, 2**53])
def test_cores_that_do_not_exist_are_a_warning(
    absent: int, cell_spec: MakeCell, run_cell: Any, any_core: set[int]
) -> None:
    code, folder = run_cell(cell_spec(cores=(min(any_core), absent)))
    result = read(folder / "result.json", Result)
    assert (code, os.sched_getaffinity(0)) == (0, any_core)
    assert result.effective["cores"].value is None
    assert str(absent) in result.effective["cores"].reason
    assert any("could not be kept on its cores" in warning for warning in result.warnings)
