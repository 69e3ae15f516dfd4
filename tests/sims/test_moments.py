"""Merged moments equal moments of all; precision rules; quantiles and tail means against exact values."""

import functools
import itertools
import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom, expon, norm

import sims
from sims.estimates import Estimate
from sims.moments import Moments
from sims.precision import BLOCK, UNVARIED, Goal, PrecisionNotReached
from stopping.models import AnswerChain
from stopping.policies import TokenBudget
from stopping.problems import Thinking

NAMES = ("utility", "total_tokens")
CHAIN = AnswerChain(
    0.2, 0.3, 0.05, 0.1, right_log_prob=-0.3, wrong_log_prob=-0.9, log_prob_scale=0.3, num_points=4, gap_tokens=32
)


@settings(deadline=None)
@given(arrays(np.float64, (2, 30), elements=st.floats(-1e3, 1e3)), st.integers(1, 29), st.integers(1, 29))
def test_parts_merged_are_the_whole(values, one, other):
    cuts = sorted({0, one, other, 30})
    parts = [Moments.of(NAMES, values[:, start:end]) for start, end in itertools.pairwise(cuts)]
    merged = functools.reduce(Moments.merge, parts)
    whole = Moments.of(NAMES, values)
    assert merged.count == 30
    np.testing.assert_allclose(merged.mean, whole.mean, atol=1e-9)
    np.testing.assert_allclose(merged.comoment, whole.comoment, rtol=1e-9, atol=1e-6)


def test_estimates_are_those_of_the_values():
    values = np.random.default_rng(0).gamma(2.0, 1.0, (2, 500)) + 0.5
    moments = Moments.of(NAMES, values)
    for got, want in (
        (moments.estimate("total_tokens"), Estimate.of(values[1])),
        (moments.ratio("utility", "total_tokens"), Estimate.ratio(*values)),
    ):
        assert (got.mean, got.standard_error) == pytest.approx((want.mean, want.standard_error), rel=1e-9)
    assert math.isinf(Moments.of(NAMES, values[:, :1]).estimate("utility").standard_error)
    assert math.isnan(Moments.of(NAMES, 0 * values).ratio("utility", "total_tokens").mean)


def of_normal(count, mean, deviation):
    square = np.diag([deviation**2 * (count - 1), 0.0])
    return Moments(NAMES, count, np.array([mean, 0.0]), square, np.array([3 * deviation**4 * count, 0.0]))


def test_goals_look_at_powers_of_two_only():
    goal = Goal(standard_error=0.01)
    enough = of_normal(20_000, 5.0, 1.0)
    assert [blocks for blocks in range(1, 20) if goal.is_reached(blocks, enough)] == [1, 2, 4, 8, 16]
    assert not goal.is_reached(4, of_normal(9_000, 5.0, 1.0))
    assert goal.needed(enough) == pytest.approx(10_000, rel=0.03)
    assert goal.needed(enough) > 10_000  # a variance that looks small may be larger
    relative = Goal(relative_error=0.01)
    assert relative.needed(enough) == pytest.approx(400, rel=0.03)
    assert Goal(num_replicas=50).needed(enough) == 50
    assert not Goal(num_replicas=50).is_reached(1, enough)


def test_an_error_of_one_event_is_not_small():
    hits = np.zeros((2, 4096))
    hits[0, 7] = 1.0
    moments = Moments.of(NAMES, hits)
    error = moments.estimate("utility").standard_error
    assert moments.largest_error("utility") == pytest.approx(error * math.sqrt(3), rel=1e-3)  # 1 + 2 / sqrt(1 event)
    assert moments.largest_error("total_tokens") == math.inf


def test_what_never_varied_is_not_believed_at_once():
    goal = Goal(standard_error=0.01, component="total_tokens")
    assert not goal.is_reached(1, of_normal(BLOCK, 5.0, 1.0))
    assert goal.is_reached(UNVARIED // BLOCK, of_normal(UNVARIED, 5.0, 1.0))


def test_a_precision_out_of_reach_is_refused_when_it_is_known():
    with pytest.raises(PrecisionNotReached, match=r"standard_error 1e-06 of utility: .* needs about 1\.0e\+12"):
        Goal(standard_error=1e-6).is_reached(UNVARIED // BLOCK, of_normal(UNVARIED, 5.0, 1.0))
    with pytest.raises(PrecisionNotReached, match="relative_error"):
        Goal(relative_error=0.1).is_reached(UNVARIED // BLOCK, of_normal(UNVARIED, 0.0, 1.0))


@pytest.mark.parametrize(
    ("given_", "match"),
    [
        ({}, "exactly one of .* got none"),
        ({"num_replicas": 3, "max_seconds": 1.0}, "got num_replicas, max_seconds"),
        ({"relative_error": 0.0}, "relative_error: expected a positive number, got 0"),
        ({"max_seconds": math.inf}, "max_seconds"),
        ({"num_replicas": 2**31}, "num_replicas"),
    ],
)
def test_goals_that_make_no_sense_are_refused(given_, match):
    with pytest.raises(ValueError, match=match):
        Goal(**given_)


def test_simulate_reaches_what_is_asked_and_tells_what_it_took():
    problem, rule, key = Thinking(model=CHAIN, price_per_token=1e-3), TokenBudget(64), jax.random.key(0)
    result = sims.simulate(key, problem, rule, relative_error=0.004, component="total_tokens")
    tokens = result.total_tokens
    assert tokens.standard_error <= 0.004 * tokens.mean
    assert result.num_units in {BLOCK * 2**k for k in range(10)}
    assert result.run_seconds > 0
    short = sims.simulate(key, problem, rule, max_seconds=0.2)
    assert short.num_units % BLOCK == 0
    assert short.compile_seconds == 0.0  # all its programs are there
    with pytest.raises(ValueError, match=r"component: expected one of correct, .* got 'joy'"):
        sims.simulate(key, problem, rule, standard_error=0.1, component="joy")


def test_quantiles_and_tail_means_hold_what_they_say():
    """Over 400 samples of 1,000 exponentials: 95 % intervals cover in 90 to 99 % of them."""
    random, prob, held = np.random.default_rng(1), 0.95, np.zeros(2)
    truths = expon.ppf(prob), expon.ppf(prob) + 1  # memoryless: the mean excess is one
    for _ in range(400):
        values = random.exponential(size=1000)
        for index, estimate in enumerate((Estimate.quantile(values, prob), Estimate.tail_mean(values, prob))):
            low, high = estimate.interval()
            held[index] += low <= truths[index] <= high
    low, high = binom.ppf([1e-4, 1 - 1e-4], 400, [0.91, 0.975])  # of a tail of 50 values, known to be skewed
    assert (low <= held).all()
    assert (held <= high + 4).all()
    median = Estimate.quantile(random.normal(size=100_000), 0.5)
    assert median.standard_error == pytest.approx(1 / (2 * norm.pdf(0)) / math.sqrt(100_000), rel=0.1)
    for wrong in (0.0, 1.0, 1.5):
        with pytest.raises(ValueError, match="prob: expected a number between 0 and 1"):
            Estimate.quantile(values, wrong)
