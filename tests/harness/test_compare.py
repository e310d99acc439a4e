from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from harness.cli import main
from harness.compare import compare, significance
from harness.entries import entries_of
from harness.errors import InputError
from harness.evidence import gather, write_baseline
from harness.selection import matching, selected
from harness.statistics import minimum_detectable_difference
from harness.store import RunFolder
from tests.harness.compared import answers, finish, noisy, run_of, selection, spec
from tests.harness.ranked import cell, five_windows, predictions, provenance, without_predictions

Capture = pytest.CaptureFixture[str]
LABELS = np.array([0, 1] * 500)


# --- which meets which --------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two runs of `good` and `poor`; the second has a run of its own beside, whose name holds a colon."""
    for name, wrong in (("monday", 40), ("tuesday", 60)):
        run_of(tmp_path, name, (spec("good"), answers(wrong)), (spec("poor"), answers(150, start=100)))
    run_of(tmp_path, "odd:good", (spec("good"), answers(50)))
    return tmp_path


def test_a_selector_names_a_run_a_model_and_a_method(results: Path) -> None:
    assert selected("monday", results).model is None
    assert selected("monday:good", results).model == "good"
    chosen = selected("monday:good/none", results)
    assert (chosen.model, chosen.method, chosen.evidence.name) == ("good", "none", "monday")
    assert selected(str(results / "monday") + ":poor", results).model == "poor"


def test_a_run_whose_name_holds_a_colon_comes_first(results: Path) -> None:
    chosen = selected("odd:good", results)
    assert (chosen.evidence.name, chosen.model) == ("odd:good", None)
    assert selected("odd:good:good", results).model == "good"


def test_a_baseline_file_stands_for_a_run(results: Path, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(gather(RunFolder(results / "monday")), path)
    assert selected(f"{path}:good", results).evidence.name == "monday"


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ("mondey", "unknown run 'mondey' (did you mean 'monday'?)", "runs there: "),
        ("mondey:good", "unknown run 'mondey' (did you mean 'monday'?)", "runs there: "),
        ("monday:goood", "unknown model 'goood' (did you mean 'good'?)", "models of 'monday': good, poor"),
        ("monday:good/nine", "unknown method of good 'nine' (did you mean 'none'?)", "methods there: none"),
    ],
)
def test_names_that_are_not_there_are_answered_with_the_nearest(
    results: Path, given: str, message: str, hint: str
) -> None:
    with pytest.raises(InputError) as caught:
        selected(given, results)
    assert caught.value.message == message
    assert caught.value.hint.startswith(hint)


def test_two_runs_meet_model_by_model_and_the_rest_is_left_out() -> None:
    found = matching(
        selection(cell("a"), cell("b", method="full"), cell("b", method="lora"), name="one"),
        selection(cell("b"), cell("c"), cell("a", fingerprint="f2"), name="two"),
    )
    assert [(m.first.model, m.first.method, m.second.method) for m in found.matches] == [("b", "lora", "lora")]
    assert [(left.what, left.reason) for left in found.left_out] == [
        ("sst2: a lora (cpu)", "only in one"),
        ("sst2: b full (cpu)", "only in one"),
        ("sst2: c lora (cpu)", "only in two"),
    ]


def test_other_data_under_the_same_name_do_not_meet() -> None:
    found = matching(selection(cell("a"), name="one"), selection(cell("a", fingerprint="f2"), name="two"))
    assert found.matches == ()
    assert [left.reason for left in found.left_out] == ["not the same data: fingerprint f1 against f2"]


def test_a_device_may_differ_where_there_is_but_one() -> None:
    (match,) = matching(selection(cell("a")), selection(cell("a", device="cuda"))).matches
    assert (match.first.device, match.second.device) == ("cpu", "cuda")
    both = selection(cell("a"), cell("a", device="cuda"))
    assert len(matching(both, both).matches) == 2


def test_two_named_models_meet_under_the_same_method_or_where_one_has_a_single_one() -> None:
    records = [cell("a", method="lora"), cell("a", method="full"), cell("b", method="full"), cell("t", method="none")]
    a, b, t = (selection(*(r for r in records if r.model == name), model=name) for name in "abt")
    assert [(m.first.method, m.second.method) for m in matching(a, b).matches] == [("full", "full")]
    assert [m.first.method for m in matching(a, t).matches] == ["full", "lora"]


# --- figures ------------------------------------------------------------------------------------


def test_a_comparison_tells_models_apart_and_says_what_would() -> None:
    near = [
        cell(m, labels=LABELS, predicted=predictions(x, i, LABELS))
        for i, (m, x) in enumerate([("a", 0.8), ("b", 0.81)])
    ]
    far = cell("c", labels=LABELS, predicted=predictions(0.95, 3, LABELS))
    found = compare(selection(near[0], model="a"), selection(far, model="c"))
    (pair,) = found.pairs
    accuracy, f1 = pair.quality
    assert (accuracy.metric, accuracy.test, f1.test) == ("accuracy", "mcnemar", "randomisation_limit")
    assert accuracy.difference.value == pytest.approx(0.15)
    assert accuracy.p < accuracy.p_corrected < 1e-6 and accuracy.needed is None
    close = compare(selection(near[0], model="a"), selection(near[1], model="b")).pairs[0].quality[0]
    assert close.p > 0.05 and close.detectable is not None and close.detectable > 0.01
    assert close.needed is not None and close.needed.endswith("test examples would tell")


