"""Confidence intervals, beside their formula."""

import math

import pytest

from tinyvla.intervals import wilson_interval


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 20), (8, 10), (78, 80), (500, 1000)])
def test_the_interval_is_wilsons_at_95_percent(successes, n):
    z, share = 1.959964, successes / n
    centre, half = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    expected = [(limit / (1 + z**2 / n)) for limit in (centre - half, centre + half)]
    interval = wilson_interval(successes, n)
    assert interval == pytest.approx(expected, abs=1e-6)
    assert [type(limit) for limit in interval] == [float, float]  # JSON takes no number of numpy


def test_without_trials_every_rate_is_possible():
    assert wilson_interval(0, 0) == (0.0, 1.0)
