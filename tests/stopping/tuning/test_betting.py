"""Betting: the capital, what its p-value and bound promise, and the floor."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from sims import Estimate
from stopping.tuning.betting import (
    SHARES,
    STAKES,
    bet,
    mean_interval,
    p_values,
    problems_floor,
    problems_used,
    upper_bounds,
)

LIMITS = (0.01, 0.02, 0.2)


def plain_capital(losses, limit):
    """The same in products, one loss after another."""
    parts, path = SHARES.tolist(), []
    for loss in losses:
        parts = [
            part * (1 + stake / (1 - limit) * (limit - loss))
            for part, stake in zip(parts, STAKES.tolist(), strict=True)
        ]
        path.append(sum(parts))
    return np.array(path)


def test_the_capital_is_what_plain_products_give():
    losses = np.random.default_rng(0).uniform(-1, 1, (3, 200)) * [[1], [0.1], [0.01]]
    losses[1, 50] = 1.0
    for limit in (*LIMITS, 0.9):
        expected = np.array([plain_capital(row, limit) for row in losses])
        goal = 0.9 * np.log(expected).max()
        found = bet(losses, limit, goal)
        np.testing.assert_allclose(found.log_capital, np.log(expected[:, -1]), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.log_most, np.log(expected.max(axis=1)), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(p_values(losses, limit), 1 / np.maximum(expected.max(axis=1), 1), rtol=1e-9)
        reached = np.log(expected) >= goal
        assert found.num_used.tolist() == np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, 201).tolist()


def test_shares_are_of_one_capital():
    assert math.isclose(SHARES.sum(), 1) and ((STAKES >= 0) & (STAKES <= 1)).all()


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("values", [(1.0, 0.0), (1.0, -1.0), (0.5, -0.25), (1.0, 0.0, -1.0)])
def test_at_the_limit_the_capital_is_fair(values, limit):
    """E C_t = 1 for any distribution with the limit as its mean: over all outcomes of seven losses."""
    high, *others = values
    rest = np.full(len(others), 1 / len(others))
    chance_high = (limit - rest @ others) / (high - rest @ others)
    chances = np.array([chance_high, *(1 - chance_high) * rest])
    assert math.isclose(chances @ values, limit)
    outcomes = list(itertools.product(range(len(values)), repeat=7))
    weight = np.array([chances[list(outcome)].prod() for outcome in outcomes])
    for num_losses in (1, 7):
        capital = np.exp(bet(np.array(values)[np.array(outcomes)][:, :num_losses], limit).log_capital)
        np.testing.assert_allclose(weight @ capital, 1, rtol=1e-12)


@pytest.mark.parametrize("risk", [0.05, 0.3])
def test_losses_at_the_limit_are_certified_no_more_often_than_promised(risk):
    """Over all outcomes of 14 losses that are 1 with chance .3: the limit cannot be ruled out more often than `risk`."""
    losses = np.array(list(itertools.product((0.0, 1.0), repeat=14)))
    weight = 0.3 ** losses.sum(axis=1) * 0.7 ** (14 - losses.sum(axis=1))
    ruled_out = weight @ (p_values(losses, 0.3) <= risk)
    assert 0 < ruled_out <= risk
    covered = weight @ (upper_bounds(losses, 1 - risk) >= 0.3)
    assert covered >= 1 - risk


def test_two_signed_losses_at_the_limit_in_simulation():
    uniform = np.random.default_rng(1).random((4000, 300))
    losses = (uniform < 0.07).astype(float) - ((uniform >= 0.07) & (uniform < 0.12))
    wrong = int((p_values(losses, 0.02) <= 0.05).sum())
    assert binom.sf(wrong - 1, 4000, 0.05) > 1e-4  # not significantly more than one in twenty
    assert wrong > 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=32), st.floats(0.001, 0.9), st.floats(0.001, 0.9))
def test_the_p_value_falls_with_the_limit_and_the_bound_is_where_it_crosses(losses, one, other):
    values = np.array(losses)
    low, high = sorted((one, other))
    assert p_values(values, high) <= p_values(values, low) * (1 + 1e-9)
    bound = float(upper_bounds(values, 0.95))
    assert bound == 1 or bound <= 0 or p_values(values, bound) <= 0.05  # a limit is above 0
    if bound > 2e-4:
        assert p_values(values, bound - 1.5e-4) > 0.05


def test_the_bound_is_close_to_the_exact_one_without_losses():
    """Clopper and Pearson's for no loss in n is 1 - alpha^(1 / n); the shares cost some of it."""
    for num_problems in (100, 400, 2000):
        exact = 1 - 0.05 ** (1 / num_problems)
        assert exact < upper_bounds(np.zeros(num_problems), 0.95) < 1.2 * exact + 1e-4


def test_the_floor_is_the_fewest_problems_without_a_loss():
    assert (problems_floor(0.02, 0.95), problems_floor(0.01, 0.95)) == (149, 299)
    for limit, risk in itertools.product((0.005, 0.02, 0.1), (0.01, 0.05, 0.1)):
        floor = problems_floor(limit, 1 - risk)
        assert (1 - limit) ** floor <= risk < (1 - limit) ** (floor - 1)


