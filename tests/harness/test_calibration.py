"""The noise floor: pure functions on made-up windows, and a host that asks a runner which is none."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from harness import calibration
from harness.calibration import (
    CELL_WINDOWS,
    Calibration,
    Figures,
    Sampled,
    calibration_file,
    calibration_for,
    criticisms,
    figures,
    halves,
    keep,
    measured_and_floor,
    noise_floor,
    sampled,
)
from harness.catalog import load_catalog
from harness.cli import main
from harness.errors import SetupError
from harness.executors import Answer, Capacity, Handle, Question
from harness.executors.choice import Executors
from harness.scratch import cache_folder
from harness.store import AttemptPaths
from runner.contract import CellSpec, DeviceInfo, Failure, Latency, Throughput, Timing, Window, encode


def window(number: int, ms: float, *, requests: int = 140, **changes: Any) -> Window:
    """Of a model that takes `ms` for a request, and as long for a text in a batch of 1; a third in one of 8."""
    settings: dict[str, Any] = {
        "number": number,
        "block": number,
        "t": 1e9 + number,
        "seconds": 1.0,
        "requests": requests,
        "mean_ms": ms,
        "p50_ms": ms,
        "throughput": tuple(
            Throughput(batch_size=size, samples=200, seconds=0.2 * each, samples_per_s=1000 / each, tokens_per_s=None)
            for size, each in ((1, ms), (8, ms / 3))
        ),
        "cpu_share_foreign": 0.01,
        "contaminated": False,
        **changes,
    }
    return Window(**settings)


def timing_of(*windows: Window) -> Timing:
    samples = [window.p50_ms for window in windows if window.counted for _ in range(window.requests)]
    latency = Latency(requests=len(samples), mean_ms=1.0, std_ms=0.0, samples_ms=tuple(samples))
    return Timing(latency=latency, throughput=(), windows=windows, cold_start_s=None)


def found(*windows: Window, **changes: Any) -> Calibration:
    settings: dict[str, Any] = {
        "hostname_hash": calibration.host_hash(),
        "cpu_model": "CPU 1",
        "executor": "native",
        "threads": 1,
        "when": 1e9,
        "windows": windows or tuple(window(number, 2.0) for number in range(1, 21)),
        "latency_p50": 0.021,
        "latency_p99": 0.05,
        "throughput": 0.01,
        **changes,
    }
    return Calibration(**settings)


# --- the noise floor --------------------------------------------------------------------------


def test_a_cell_of_calibration_has_as_many_windows_as_one_of_a_run() -> None:
    evaluation = load_catalog().evaluation
    assert evaluation.defaults.windows == CELL_WINDOWS
    assert evaluation.smoke.onto(evaluation.defaults).windows == 2


def test_samples_go_to_their_windows_and_only_to_those_that_count() -> None:
    timed = timing_of(
        window(1, 1.0, requests=3), window(2, 9.0, requests=5, counted=False), window(3, 2.0, requests=2)
    )  # fmt: skip
    assert [list(one.samples_ms) for one in sampled(timed)] == [[1.0, 1.0, 1.0], [2.0, 2.0]]
    assert [one.throughput[0].seconds for one in sampled(timed)] == [0.2, 0.4]


def test_figures_are_those_that_a_cell_reports() -> None:
    windows = [
        Sampled([1.0] * 300, window(1, 1.0).throughput),
        Sampled([*[3.0] * 90, *[50.0] * 10], window(2, 3.0).throughput),
    ]
    got = figures(windows)
    assert (got.latency_p50, got.latency_p99) == (2.0, 50.0)  # each window weighs the same
    assert got.throughput == pytest.approx(400 / (0.2 * (1 / 3 + 1)))  # all texts over all seconds, at a batch of 8


@pytest.mark.parametrize(("count", "half", "ways"), [(4, 2, 3), (5, 2, 15), (10, 5, 126), (11, 5, 1386)])
def test_every_way_to_choose_two_halves_where_there_are_few(count: int, half: int, ways: int) -> None:
    pairs = list(halves(count, half))
    assert len(pairs) == len({frozenset(pair) for pair in pairs}) == ways
    for first, second in pairs:
        assert len({*first, *second}) == 2 * half
        assert {*first, *second} <= set(range(count))


def test_else_many_at_random_and_always_the_same() -> None:
    pairs = list(halves(20, 5))
    assert pairs == list(halves(20, 5))
    assert len(pairs) == 2000
    assert all(len({*first, *second}) == 10 for first, second in pairs)
    times = np.bincount([i for pair in pairs for part in pair for i in part], minlength=20)
    assert times.min() > 900
    assert times.max() < 1100


def test_the_floor_is_what_95_per_cent_of_the_differences_stay_below() -> None:
    pairs = [(Figures(100 + k, 10.0, 1.0), Figures(100 - k, 10.0, 3.0)) for k in range(101)]
    floor = noise_floor(pairs)
    assert floor.latency_p50 == pytest.approx(2 * 95 / 100)
    assert floor.latency_p99 == 0.0
    assert floor.throughput == pytest.approx(1.0)  # |1 − 3| over their mean


def test_the_floor_of_a_known_noise() -> None:
    """Windows whose level varies by 2 %: pairs of means of five of them differ by 0.02 · √(2/5), of which 95 % stay
    below 1.96 times as much; for these 40 windows, up to chance."""
    levels = 1 + 0.02 * np.random.default_rng(3).standard_normal(40)
    measured, floor = measured_and_floor(timing_of(*(window(n, 2 * float(x)) for n, x in enumerate(levels, 1))))
    expected = 1.96 * 0.02 * np.sqrt(2 / 5)
    assert floor.throughput == pytest.approx(expected, rel=0.2)
    assert 0.5 * expected < floor.latency_p50 < 2 * expected  # a median of five levels, not their mean
    assert measured.latency_p50 == pytest.approx(2.0, rel=0.02)
    assert measured.throughput == pytest.approx(1500, rel=0.02)


def test_without_noise_there_is_no_floor() -> None:
    _, floor = measured_and_floor(timing_of(*(window(n, 2.0) for n in range(1, 21))))
    assert floor == Figures(0.0, 0.0, 0.0)


# --- what speaks against it -------------------------------------------------------------------


def test_nothing_speaks_against_a_quiet_calibration() -> None:
    assert criticisms(found()) == []


@pytest.mark.parametrize(
    ("windows", "changes", "words"),
    [
        ([window(n, 2.0, requests=200) for n in range(1, 9)], {}, "8 windows are few"),
        ([window(n, 2.0, requests=132) for n in range(1, 21)], {}, "rests on 660 requests, and needs 662"),
        ([window(n, 2.0, contaminated=None) for n in range(1, 21)], {}, "nothing here could tell"),
        ([window(n, 2.0 + 0.1 * (n > 10)) for n in range(1, 21)], {}, "became 5.0 % slower"),
        ([window(n, 2.0 - 0.1 * (n > 10)) for n in range(1, 21)], {}, "became 5.0 % faster"),
        ([], {"latency_p50": 0.11}, "too noisy"),
        ([], {"throughput": 0.11}, "too noisy"),
    ],
)
def test_what_makes_a_calibration_doubtful_is_said(windows: list[Window], changes: Any, words: str) -> None:
    (said,) = criticisms(found(*windows, **changes))
    assert words in said


def test_disturbed_windows_are_told_with_the_worst_reason() -> None:
    quiet = [window(n, 2.0) for n in range(1, 21)]
    disturbed = [
        window(n, 2.0, contaminated=True, cpu_share_foreign=share, reasons=(f"{share} went elsewhere",))
        for n, share in ((21, 0.2), (22, 0.7))
    ]
    repeated = window(23, 2.0, contaminated=True, reasons=("not told",), counted=False)
    (said,) = criticisms(found(*quiet, *disturbed, repeated))
    assert said.startswith("2 of 22 windows never were undisturbed (0.7 went elsewhere)")


# --- keeping it -------------------------------------------------------------------------------


def test_what_is_kept_is_found_again_for_the_same_kind_of_cell() -> None:
    assert calibration_for("native", 1) is None
    kept = found()
    keep(kept)
    assert calibration_for("native", 1) == calibration_for("native", 1, "CPU 1") == kept
    assert calibration_for("native", 1, "CPU 2") is None
    assert calibration_for("native", 2) is None
    assert calibration_for("docker", 1) is None
    assert calibration_file("native", 1).parent == cache_folder() / "calibration"


def test_another_hosts_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    keep(found())
    keep(found(hostname_hash="0"))  # its file was copied here
    assert calibration_for("native", 1) is None
    keep(found())
    monkeypatch.setattr(calibration.platform, "node", lambda: "another")
    assert calibration_for("native", 1) is None


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema_version": 99}'])
def test_a_damaged_file_is_as_none(text: str) -> None:
    keep(found())
    calibration_file("native", 1).write_text(text)
    assert calibration_for("native", 1) is None


def test_a_cache_that_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MOODBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(SetupError, match="cannot write"):
        keep(found())


# --- asking the runner, and the command -------------------------------------------------------


class Runner:
    """An executor that answers at once: with a timing, or with what it is told to."""

    name = "native"
    image_digest = None
    capacity = Capacity(cores=(0,))

    def __init__(self, timed: Timing) -> None:
        self.timed: Any = timed
        self.code = 0
        self.err = b""
        self.questions: list[Question] = []

    def refusal(self, spec: CellSpec) -> Failure | None:
        return None

    async def start(self, attempt: AttemptPaths, spec: CellSpec) -> Handle:
        raise NotImplementedError

    async def ask(self, question: Question) -> Answer:
        self.questions.append(question)
        if question.arguments == ("info",):
            info = DeviceInfo(device="cpu", device_reason="", available=("cpu",), cpu_model="CPU 1")
            return Answer(0, encode(info), b"")
        assert question.folder.is_dir()
        if self.timed is not None:
            Path(question.arguments[question.arguments.index("--out") + 1]).write_bytes(encode(self.timed))
        return Answer(self.code, b"", self.err)

    async def close(self) -> None:
        pass


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    """What `moodbench` takes for its executor."""
    runner = Runner(timing_of(*(window(n, 2.0 + 0.02 * (n % 3)) for n in range(1, 21))))

    async def choose(asked: str, device: str, run: None) -> Executors:
        assert (asked, device) == ("native", "cpu")
        return Executors(runner, runner, "asked for")

    monkeypatch.setattr("harness.executors.choice.choose_executor", choose)
    return runner


def test_the_runner_is_asked_without_network_and_the_answer_kept(runner: Runner) -> None:
    got = asyncio.run(calibration.calibrate(runner, 20))
    _, question = runner.questions
    assert question.arguments[0] == "calibrate"
    assert question.arguments[-2:] == ("--windows", "20")
    assert (question.network, question.reads, question.writes, question.environment) == (False, (), (), {})
    assert not question.folder.exists()
    assert (got.executor, got.threads, got.cpu_model, got.windows) == ("native", 1, "CPU 1", runner.timed.windows)
    _, floor = measured_and_floor(runner.timed)
    assert (got.latency_p50, got.latency_p99, got.throughput) == (
        floor.latency_p50, floor.latency_p99, floor.throughput,
    )  # fmt: skip
    assert got.throughput > 0
    assert calibration_for("native", 1, "CPU 1") == got


def test_a_failure_of_the_runner_is_told(runner: Runner) -> None:
    runner.timed = Failure(cell="calibration", kind="environment", message="no torch here", hint="install it")
    runner.code = 1
    with pytest.raises(SetupError, match="no torch here") as caught:
        asyncio.run(calibration.calibrate(runner, 20))
    assert caught.value.hint == "install it"
    assert calibration_for("native", 1) is None


@pytest.mark.parametrize(
    ("code", "err", "words"),
    [
        (2, b"usage\nrunner: invalid choice: 'calibrate'\n", "invalid choice"),
        (137, b"", "exit code 137"),
        (0, b"", "answer.json"),
    ],
)
def test_a_runner_without_an_answer_is_told(runner: Runner, code: int, err: bytes, words: str) -> None:
    runner.timed, runner.code, runner.err = None, code, err
    with pytest.raises(SetupError, match=words):
        asyncio.run(calibration.calibrate(runner, 20))


def test_the_command_prints_floors_with_units_and_what_they_mean(
    runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "--executor", "native"]) == 0
    printed = capsys.readouterr()
    kept = calibration_for("native", 1)
    assert kept is not None
    share = f"{100 * kept.latency_p50:.1f} %"
    assert f"differences of median latency below {share} are noise on this machine" in printed.out
    assert "2.02 ms" in printed.out
    assert "samples/s" in printed.out
    assert str(calibration_file("native", 1)) in printed.out.replace("\n", "")
    assert "note:" not in printed.err


def test_the_command_prints_json_and_its_doubts_apart(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    runner.timed = timing_of(*(window(n, 2.0) for n in range(1, 13)))
    assert main(["calibrate", "--executor", "native", "--windows", "12", "--json"]) == 0
    printed = capsys.readouterr()
    assert msgspec.json.decode(printed.out, type=Calibration) == calibration_for("native", 1)
    assert json.loads(printed.out)["latency_p50"] == 0.0
    assert "note: 12 windows are few" in printed.err


def test_a_machine_that_was_busy_is_not_calibrated(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    busy = {"contaminated": True, "reasons": ("70 % went elsewhere",)}
    runner.timed = timing_of(*(window(n, 2.0, **({} if n < 10 else busy)) for n in range(1, 21)))
    assert main(["calibrate", "--executor", "native"]) == 3
    assert "only 9 of 20 windows were undisturbed" in capsys.readouterr().err
    assert calibration_for("native", 1) is None


def test_disturbed_windows_are_left_out() -> None:
    busy = window(3, 500.0, contaminated=True)
    assert len(sampled(timing_of(window(1, 1.0), window(2, 2.0), busy, window(4, 4.0)))) == 3
    assert [one.samples_ms[0] for one in sampled(timing_of(window(1, 1.0), busy, window(4, 4.0)))] == [1.0, 4.0]


def test_too_few_windows_are_refused(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--executor", "native", "--windows", "3"]) == 2
    assert "--windows" in capsys.readouterr().err
    assert runner.questions == []


def test_an_environment_that_cannot_calibrate_ends_with_3(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    runner.timed, runner.code = None, 1
    assert main(["calibrate", "--executor", "native"]) == 3
    assert "the runner could not calibrate" in capsys.readouterr().err
