from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from scipy import stats

from harness.board import NoiseFloor
from harness.entries import CellRecord, Entry, entries_of
from harness.pairs import Needed, SharedExamples, detectable, needed, seed_notes
from harness.ratios import speed_ratio
from harness.statistics.paired import approximate_randomisation, mcnemar_exact
from tests.harness.compared import noisy
from tests.harness.ranked import LABELS, cell, five_windows, predictions, provenance, without_predictions

MANY = np.array([0, 1] * 1000)


def entry(*records: CellRecord) -> Entry:
    (found,) = entries_of(records)
    return found


def two(first: Sequence[np.ndarray], second: Sequence[np.ndarray], labels: np.ndarray) -> tuple[Entry, Entry]:
    """Of two models' predictions by seed."""
    return tuple(
        entry(*(cell(model, seed=seed, labels=labels, predicted=p) for seed, p in enumerate(seeds)))
        for model, seeds in (("a", first), ("b", second))
    )  # type: ignore[return-value]


def test_a_difference_is_second_minus_first_and_its_interval_is_paired() -> None:
    """Models that err on the same examples are told apart where their own intervals overlap by far."""
    rng = np.random.default_rng(0)
    first = noisy(MANY, 0.3, rng)
    second = np.where(np.arange(MANY.size) % 40 == 0, MANY, first)
    a, b = two([first], [second], MANY)
    found = SharedExamples([a, b], replicates=2000).difference(a, b, "accuracy")
    gained = (second == MANY).sum() - (first == MANY).sum()
    assert found.value == pytest.approx(gained / MANY.size)
    assert found.discordant == gained
    assert 0 < found.low < found.value < found.high
    alone = 2 * stats.norm.ppf(0.975) * np.sqrt(0.21 / MANY.size)
    assert found.high - found.low < alone / 3


def test_the_other_way_round_the_signs_turn() -> None:
    a, b = two([predictions(0.8, 1, MANY)], [predictions(0.82, 2, MANY)], MANY)
    shared = SharedExamples([a, b], replicates=2000)
    one, other = (shared.difference(*pair, "f1") for pair in ((a, b), (b, a)))
    assert (one.value, one.first) == (pytest.approx(-other.value), other.second)
    assert one.low == pytest.approx(-other.high, abs=1e-3)


def test_models_that_agree_are_no_surer_than_the_examples_allow() -> None:
    """Resampling alone would say: exactly 0, however few the examples."""
    answers = predictions(0.8, 1, MANY[:100])
    a, b = two([answers], [answers], MANY[:100])
    found = SharedExamples([a, b], replicates=500).difference(a, b, "accuracy")
    assert (found.value, found.examples_error) == (0, 0)
    assert found.high == pytest.approx(0.037, abs=0.001)
    assert found.low == pytest.approx(-found.high)
    assert needed(found, 0.01) == Needed(examples=370)


def test_what_is_unseen_weighs_more_in_a_metric_that_a_rare_class_moves() -> None:
    labels = np.array([1] * 10 + [0] * 190)
    a, b = two([np.zeros_like(labels)], [np.zeros_like(labels)], labels)
    shared = SharedExamples([a, b], replicates=500)
    assert shared.difference(a, b, "f1").high > 3 * shared.difference(a, b, "accuracy").high


def test_equal_seeds_are_paired_and_others_are_not() -> None:
    """Both models do better with the second seed, by as much: their difference does not vary with seeds at all."""
    rng = np.random.default_rng(3)
    good, poor = noisy(MANY, 0.1, rng), noisy(MANY, 0.4, rng)
    better = [np.where(np.arange(MANY.size) % 10 == 0, MANY, p) for p in (good, poor)]
    a, b = two([good, poor], better, MANY)
    other_seeds = entry(*(cell("b", seed=7 + i, labels=MANY, predicted=p) for i, p in enumerate(better)))
    shared = SharedExamples([a, b, other_seeds], replicates=2000)
    paired, unpaired = (shared.difference(a, one, "accuracy") for one in (b, other_seeds))
    assert paired.value == pytest.approx(unpaired.value)
    assert paired.high - paired.low < 0.5
    assert (unpaired.low, unpaired.high) == (-1, 1), "nothing is ruled out"
    assert seed_notes(a, b) == []
    assert seed_notes(a, other_seeds) == ["not the same seeds: they are not paired"]


