"""Replay: the unit is the problem, orders are averaged, and a log's exact average is met."""

import dataclasses
import itertools
from math import comb

import jax
import numpy as np
import pytest

import sims
from stopping.models import LengthCorrectness
from stopping.policies import FirstFinish, FixedSamples, Margin, TokenBudget, VoteTable
from stopping.problems import Sampling, SamplingWorld
from stopping.traces import from_columns

MODEL = LengthCorrectness([2.0, 1.0], [1.0, 2.0], shift=0.3)


@pytest.fixture(scope="module")
def log():
    source = Sampling(MODEL, 8)
    return source.log(sims.draw(jax.random.key(7), source, 150))


def test_the_unit_is_the_problem(log):
    result = sims.replay(Sampling(None, 8), FirstFinish(1), log, num_orders=7)
    assert result.utility.num_independent == 150
    once = sims.replay(Sampling(None, 8), FirstFinish(1), log)
    # with all eight at once the order only breaks ties in length
    assert np.mean(once.values["latency_tokens"] == result.values["latency_tokens"]) == 1


def test_first_finish_of_n_among_m_logged(log):
    """The k-th shortest of m is the least of n drawn without replacement with probability C(m-1-k, n-1) / C(m, n)."""
    m, n = 8, 3
    weight = np.array([comb(m - 1 - k, n - 1) / comb(m, n) for k in range(m)])
    exact = (np.sort(log.length_tokens, axis=1) @ weight).mean()
    result = sims.replay(Sampling(None, n), FirstFinish(1), log, num_orders=400, seed=1)
    # conditional on the log, only the choice of orders is random: compare with the error of that alone
    spread = sims.replay(Sampling(None, n), FirstFinish(1), log, num_orders=400, seed=2)
    gap = np.std(result.values["latency_tokens"] - spread.values["latency_tokens"]) / np.sqrt(2 * 150)
    assert abs(result.latency_tokens.mean - exact) < 4.5 * gap


def test_orders_average_to_all_subsets(log):
    few = log.take(range(12))
    result = sims.replay(Sampling(None, 2), FixedSamples(2), few, num_orders=2000, seed=0)
    tokens = [
        [few.length_tokens[p, list(pair)].sum() for pair in itertools.combinations(range(8), 2)] for p in range(12)
    ]
    spread = np.std(tokens, axis=1) / np.sqrt(2000)
    assert (abs(result.values["total_tokens"] - np.mean(tokens, axis=1)) < 5 * spread).all()


def test_compare_is_paired_with_the_reference_first(log):
    rules = [FirstFinish(1), Margin(2), VoteTable.cannot_be_caught(8)]
    table = sims.compare(Sampling(None, 8), log, rules)
    assert [row.policy for row in table.rows] == [FixedSamples(8), *rules]
    assert len({row.result.digest for row in table.rows}) == 1
    assert table.rows[0].against_reference["correct"] == sims.Estimate(0.0, 0.0, 150)
    sure = table.rows[3].against_reference
    assert (sure["correct"].mean, sure["correct"].standard_error) == (0, 0)
    assert sure["total_tokens"].mean < 0
    own = sims.compare(Sampling(None, 8), log, rules, reference=FixedSamples(1))
    assert own.rows[0].policy == FixedSamples(1)
    assert own.rows[0].result.num_launched.mean == 1


def test_too_short_a_log_is_counted_not_dropped(log):
    result = sims.replay(Sampling(None, 12), FixedSamples(12), log)
    assert result.num_unsupported == 150
    low, high = result.bounds("correct", 0, 1)
    assert (low.mean, high.mean) == (0, 1)


@pytest.mark.parametrize(
    ("reference", "rule"),
    [("single", FixedSamples(1)), ("majority@4", FixedSamples(4)), ("majority@99", FixedSamples(8)),
     ("budget=500", TokenBudget(500)), ("logged", FixedSamples(8))],
)  # fmt: skip
def test_the_reference_is_the_logs_own(log, reference, rule):
    stated = dataclasses.replace(log, reference=reference)
    assert sims.reference_rule(Sampling(None, 8), stated) == rule
    assert sims.compare(Sampling(None, 8), stated, [Margin(2)]).rows[0].policy == rule


def test_without_named_answers_the_reference_is_one_sample():
    unnamed = from_columns({"problem": ["p", "p"], "length_tokens": [5, 6], "correct": [True, False]})
    assert sims.reference_rule(Sampling(None, 2), unnamed) == FixedSamples(1)


def test_compare_refuses_a_reference_the_log_is_too_short_for(log):
    with pytest.raises(ValueError, match=r"fewer in 100.0% of the problems; the fewest is 8"):
        sims.compare(Sampling(None, 12), log, [FirstFinish(1)], reference=FixedSamples(12))


def test_bounds_hold_order_by_order():
    """Two orders, one supported and wrong, one unsupported and right: between 0 and a half."""
    worlds = SamplingWorld(
        length_tokens=np.array([[[5, 5], [5, 5]]], np.int32), right=np.array([[[False, False], [True, True]]]),
        answer=np.array([[[0, 0], [0, 0]]], np.int32), logged=np.array([[[True, True], [True, False]]]),
        problem=np.zeros((1, 2), np.int32),
    )  # fmt: skip
    result = sims.replay_worlds(Sampling(None, 2, wave_size=1), Margin(2), worlds)
    low, high = result.bounds("correct", 0, 1)
    assert (result.correct.mean, low.mean, high.mean) == (0.5, 0.0, 0.5)
