from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from harness.board import NoiseFloor
from harness.cli import main
from harness.comparison import Check, GateReport
from harness.entries import CellRecord, entries_of
from harness.errors import InputError, SetupError
from harness.gate import DEFAULT_DROPS, Limits, gate, limits_of
from harness.junit import as_junit, write_junit
from harness.pairs import SharedExamples
from harness.store import RunFolder
from runner.contract import Failure, encode, write_atomic
from tests.harness.compared import answers, evidence, finish, run_of, spec
from tests.harness.ranked import cell, five_windows, provenance, without_predictions

Capture = pytest.CaptureFixture[str]
LABELS = np.array([0, 1] * 2000)
ACCURACY = Limits({"accuracy": 0.01}, {})
LATENCY = Limits({}, {"latency_median_ms": 1.1})


def scored(model: str, wrong: int, **fields: object) -> CellRecord:
    """Right but for the first so many of 4,000 examples."""
    predicted = np.where(np.arange(LABELS.size) < wrong, 1 - LABELS, LABELS)
    return cell(model, labels=LABELS, predicted=predicted, **fields)  # type: ignore[arg-type]


def held(candidate: CellRecord, baseline: CellRecord, limits: Limits) -> Check:
    (check,) = gate(evidence(candidate), evidence(baseline), limits).checks
    return check


# --- three outcomes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "outcome", "code"),
    [(400, "pass", 0), (410, "pass", 0), (440, "not_enough_evidence", 5), (520, "fail", 4), (200, "pass", 0)],
)
def test_a_drop_passes_fails_or_is_not_known(wrong: int, outcome: str, code: int) -> None:
    """The baseline has 400 of 4,000 wrong; 40 more are the limit itself."""
    report = gate(evidence(scored("a", wrong)), evidence(scored("a", 400)), ACCURACY)
    (check,) = report.checks
    assert (check.outcome, report.outcome, report.exit_code) == (outcome, outcome, code)
    assert check.figure is not None and check.figure.value == pytest.approx((wrong - 400) / 4000)
    assert (check.baseline, check.candidate) == (0.9, 1 - wrong / 4000)
    assert bool(check.reason) == (outcome != "pass")


def test_not_enough_evidence_says_what_would_be() -> None:
    check = held(scored("a", 432), scored("a", 400), ACCURACY)
    assert check.outcome == "not_enough_evidence"
    found = re.fullmatch(r"the limit lies within the interval; about ([\d,]+) test examples would tell", check.reason)
    assert found is not None
    assert int(found[1].replace(",", "")) > LABELS.size


def test_agreement_on_few_examples_is_not_enough() -> None:
    """A hundred equal answers do not show that fewer than one in a hundred differs."""
    few = cell("a", labels=LABELS[:100], predicted=LABELS[:100])
    assert held(few, few, ACCURACY).outcome == "not_enough_evidence"
    assert held(scored("a", 400), scored("a", 400), ACCURACY).outcome == "pass"


def test_a_run_of_fewer_seeds_than_its_baseline_does_not_pass() -> None:
    baseline = [scored("a", 400, seed=seed, windows=five_windows()) for seed in (1, 2)]
    both = Limits(ACCURACY.drops, {"latency_median_ms": 1.5})
    report = gate(evidence(scored("a", 300, seed=2, windows=five_windows())), evidence(*baseline), both)
    assert [check.outcome for check in report.checks] == ["not_enough_evidence"] * 2
    assert all("fewer seeds than the baseline: 2 against 1, 2" in check.reason for check in report.checks)
    worse = gate(evidence(scored("a", 900, seed=2)), evidence(*baseline), ACCURACY)
    assert worse.outcome == "fail" and "fewer seeds" in worse.checks[0].reason
    assert gate(evidence(*baseline), evidence(*baseline), both).outcome == "pass"
    (alone,) = gate(evidence(baseline[0]), evidence(baseline[0]), ACCURACY).checks
    assert alone.outcome == "pass" and "one seed: " in alone.notes[0]