def test_one_seed_says_nothing_of_others() -> None:
    a, b = two([predictions(0.8, 1, MANY)], [predictions(0.8, 2, MANY)], MANY)
    assert seed_notes(a, b) == ["one seed: the intervals leave out how much training varies"]


def test_accuracy_of_one_seed_each_is_tested_by_mcnemar() -> None:
    labels = np.zeros(50, dtype=int)
    labels[0] = 1
    first = labels ^ (np.arange(50) < 2)
    second = labels ^ ((np.arange(50) >= 2) & (np.arange(50) < 12))
    a, b = two([first], [second], labels)
    shared = SharedExamples([a, b], replicates=100)
    assert shared.test(a, b, "accuracy").test == "mcnemar"
    assert shared.test(a, b, "accuracy").p == pytest.approx(stats.binomtest(2, 12).pvalue)


def test_other_metrics_of_one_seed_by_randomisation_and_seeds_by_the_bootstrap() -> None:
    one, other = predictions(0.8, 1, MANY), predictions(0.83, 2, MANY)
    a, b = two([one], [other], MANY)
    shared = SharedExamples([a, b], replicates=500)
    assert shared.test(a, b, "f1").test == "randomisation"
    expected = approximate_randomisation(MANY, one, other, "f1", 2, replicates=20_000, rng=np.random.default_rng(0))
    assert shared.test(a, b, "f1").p == pytest.approx(expected.p, abs=0.01)
    c, d = two([one, one], [other, other], MANY)
    several = SharedExamples([c, d], replicates=2000)
    assert several.test(c, d, "accuracy").test == "bootstrap"
    assert several.test(c, d, "accuracy").p == pytest.approx(shared.test(a, b, "accuracy").p, abs=0.02)


def test_p_is_as_small_as_a_correction_over_many_tests_takes() -> None:
    """No replicate of few comes out the other way: p is that of the distribution they tend to, near McNemar's."""
    one, other = predictions(0.8, 1, MANY), predictions(0.86, 2, MANY)
    a, b = two([one], [other], MANY)
    shared = SharedExamples([a, b], replicates=200)
    exact, limit = shared.test(a, b, "accuracy").p, shared.test(a, b, "f1")
    assert exact < 1e-5 and limit.test == "randomisation_limit"
    assert np.log(limit.p) == pytest.approx(np.log(exact), rel=0.1)
    c, d = two([one, one], [other, other], MANY)
    several = SharedExamples([c, d], replicates=200).test(c, d, "accuracy")
    assert several.test == "bootstrap_limit"
    assert np.log(several.p) == pytest.approx(np.log(exact), rel=0.25)


def test_p_does_not_depend_on_what_was_asked_before() -> None:
    a, b = two([predictions(0.8, 1, MANY)], [predictions(0.83, 2, MANY)], MANY)
    one, other = (SharedExamples([a, b], replicates=50) for _ in range(2))
    first = [one.test(a, b, metric).p for metric in ("f1", "mcc")]
    assert [other.test(a, b, metric).p for metric in ("mcc", "f1")] == first[::-1]


@pytest.mark.parametrize(("metric", "most"), [("accuracy", 1), ("f1", 1), ("mcc", 2)])
def test_an_interval_holds_no_difference_that_cannot_be(metric: str, most: float) -> None:
    """The second seed is wrong everywhere: Student's t of one degree of freedom has no bounds."""
    right, wrong = predictions(0.9, 1, MANY), predictions(0.1, 2, MANY)
    a, b = two([right, wrong], [wrong, right], MANY)
    found = SharedExamples([a, b], replicates=500).difference(a, b, metric)
    assert (found.low, found.high) == (-most, most)


def test_many_examples_are_resampled_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = two([predictions(0.8, 1, MANY)], [predictions(0.83, 2, MANY)], MANY)
    whole = SharedExamples([a, b], replicates=300).difference(a, b, "f1")
    monkeypatch.setattr("harness.pairs._MOST_COUNTS", 7 * MANY.size)
    parts = SharedExamples([a, b], replicates=300).difference(a, b, "f1")
    assert (parts.low, parts.high) == (pytest.approx(whole.low, abs=0.004), pytest.approx(whole.high, abs=0.004))


