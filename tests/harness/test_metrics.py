import pytest

from harness.errors import InputError
from harness.metrics import (
    ALIASES,
    CONFUSION_METRICS,
    DERIVED_METRICS,
    METRICS,
    PROBABILITY_METRICS,
    SPEED_METRICS,
    format_interval,
    format_value,
    metric_named,
)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy", None, "–"),
        ("accuracy", float("nan"), "–"),
        ("accuracy", float("inf"), "–"),
        ("accuracy", 0.8734, "0.873"),
        ("accuracy", 1, "1.000"),
        ("mcc", -0.0001, "0.000"),
        ("score", -0.2, "-0.200"),
        ("latency_median_ms", 0.01234, "0.0123"),
        ("latency_median_ms", 0.1234, "0.123"),
        ("latency_median_ms", 1.234, "1.23"),
        ("latency_median_ms", 12.34, "12.3"),
        ("latency_median_ms", 123.4, "123"),
        ("latency_median_ms", 1234.5, "1,234"),
        ("throughput_samples_per_sec", 1234567.0, "1,234,567"),
        ("memory_allocated_mb", 0.0, "0.000"),
    ],
)
def test_values_as_text(name: str, value: float | None, text: str) -> None:
    assert format_value(name, value) == text


def test_units_are_appended_when_asked_for() -> None:
    assert format_value("latency_p95_ms", 4.5, unit=True) == "4.50 ms"
    assert format_value("accuracy", 0.5, unit=True) == "0.500"
    assert format_value("latency_p95_ms", None, unit=True) == "–"


def test_intervals_as_text() -> None:
    assert format_interval("accuracy", 0.8731, 0.8512, 0.8944) == "0.873 [0.851–0.894]"
    assert format_interval("accuracy", 0.8731, None, None) == "0.873"
    assert format_interval("accuracy", None, None, None) == "–"


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(KeyError):
        format_value("accuracies", 0.5)


def test_every_metric_belongs_to_one_family() -> None:
    families = [*CONFUSION_METRICS, *PROBABILITY_METRICS, *SPEED_METRICS, *DERIVED_METRICS, "score"]
    assert sorted(families) == sorted(METRICS)


def test_headings_carry_units() -> None:
    assert METRICS["latency_median_ms"].heading == "Latency p50 (ms)"
    assert METRICS["accuracy"].heading == "Accuracy"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("accuracy", "accuracy"),
        (" F1 ", "f1"),
        ("latency", "latency_median_ms"),
        ("latency_p95", "latency_p95_ms"),
        ("latency-p99", "latency_p99_ms"),
        ("Throughput", "throughput_samples_per_sec"),
        ("memory", "memory_allocated_mb"),
        ("memory_allocated_mb", "memory_allocated_mb"),
    ],
)
def test_metrics_go_by_name_or_alias(text: str, name: str) -> None:
    assert metric_named(text).name == name


def test_an_alias_is_no_name_and_means_one() -> None:
    assert not set(ALIASES) & set(METRICS)
    assert set(ALIASES.values()) <= set(METRICS)


def test_a_metric_that_is_not_known_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        metric_named("throughputs")
    assert caught.value.message == "unknown metric 'throughputs' (did you mean 'throughput'?)"
    assert "latency, latency_p95, latency_p99" in caught.value.hint


def test_an_interval_with_a_sign() -> None:
    assert format_interval("score", -0.2, -0.3, 0.1) == "-0.200 [-0.300 to 0.100]"
    assert format_interval("score", 0.2, -0.00001, 0.3) == "0.200 [0.000–0.300]"
