from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from harness import display as displays
from harness.display import Display
from harness.display.jsonl import JsonLines
from harness.display.live import LiveBars
from harness.display.plain import PlainLines
from harness.display.words import duration, end_words
from harness.errors import InputError, MoodBenchError, SetupError
from harness.state import (
    CellFailed,
    CellRetried,
    CellStarted,
    LeaseEnded,
    LeaseGranted,
    Notice,
    RunFinished,
    RunStarted,
    RunState,
)
from harness.text import clean
from runner.contract import Event, Fallback, LeaseWanted, Progress, Warned
from tests.harness.builders import planned, recorded_run

HOSTILE = "a\x1b[2Jb\rc\nd\x07e\x9bf\u202eg"


def show(display: Display, *events: Event) -> RunState:
    state = RunState()
    for event in events:
        state.apply(event)
        display.show(event, state)
    return state


def plain(*events: Event) -> list[str]:
    stream = io.StringIO()
    show(PlainLines(stream), *events)
    return stream.getvalue().splitlines()


def test_plain_lines_of_a_run() -> None:
    assert plain(*recorded_run()) == [
        "run 'demo': 3 cells, 2 at a time, in results/demo",
        "[1/3] majority on reviews, seed 1: already finished: accuracy 0.750, F1 0.700, p50 2.50 ms, 400 samples/s",
        "[1/3] MiniLM-L6 lora on reviews, seed 1: started (attempt 2)",
        "[1/3] Broken on reviews, seed 1: started",
        "[1/3] MiniLM-L6 lora on reviews, seed 1: train, step 40/120, loss 0.512, 143 samples/s, 32.0 s left",
        "[1/3] MiniLM-L6 lora on reviews, seed 1: warning: the machine was busy",
        "[2/3] Broken on reviews, seed 1: FAILED: no weights",
        "    hint: fetch them",
        "    log: c/log.txt",
        "[3/3] MiniLM-L6 lora on reviews, seed 1: done in 24.0 s: accuracy 0.900, F1 0.700, p50 2.50 ms, 400 samples/s",
        "3 cells: 1 done, 1 already finished, 1 failed, in 26.0 s",
    ]


def test_plain_progress_comes_now_and_then() -> None:
    start = [*recorded_run()[:1], CellStarted(t=100.0, cell="b", attempt=1)]
    steps = [Progress(t=100.0 + i, cell="b", phase="train", step=i, steps=40) for i in range(41)]
    lines = plain(*start, *steps)
    assert [line.partition("step ")[2] for line in lines[2:]] == ["10/40", "20/40", "30/40", "40/40"]


def test_plain_progress_survives_a_clock_that_is_set_back() -> None:
    start = [*recorded_run()[:1], CellStarted(t=100_000.0, cell="b", attempt=1)]
    times = [100_010.0, 50_000.0, 50_001.0, 50_010.0]
    steps = [Progress(t=t, cell="b", phase="train", step=i, steps=9) for i, t in enumerate(times)]
    assert [line.partition("step ")[2] for line in plain(*start, *steps)[2:]] == ["0/9", "1/9", "3/9"]


def engine_events() -> list[Event]:
    fallback = Fallback(batch_size=8, accumulation=8, reason="r")
    return [
        Notice(t=99.0, message="executor: native (asked for)"),
        recorded_run()[0],
        CellStarted(t=101.0, cell="a", attempt=1),
        CellStarted(t=101.0, cell="b", attempt=1),
        LeaseWanted(t=102.0, cell="b"),
        LeaseGranted(t=103.0, cell="b", window=1, frozen=("a",)),
        LeaseEnded(t=104.0, cell="b", window=1, seconds=1.0, frozen=("a",), reasons=("too hot", "swapping")),
        CellRetried(
            t=105.0, cell="b", attempt=1, kind="out_of_memory", message="no memory", delay_s=2.0, why="half needs less",
            fallback=fallback, log="b/log.txt",
        ),
        CellRetried(t=106.0, cell="a", attempt=1, kind="killed", message="ended", delay_s=0.0, why="nobody did it"),
    ]  # fmt: skip


def test_plain_lines_of_windows_and_retries() -> None:
    assert [line for line in plain(*engine_events()) if "started" not in line] == [
        "executor: native (asked for)",
        "run 'demo': 3 cells, 2 at a time, in results/demo",
        "[0/3] MiniLM-L6 lora on reviews, seed 1: window 1 ended after 1.0 s: disturbed: too hot; swapping",
        "[0/3] MiniLM-L6 lora on reviews, seed 1: attempt 1 failed (out_of_memory): no memory",
        "    again in 2.0 s, since half needs less (batch size 8, accumulation 8)",
        "    log: b/log.txt",
        "[0/3] majority on reviews, seed 1: attempt 1 failed (killed): ended",
        "    again, since nobody did it",
    ]


