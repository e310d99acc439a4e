"""Size against accuracy and kind against kind, against fits and means made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from harness.analysis import RankedGroup, contrasts_of, scaling_of
from harness.board import Contrast, Figure, Row

B = 400
CONFIDENCE = 0.95


def row(model: str, accuracy: float | None = 0.8, f1: float | None = None, **changes: Any) -> Row:
    values = {"accuracy": accuracy, "f1": accuracy if f1 is None else f1}
    fields: dict[str, Any] = {
        "model": model, "dataset": "sst2", "fingerprint": "f1", "method": "lora", "device": "cpu", "seeds": (1,),
        "test_rows": 500, "architecture": "encoder-only", "parameters": 1_000_000, "pareto": None, "speed_key": None,
        "flags": (), "rank": 1, "rank_low": 1, "rank_high": 1, "p_best": 1.0, "tie": 1,
        "metrics": {name: Figure(value=value, low=None, high=None) for name, value in values.items()},
    }  # fmt: skip
    return Row(**(fields | changes))


def group(*rows: Row, spread: float = 0.01) -> RankedGroup:
    """Replicates scatter around the rows' figures; those of a row without a figure are NaN."""
    rng = np.random.default_rng(7)
    samples = {}
    for name in ("accuracy", "f1"):
        values = np.array([np.nan if (v := r.metrics[name].value) is None else v for r in rows])
        samples[name] = values + spread * rng.standard_normal((B, len(rows)))
    return RankedGroup("sst2", "f1", rows, samples, CONFIDENCE)


SIZES = (4_000_000, 22_000_000, 110_000_000, 350_000_000)
ACCURACIES = (0.79, 0.86, 0.88, 0.93)


def of_sizes(method: str = "lora", **changes: Any) -> list[Row]:
    pairs = zip(SIZES, ACCURACIES, strict=True)
    return [row(f"m{size}", accuracy, parameters=size, method=method, **changes) for size, accuracy in pairs]


# --- scaling ----------------------------------------------------------------------------------


def test_the_fit_is_that_of_scipy_for_the_values_and_for_every_replicate() -> None:
    ranked = group(*of_sizes())
    [found] = scaling_of(ranked)
    x = np.log10(SIZES)
    expected = stats.linregress(x, ACCURACIES)
    assert (found.dataset, found.fingerprint, found.method, found.models) == ("sst2", "f1", "lora", 4)
    assert found.slope.value == pytest.approx(expected.slope)
    assert found.intercept == pytest.approx(expected.intercept)
    left = ACCURACIES - (expected.intercept + expected.slope * x)
    assert found.residual == pytest.approx(np.sqrt(np.mean(left**2)))
    slopes = [stats.linregress(x, sample).slope for sample in ranked.samples["accuracy"]]
    assert [found.slope.low, found.slope.high] == pytest.approx(np.quantile(slopes, [0.025, 0.975]))


def test_each_method_has_its_fit_and_baselines_have_none() -> None:
    steep = [
        row(f"m{size}", a - 0.3, parameters=size, method="full")
        for size, a in zip(SIZES, ACCURACIES[::-1], strict=True)
    ]
    ranked = group(*of_sizes("none"), *steep, *of_sizes())
    found = {fit.method: fit.slope.value for fit in scaling_of(ranked)}
    assert list(found) == ["lora", "full"]
    assert found["lora"] is not None and found["full"] is not None
    assert found["lora"] > 0 > found["full"]


@pytest.mark.parametrize(
    "rows",
    [
        of_sizes()[:2],
        [*of_sizes()[:2], row("twin", 0.8, parameters=SIZES[0])],
        [*of_sizes()[:2], row("unknown", 0.8, parameters=None)],
        [*of_sizes()[:2], row("unscored", None, parameters=SIZES[2])],
        [],
    ],
    ids=["two", "two sizes", "a size unknown", "one not scored", "nothing"],
)
def test_fewer_than_three_sizes_make_no_fit(rows: list[Row]) -> None:
    assert scaling_of(group(*rows)) == ()


def test_a_model_on_two_devices_is_one_point_at_their_mean() -> None:
    low, high = row("m4000000", 0.77, parameters=SIZES[0]), row("m4000000", 0.81, parameters=SIZES[0], device="cuda")
    [found] = scaling_of(group(low, *of_sizes()[1:], high))
    expected = stats.linregress(np.log10(SIZES), ACCURACIES)
    assert found.models == 4
    assert found.slope.value == pytest.approx(expected.slope)
    assert found.intercept == pytest.approx(expected.intercept)


