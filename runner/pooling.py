"""One set of speed figures from several windows of timing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from runner.contract import Latency, Throughput, Timing, Window

# Samples an order-statistic bound needs so that the percentile lies inside it with 99 % confidence.
PERCENTILE_BOUNDS = {50: 11, 90: 64, 95: 130, 99: 662}


@dataclass(frozen=True)
class Measured:
    """One window with its raw samples."""

    window: Window
    samples_ms: list[float]


def pooled(tried: Sequence[Measured]) -> Timing:
    """The figures of a model that was not just loaded, from its windows that count. In latency each window weighs the
    same, as it does in the interval: a slow one has fewer samples, as its time is limited. Throughput is all texts over
    all seconds."""
    counted = [one for one in tried if one.window.counted]
    by_size = zip(*(one.window.throughput for one in counted), strict=True)
    shares = [one.window.cpu_share_foreign for one in counted if one.window.cpu_share_foreign is not None]
    told = [one.window.contaminated for one in counted if one.window.contaminated is not None]
    return Timing(
        latency=_pooled_latency(counted),
        throughput=tuple(_pooled_throughput(parts) for parts in by_size),
        windows=tuple(one.window for one in tried),
        cold_start_s=None,
        cpu_share_foreign=max(shares, default=None),
        contaminated=any(told) if told else None,
    )


def _pooled_latency(counted: Sequence[Measured]) -> Latency:
    """Mean and median are the means of the windows' own; tails, which need the samples of all, come from these."""
    samples = [sample for one in counted for sample in one.samples_ms]
    weights = np.concatenate([np.full(len(one.samples_ms), 1 / len(one.samples_ms)) for one in counted])
    enough = len(samples) >= PERCENTILE_BOUNDS[50]
    return Latency(
        requests=len(samples),
        mean_ms=fmean(one.window.mean_ms for one in counted),
        std_ms=_std(samples, weights),
        p50_ms=fmean(one.window.p50_ms for one in counted) if enough else None,
        p90_ms=percentile(samples, 90, weights),
        p95_ms=percentile(samples, 95, weights),
        p99_ms=percentile(samples, 99, weights),
        samples_ms=tuple(round(s, 4) for s in samples),
    )


def _std(samples_ms: Sequence[float], weights: NDArray[np.float64]) -> float:
    """Unbiased under weights of reliability: with equal ones the usual, with n - 1."""
    shares = weights / weights.sum()
    mean_ms = np.average(samples_ms, weights=shares)
    freedom = 1.0 - float(np.square(shares).sum())
    return math.sqrt(np.average(np.square(samples_ms - mean_ms), weights=shares) / freedom) if freedom > 0 else 0.0


def _pooled_throughput(parts: Sequence[Throughput]) -> Throughput:
    samples, seconds = sum(part.samples for part in parts), sum(part.seconds for part in parts)
    tokens = [part.tokens_per_s * part.seconds for part in parts if part.tokens_per_s is not None]
    return Throughput(
        batch_size=parts[0].batch_size,
        samples=samples,
        seconds=seconds,
        samples_per_s=samples / seconds,
        tokens_per_s=sum(tokens) / seconds if tokens else None,
    )


def percentile(samples_ms: Sequence[float], p: int, weights: NDArray[np.float64] | None = None) -> float | None:
    """The percentile, or None below the number of samples that its bound needs.

    Linear between the samples in order. Each stands in the middle of its weight, and the first and last of them at 0
    and 100 %: with equal weights that is numpy's default, sample i of n at (i - 1) / (n - 1)."""
    if len(samples_ms) < PERCENTILE_BOUNDS[p]:
        return None
    ordered = np.argsort(samples_ms, kind="stable")
    sizes = np.ones(len(samples_ms)) if weights is None else weights[ordered]
    middles = np.cumsum(sizes) - sizes / 2
    places = (middles - middles[0]) / (middles[-1] - middles[0])
    return float(np.interp(p / 100, places, np.asarray(samples_ms)[ordered]))
