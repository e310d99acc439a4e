"""Intervals, tests and resampling as pure functions on numpy arrays, vectorised; each names its source.

Letters for shapes stand in `arrays`. Nothing here reads a file or knows what a model is.
"""

from harness.statistics.arrays import BoolArray, Counts, FloatArray, IntArray, Interval
from harness.statistics.distributions import normal_cdf, normal_quantile
from harness.statistics.intervals import (
    bca_interval,
    jackknife_quality,
    order_statistic_interval,
    percentile_interval,
    ratio_interval,
    wilson_interval,
)
from harness.statistics.quality import check_codes, confusion_counts, quality_from_confusion, quality_from_margins
from harness.statistics.ranks import (
    competition_ranks,
    pareto_front,
    probability_best,
    rank_bounds,
    separated,
    tie_groups,
)
from harness.statistics.resampling import (
    example_counts,
    mean_over_seeds,
    resampled_quality,
    seed_deviations,
    seed_draws,
)
from harness.statistics.speed import Spread, half_width, levelled, speed_samples, spread_of_mean, student_t

__all__ = [
    "BoolArray",
    "Counts",
    "FloatArray",
    "IntArray",
    "Interval",
    "Spread",
    "bca_interval",
    "check_codes",
    "competition_ranks",
    "confusion_counts",
    "example_counts",
    "half_width",
    "jackknife_quality",
    "levelled",
    "mean_over_seeds",
    "normal_cdf",
    "normal_quantile",
    "order_statistic_interval",
    "pareto_front",
    "percentile_interval",
    "probability_best",
    "quality_from_confusion",
    "quality_from_margins",
    "rank_bounds",
    "ratio_interval",
    "resampled_quality",
    "seed_deviations",
    "seed_draws",
    "separated",
    "speed_samples",
    "spread_of_mean",
    "student_t",
    "tie_groups",
    "wilson_interval",
]