@pytest.mark.parametrize(("limit", "needed"), [(0.01, 327), (0.02, 163), (0.05, 64)])
def test_no_loss_is_certified_soon_after_the_floor(limit, needed):
    none = np.zeros(400)
    assert problems_used(none, limit, 0.95) == needed
    assert p_values(none[:needed], limit) <= 0.05 < p_values(none[: needed - 1], limit)
    assert problems_floor(limit, 0.95) < needed < 1.1 * problems_floor(limit, 0.95)


def test_a_certificate_reached_is_kept():
    losses = np.concatenate([np.zeros(200), np.ones(50)])
    assert problems_used(losses, 0.02, 0.95) == 163 and p_values(losses, 0.02) <= 0.05
    assert problems_used(losses[::-1], 0.02, 0.95) == 251


def test_members_do_not_meet():
    losses = np.random.default_rng(3).uniform(-1, 1, (2, 5, 40)) * 0.1
    limits = np.random.default_rng(4).uniform(0.01, 0.3, (2, 5))
    together, bounds = p_values(losses, limits), upper_bounds(losses, 0.9)
    for index in np.ndindex(2, 5):
        assert p_values(losses[index], limits[index]) == together[index]
        assert upper_bounds(losses[index], 0.9) == bounds[index]


def test_long_and_extreme_losses_neither_overflow_nor_vanish():
    losses = np.stack([np.full(20_000, -1.0), np.full(20_000, 1.0), np.full(20_000, 0.02)])
    capital = bet(losses, 0.02).log_capital
    assert np.isfinite(capital).all()
    assert p_values(losses, 0.02).tolist() == [0, 1, pytest.approx(1)]
    # a stake of 1 grows fastest there is: by 1 + 1.02 / 0.98 a loss of -1
    assert capital[0] == pytest.approx(20_000 * math.log(2 / 0.98) + math.log(SHARES[0]), rel=1e-12)


def test_what_cannot_be_is_refused():
    for losses in ([], [1.5], [math.nan]):
        with pytest.raises(ValueError, match="losses: expected numbers in"):
            p_values(np.array(losses), 0.02)
    for limit in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="max_mean: expected"):
            p_values(np.zeros(3), limit)
        with pytest.raises(ValueError, match="max_loss: expected"):
            problems_floor(limit, 0.95)
    with pytest.raises(ValueError, match="confidence: expected"):
        upper_bounds(np.zeros(3), 1.0)


def test_an_interval_has_a_width_where_nothing_changed():
    """Near the exact one of no event in n: with chance 1 - m, m = 1 - .025^(1/n), n problems have none."""
    for num_problems in (12, 20, 60, 200):
        low, high = mean_interval(np.zeros(num_problems))
        exact = 1 - 0.025 ** (1 / num_problems)
        assert low == -high and exact < high < 1.3 * exact


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([-1.0, -0.25, 0.0, 0.0, 0.0, 0.5, 1.0]), min_size=1, max_size=60))
def test_an_interval_holds_its_mean_and_mirrors(values):
    values = np.array(values)
    low, high = mean_interval(values)
    assert -1 <= low <= values.mean() <= high <= 1 and low < high
    assert mean_interval(-values) == pytest.approx((-high, -low), abs=1e-12)


@pytest.mark.parametrize("num_problems", [20, 60, 100, 200])
@pytest.mark.parametrize("discordance", [0.005, 0.02, 0.05, 0.1])
def test_intervals_cover_rare_losses(num_problems, discordance):
    """All changes are losses, the distribution that is hardest for an interval: exact coverage, from the binomial distribution.

    Normal intervals hold the mean in 10 % of cases at 20 problems and .005: they have no width where there is no loss.
    """
    counts = np.arange(num_problems + 1)
    chances = binom.pmf(counts, num_problems, discordance)
    random = np.random.default_rng(0)
    covered = 0.0
    for count in counts[chances > 1e-4]:
        losses = random.permutation(np.where(np.arange(num_problems) < count, -1.0, 0.0))
        low, high = mean_interval(losses)
        covered += chances[count] * (low <= -discordance <= high)
    assert covered >= 0.93


@pytest.mark.parametrize("value", [-1.0, -0.5, 0.25, 1.0])
def test_equal_changes_have_an_interval_with_a_width(value):
    """Fifteen values other than 0, but all the same: their variance is not known to be none."""
    for num_problems in (15, 100):
        low, high = mean_interval(np.full(num_problems, value))
        assert low <= value <= high and high - low > 0.01


def test_an_interval_of_many_changes_is_normal():
    values = np.where(np.arange(400) % 4 == 0, 1.0, np.where(np.arange(400) % 4 == 1, -1.0, 0.0))
    assert mean_interval(values) == Estimate.of(values).interval(0.95)
    with pytest.raises(ValueError, match=r"losses: expected numbers in \[-1, 1\]"):
        mean_interval(np.array([1.5]))
