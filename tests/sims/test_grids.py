"""A grid's figures equal those of `simulate`, its intervals hold simultaneously, and a search finds the best rule."""

import jax
import numpy as np
import pytest
from scipy.stats import binom, norm

import sims
from sims.bands import Band, critical_value
from sims.engine import BLOCK, play_blocks
from stopping.models import AnswerChain
from stopping.policies import AnswerAgreement, Margin, TokenBudget
from stopping.problems import PolicyMismatch, Thinking
from tests.helpers import sized

CHAIN = AnswerChain(
    0.2, 0.3, 0.05, 0.1, right_log_prob=-0.3, wrong_log_prob=-0.9, log_prob_scale=0.3, num_points=4, gap_tokens=32
)
PROBLEM = Thinking(model=CHAIN, price_per_token=1e-3)
BUDGETS = [TokenBudget(tokens) for tokens in (32, 64, 96, 200)]
RULES = [BUDGETS[0], AnswerAgreement(2, 32), *BUDGETS[1:], AnswerAgreement(1, 64)]
PRICES = (1e-4, 1e-3, 4e-3)


def test_the_grid_is_what_simulate_gives_rule_by_rule():
    key, count = jax.random.key(3), BLOCK + 500
    grid = sims.sweep(key, [PROBLEM.priced(price) for price in PRICES], RULES, num_replicas=count, baseline=1)
    assert grid.count == count
    for row, price in enumerate(PRICES):
        alone = [sims.simulate(key, PROBLEM.priced(price), rule, num_replicas=count) for rule in RULES]
        for column, result in enumerate(alone):
            for name in ("utility", "correct", "total_tokens", "latency_tokens"):
                found, exact = grid.estimate(name, column, row), result.estimates[name]
                assert found.mean == pytest.approx(exact.mean, rel=1e-5, abs=1e-6)
                assert found.standard_error == pytest.approx(exact.standard_error, rel=1e-4, abs=1e-6)  # float32
            paired = sims.difference(result, alone[1])["utility"]
            band = grid.differences[row]
            assert band.mean[column] == pytest.approx(paired.mean, abs=2e-6)
            assert band.standard_error[column] == pytest.approx(paired.standard_error, rel=1e-3, abs=1e-6)
            half = band.critical * paired.standard_error
            assert band.high[column] - paired.mean == pytest.approx(half, rel=1e-3, abs=1e-5)
            assert paired.mean - band.low[column] == pytest.approx(half, rel=1e-3, abs=1e-5)
        assert band.low[1] == band.high[1] == 0.0  # the baseline itself
        assert grid.best(row) == max(zip(alone, RULES, strict=True), key=lambda pair: pair[0].utility.mean)[1]
    assert 1.96 < band.critical < norm.ppf(1 - 0.025 / (len(PRICES) * (len(RULES) - 1))) + 0.05
    assert "6 policies at 3 prices" in repr(grid)


def test_a_class_is_compiled_once_for_all_prices_and_parameters():
    sims.sweep(jax.random.key(0), PROBLEM, BUDGETS, num_replicas=10)
    before = play_blocks._cached._cache_size()
    sims.sweep(jax.random.key(1), [PROBLEM.priced(p) for p in PRICES], BUDGETS[::-1], num_replicas=BLOCK + 1)
    assert play_blocks._cached._cache_size() == before


def test_a_grid_that_makes_no_sense_is_refused():
    key, few = jax.random.key(0), {"num_replicas": 10}
    with pytest.raises(ValueError, match="expected at least one"):
        sims.sweep(key, PROBLEM, [], **few)
    with pytest.raises(ValueError, match="baseline"):
        sims.sweep(key, PROBLEM, RULES, baseline=6, **few)
    with pytest.raises(PolicyMismatch):
        sims.sweep(key, PROBLEM, [Margin(2)], **few)
    other = AnswerChain(0.3, 0.3, 0.05, num_points=4)
    with pytest.raises(ValueError, match="expected the same worlds of all, got 2 different draws"):
        sims.sweep(key, [PROBLEM, Thinking(model=other)], RULES, **few)


def test_a_search_finds_the_best_and_scores_it_on_new_worlds():
    budgets = [TokenBudget(32 * tokens) for tokens in (1, 2, 3, 4, 8)]
    grid = sims.sweep(jax.random.key(5), PROBLEM, budgets, num_replicas=16 * BLOCK)
    found = sims.search(jax.random.key(0), PROBLEM, budgets, num_replicas=BLOCK, baseline=0)
    assert [(each.num_policies, each.num_replicas // BLOCK) for each in found.rounds] == [(5, 1), (3, 2), (2, 4)]
    best = int(np.argmax(grid.mean["utility"][0]))
    gap = grid.mean["utility"][0][best] - grid.mean["utility"][0][budgets.index(found.policy)]
    assert gap < 0.01
    known = grid.estimate("utility", budgets.index(found.policy))
    assert abs(found.utility.mean - known.mean) < 4.5 * np.hypot(found.utility.standard_error, known.standard_error)
    assert found.gain.mean > 4 * found.gain.standard_error
    alone = sims.search(jax.random.key(0), PROBLEM, budgets[:1], num_replicas=10)
    assert alone.policy == budgets[0]
    assert alone.gain.mean == 0.0


@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_bands_hold_everywhere_at_once(correlation):
    """Over many samples of 20 correlated means, the 90 % band covers simultaneously; pointwise intervals undercover by far."""
    random, num_samples, held, alone = np.random.default_rng(2), sized(150, 300), 0, 0
    for _ in range(num_samples):
        shared = random.normal(size=(400, 1))
        values = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * random.normal(size=(400, 20))
        band = Band.of(values, 0.9)
        held += bool(((band.low <= 0) & (band.high >= 0)).all())
        alone += bool((np.abs(band.mean) <= norm.ppf(0.95) * band.standard_error).all())
    low, high = binom.ppf([1e-4, 1 - 1e-4], num_samples, 0.9)
    assert low - 6 <= held <= high + 6  # t with 400 units, and a critical value known to .02
    assert alone < low


def test_a_critical_value_of_one_point_is_the_normal_one_and_of_many_is_bounded_by_bonferroni():
    values = np.random.default_rng(0).normal(size=(3000, 50))
    assert critical_value(values[:, :1], 0.95) == pytest.approx(norm.ppf(0.975), abs=0.06)
    assert critical_value(values, 0.95) == pytest.approx(norm.ppf((1 + 0.95 ** (1 / 50)) / 2), abs=0.08)
    assert critical_value(np.repeat(values[:, :1], 50, axis=1), 0.95) == pytest.approx(norm.ppf(0.975), abs=0.06)
    assert critical_value(np.ones((100, 3)), 0.95) == 0.0
    with pytest.raises(ValueError, match="confidence"):
        critical_value(values, 1.0)
    with pytest.raises(ValueError, match="values"):
        Band.of(np.ones(5))
