"""Stopping along a chain: one step ahead, backward induction, every stop tried, and simulation."""

import jax
import numpy as np
import pytest

import sims
from stopping.models import AnswerChain
from stopping.policies import TokenBudget
from stopping.problems import Thinking
from stopping.solvers import induced_point, one_step_point


def chains(count, seed=0):
    random = np.random.default_rng(seed)
    for _ in range(count):
        repair, broken = random.dirichlet([1, 1, 2])[:2]
        yield (
            AnswerChain(random.random(), repair, broken, random.random() * 0.5, num_points=12),
            10 ** random.uniform(-5, -1),
        )


def tried(model, price):
    """What stopping at each point is worth, thoughts that close before included: by the chain, not its closed form."""
    right, running, before, values = float(model.first_right_prob), 1.0, 0.0, []
    for point in range(1, model.num_points + 1):
        stopped = right - price * (point * model.gap_tokens + model.answer_tokens)
        values.append(before + running * stopped)
        before += running * float(model.close_prob) * stopped
        running *= 1 - float(model.close_prob)
        right = right * (1 - float(model.break_prob)) + (1 - right) * float(model.repair_prob)
    return np.array(values)


def test_one_step_ahead_is_backward_induction_is_the_best_of_all():
    numbers = []
    for model, price in chains(200):
        problem = Thinking(model=model, price_per_token=price)
        point, value = induced_point(problem)
        values = tried(model, float(problem.price_per_token))
        assert one_step_point(problem) == point
        assert value == pytest.approx(values.max(), abs=1e-9) and values[point - 1] == pytest.approx(
            values.max(), abs=1e-9
        )
        numbers.append(point)
    assert {1, 12} < set(numbers) and len(set(numbers)) > 5


def test_chains_that_swing_need_induction():
    swinging = AnswerChain(0.9, 0.9, 0.8, num_points=12)  # right, then mostly wrong, then right again
    with pytest.raises(ValueError, match="expected repair_prob \\+ break_prob <= 1"):
        one_step_point(Thinking(model=swinging, price_per_token=1e-3))
    low = AnswerChain(0.1, 0.9, 0.8, num_points=12)
    point, value = induced_point(Thinking(model=low, price_per_token=1e-4))
    assert point == 2 and value == pytest.approx(tried(low, 1e-4).max(), abs=1e-7)
    for search in (induced_point, one_step_point):
        with pytest.raises(ValueError, match="model: expected a chain of answers, got None"):
            search(Thinking())


def test_its_value_is_that_of_the_budget_in_simulation():
    model, price = AnswerChain(0.2, 0.25, 0.05, 0.1, num_points=12), 1e-3
    problem = Thinking(model=model, price_per_token=price)
    point, value = induced_point(problem)
    results = {
        k: sims.simulate(jax.random.key(0), problem, TokenBudget(k * model.gap_tokens), num_replicas=20_000).utility
        for k in (point - 1, point, point + 1)
    }
    assert abs(results[point].mean - value) < 4.5 * results[point].standard_error
    assert all(result.mean < value + 4.5 * result.standard_error for result in results.values())