def test_a_perfect_line_leaves_nothing() -> None:
    rows = [row(f"m{size}", 0.1 * np.log10(size), parameters=size) for size in SIZES]
    [found] = scaling_of(group(*rows, spread=0.0))
    assert found.residual == pytest.approx(0, abs=1e-12)
    assert (found.slope.value, found.slope.low, found.slope.high) == pytest.approx((0.1, 0.1, 0.1))


# --- contrasts --------------------------------------------------------------------------------


def by_metric(contrasts: tuple[Contrast, ...], kind: str) -> dict[str, Contrast]:
    chosen = [one for one in contrasts if one.kind == kind]
    assert len({one.metric for one in chosen}) == len(chosen), "one pair of kinds only"
    return {one.metric: one for one in chosen}


def test_methods_are_compared_on_the_models_they_share() -> None:
    ranked = group(
        row("a", 0.90, 0.89),
        row("b", 0.80, 0.79),
        row("a", 0.85, 0.85, method="frozen"),
        row("b", 0.79, 0.70, method="frozen"),
        row("only", 0.10, method="frozen"),
        row("base", 0.50, method="none"),
    )
    found = by_metric(contrasts_of(ranked), "method")
    assert set(found) == {"accuracy", "f1"}
    assert {(one.first, one.second, one.pairs, one.method) for one in found.values()} == {("lora", "frozen", 2, None)}
    assert found["accuracy"].difference.value == pytest.approx(0.03)
    assert found["f1"].difference.value == pytest.approx(0.065)
    samples = ranked.samples["f1"]
    expected = np.quantile((samples[:, 0] - samples[:, 2] + samples[:, 1] - samples[:, 3]) / 2, [0.025, 0.975])
    assert [found["f1"].difference.low, found["f1"].difference.high] == pytest.approx(expected)


def test_what_both_methods_share_with_the_examples_cancels() -> None:
    """The interval is paired: an example that is hard for both methods does not widen it."""
    shared = 0.05 * np.random.default_rng(1).standard_normal((B, 1))
    rows = (row("a", 0.9), row("a", 0.8, method="full"))
    samples = {name: np.array([0.9, 0.8]) + shared for name in ("accuracy", "f1")}
    found = by_metric(contrasts_of(RankedGroup("sst2", "f1", rows, samples, CONFIDENCE)), "method")
    difference = found["accuracy"].difference
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))


def test_methods_are_paired_on_the_same_device() -> None:
    rows = row("a", 0.9), row("a", 0.8, method="full", device="cuda")
    assert contrasts_of(group(*rows)) == ()
    found = by_metric(contrasts_of(group(*rows, row("a", 0.7, device="cuda"))), "method")
    assert found["accuracy"].pairs == 1
    assert found["accuracy"].difference.value == pytest.approx(-0.1)


def test_every_pair_of_methods_in_one_order() -> None:
    rows = [row("a", method=method) for method in ("frozen", "full", "qlora", "lora")]
    pairs = {(one.first, one.second) for one in contrasts_of(group(*rows))}
    assert pairs == {
        ("lora", "qlora"), ("lora", "full"), ("lora", "frozen"), ("qlora", "full"), ("qlora", "frozen"),
        ("full", "frozen"),
    }  # fmt: skip


def test_encoders_against_decoders_under_each_method() -> None:
    rows = [
        row("enc1", 0.90),
        row("enc2", 0.84),
        row("enc2", 0.86, device="cuda"),
        row("dec1", 0.70, architecture="decoder-only"),
        row("odd", 0.10, architecture="encoder-decoder"),
        row("unknown", 0.10, architecture=None),
        row("enc1", 0.99, method="full"),
    ]
    ranked = group(*rows)
    found = by_metric(contrasts_of(ranked), "architecture")
    one = found["accuracy"]
    assert (one.first, one.second, one.method, one.pairs) == ("encoder-only", "decoder-only", "lora", 1)
    assert one.difference.value == pytest.approx((0.90 + 0.85) / 2 - 0.70)
    samples = ranked.samples["accuracy"]
    expected = (samples[:, 0] + (samples[:, 1] + samples[:, 2]) / 2) / 2 - samples[:, 3]
    assert [one.difference.low, one.difference.high] == pytest.approx(np.quantile(expected, [0.025, 0.975]))


def test_what_was_not_scored_takes_no_part() -> None:
    rows = row("a", 0.9), row("a", None, method="full"), row("b", 0.9), row("b", 0.8, method="full")
    found = by_metric(contrasts_of(group(*rows)), "method")
    assert found["accuracy"].pairs == 1
    assert found["accuracy"].difference.value == pytest.approx(0.1)
    assert contrasts_of(group(*rows[:2])) == ()
    assert contrasts_of(group()) == ()