def test_ratios_are_turned_so_that_more_is_worse() -> None:
    fast = cell("a", ms=5.0, per_s=200.0, windows=five_windows(5.0, 200.0))
    slow = cell("a", ms=6.0, per_s=160.0, windows=five_windows(6.0, 160.0))
    limits = Limits({}, {"latency_median_ms": 1.1, "throughput_samples_per_sec": 1.1})
    worse = gate(evidence(slow), evidence(fast), limits)
    assert {c.metric: c.outcome for c in worse.checks} == dict.fromkeys(limits.ratios, "fail")
    latency, throughput = worse.checks
    assert latency.figure is not None and latency.figure.value == pytest.approx(1.2)
    assert throughput.figure is not None and throughput.figure.value == pytest.approx(1.25)
    assert (throughput.baseline, throughput.candidate) == (200.0, 160.0)
    assert gate(evidence(fast), evidence(slow), limits).outcome == "pass"
    assert gate(evidence(slow), evidence(fast), Limits({}, {"latency_median_ms": 1.2})).exit_code == 5


def test_a_speed_within_the_noise_of_the_machine_is_not_known() -> None:
    floor = NoiseFloor(latency_p50=0.2, latency_p99=0.2, throughput=0.2, cpu_model="A", executor="native", threads=2)
    fast, slow = (cell("a", ms=ms, windows=five_windows(ms)) for ms in (5.0, 6.0))
    report = gate(evidence(slow, floor=floor), evidence(fast), LATENCY)
    assert report.outcome == "not_enough_evidence"
    assert report.checks[0].notes == ("held to this machine's noise of 20.0 %",)


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (cell("a", ms=None), "a lora: not measured"),
        (cell("a"), "no interval: measured with one seed"),
        (cell("a", windows=five_windows(), contaminated=True), "timed while something else used the machine"),
    ],
)
def test_speeds_that_tell_nothing_are_not_enough(candidate: CellRecord, reason: str) -> None:
    check = held(candidate, cell("a", windows=five_windows()), LATENCY)
    assert (check.outcome, check.reason, check.notes) == ("not_enough_evidence", reason, ())