def test_contradicting_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="disagree about the labels"):
        SharedExamples([entry(cell("a")), entry(cell("b", labels=1 - LABELS))])


# --- power --------------------------------------------------------------------------------------


def test_the_smallest_difference_that_data_show_is_found_with_the_power_they_promise() -> None:
    rng = np.random.default_rng(5)
    n, share = 1000, 0.1
    labels = np.array([0, 1] * (n // 2))
    a, b = two([noisy(labels, share, rng)], [noisy(labels, share, rng)], labels)
    found = SharedExamples([a, b], replicates=200).difference(a, b, "accuracy")
    least, discordant = detectable(found, "accuracy"), found.discordant / n
    differ = rng.binomial(n, discordant, 4000)
    ahead = rng.binomial(differ, 0.5 + least / discordant / 2)
    assert (mcnemar_exact(ahead, differ - ahead) < 0.05).mean() == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize(("metric", "seeds"), [("accuracy", 1), ("f1", 1), ("accuracy", 3)])
def test_less_can_be_shown_among_many_tests(metric: str, seeds: int) -> None:
    rng = np.random.default_rng(6)
    a, b = two(*([noisy(MANY, 0.1 + 0.001 * s, rng) for s in range(seeds)] for _ in "ab"), MANY)
    found = SharedExamples([a, b], replicates=500).difference(a, b, metric)
    alone, among = detectable(found, metric), detectable(found, metric, 0.05 / 20)
    power, z, z_among = stats.norm.ppf([0.8, 0.975, 1 - 0.05 / 40])
    if seeds == 1:
        assert among / alone == pytest.approx((z_among + power) / (z + power), rel=0.03)
    else:
        assert among > alone * (z_among + power) / (z + power), "by Student's t of two degrees of freedom"
        assert np.isnan(detectable(found, metric, 1e-12))


def test_what_is_needed_is_more_than_there_is() -> None:
    rng = np.random.default_rng(2)
    a, b = two([noisy(MANY, 0.2, rng)], [noisy(MANY, 0.2, rng)], MANY)
    found = SharedExamples([a, b], replicates=1000).difference(a, b, "accuracy")
    examples = needed(found, 0.01).examples
    assert examples is not None
    assert examples == pytest.approx(MANY.size * (2.8 * found.examples_error / 0.01) ** 2, rel=0.05)
    assert needed(found, 0.005).examples == pytest.approx(4 * examples, rel=0.05)
    assert needed(found, 0.01, alpha=0.001).examples > examples  # type: ignore[operator]
    assert needed(found, 0.0).words == ""
    assert needed(found, 0.01).words == f"about {examples:,} test examples would tell"


def test_where_seeds_vary_more_of_them_are_needed_and_examples_where_those_hide_it() -> None:
    rng = np.random.default_rng(4)
    always = rng.random(MANY.size) < 0.2  # what the second gets wrong, whatever the seed
    seeds = [noisy(MANY, share, rng) for share in (0.1, 0.15, 0.2)]
    others = [np.where(always, 1 - MANY, noisy(MANY, share, rng)) for share in (0.1, 0.05, 0.05)]
    a, b = two(seeds, others, MANY)
    found = SharedExamples([a, b], replicates=2000).difference(a, b, "accuracy")
    assert found.seed_sd > 0.05
    assert found.examples_error == pytest.approx(np.sqrt(0.16 / MANY.size), rel=0.3)
    reachable = needed(found, 0.04)
    assert reachable.examples is None and reachable.seeds is not None and reachable.seeds > 10
    hidden = needed(found, 0.02)
    assert hidden.examples is not None and hidden.examples > MANY.size
    assert hidden.words == f"about {hidden.examples:,} test examples and {hidden.seeds:,} seeds would tell"


# --- speed --------------------------------------------------------------------------------------


FLOOR = NoiseFloor(latency_p50=0.3, latency_p99=0.5, throughput=0.2, cpu_model="A", executor="native", threads=2)


def timed(model: str, ms: float, **fields: object) -> Entry:
    return entry(cell(model, ms=ms, windows=five_windows(ms, 1000 / ms), **fields))  # type: ignore[arg-type]


def test_a_ratio_of_speeds_has_an_interval_of_both() -> None:
    found = speed_ratio("latency_median_ms", timed("a", 5.0), timed("b", 6.0))
    assert (found.first, found.second) == (5.0, 6.0)
    assert found.ratio.value == pytest.approx(1.2)
    assert found.ratio.low is not None and found.ratio.high is not None
    one_sided = 2.776 * 0.02 / np.sqrt(2)  # of five windows' mean, in shares: spread 0.02 * sqrt(2.5), over sqrt(5)
    assert found.ratio.high / 1.2 - 1 == pytest.approx(np.sqrt(2) * one_sided, rel=0.05)
    assert found.ratio.low < 1.2 < found.ratio.high


def test_a_ratio_is_no_surer_than_the_machine() -> None:
    found = speed_ratio("latency_median_ms", timed("a", 5.0), timed("b", 6.0), [FLOOR, None])
    assert (found.ratio.low, found.ratio.high) == (pytest.approx(1.2 / 1.3), pytest.approx(1.2 * 1.3))
    assert found.notes == ("held to this machine's noise of 30.0 %",)
    elsewhere = {"where": provenance(cpu_model="B")}
    other = speed_ratio("latency_median_ms", timed("a", 5.0, **elsewhere), timed("b", 6.0, **elsewhere), [FLOOR])
    assert other.notes == (), "the floor is another processor's"


def test_speeds_of_other_hardware_are_refused_field_by_field() -> None:
    there = provenance(cpu_model="B", threads=8)
    found = speed_ratio("latency_median_ms", timed("a", 5.0), timed("b", 6.0, where=there))
    assert found.refused == "measured differently (cpu_model: A against B; threads: 2 against 8)"
    assert (found.ratio.value, found.ratio.reason) == (None, found.refused)


def test_seeds_at_several_places_are_refused() -> None:
    records = [cell("b", seed=seed, where=provenance(cpu_model=cpu)) for seed, cpu in enumerate("AB")]
    found = speed_ratio("latency_median_ms", timed("a", 5.0), entry(*records))
    assert found.refused == "the seeds of b lora were measured at several places"


def test_a_speed_that_was_not_measured_has_no_ratio() -> None:
    found = speed_ratio("latency_median_ms", timed("a", 5.0), entry(cell("b", ms=None)))
    assert found.ratio.value is None and found.refused is None
    assert found.ratio.reason == "b lora: not measured"


def used(model: str, mb: float, **fields: object) -> CellRecord:
    record = cell(model, seed=int(mb), windows=five_windows(), **fields)  # type: ignore[arg-type]
    summary = msgspec.structs.replace(record.result.summary, memory_allocated_mb=mb)
    return dataclasses.replace(record, result=msgspec.structs.replace(record.result, summary=summary))


def test_one_seed_of_memory_gives_a_ratio_without_an_interval() -> None:
    found = speed_ratio("memory_allocated_mb", entry(used("a", 100.0)), entry(used("b", 150.0)))
    assert (found.ratio.value, found.ratio.low) == (1.5, None)
    assert found.ratio.reason == "no interval: measured with one seed"


def test_a_disturbed_measurement_is_told() -> None:
    found = speed_ratio("latency_median_ms", timed("a", 5.0), timed("b", 6.0, contaminated=True))
    assert found.disturbed
    assert found.notes == ("something else used the machine while b lora was timed",)


def test_memory_is_not_disturbed_by_what_else_runs() -> None:
    one, other = (entry(*(used(m, mb + s, contaminated=True) for s in range(3))) for m, mb in (("a", 100), ("b", 150)))
    found = speed_ratio("memory_allocated_mb", one, other)
    assert found.ratio.low is not None
    assert (found.disturbed, found.notes) == (False, ())


def test_what_was_not_scored_takes_no_part() -> None:
    silent = entry(without_predictions(cell("c")))
    shared = SharedExamples([entry(cell("a")), entry(cell("b")), silent], replicates=100)
    assert shared.rows == LABELS.size
