"""Ratios and areas under the curve: against other routes to the same number, and their errors against repetition."""

import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from sims import Estimate

NUM_REPETITIONS = 600


def clustered(random, num_units=200):
    """Members of units of uneven size: score, whether positive, whether there at all; the unit moves all its members."""
    size = random.integers(1, 9, num_units)
    there = np.arange(8) < size[:, None]
    effect = random.normal(size=(num_units, 1))
    positive = random.random(there.shape) < 1 / (1 + np.exp(-effect))
    score = np.round(random.normal(size=there.shape) + effect + 0.5 * positive, 1)  # rounded: there are ties
    return score, positive & there, ~positive & there


def test_the_ratio_of_sums():
    random = np.random.default_rng(0)
    numerator, denominator = random.random((2, 300))
    estimate = Estimate.ratio(numerator, denominator)
    assert estimate.mean == pytest.approx(numerator.sum() / denominator.sum(), rel=1e-12)
    constant = Estimate.ratio(numerator, np.full(300, 2))
    assert constant.mean == pytest.approx(numerator.mean() / 2, rel=1e-12)
    assert constant.standard_error == pytest.approx(Estimate.of(numerator).standard_error / 2, rel=1e-12)


def test_units_that_say_nothing_are_not_counted():
    numerator, denominator = np.array([1, 0, 3, 0]), np.array([2, 0, 4, 1])
    few = Estimate.ratio(numerator, denominator)
    assert few == Estimate.ratio(numerator[[0, 2, 3]], denominator[[0, 2, 3]]) and few.num_independent == 3
    nothing = Estimate.ratio(np.zeros(3), np.zeros(3))
    assert math.isnan(nothing.mean) and nothing.num_independent == 0
    assert Estimate.ratio(np.array([1]), np.array([4])) == Estimate(0.25, math.inf, 1)


def test_the_area_is_that_of_all_pairs():
    score, positive, negative = clustered(np.random.default_rng(1))
    statistic = mannwhitneyu(score[positive], score[negative]).statistic
    expected = statistic / positive.sum() / negative.sum()
    assert Estimate.auc(score, positive, negative).mean == pytest.approx(expected, rel=1e-12)
    assert Estimate.auc(score, negative, positive).mean == pytest.approx(1 - expected, rel=1e-12)
    none = np.zeros_like(positive)
    assert math.isnan(Estimate.auc(score, none, negative).mean) and math.isnan(Estimate.auc(score, positive, none).mean)


@pytest.mark.parametrize("name", ["ratio", "auc"])
def test_errors_are_those_of_repetition(name):
    """The mean error against the spread over repetitions, whose own relative error is 1 / sqrt(2 x 600) = 2.9 %."""
    random, estimates = np.random.default_rng(2), []
    for _ in range(NUM_REPETITIONS):
        score, positive, negative = clustered(random)
        if name == "ratio":
            estimates.append(Estimate.ratio(np.sum(score, axis=1, where=positive), positive.sum(axis=1)))
        else:
            estimates.append(Estimate.auc(score, positive, negative))
    spread = np.std([estimate.mean for estimate in estimates])
    assert np.mean([estimate.standard_error for estimate in estimates]) == pytest.approx(spread, rel=0.12)
