"""Results: estimates, digests and paired differences."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sims
from sims import Estimate, Result, difference
from sims.bands import Band
from stopping.models import LengthCorrectness
from stopping.policies import FixedSamples, Margin
from stopping.problems import Sampling

PROBLEM = Sampling(5, model=LengthCorrectness(2.0, 1.0), price_per_token=1e-6)


def test_estimate_of_many_is_the_textbook_one():
    values = np.arange(200.0)
    estimate = Estimate.of(values)
    assert estimate == Estimate(99.5, values.std(ddof=1) / math.sqrt(200), 200)
    low, high = estimate.interval(0.95)
    assert (high - low) / 2 == pytest.approx(1.959964 * estimate.standard_error, rel=1e-6)


@given(st.lists(st.floats(-100, 100), min_size=5, max_size=99))
def test_the_bootstrap_of_few_agrees_with_the_textbook(values):
    estimate = Estimate.of(np.array(values))
    textbook = np.std(values, ddof=1) / math.sqrt(len(values))
    assert estimate.standard_error == pytest.approx(
        textbook, rel=0.1, abs=1e-9
    )  # 2,000 resamples: 1.6 %, six times over


def test_few_units_have_wider_intervals():
    values = np.array([0.0, 1.0, 2.0, 3.0])
    low, high = Estimate.of(values).interval()
    assert (high - low) / 2 > 3 * Estimate.of(values).standard_error
    assert Estimate.of(np.array([2.0])).standard_error == math.inf
    with pytest.raises(ValueError, match="at least one"):
        Estimate.of(np.array([]))


def test_exact_values_have_error_zero_and_no_interval():
    exact = Estimate(1.5, 0.0, 1)
    assert exact.interval() == (1.5, 1.5)
    assert str(exact) == "1.5"


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.61234, 0.0034, 9), "0.6123 ± 0.0034"),
        (Estimate(0.61234, 0.0036, 9), "0.612 ± 0.004"),
        (Estimate(0.61234, 0.0097, 9), "0.6123 ± 0.0097"),
        (Estimate(19776.2, 64.2, 9), "19,776 ± 64"),
        (Estimate(1.0, math.inf, 1), "1 ± ?"),
    ],
)
def test_estimates_print_one_digit_of_their_error_or_two(estimate, text):
    assert str(estimate) == text


def test_estimates_in_plain_numbers():
    assert Estimate(1.5, 0.0, 1).as_dict() == {"mean": 1.5, "standard_error": 0.0, "num_independent": 1}
    assert Estimate(1.5, math.inf, 1).as_dict()["standard_error"] is None


def test_difference_is_paired_and_refuses_other_worlds():
    key = jax.random.key(0)
    a, b = (sims.simulate(key, PROBLEM, rule, num_replicas=4000) for rule in (Margin(2), FixedSamples(5)))
    paired = difference(a, b)["utility"]
    assert paired.mean == pytest.approx(a.utility.mean - b.utility.mean, abs=1e-12)
    assert paired.standard_error < 0.7 * np.hypot(a.utility.standard_error, b.utility.standard_error)
    other = sims.simulate(jax.random.key(1), PROBLEM, Margin(2), num_replicas=4000)
    with pytest.raises(ValueError, match="the same worlds"):
        difference(a, other)


def test_other_prices_on_the_same_worlds_may_be_compared():
    key = jax.random.key(0)
    cheap = sims.simulate(key, PROBLEM, Margin(2), num_replicas=1000)
    dear = sims.simulate(key, Sampling(5, model=PROBLEM.model, price_per_token=1e-4), Margin(2), num_replicas=1000)
    assert difference(dear, cheap)["utility"].mean < 0
    assert difference(dear, cheap)["total_tokens"] == Estimate(0.0, 0.0, 1000)


def test_components_are_attributes_and_bounds_count_what_is_unsupported():
    values = {"correct": np.array([1.0, 0.0, 0.0, 0.0]), "unsupported": np.array([0.0, 0.0, 1.0, 0.0])}
    result = Result(values, "w", "t")
    assert result.num_unsupported == 1
    assert (result.correct.mean, result.at_most(correct=1).correct.mean) == (0.25, 0.5)
    with pytest.raises(AttributeError, match="no component 'utility'; it has correct, unsupported"):
        _ = result.utility
    assert result.summary()["figures"]["correct"]["mean"] == 0.25


def test_of_two_results_one_may_have_unsupported_units_in_a_difference():
    known = Result({"correct": np.array([1.0, 1.0]), "unsupported": np.zeros(2)}, "w", "known")
    half = Result({"correct": np.array([1.0, 0.0]), "unsupported": np.array([0.0, 1.0])}, "w", "half")
    assert difference(half, known)["correct"].mean == -0.5  # at least
    assert difference(half.at_most(correct=1), known)["correct"].mean == 0  # at most
    with pytest.raises(ValueError, match=r"without unsupported units, got 'half' \(1 of them\) and 'half' .* at_most"):
        difference(half, half)
    assert difference(half, half.at_most(correct=1))["correct"].mean == -0.5
    assert "total_tokens" not in difference(half.at_most(correct=1), known)


def test_a_distribution_s_band_holds_everywhere_at_once():
    """In at least 90 % of 400 samples of 50 uniform numbers, the 90 % band contains the true distribution on a fine grid."""
    random, points, held = np.random.default_rng(0), np.linspace(0, 1, 1001), 0
    for _ in range(400):
        band = Band.distribution(random.random(50), points, 0.9)
        held += bool(((band.low <= points) & (points <= band.high)).all())
    assert 0.9 - 4 * 0.015 <= held / 400 < 1


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20), st.integers(-6, 6))
def test_a_distribution_counts_what_is_at_or_below(values, point):
    band = Band.distribution(np.array(values), np.array([point]))
    assert band.mean[0] == sum(value <= point for value in values) / len(values)
    assert 0 <= band.low[0] <= band.mean[0] <= band.high[0] <= 1


def test_a_result_has_distributions():
    problem = Sampling(4, model=LengthCorrectness(2.0, 1.0, 8.0, 0.3))
    result = sims.simulate(jax.random.key(0), problem, Margin(1), num_replicas=500)
    median = result.quantile("total_tokens", 0.5).mean
    band = result.distribution("total_tokens", np.array([0, median, 1e9]))
    assert band.mean[[0, 2]].tolist() == [0, 1]
    assert band.mean[1] == pytest.approx(0.5, abs=0.01)
    assert band.critical == pytest.approx(math.sqrt(2 * math.log(40)))
    for wrong in (0.0, 1.0):
        with pytest.raises(ValueError, match="confidence"):
            result.distribution("total_tokens", np.array([0]), wrong)
    with pytest.raises(ValueError, match="at least one"):
        Band.distribution(np.array([]), np.array([0.0]))