def test_p_values_are_corrected_over_all_that_is_shown() -> None:
    records = [
        cell(m, dataset=d, labels=LABELS, predicted=predictions(x, i, LABELS))
        for d in ("one", "two", "three")
        for i, (m, x) in enumerate([("a", 0.8), ("b", 0.84)])
    ]
    found = compare(
        selection(*records, model="a"), selection(*records, model="b", name="other"), ["accuracy", "f1", "mcc"]
    )
    shown = [one for pair in found.pairs for one in pair.quality]
    assert found.family == len(shown) == 9
    expected = multipletests([one.p for one in shown], method="holm")[1]
    assert [one.p_corrected for one in shown] == pytest.approx(list(expected))
    alone = compare(selection(*records, model="a"), selection(*records, model="b", name="other"), ["accuracy"])
    least = [one.detectable for found in (alone, found) for one in found.pairs[0].quality[:1]]
    assert least[0] is not None and least[1] is not None and least[0] < least[1], "of three tests, and of nine"


def test_five_datasets_are_also_taken_together() -> None:
    records = [
        cell(m, dataset=f"d{n}", labels=LABELS, predicted=predictions(x - 0.01 * n, 7 * n + i, LABELS))
        for n in range(6)
        for i, (m, x) in enumerate([("a", 0.8), ("b", 0.83)])
    ]
    found = compare(selection(*records, model="a"), selection(*records, model="b", name="r"), ["accuracy"])
    (over,) = found.over_datasets
    differences = [pair.quality[0].second - pair.quality[0].first for pair in found.pairs]
    assert over.datasets == 6 and over.difference == pytest.approx(np.mean(differences))
    assert over.p == pytest.approx(stats.wilcoxon(np.round(differences, 12)).pvalue)
    four = [record for record in records if record.dataset in ("d0", "d1", "d2", "d3")]
    assert compare(selection(*four, model="a"), selection(*four, model="b", name="r"), ["f1"]).over_datasets == ()


