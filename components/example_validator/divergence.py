"""How far two sets of numbers are apart, less what chance alone makes between samples of these sizes. No TFX here."""

from __future__ import annotations

import math
import statistics

import numpy as np
from tensorflow_metadata.proto.v0 import statistics_pb2

QUANTILES = 50
"""So many StatisticsGen keeps of each measure: by them is known how many values lie in the bins of another set.

Of two samples of one distribution the distance is 0.03 at most then; with 20 it is 0.08, and 100 cost StatisticsGen a
third more time.
"""
_BINS = 10
# Values that stand for a distribution that is known by its quantiles only; odd, so that the middle one is its median.
_VALUES = 1001
# A row of pixels more or a grey level less on all images would be as far as can be by divergence, and changes nothing.
_SAME_SCALE = 0.03
_MEASURED_IN_STEPS = ("text_length", "confidence")  # of these, none is too small to matter


def quantiles(numbers: statistics_pb2.NumericStatistics) -> tuple[np.ndarray, np.ndarray]:
    """What a histogram of quantiles says about the values that it sums up.

    Returns:
        `_VALUES` values that are distributed alike: each is the quantile at or above it, since no value between two
        quantiles needs to occur. And the ends of bins for which that distribution is exact: the value just below the
        minimum, the deciles and the maximum; float32, as examples hold them.
    """
    (histogram,) = [h for h in numbers.histograms if h.type == statistics_pb2.Histogram.QUANTILES]
    ends = np.array([bucket.high_value for bucket in histogram.buckets])
    reached = np.cumsum([bucket.sample_count for bucket in histogram.buckets])
    reached /= reached[-1]
    shares = (np.arange(_VALUES) + 0.5) / _VALUES
    below = np.nextafter(np.float32(histogram.buckets[0].low_value), np.float32(-np.inf))
    deciles = ends[np.searchsorted(reached, np.arange(1, _BINS + 1) / _BINS - 1e-9)]
    return ends[np.searchsorted(reached, shares)], np.unique(np.array([below, *deciles], np.float32))


def numbers_apart(
    name: str, before: np.ndarray, after: np.ndarray, samples: tuple[int, int], known_at: np.ndarray | None
) -> float:
    """Jensen-Shannon divergence of two sets of numbers over ten bins, less what chance explains.

    Args:
        name: What is measured.
        before: Values of it [any number], or what `quantiles` makes of them.
        after: The same of the other set.
        samples: How many values both sets have.
        known_at: Ends of bins, from `quantiles`, where `before` is known by its quantiles only.
    """
    low, high = statistics.median(before), statistics.median(after)
    if name not in _MEASURED_IN_STEPS and low > 0 < high and 1 / (1 + _SAME_SCALE) <= high / low <= 1 + _SAME_SCALE:
        after = after * (low / high)
    # Whole numbers are the same ones again after a change of scale.
    a, b = before.astype(np.float32), after.astype(np.float32)
    # Between its quantiles nothing is known about a set: other bins would compare what was made up there.
    edges = _edges(a, b) if known_at is None else known_at
    counts = [np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1) for values in (a, b)]
    n, m = samples
    return divergence(counts[0] * (n / len(a)), counts[1] * (m / len(b)))


def _edges(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Upper ends [bins - 1] of all bins but the last."""
    # Bins that hold the same share of both together: no outlier stretches them, and none is empty.
    points = np.concatenate([np.quantile(values, np.linspace(0, 1, 201)) for values in (before, after)])
    return np.unique(np.quantile(points, np.arange(1, _BINS) / _BINS).astype(np.float32))


def divergence(before: np.ndarray, after: np.ndarray) -> float:
    """Jensen-Shannon divergence of two counts by bin in bits, less what chance explains of it: 0 where it explains all.

    Args:
        before: Counts [bins] with a positive sum.
        after: Counts of the same bins.
    """
    n, m = before.sum(), after.sum()
    p, q = before / n, after / m
    middle = (p + q) / 2
    value = _entropy(middle) - (_entropy(p) + _entropy(q)) / 2
    # For two samples of one distribution it is this share of a chi-squared variable with bins - 1 degrees of freedom
    # (Lin 1991, Menéndez et al. 1997): its mean and two standard deviations.
    freedom = np.count_nonzero(middle) - 1
    chance = (freedom + 2 * math.sqrt(2 * freedom)) / (8 * math.log(2)) * (1 / n + 1 / m)
    return float(max(0.0, value - chance))


def _entropy(shares: np.ndarray) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log2(positive)).sum())
