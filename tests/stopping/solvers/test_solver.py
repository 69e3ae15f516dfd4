"""The best rule of each family, its score, and the bounds above it."""

from itertools import pairwise

import jax
import numpy as np
import pytest

import sims
from sims.engine import BLOCK
from stopping.models import Answers, LengthCorrectness
from stopping.policies import FixedSamples
from stopping.problems import Sampling
from stopping.solvers import FamilySearch, Status, clairvoyant, reachable, sampling_families, solve
from stopping.solvers.family_search import utilities

MODEL = LengthCorrectness(
    [2.0, 1.0], [1.0, 2.0], [8.0, 8.5], [0.3, 0.2],
    shift=0.3, scale_right=0.4, scale_wrong=0.6, loop_prob=0.1, no_answer_prob=0.1, cap_tokens=8000.0,
    answers=Answers(0.2, 0.5),
)  # fmt: skip
PROBLEM = Sampling(6, model=MODEL, price_per_token=2e-6, price_per_second=1e-4)


@pytest.fixture(scope="module")
def solution():
    return solve(PROBLEM, FamilySearch(2 * BLOCK), key=jax.random.key(0))


def test_bounds_are_in_order(solution):
    noise = 4 * solution.value.standard_error
    assert solution.value.mean <= solution.upper_bound.mean + noise
    assert solution.upper_bound.mean <= solution.clairvoyant.mean + noise
    for member in solution.family.values():
        assert member.value.mean <= solution.upper_bound.mean + noise


def test_the_returned_rule_is_an_adaptive_one_that_gains(solution):
    assert solution.status is Status.ADAPTIVE
    assert not isinstance(solution.policy, FixedSamples)
    chosen = solution.family[type(solution.policy).__name__]
    assert chosen.policy == solution.policy
    assert chosen.gain.mean > 0
    assert solution.best_fixed.gain.mean == 0


def test_the_score_is_met_by_fresh_simulation(solution):
    fresh = sims.simulate(jax.random.key(9), PROBLEM, solution.policy, num_replicas=4 * BLOCK)
    gap = np.hypot(fresh.utility.standard_error, solution.value.standard_error)
    assert abs(fresh.utility.mean - solution.value.mean) < 4.5 * gap


def test_when_waiting_is_free_all_are_sampled_and_the_fixed_rule_stays():
    free = Sampling(4, model=LengthCorrectness(3.0, 1.0, answers=Answers(0.0, 1.0)))
    found = solve(free, FamilySearch(BLOCK), key=jax.random.key(1))
    assert found.status is Status.FIXED
    assert found.policy == FixedSamples(4)
    assert found.upper_bound.mean >= found.value.mean - 4 * found.value.standard_error  # the vote is optimal here


def test_when_tokens_are_dear_one_sample_is_enough():
    dear = Sampling(4, model=LengthCorrectness(3.0, 1.0), price_per_token=1e-3)
    found = solve(dear, FamilySearch(BLOCK), key=jax.random.key(1))
    assert found.best_fixed.policy == FixedSamples(1)


def test_a_family_is_searched_exactly():
    worlds = sims.draw(jax.random.key(0), PROBLEM, 1000)
    for name, policies in sampling_families(PROBLEM, worlds).items():
        together = utilities(PROBLEM, policies, worlds)
        assert together.shape == (len(policies), 1000)
        for index in (0, len(policies) - 1):
            alone = sims.simulate(jax.random.key(0), PROBLEM, policies[index], num_replicas=1000)
            # one program maps over the family, the other does not: equal but for rounding
            np.testing.assert_allclose(together[index], alone.values["utility"], atol=2e-6, err_msg=name)


def test_the_reachable_bound_is_exact_with_one_trace():
    """With a single trace there is nothing to know: the bound is the value of running it."""
    one = Sampling(1, model=MODEL, price_per_token=1e-6)
    worlds = sims.draw(jax.random.key(3), one, 4 * BLOCK)
    played = sims.replay_worlds(one, FixedSamples(1), jax.tree.map(lambda leaf: leaf[:, None], worlds)).utility
    bound = reachable(one, worlds)
    assert abs(bound.mean - played.mean) < 4.5 * played.standard_error
    assert clairvoyant(one, worlds).mean == pytest.approx(played.mean, abs=1e-9)


def test_more_traces_raise_the_bounds():
    values = []
    for num_traces in (1, 2, 4):
        problem = Sampling(num_traces, model=MODEL, price_per_token=1e-6)
        values.append(reachable(problem, sims.draw(jax.random.key(5), problem, 4 * BLOCK)))
    assert all(b.mean > a.mean + 4 * a.standard_error for a, b in pairwise(values))


def test_no_model_no_solution():
    with pytest.raises(ValueError, match="expected a model"):
        solve(Sampling(4))