# --- what cannot be held ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidate", "limits", "reason"),
    [
        (cell("a", fingerprint="f2"), ACCURACY, "not the same data: fingerprint f1 against f2"),
        (without_predictions(cell("a")), ACCURACY, "a lora has no predictions on the test split"),
        (cell("a", labels=np.array([1, 0] * 150)), ACCURACY, "disagree about the labels of sst2"),
        (
            cell("a", where=provenance(threads=4), windows=five_windows()),
            LATENCY,
            "measured differently (threads: 2 against 4)",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(candidate: CellRecord, limits: Limits, reason: str) -> None:
    report = gate(evidence(candidate), evidence(cell("a", windows=five_windows())), limits)
    assert (report.outcome, report.exit_code) == ("refused", 2)
    assert reason in report.checks[0].reason


def test_a_binary_figure_of_three_classes_is_refused() -> None:
    three = cell("a", labels=np.arange(300) % 3, predicted=np.arange(300) % 3, label_names=("x", "y", "z"))
    assert held(three, three, Limits({"f1_binary": 0.01}, {})).reason == "F1 binary is defined for two classes only"


def test_a_model_that_the_run_lacks_breaks_it() -> None:
    report = gate(evidence(cell("a")), evidence(cell("a"), cell("b")), Limits({"accuracy": 0.5}, {}))
    assert (report.outcome, report.exit_code) == ("broken", 1)
    assert [(c.model, c.outcome, c.reason) for c in report.checks] == [
        ("a", "pass", ""),
        ("b", "broken", "b lora is not in the run"),
    ]


def test_a_model_that_only_the_run_has_is_left_out() -> None:
    report = gate(evidence(cell("a"), cell("b")), evidence(cell("a")), Limits({"accuracy": 0.5}, {}))
    assert report.outcome == "pass"
    assert [left.what for left in report.left_out] == ["sst2: b lora (cpu)"]


def test_what_broke_outweighs_what_was_refused_and_that_what_failed() -> None:
    baseline = [cell(m, labels=LABELS, predicted=LABELS, dataset=d) for m, d in (("a", "x"), ("b", "y"), ("c", "z"))]
    failing, other = scored("a", 900, dataset="x"), cell("b", dataset="y", fingerprint="f2")
    unsure = cell("c", labels=LABELS, predicted=np.where(np.arange(4000) < 40, 1 - LABELS, LABELS), dataset="z")
    for records, code in (
        ((baseline[0], baseline[1], unsure), 5),
        ((failing, baseline[1], unsure), 4),
        ((failing, other, unsure), 2),
        ((failing, other), 1),
    ):
        assert gate(evidence(*records), evidence(*baseline), ACCURACY).exit_code == code


def test_an_empty_baseline_is_refused() -> None:
    with pytest.raises(InputError, match="no finished cell"):
        gate(evidence(cell("a")), evidence(name="old"), ACCURACY)


# --- limits -------------------------------------------------------------------------------------


def test_limits_go_by_alias_and_have_defaults() -> None:
    assert limits_of([], []) == Limits(DEFAULT_DROPS, {})
    assert limits_of([("F1", 0.02)], [("latency_p95", 1.2)]) == Limits({"f1": 0.02}, {"latency_p95_ms": 1.2})
    assert limits_of([], [("memory", 1.5)]).drops == {}, "asked for speed alone"


@pytest.mark.parametrize(
    ("drops", "ratios", "message"),
    [
        ([("brier", 0.1)], [], "--max-drop cannot hold Brier: it comes from probabilities"),
        ([("latency", 0.1)], [], "--max-drop cannot hold Latency p50: speeds and memory are held to a ratio"),
        ([], [("f1", 1.1)], "--max-ratio cannot hold F1 macro: shares of right answers are held to a drop"),
        ([("score", 0.1)], [], "--max-drop cannot hold Score"),
        ([("f1", 0.1), ("f1_macro", 0.2)], [], "--max-drop gives 'f1_macro' two limits"),
        ([("f2", 0.1)], [], "unknown metric 'f2'"),
    ],
)
def test_limits_that_cannot_be_are_refused(
    drops: list[tuple[str, float]], ratios: list[tuple[str, float]], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        limits_of(drops, ratios)
    assert caught.value.message.startswith(message)


# --- how often it is wrong ----------------------------------------------------------------------


def drawn(rng: np.random.Generator, rows: int, loses: float, gains: float) -> tuple[CellRecord, CellRecord]:
    """A baseline that is right in four of five, and a candidate that loses and gains such shares of all examples."""
    labels = rng.integers(0, 2, rows)
    right = rng.random(rows) < 0.8
    chance = rng.random(rows)
    still = np.where(right, chance >= loses / 0.8, chance < gains / 0.2)
    old, new = (np.where(one, labels, 1 - labels) for one in (right, still))
    return cell("a", labels=labels, predicted=old), cell("a", labels=labels, predicted=new)


@pytest.mark.parametrize(
    ("rows", "loses", "gains"),
    [
        (400, 0.0135, 0.0),  # the models differ on so few that resampling alone passes one in ten
        (600, 0.06, 0.05),
    ],
)
def test_at_the_margin_it_passes_wrongly_and_fails_wrongly_in_a_fortieth_at_most(
    rows: int, loses: float, gains: float
) -> None:
    """Its true drop is the limit, in accuracy and in F1: a pass is as wrong as a failure."""
    rng = np.random.default_rng(7)
    samples, limit = 250, loses - gains
    wrong = {(metric, side): 0 for metric in ("accuracy", "f1") for side in ("passes", "fails")}
    for sample in range(samples):
        old, new = (entries_of([one])[0] for one in drawn(rng, rows, loses, gains))
        shared = SharedExamples([old, new], replicates=300, seed=sample)
        for metric in ("accuracy", "f1"):
            drop = shared.difference(new, old, metric)
            wrong[metric, "passes"] += drop.high <= limit
            wrong[metric, "fails"] += drop.low > limit
    most = samples * (0.025 + 2.5 * np.sqrt(0.025 * 0.975 / samples))
    assert all(count <= most for count in wrong.values()), wrong


def test_with_few_seeds_it_passes_wrongly_in_a_fortieth_at_most() -> None:
    """Three seeds, whose accuracy varies by two points of their own; the drop is the limit."""
    rng = np.random.default_rng(8)
    samples, labels = 150, np.arange(500) % 2
    wrong = 0
    for sample in range(samples):
        entries = []
        for share in (0.2, 0.22):
            seeds = rng.normal(share, 0.02, 3)
            records = [
                cell("a", seed=s, labels=labels, predicted=np.where(rng.random(500) < x, 1 - labels, labels))
                for s, x in enumerate(seeds)
            ]
            entries += entries_of(records)
        drop = SharedExamples(entries, replicates=400, seed=sample).difference(entries[1], entries[0], "accuracy")
        wrong += drop.high <= 0.02
    assert wrong <= samples * (0.025 + 2.5 * np.sqrt(0.025 * 0.975 / samples))


# --- JUnit XML ----------------------------------------------------------------------------------


def hostile() -> GateReport:
    """One check of each outcome, in two datasets whose names hold what XML cannot."""
    odd = 'r&d <"x">\x00\x1b[31m\ufffe'
    baseline = [scored(m, 400, dataset=d) for m, d in (("a", odd), ("b", odd), ("c", odd), ("d", odd), ("e", "other"))]
    run = [scored("a", 400, dataset=odd), scored("b", 900, dataset=odd), scored("c", 440, dataset=odd)]
    return gate(evidence(*run, scored("e", 1, dataset="other", fingerprint="f2")), evidence(*baseline), ACCURACY)


def test_junit_keeps_the_rules_of_its_readers() -> None:
    """Those of Jenkins' junit-10.xsd: which element holds which, required attributes, at most one result a case."""
    root = ET.fromstring(as_junit(hostile()))
    assert root.tag == "testsuites" and root.get("name")
    suites = list(root)
    assert [suite.tag for suite in suites] == ["testsuite", "testsuite"]
    for suite in suites:
        cases = list(suite)
        assert suite.get("name") and {case.tag for case in cases} == {"testcase"}
        assert int(suite.attrib["tests"]) == len(cases)
        for name, element in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.attrib[name]) == len(suite.findall(f"testcase/{element}"))
        for case in cases:
            assert case.get("name") and case.get("classname")
            assert float(case.attrib["time"]) >= 0
            assert [child.tag for child in case] in (["failure"], ["error"], ["skipped"], ["system-out"])
    assert [int(root.attrib[name]) for name in ("tests", "failures", "errors", "skipped")] == [5, 1, 2, 1]
    names = [case.get("classname", "") + case.get("name", "") for case in root.iter("testcase")]
    assert len(set(names)) == len(names), "a reader merges cases of one name"


def test_junit_says_why_in_the_attribute_and_in_the_text() -> None:
    root = ET.fromstring(as_junit(hostile()))
    told = {child.tag: child for case in root.iter("testcase") for child in case}
    assert told["failure"].attrib["type"] == "fail"
    assert "drop +0.1250 [" in told["failure"].attrib["message"]
    assert "all of the interval lies beyond the limit" in (told["failure"].text or "")
    assert "the limit lies within the interval" in told["skipped"].attrib["message"]
    assert (told["skipped"].text or "").startswith("not enough evidence: ")
    assert "drop +0.0000 [" in (told["system-out"].text or "")


def test_junit_holds_no_character_that_xml_forbids() -> None:
    text = as_junit(hostile()).decode()
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", text)
    assert "r&amp;d &lt;" in text and "\N{REPLACEMENT CHARACTER}" in text


def test_junit_is_written_whole_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "build" / "gate.xml"
    write_junit(hostile(), path)
    write_junit(hostile(), path)
    assert ET.parse(path).getroot().tag == "testsuites"
    assert [one.name for one in path.parent.iterdir()] == ["gate.xml"]


def test_junit_that_cannot_be_written_is_a_set_up_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot write"):
        write_junit(hostile(), tmp_path / "file" / "gate.xml")


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """`old`, and runs that are as good, worse, hardly worse, slower, broken, unfinished, and of other data."""
    good, poor = spec("good"), spec("poor")
    wrong = (good, answers(20))
    run_of(tmp_path, "old", wrong, (poor, answers(100)))
    run_of(tmp_path, "same", wrong, (poor, answers(100)))
    run_of(tmp_path, "worse", (good, answers(90)), (poor, answers(100)))
    run_of(tmp_path, "doubtful", (good, answers(24)), (poor, answers(100)))
    run_of(tmp_path, "slow", wrong, (poor, answers(100)), ms=9.0)
    run_of(tmp_path, "elsewhere", wrong, (poor, answers(100)), cpu="another")
    run_of(tmp_path, "unfinished", wrong, (poor, None))
    failed = run_of(tmp_path, "failed", wrong, (poor, None))
    failure = Failure(cell=poor.cell, kind="out_of_memory", message="too\x1b large", hint="less")
    write_atomic(failed.new_attempt(poor.cell).failure, encode(failure))
    other = spec("good", fingerprint="e" * 64)
    run_of(tmp_path, "other", (other, answers(20)))
    return tmp_path


@pytest.mark.parametrize(
    ("run", "code", "told"),
    [
        ("same", 0, "pass: same against old (4 pass)"),
        ("worse", 4, "all of the interval lies beyond the limit"),
        ("doubtful", 5, "the limit lies within the interval; about"),
        ("failed", 1, "failed (out_of_memory): too� large"),
        ("unfinished", 1, "has not run to its end"),
        ("other", 2, "not the same data: fingerprint ffffffffffff against eeeeeeeeeeee"),
    ],
)
def test_exit_codes(results: Path, capsys: Capture, run: str, code: int, told: str) -> None:
    limits = ["--max-drop", "accuracy=0.02", "--max-drop", "f1=0.03"]
    assert main(["gate", run, "--baseline", "old", *limits, "--results", str(results)]) == code
    out = capsys.readouterr().out
    assert told in out and "\x1b" not in out


@pytest.mark.parametrize(("run", "code"), [("same", 0), ("slow", 4), ("elsewhere", 2)])
def test_exit_codes_of_speed(results: Path, capsys: Capture, run: str, code: int) -> None:
    limits = ["--max-ratio", "latency=1.2,throughput=1.2"]
    assert main(["gate", run, "--baseline", "old", *limits, "--results", str(results)]) == code
    out = capsys.readouterr().out
    assert "Accuracy" not in out, "only what is asked for"
    assert ("cpu_model: cpu against another" in out) == (run == "elsewhere")


def test_a_baseline_file_is_held_to_as_its_run_is(results: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "kept" / "baseline.json"
    path.parent.mkdir()
    assert main(["gate", "old", "--write-baseline", str(path), "--results", str(results)]) == 0
    assert capsys.readouterr().out == f"{path}: 2 cells of old\n"
    reports = []
    for baseline in ("old", str(path)):
        arguments = ["gate", "worse", "--baseline", baseline, "--max-ratio", "latency=1.2", "--max-drop", "f1=0.01"]
        assert main([*arguments, "--format", "json", "--results", str(results)]) == 4
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0] == reports[1]
    assert reports[0]["exit_code"] == 4


def test_junit_beside_the_table(results: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "gate.xml"
    command = ["gate", "worse", "--baseline", "old", "--max-drop", "accuracy=0.02", "--results", str(results)]
    assert main([*command, "--junit", str(path)]) == 4
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 4, "a heading, a line a check, and a summary"
    root = ET.parse(path).getroot()
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("2", "1", "0")


def test_each_cell_that_broke_is_a_case_of_its_own(results: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "gate.xml"
    run_of(results, "halfway", (spec("good"), answers(20)), (spec("poor"), None), (spec("poor", seed=2), None))
    assert main(["gate", "halfway", "--baseline", "old", "--junit", str(path), "--results", str(results)]) == 1
    capsys.readouterr()
    errors = [case for case in ET.parse(path).iter("testcase") if case.find("error") is not None]
    assert {case.get("name") for case in errors} == {spec("poor").cell, spec("poor", seed=2).cell}


def test_junit_that_cannot_be_written_does_not_lose_the_verdict(results: Path, capsys: Capture) -> None:
    (results / "file").write_text("")
    command = ["gate", "worse", "--baseline", "old", "--results", str(results)]
    assert main([*command, "--junit", str(results / "file" / "x.xml")]) == 3
    captured = capsys.readouterr()
    assert "FAIL: worse against old" in captured.out and "cannot write" in captured.err


def in_a_child(arguments: list[str], results: Path, into: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.cli", "gate", *arguments, "--results", str(results)]
    return subprocess.run(command, stdout=into, stderr=subprocess.PIPE, text=True, check=False)


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_verdict_that_nobody_reads_is_still_the_exit_code(results: Path, tmp_path: Path, form: str) -> None:
    junit = tmp_path / "gate.xml"
    reads, writes = os.pipe()
    os.close(reads)
    try:
        done = in_a_child(["worse", "--baseline", "old", "--junit", str(junit), "--format", form], results, writes)
    finally:
        os.close(writes)
    assert (done.returncode, done.stderr) == (4, "")
    assert ET.parse(junit).getroot().get("failures") == "2"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_verdict_that_no_disk_holds_is_still_the_exit_code(results: Path, tmp_path: Path) -> None:
    junit = tmp_path / "gate.xml"
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = in_a_child(["worse", "--baseline", "old", "--junit", str(junit)], results, full)
    assert (done.returncode, done.stderr) == (4, "cannot print all of it: No space left on device\n")
    assert junit.exists()


def test_a_verdict_without_a_stdout_is_still_the_exit_code(results: Path) -> None:
    command = [sys.executable, "-m", "harness.cli", "gate", "worse", "--baseline", "old", "--results", str(results)]
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (4, "")


@pytest.mark.parametrize("arguments", [["worse", "--baseline", "elder"], ["some", "--baseline", "old"]])
def test_a_gate_that_cannot_be_held_leaves_no_older_junit(results: Path, tmp_path: Path, arguments: list[str]) -> None:
    path = tmp_path / "gate.xml"
    path.write_text("<testsuites/>")
    assert main(["gate", *arguments, "--junit", str(path), "--results", str(results)]) == 2
    (error,) = ET.parse(path).iter("error")
    assert "unknown run" in error.attrib["message"]


def test_links_are_followed_and_devices_stay(results: Path, tmp_path: Path) -> None:
    target, link, pipe = tmp_path / "kept" / "b.json", tmp_path / "link.json", tmp_path / "pipe"
    target.parent.mkdir()
    link.symlink_to(target)
    os.mkfifo(pipe)
    assert main(["gate", "old", "--write-baseline", str(link), "--results", str(results)]) == 0
    assert link.is_symlink() and target.is_file()
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    arguments = ["gate", "worse", "--baseline", str(link), "--junit", str(pipe), "--results", str(results)]
    try:
        assert main(arguments) == 4
        assert ET.fromstring(os.read(reader, 60_000)).get("failures") == "2"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_an_incomplete_baseline_is_told(results: Path, capsys: Capture) -> None:
    assert main(["gate", "same", "--baseline", "unfinished", "--results", str(results), "--max-drop", "f1=.5"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("1 cell of the baseline failed or has not run to the end")
    assert "not held to anything: reviews: poor (cpu), only in the run" in captured.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["same"], "give either --baseline RUN|FILE, or --write-baseline FILE"),
        (["same", "--baseline", "old", "--write-baseline", "x"], "give either --baseline"),
        (["same", "--baseline", "old", "--max-drop", "f1"], "'f1' is no limit such as f1=0.01"),
        (["same", "--baseline", "old", "--max-drop", "f1=nan"], "a limit lies between 0 and 1"),
        (["same", "--baseline", "old", "--max-drop", "f1=1"], "a limit lies between 0 and 1"),
        (["same", "--baseline", "old", "--max-ratio", "latency=0"], "a limit lies between 0.01 and 100"),
        (["same", "--baseline", "old", "--max-ratio", "latencies=1.1"], "unknown metric 'latencies'"),
        (["same", "--baseline", "older"], "unknown run 'older' (did you mean 'old'?)"),
        (["some", "--baseline", "old"], "unknown run 'some' (did you mean 'same'?)"),
        (["same", "--baseline", __file__], "is no baseline"),
        (["same", "--baseline", "o" * 300], "unknown run 'ooo"),
        (["s" * 300, "--baseline", "old"], "unknown run 'sss"),
    ],
)
def test_usage_errors(results: Path, capsys: Capture, arguments: list[str], told: str) -> None:
    assert main(["gate", *arguments, "--results", str(results)]) == 2
    assert told in capsys.readouterr().err


def test_a_cell_that_could_not_be_had_breaks_the_run(results: Path, capsys: Capture) -> None:
    run = RunFolder(results / "lacking")
    good = spec("good")
    failure = Failure(cell="poor--reviews--none--s1", kind="network", message="no weights", hint="fetch")
    run.extend("lacking", {}, [good], [failure])
    finish(run, good, answers(20))
    assert main(["gate", "lacking", "--baseline", "old", "--results", str(results)]) == 1
    out = capsys.readouterr().out
    assert "poor--reviews--none--s1 failed (network): no weights" in out
    assert "poor is not in the run" in out