def test_a_run_that_never_began_has_no_counts() -> None:
    assert plain(RunFinished(outcome="broken", exit_code=3, message="m", hint="h")) == []


def test_an_interrupted_cell_is_no_failure() -> None:
    stopped = CellFailed(cell="b", kind="killed", message="m", hint="h", interrupted=True)
    assert plain(recorded_run()[0], stopped)[-1] == "[1/3] MiniLM-L6 lora on reviews, seed 1: stopped"


def test_json_lines_are_json_and_end_with_run_finished() -> None:
    stream = io.StringIO()
    display = JsonLines(stream)
    show(display, Notice(t=1.0, message="reviews: 'text' was guessed\n" + HOSTILE), *recorded_run())
    display.close()
    lines = [json.loads(line) for line in stream.getvalue().split("\n")[:-1]]
    assert stream.getvalue().endswith("\n")
    assert [line["event"] for line in lines[:2]] == ["notice", "run_started"]
    assert len(lines) == len(recorded_run()) + 1
    assert (lines[-1]["event"], lines[-1]["exit_code"]) == ("run_finished", 1)
    assert all(line["t"] > 0 for line in lines)


@pytest.mark.parametrize(
    ("error", "outcome", "exit_code"),
    [
        (KeyboardInterrupt(), "interrupted", 130),
        (InputError("cause", "remedy"), "broken", 2),
        (SetupError("cause", "remedy"), "broken", 3),
        (ZeroDivisionError(), "broken", 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_json_lines_end_with_run_finished_however_a_run_ends(
    error: BaseException, outcome: str, exit_code: int
) -> None:
    stream = io.StringIO()
    with pytest.raises(type(error)), displays.closing_display(JsonLines(stream)) as display:
        display.show(Notice(message="preparing"), RunState())
        raise error
    last = json.loads(stream.getvalue().splitlines()[-1])
    assert (last["event"], last["outcome"], last["exit_code"]) == ("run_finished", outcome, exit_code)
    if isinstance(error, MoodBenchError):
        assert (last["message"], last["hint"]) == ("cause", "remedy")


def test_json_lines_end_once() -> None:
    stream = io.StringIO()
    with pytest.raises(InputError), displays.closing_display(JsonLines(stream)) as display:
        show(display, *recorded_run())
        raise InputError("after the end", "remedy")
    assert len(stream.getvalue().splitlines()) == len(recorded_run())


def hostile_run() -> list[Event]:
    plans = (planned("b", f"model {HOSTILE}"),)
    return [
        RunStarted(t=1.0, run=f"run {HOSTILE}", suite="s", folder=f"folder {HOSTILE}", jobs=1, cells=plans),
        CellStarted(t=1.0, cell="b", attempt=1),
        Warned(t=2.0, cell="b", message=f"[bold]markup[/foo] {HOSTILE}"),
        CellRetried(t=2.5, cell="b", attempt=1, kind="code", message=HOSTILE, delay_s=0.0, why=HOSTILE, log=HOSTILE),
        LeaseEnded(t=2.6, cell="b", window=1, seconds=1.0, reasons=(HOSTILE,)),
        Notice(t=2.7, message=HOSTILE),
        CellFailed(t=3.0, cell="b", kind="code", message=f"why {HOSTILE}", hint=f"hint {HOSTILE}", log=HOSTILE),
    ]


def test_hostile_text_is_only_text_in_plain_lines() -> None:
    lines = plain(*hostile_run())
    assert len(lines) == 11
    assert not set("".join(lines)) & set("\x1b\r\x07\x9b\u202e")
    assert "[bold]markup[/foo] a�[2Jb c d�e�f�g" in lines[2]


@pytest.fixture
def screen() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120, record=True, highlight=False)


def test_hostile_text_is_only_text_in_live_bars(screen: Console) -> None:
    display = LiveBars(screen)
    show(display, *hostile_run())
    display.close()
    text = screen.export_text()
    assert not set(text) & set("\x1b\x07\x9b\u202e")
    assert "[bold]markup[/foo]" in text
    assert "✗" in text


def test_live_bars_of_a_run(screen: Console) -> None:
    display = LiveBars(screen)
    show(display, *recorded_run())
    display.close()
    lines = [line.rstrip() for line in screen.export_text().splitlines()]
    for line in (
        "run 'demo': 3 cells, 2 at a time, in results/demo",
        "! MiniLM-L6 lora on reviews, seed 1: the machine was busy",
        "✗ Broken on reviews, seed 1: no weights",
        "    hint: fetch them",
        "3 cells: 1 done, 1 already finished, 1 failed, in 26.0 s",
    ):
        assert line in lines
    assert any(line.startswith("✓ majority on reviews, seed 1 (already finished): accuracy 0.750") for line in lines)


@pytest.mark.parametrize(
    ("upto", "words"),
    [
        (1, ["0/3 cells"]),
        (4, ["1/3 cells", "MiniLM-L6 lora on reviews, seed 1", "Broken on reviews, seed 1", "starting"]),
        (5, ["train"]),
        (6, ["train, step 40/120, loss 0.512, 143 samples/s, 32.0 s left"]),
        (7, ["validation F1 0.800"]),
        (11, ["waits to be timed alone"]),
        (12, ["time"]),
    ],
)
def test_the_bars_themselves(screen: Console, upto: int, words: list[str]) -> None:
    display = LiveBars(screen)
    show(display, *recorded_run()[:upto])
    still = Console(file=io.StringIO(), width=160, record=True)
    still.print(display._draw())
    display.close()
    text = still.export_text()
    for word in words:
        assert word in text


def bars_after(screen: Console, *events: Event) -> str:
    display = LiveBars(screen)
    show(display, *events)
    still = Console(file=io.StringIO(), width=160, record=True)
    still.print(display._draw())
    display.close()
    return still.export_text()


def test_live_bars_show_who_is_timed_and_who_stands_still(screen: Console) -> None:
    lines = bars_after(screen, *engine_events()[:6]).splitlines()
    assert any("MiniLM-L6" in line and "timed alone, window 1" in line for line in lines)
    assert any("majority on" in line and "stands still while MiniLM-L6 lora on reviews" in line for line in lines)
    after = bars_after(screen, *engine_events()[:7])
    assert "timed alone" not in after and "stands still" not in after
    assert "attempt 1 failed, again in 0.0 s" in bars_after(screen, *engine_events())


def test_live_bars_tell_of_windows_and_retries(screen: Console) -> None:
    display = LiveBars(screen)
    show(display, *engine_events())
    display.close()
    text = screen.export_text()
    for words in (
        "executor: native (asked for)",
        "window 1 ended after 1.0 s: disturbed: too hot; swapping",
        "attempt 1 failed (out_of_memory): no memory",
        "    again in 2.0 s, since half needs less (batch size 8, accumulation 8)",
    ):
        assert words in text


def test_live_bars_are_bounded(screen: Console) -> None:
    plans = tuple(planned(f"c{i}") for i in range(100))
    start = RunStarted(t=1.0, run="r", suite="s", folder="f", jobs=100, cells=plans)
    text = bars_after(screen, start, *(CellStarted(t=1.0, cell=plan.cell, attempt=1) for plan in plans))
    assert "and 68 more" in text
    assert len(text.splitlines()) == 34


def test_live_bars_draw_at_most_once_a_second_and_make_room_for_a_question(screen: Console) -> None:
    display = LiveBars(screen)
    drawn: list[float] = []
    show(display, *recorded_run()[:5])
    display._live.refresh = lambda: drawn.append(1.0)  # type: ignore[method-assign]
    for _ in range(5):
        display.tick()
    assert len(drawn) == 1
    display.pause()
    assert not display._live.is_started
    display._drawn = 0.0
    display.tick()
    assert display._live.is_started
    display.close()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("json_lines", "stream", "environment", "kind"),
    [
        (True, Terminal(), {"TERM": "xterm"}, JsonLines),
        (False, Terminal(), {"TERM": "xterm"}, LiveBars),
        (False, Terminal(), {"TERM": "dumb"}, PlainLines),
        (False, Terminal(), {"TERM": "xterm", "CI": "1"}, PlainLines),
        (False, io.StringIO(), {"TERM": "xterm"}, PlainLines),
    ],
)
def test_the_display_fits_where_it_shows(
    monkeypatch: pytest.MonkeyPatch, json_lines: bool, stream: io.StringIO, environment: dict[str, str], kind: type
) -> None:
    monkeypatch.delenv("CI", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stderr", stream)
    assert type(displays.choose_display(json_lines)) is kind


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (8.31, "8.3 s"), (59.94, "59.9 s"), (59.96, "1:00"), (125, "2:05"), (3599.6, "1:00:00")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_clean_keeps_words_of_any_language() -> None:
    assert clean("żółw 漢字 😀 a\tb\r\nc") == "żółw 漢字 😀 a b c"


def test_an_empty_run() -> None:
    counts = {"total": 0, "done": 0, "reused": 0, "failed": 0, "left": 0}
    event = RunFinished(outcome="finished", exit_code=0, seconds=0.0, folder="f", **counts)
    assert end_words(event) == "0 cells: none, in 0.0 s"
