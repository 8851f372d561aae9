"""Confidence intervals."""

from typing import Any

import numpy as np
from scipy.stats import binomtest


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a success rate, (low, high) in [0, 1]; (0, 1) without trials."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_interval(values: Any, seed: int = 0, draws: int = 2000) -> tuple[float, float]:
    """95% interval of the mean of values (n,), or of the ratio of two such means for (n, 2).

    Percentile bootstrap over independent units, of which each has one value, such as the mean of a gallery or of an
    episode: the queries of one gallery, and the steps of one episode, are not independent.
    """
    values = np.asarray(values, float)
    chosen = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    means = values[chosen].mean(axis=1)
    if values.ndim == 2:
        means = means[:, 0] / np.maximum(means[:, 1], 1e-12)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
