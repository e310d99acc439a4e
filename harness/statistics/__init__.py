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
    unseen_errors,
    wilson_interval,
)
from harness.statistics.paired import approximate_randomisation, discordant_counts, mcnemar_exact, paired_bootstrap
from harness.statistics.power import examples_needed, minimum_detectable_difference, seeds_needed
from harness.statistics.proportions import steps_interval
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
    cost_of_an_error,
    example_counts,
    mean_over_seeds,
    resampled_quality,
    seed_deviations,
    seed_draws,
)
from harness.statistics.several import (
    FEWEST_DATASETS,
    Friedman,
    Nemenyi,
    SignedRank,
    benjamini_hochberg,
    friedman,
    friedman_by_permutation,
    holm,
    nemenyi,
    wilcoxon_signed_rank,
)
from harness.statistics.speed import Spread, half_width, levelled, speed_samples, spread_of_mean, student_t

__all__ = [
    "FEWEST_DATASETS",
    "BoolArray",
    "Counts",
    "FloatArray",
    "Friedman",
    "IntArray",
    "Interval",
    "Nemenyi",
    "SignedRank",
    "Spread",
    "approximate_randomisation",
    "bca_interval",
    "benjamini_hochberg",
    "check_codes",
    "competition_ranks",
    "confusion_counts",
    "cost_of_an_error",
    "discordant_counts",
    "example_counts",
    "examples_needed",
    "friedman",
    "friedman_by_permutation",
    "half_width",
    "holm",
    "jackknife_quality",
    "levelled",
    "mcnemar_exact",
    "mean_over_seeds",
    "minimum_detectable_difference",
    "nemenyi",
    "normal_cdf",
    "normal_quantile",
    "order_statistic_interval",
    "paired_bootstrap",
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
    "seeds_needed",
    "separated",
    "speed_samples",
    "spread_of_mean",
    "steps_interval",
    "student_t",
    "tie_groups",
    "unseen_errors",
    "wilcoxon_signed_rank",
    "wilson_interval",
]
