"""`moodbench leaderboard`: its options, its formats, and following a run."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from harness.cli import main
from harness.cli.following import Signals
from harness.cli.watching import Watch, screen
from harness.journal import Journal
from harness.leaderboard import Standing, standing_of
from harness.live import LiveBoard
from harness.metrics import METRICS
from harness.run_lock import only_one
from harness.state import CellFinished, RunStarted
from harness.store import RunFolder
from runner.contract import CellSpec
from tests.harness.builders import cell, planned, prepared, summary, write_result

Capture = pytest.CaptureFixture[str]

LABELS = (0, 1) * 20
WRONG_ONCE = (1, 1, *LABELS[2:])
MAJORITY = (0,) * 40
DATASET = prepared(rows=len(LABELS))
GOOD, BASE = cell("good", dataset=DATASET), cell("base", dataset=DATASET)


def finish(run: RunFolder, spec: CellSpec) -> None:
    write_result(run.new_attempt(spec.cell), spec, LABELS, MAJORITY if spec is BASE else WRONG_ONCE)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """One of two cells has finished."""
    run = RunFolder(tmp_path / "results" / "nightly")
    run.extend("nightly", {}, [GOOD, BASE])
    finish(run, GOOD)
    return run


def shown(capsys: Capture, run: RunFolder, *options: str, code: int = 0) -> str:
    assert main(["leaderboard", str(run.folder), *options]) == code
    return capsys.readouterr().out


# --- options ----------------------------------------------------------------------------------


def test_weights_and_normaliser_reach_the_ranking(capsys: Capture, run: RunFolder) -> None:
    finish(run, BASE)
    usual = json.loads(shown(capsys, run, "--format", "json"))
    assert usual["normalise"] == "minmax"
    assert usual["weights"] == {
        "accuracy": 0.3, "f1": 0.3, "throughput_samples_per_sec": 0.2, "latency_median_ms": -0.2,
    }  # fmt: skip
    given = json.loads(shown(capsys, run, "--format", "json", "--weights", "accuracy=2", "--normalise", "none"))
    assert (given["weights"], given["normalise"]) == ({"accuracy": 2.0}, "none")
    assert {row["model"]: row["score"]["value"] for row in given["rows"]} == {
        "good": pytest.approx(2 * 39 / 40),
        "base": pytest.approx(2 * 20 / 40),
    }


def test_what_a_figure_without_an_interval_does_to_the_score_is_said(capsys: Capture, run: RunFolder) -> None:
    assert main(["leaderboard", str(run.folder), "--weights", "accuracy=1,auc=1"]) == 0
    assert f"note: {METRICS['roc_auc'].title} cannot be resampled" in capsys.readouterr().err
    assert main(["leaderboard", str(run.folder), "--weights", "accuracy=1"]) == 0
    assert "note:" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--weights", "latncy=-.2"], "unknown metric 'latncy' (did you mean 'latency'?)"),
        (["--weights", "latency=.2"], "write latency=-0.2"),
        (["--weights", "accuracy=0"], "nothing to rank by"),
        (["--normalise", "max"], "--normalise"),
        (["--by", "colour"], "--by"),
        (["--by", "size", "--format", "csv"], "--by is for table and markdown"),
        (["--format", "models"], "--to FOLDER"),
        (["--to", "somewhere"], "--format models"),
        (["--follow", "--format", "json"], "--follow shows the table"),
    ],
)
def test_options_that_make_no_sense_end_with_2(capsys: Capture, run: RunFolder, options: list[str], words: str) -> None:
    assert main(["leaderboard", str(run.folder), *options]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""
    assert not Path("somewhere").exists()


def test_by(capsys: Capture, run: RunFolder) -> None:
    assert "Parameters" not in shown(capsys, run)
    assert "Parameters" in shown(capsys, run, "--by", "size")
    assert "Method" in shown(capsys, run, "--by", "method", "--format", "markdown")


def test_models_are_written_one_file_a_row(capsys: Capture, run: RunFolder, tmp_path: Path) -> None:
    assert main(["leaderboard", str(run.folder), "--format", "models", "--to", str(tmp_path / "flat")]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"1 files in {tmp_path / 'flat'}\n"
    assert "1 cells have not run" in captured.err
    [path] = (tmp_path / "flat").iterdir()
    assert path.name == "good--reviews--none.json"
    assert json.loads(path.read_text())["accuracy"] == pytest.approx(39 / 40)


# --- following --------------------------------------------------------------------------------


@contextmanager
def engine_of(run: RunFolder) -> Iterator[Journal]:
    """What an engine holds while it works on a run."""
    plans = (planned(GOOD.cell, "good"), planned(BASE.cell, "base"))
    with only_one(run), closing(Journal(run.journal)) as journal:
        journal.append(RunStarted(run="nightly", suite="s", folder=str(run.folder), jobs=1, cells=plans))
        journal.append(CellFinished(cell=GOOD.cell, summary=summary(), seconds=1.0))
        yield journal


def test_the_table_is_shown_anew_with_each_result_until_the_run_ends(run: RunFolder) -> None:
    boards: list[Standing] = []
    with engine_of(run) as journal, Signals() as signals:
        watch = Watch(run, LiveBoard(run))

        def show(standing: Standing) -> None:
            boards.append(standing)
            if len(boards) == 1:
                finish(run, BASE)
                journal.append(CellFinished(cell=BASE.cell, summary=summary(), seconds=1.0))
            else:
                os.kill(os.getpid(), signal.SIGINT)

        assert not watch.to_the_end(show, signals), "it was left while the engine works"
    assert [len(board.board.rows) for board in boards] == [1, 2]
    assert [board.missing for board in boards] == [1, 0]
    assert watch.standing == boards[-1]
    assert boards[-1].board.rows == standing_of(run).board.rows


def test_what_an_engine_told_last_is_shown_as_well(run: RunFolder) -> None:
    with ExitStack() as engine, Signals() as signals:
        journal = engine.enter_context(engine_of(run))

        def show(standing: Standing) -> None:
            if standing.missing:
                finish(run, BASE)
                journal.append(CellFinished(cell=BASE.cell, summary=summary(), seconds=1.0))
                engine.close()

        watch = Watch(run, LiveBoard(run))
        assert watch.to_the_end(show, signals)
    assert watch.standing is not None
    assert watch.standing.missing == 0


def test_a_run_that_is_being_prepared_is_waited_for(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "early")
    run.folder.mkdir()
    (run.folder / "request.json").write_text("{}")
    with only_one(run), Signals() as signals:
        watch = Watch(run, LiveBoard(run))
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        assert not watch.to_the_end(lambda standing: None, signals)
    assert watch.standing is None


def test_a_run_that_has_ended_is_shown_once(capsys: Capture, run: RunFolder) -> None:
    assert shown(capsys, run, "--follow").count("good") == 1


def test_without_a_terminal_there_is_one_table_at_the_end(capsys: Capture, run: RunFolder) -> None:
    begun, release = threading.Event(), threading.Event()

    def work() -> None:
        with engine_of(run) as journal:
            begun.set()
            release.wait(30)
            finish(run, BASE)
            journal.append(CellFinished(cell=BASE.cell, summary=summary(), seconds=1.0))

    engine = threading.Thread(target=work)
    engine.start()
    assert begun.wait(30)
    threading.Timer(0.5, release.set).start()
    out = shown(capsys, run, "--follow")
    engine.join()
    assert out.count("P(best)  Share") == 1
    assert "base" in out


def test_a_run_that_never_said_what_its_cells_are(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "request.json").write_text("{}")
    assert main(["leaderboard", str(tmp_path / "begun"), "--follow"]) == 2
    assert "error:" in capsys.readouterr().err


def test_a_terminal_shows_one_table_in_the_place_of_the_other(run: RunFolder) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40)
    before = standing_of(run)
    finish(run, BASE)
    after = standing_of(run)
    with screen("dataset", console) as show:
        show(before)
        drawn = console.file.getvalue()  # type: ignore[attr-defined]
        assert "good" in drawn and "base" not in drawn and "1 cells to come" in drawn
        show(after)
    rest = console.file.getvalue()[len(drawn) :]  # type: ignore[attr-defined]
    assert "base" in rest and "0 cells to come" in rest
    assert "\x1b[1A\x1b[2K" in rest, "the lines of the first are taken back"
    assert rest.rindex("\x1b[2K") > rest.rindex("base"), "and those of the last at the end"


def test_ctrl_c_leaves_the_run_alone_and_the_table_there(run: RunFolder) -> None:
    with engine_of(run):
        output, seen_by_it = pty.openpty()
        command = [sys.executable, "-m", "harness.cli", "leaderboard", str(run.folder), "--follow", "--by", "size"]
        process = subprocess.Popen(command, stdout=seen_by_it, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        os.close(seen_by_it)
        text = read_until(output, "Ctrl-C")
        process.send_signal(signal.SIGINT)
        text += read_until(output, None)
        assert process.stderr is not None
        with process.stderr:
            words = process.stderr.read().decode()
        assert process.wait(30) == 130
    assert "goes on; to see it again" in words
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    drawn, left = text[: text.rindex("\x1b[?25h")], text[text.rindex("\x1b[?25h") :]
    assert "good" in left
    assert "Parameters" in drawn and "Parameters" in left


def read_until(terminal: int, mark: str | None, timeout_s: float = 60.0) -> str:
    """What is written there up to the mark, or to the end."""
    text, end = "", time.monotonic() + timeout_s
    while time.monotonic() < end and (mark is None or mark not in text):
        try:
            text += os.read(terminal, 65536).decode(errors="replace")
        except OSError:  # whoever wrote has gone
            os.close(terminal)
            break
    return text
