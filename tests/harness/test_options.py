"""Option types, as click calls them."""

from __future__ import annotations

import click
import pytest

from harness.cli.options import CommaList, IntList, MemorySize, Seconds, Weights
from harness.errors import InputError


@pytest.mark.parametrize(
    ("text", "megabytes"),
    [
        ("512", 512), ("512m", 512), ("512 MB", 512), ("4g", 4096), ("4Gb", 4096), ("1.5g", 1536), ("0.5t", 524288),
        ("16777216b", 16), ("65536k", 64), (" 2g ", 2048),
    ],
)  # fmt: skip
def test_memory(text: str, megabytes: int) -> None:
    found = MemorySize().convert(text, None, None)
    assert (found, type(found)) == (megabytes, int)


@pytest.mark.parametrize("text", ["", "g", "4x", "-1g", "4 g b", "1e3m", "0g", "nan", "inf", "4,5g"])
def test_memory_that_is_none(text: str) -> None:
    with pytest.raises(click.BadParameter, match="4g or 512m"):
        MemorySize().convert(text, None, None)


@pytest.mark.parametrize("text", ["15m", "1k", "4b"])
def test_too_little_memory(text: str) -> None:
    with pytest.raises(click.BadParameter, match="at least 16m"):
        MemorySize().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("2h", 7200), ("1.5h", 5400), ("1D", 86400)]
)
def test_time(text: str, seconds: float) -> None:
    assert Seconds().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "s", "0s", "-5m", "1h30m", "5w", "5 minutes"])
def test_time_that_is_none(text: str) -> None:
    with pytest.raises(click.BadParameter, match="90s, 30m or 2h"):
        Seconds().convert(text, None, None)


def test_lists() -> None:
    assert CommaList().convert("a, b,c", None, None) == ["a", "b", "c"]
    assert IntList().convert("1, 2,3", None, None) == [1, 2, 3]
    for kind, text in ((CommaList(), "a,,b"), (IntList(), "1,x"), (IntList(), "-1"), (IntList(), str(2**32))):
        with pytest.raises(click.BadParameter):
            kind.convert(text, None, None)


def test_weights() -> None:
    found = Weights().convert("accuracy=.3, F1 = 0.3,throughput=+.2,latency=-.2,memory=0", None, None)
    assert found == {
        "accuracy": 0.3, "f1": 0.3, "throughput_samples_per_sec": 0.2, "latency_median_ms": -0.2,
    }  # fmt: skip
    assert Weights().convert(found, None, None) is found
    assert Weights().convert("accuracy=1e6,brier=-1", None, None) == {"accuracy": 1e6, "brier": -1.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no metric with a weight"),
        ("accuracy=.3,", "no metric with a weight"),
        ("=.3", "no metric with a weight"),
        ("accuracy", "no number"),
        ("accuracy=", "no number"),
        ("accuracy=high", "no number"),
        ("accuracy=nan", "no number"),
        ("accuracy=inf", "no number"),
        ("accuracy=1e7", "no number"),
        ("accuracy=0", "leaves nothing to rank by"),
        ("accuracy=0,latency=-0", "leaves nothing to rank by"),
        ("accuracy=.3,accuracy=.2", "has two weights"),
        ("latency=-.3,latency_p50=-.2", "has two weights"),
        ("latency=.2", "lower is better; write latency=-0.2"),
        ("accuracy=-.1", "higher is better; write accuracy=0.1"),
        ("brier=1", "lower is better"),
        ("score=1", "computed from others"),
        ("accuracy_per_parameter=1", "computed from others"),
    ],
)
def test_weights_that_are_none(text: str, words: str) -> None:
    with pytest.raises(click.BadParameter, match=words):
        Weights().convert(text, None, None)


def test_a_metric_that_is_not_known_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown metric 'latncy' \(did you mean 'latency'\?\)"):
        Weights().convert("accuracy=.3,latncy=-.2", None, None)
