"""Rules at equal cost: against mixtures by hand, against every mixture of two, and the error against simulation."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import sims
import stopping
from sims import Estimate, play_rules
from sims.comparison import at_equal_cost
from stopping.models import Answers, LengthCorrectness
from stopping.policies import FirstFinish, FixedSamples, Margin
from stopping.problems import Sampling

MODEL = LengthCorrectness(1.5, 1.0, effect=7.0, shift=0.3, answers=Answers(0.1, 1.0))
PROBLEM = Sampling(4, model=MODEL)


@pytest.fixture(scope="module")
def log():
    return PROBLEM.log(sims.draw(jax.random.key(0), PROBLEM, 300))


@pytest.fixture(scope="module")
def comparison(log):
    return stopping.compare(PROBLEM, [FixedSamples(1), FixedSamples(2), FirstFinish(1), Margin(2)], log)


def test_a_mixture_by_hand():
    fixed_correct = np.array([[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], float)  # the second is beaten by the first
    fixed_cost = np.array([[10, 10, 10, 10], [15, 15, 15, 15], [20, 20, 20, 20]], float)
    correct, cost = np.array([1, 1, 0, 1], float), np.array([14.0, 16, 15, 15])
    found = at_equal_cost(correct, cost, fixed_correct, fixed_cost)
    assert found.mean == pytest.approx(0.75 - (0.5 * 0.5 + 0.5 * 1))
    dear = at_equal_cost(correct, cost + 10, fixed_correct, fixed_cost)
    assert dear.mean == pytest.approx(0.75 - 1)  # nothing is better than the best, whatever it may cost
    assert at_equal_cost(correct, cost - 10, fixed_correct, fixed_cost) is None


def test_a_fixed_rule_that_no_mixture_beats_is_even_with_itself(comparison):
    rows = {row.policy: row for row in comparison.rows}
    for rule in (FixedSamples(1), FixedSamples(4)):
        assert all(gain == Estimate(0.0, 0.0, 300) for gain in rows[rule].at_equal.values())
    assert all(gain.mean <= 0 for gain in rows[FixedSamples(2)].at_equal.values())
    assert "latency_tokens" not in rows[FirstFinish(1)].at_equal  # the first of four is faster than any one


@given(arrays(float, (5, 8), elements=st.integers(0, 4)), arrays(float, (5, 8), elements=st.integers(1, 9)))
def test_no_mixture_of_two_fixed_rules_at_this_cost_is_more_accurate(correct, cost):
    found = at_equal_cost(correct[0], cost[0], correct[1:], cost[1:])
    x, y, goal = cost[1:].mean(axis=1), correct[1:].mean(axis=1), cost[0].mean()
    reached = [y[i] for i in range(4) if x[i] <= goal]
    for i, j in np.argwhere((x[:, None] <= goal) & (x > goal)):
        share = (goal - x[i]) / (x[j] - x[i])
        reached.append((1 - share) * y[i] + share * y[j])
    if not reached:
        assert found is None
    else:
        assert found.mean == pytest.approx(correct[0].mean() - max(reached), abs=1e-9)


def test_the_error_is_that_of_repeated_logs():
    """The mixture is fitted to each log, as on a user's log; 400 logs give a standard error to 3.5 %."""
    worlds = sims.draw(jax.random.key(1), PROBLEM, 400 * 200)
    rules = [Margin(2), *PROBLEM.fixed_rules(worlds)]
    played = play_rules(PROBLEM, rules, jax.tree.map(lambda leaf: leaf[:, None], worlds), ("correct", "total_tokens"))
    correct, tokens = (played[name][:, :, 0].reshape(5, 400, 200).astype(float) for name in ("correct", "total_tokens"))
    found = [
        at_equal_cost(c[0], t[0], c[1:], t[1:])
        for c, t in zip(*(x.swapaxes(0, 1) for x in (correct, tokens)), strict=True)
    ]
    spread = np.std([one.mean for one in found])
    assert np.mean([one.standard_error for one in found]) == pytest.approx(spread, rel=0.15)


def test_the_paired_difference_is_sharper_than_its_parts(comparison):
    row = next(row for row in comparison.rows if row.policy == Margin(2))
    assert row.at_equal["total_tokens"].standard_error < 0.7 * row.result.correct.standard_error


def test_what_cannot_be_followed_is_not_compared_at_equal_cost(log):
    rows = stopping.compare(
        PROBLEM, [FixedSamples(4), FixedSamples(2)], log.take_samples(range(3)), reference=FixedSamples(3)
    ).rows
    assert [len(row.at_equal) for row in rows] == [2, 0, 2]


def test_its_text_has_a_line_a_rule(comparison):
    first, *lines = repr(comparison).splitlines()
    assert first == "Comparison of 5 rules, the first is the reference:" and len(lines) == 5
    margin = next(row for row in comparison.rows if row.policy == Margin(2))
    assert f"Margin(2)        correct {margin.result.correct}, total_tokens {margin.result.total_tokens}" in lines[4]