def test_speeds_are_compared_where_measured_alike_and_refused_elsewhere() -> None:
    one = cell("a", ms=5.0, windows=five_windows(5.0))
    alike = cell("b", ms=10.0, windows=five_windows(10.0))
    elsewhere = cell("b", ms=10.0, windows=five_windows(10.0), where=provenance(cpu_model="B"))
    (ratio,) = compare(selection(one, model="a"), selection(alike, model="b"), ["latency_median_ms"]).pairs[0].speed
    assert ratio.ratio.value == pytest.approx(2.0) and ratio.ratio.low is not None and ratio.ratio.low > 1.8
    both = compare(selection(one, model="a"), selection(elsewhere, model="b"), ["accuracy", "latency_median_ms"])
    assert len(both.pairs[0].quality) == 1, "quality does not depend on the processor"
    assert both.pairs[0].speed[0].ratio.reason == "measured differently (cpu_model: A against B)"
    with pytest.raises(InputError, match="cpu_model: A against B"):
        compare(selection(one, model="a"), selection(elsewhere, model="b"), ["latency_median_ms"])


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (cell("a", fingerprint="f2"), "not the same data: fingerprint f1 against f2"),
        (cell("a", dataset="uci"), "only in one"),
        (without_predictions(cell("a", ms=None, per_s=None)), "there are no predictions on the test split"),
        (cell("a", labels=1 - np.array([0, 1] * 150), ms=None, per_s=None), "disagree about the labels"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(second: object, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        compare(selection(cell("a", ms=None, per_s=None), name="one"), selection(second, name="two"))  # type: ignore[arg-type]


def test_one_side_of_a_pair_without_predictions_is_left_out_where_speeds_remain() -> None:
    found = compare(
        selection(cell("a"), cell("b"), name="one"),
        selection(cell("a"), without_predictions(cell("b")), name="two"),
    )
    assert [len(pair.quality) for pair in found.pairs] == [2, 0]
    assert [(x.what, x.reason) for x in found.left_out] == [
        ("sst2: quality of b lora", "there are no predictions on the test split")
    ]


def test_metrics_of_probabilities_are_refused() -> None:
    with pytest.raises(InputError, match="Brier cannot be compared"):
        compare(selection(cell("a"), name="one"), selection(cell("a"), name="two"), ["brier"])


# --- all pairs ----------------------------------------------------------------------------------


def test_significance_of_one_seed_each_is_mcnemars() -> None:
    rng = np.random.default_rng(0)
    records = [cell(f"m{i}", labels=LABELS, predicted=noisy(LABELS, 0.2 - 0.03 * i, rng)) for i in range(4)]
    found = significance(entries_of(records))
    right = [record.predicted == LABELS for record in records]
    at = [(j, k) for j in range(4) for k in range(j + 1, 4)]
    raw = [
        mcnemar([[0, (right[j] & ~right[k]).sum()], [(right[k] & ~right[j]).sum(), 0]], exact=True).pvalue
        for j, k in at
    ]
    corrected = multipletests(raw, method="holm")[1]
    for (j, k), p in zip(at, corrected, strict=True):
        assert found.p[j, k] == found.p[k, j] == pytest.approx(p)
        assert found.difference[j, k] == pytest.approx(right[j].mean() - right[k].mean())
        assert found.difference[k, j] == -found.difference[j, k]
    assert np.isnan(np.diag(found.p)).all()
    assert 0.02 < found.detectable < 0.06
    share = [(right[j] != right[k]).mean() for j, k in at]
    expected = np.median(minimum_detectable_difference(share, LABELS.size, 0.05 / 6))
    assert found.detectable == pytest.approx(expected), "at the level of the first of six"


def test_significance_of_several_seeds_agrees_with_the_bootstrap() -> None:
    rng = np.random.default_rng(1)
    common = rng.random(LABELS.size) < 0.1

    def seeds(model: str, share: float, first: int = 0) -> list[object]:
        made = [np.where(common, 1 - LABELS, noisy(LABELS, share + 0.01 * s, rng)) for s in range(4)]
        return [cell(model, seed=first + s, labels=LABELS, predicted=p) for s, p in enumerate(made)]

    records = seeds("a", 0.05) + seeds("b", 0.09) + seeds("c", 0.09, first=10)
    entries = entries_of(records)  # type: ignore[arg-type]
    found = significance(entries)
    of = {entry.model: selection(*entry.records, model=entry.model, name=entry.model) for entry in entries}
    raw = [compare(of[x], of[y], ["accuracy"]).pairs[0].quality[0].p for x, y in ("ab", "ac", "bc")]
    corrected = multipletests(raw, method="holm")[1]
    assert found.p[0, 1] == pytest.approx(corrected[0], abs=0.02)
    for p, wider in ((found.p[0, 2], corrected[1]), (found.p[1, 2], corrected[2])):  # of seeds that are not paired
        assert wider / 3 < p < wider + 0.02


def test_significance_holds_its_level_over_seeds_and_examples() -> None:
    """No model is better: of the corrected p values of three, the smallest is below 0.05 in at most 5 % of samples."""
    rng = np.random.default_rng(2)
    labels = LABELS[:300]
    found = []
    for _ in range(300):
        records = [
            cell(m, seed=s, labels=labels, predicted=noisy(labels, float(np.clip(rng.normal(0.2, 0.02), 0, 1)), rng))
            for m in "abc"
            for s in range(3)
        ]
        found.append(np.nanmin(significance(entries_of(records)).p))
    assert np.mean(np.array(found) < 0.05) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)


def test_a_single_model_is_told_from_none() -> None:
    found = significance(entries_of([cell("a")]))
    assert found.p.shape == (1, 1) and np.isnan(found.detectable)
    with pytest.raises(ValueError, match="no scored cell"):
        significance([])


# --- the command --------------------------------------------------------------------------------


def test_the_command_compares_two_runs(results: Path, capsys: Capture) -> None:
    assert main(["compare", "monday", "tuesday", "--results", str(results)]) == 0
    out = capsys.readouterr().out
    assert "reviews, 400 test examples: first good of monday (seed 1); second good of tuesday (seed 1)" in out
    assert "-0.050 [" in out and "Latency p50 (ms)" in out
    assert "exact McNemar" in out and "Holm-corrected over 4 tests" in out
    assert "Note: one seed: " in out


def test_the_command_gives_json(results: Path, capsys: Capture) -> None:
    command = ["compare", "monday:good", "monday:poor", "--metrics", "accuracy,latency", "--format", "json"]
    assert main([*command, "--results", str(results)]) == 0
    found = json.loads(capsys.readouterr().out)
    (pair,) = found["pairs"]
    assert pair["quality"][0]["difference"]["value"] == pytest.approx(-110 / 400)
    assert [one["metric"] for one in pair["speed"]] == ["latency_median_ms"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["monday"], "Missing argument"),
        (["monday", "monday"], "monday and monday are the same"),
        (["monday:good", "monday:good"], "are the same"),
        (["monday", "tuesday", "--metrics", "acuracy"], "did you mean 'accuracy'?"),
        (["monday", "nightly"], "unknown run 'nightly'"),
        (["monday", "n" * 300], "unknown run 'nnn"),
        (["n" * 300 + ":good", "monday"], "unknown run 'nnn"),
    ],
)
def test_usage_errors(results: Path, capsys: Capture, arguments: list[str], told: str) -> None:
    assert main(["compare", *arguments, "--results", str(results)]) == 2
    assert told in capsys.readouterr().err


def test_names_from_outside_cannot_act_on_the_terminal(tmp_path: Path, capsys: Capture) -> None:
    run = RunFolder(tmp_path / "one")
    wild, plain = spec("w\x1b[2Jild [bold]"), spec("plain")
    run.extend("one", {}, [wild, plain])
    finish(run, wild, answers(40))
    finish(run, plain, answers(60))
    assert main(["compare", "one:w\x1b[2Jild [bold]", "one:plain", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "ild [bold]" in out
