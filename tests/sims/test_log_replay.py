"""Replay: the unit is the problem, orders are averaged, and estimates agree with a log's exact average."""

import dataclasses
import itertools
from math import comb

import jax
import numpy as np
import pytest

import sims
import stopping
from sims.engine import digest_block
from stopping.models import LengthCorrectness
from stopping.policies import NO_ANSWER, FirstFinish, FixedSamples, Margin, TokenBudget, VoteTable
from stopping.problems import Sampling, SamplingWorld
from stopping.traces import Reference, from_columns
from stopping.traces.answers import NOT_LOGGED

MODEL = LengthCorrectness([2.0, 1.0], [1.0, 2.0], shift=0.3)


@pytest.fixture(scope="module")
def log():
    source = Sampling(8, model=MODEL)
    return source.log(sims.draw(jax.random.key(7), source, 150))


def test_the_unit_is_the_problem(log):
    result = sims.replay(Sampling(8), FirstFinish(1), log, num_orders=7)
    assert result.utility.num_independent == 150
    once = sims.replay(Sampling(8), FirstFinish(1), log)
    # with all eight at once the order only breaks ties in length
    assert np.mean(once.values["latency_tokens"] == result.values["latency_tokens"]) == 1


def test_first_finish_of_n_among_m_logged(log):
    """The k-th shortest of m is the least of n drawn without replacement with probability C(m-1-k, n-1) / C(m, n)."""
    m, n = 8, 3
    weight = np.array([comb(m - 1 - k, n - 1) / comb(m, n) for k in range(m)])
    exact = (np.sort(log.length_tokens, axis=1) @ weight).mean()
    result = sims.replay(Sampling(n), FirstFinish(1), log, num_orders=400, seed=1)
    # conditional on the log, only the choice of orders is random: compare with the error of that alone
    spread = sims.replay(Sampling(n), FirstFinish(1), log, num_orders=400, seed=2)
    gap = np.std(result.values["latency_tokens"] - spread.values["latency_tokens"]) / np.sqrt(2 * 150)
    assert abs(result.latency_tokens.mean - exact) < 4.5 * gap


def test_orders_average_to_all_subsets(log):
    few = log.take(range(12))
    result = sims.replay(Sampling(2), FixedSamples(2), few, num_orders=2000, seed=0)
    tokens = [
        [few.length_tokens[p, list(pair)].sum() for pair in itertools.combinations(range(8), 2)] for p in range(12)
    ]
    spread = np.std(tokens, axis=1) / np.sqrt(2000)
    assert (abs(result.values["total_tokens"] - np.mean(tokens, axis=1)) < 5 * spread).all()


def test_compare_is_paired_with_the_reference_first(log):
    rules = [FirstFinish(1), Margin(2), VoteTable.cannot_be_caught(8)]
    table = stopping.compare(Sampling(8), rules, log)
    assert [row.policy for row in table.rows] == [FixedSamples(8), *rules]
    assert len({row.result.digest for row in table.rows}) == 1
    assert table.rows[0].against_reference["correct"] == sims.Estimate(0.0, 0.0, 150)
    sure = table.rows[3].against_reference
    assert (sure["correct"].mean, sure["correct"].standard_error) == (0, 0)
    assert sure["total_tokens"].mean < 0
    own = stopping.compare(Sampling(8), rules, log, reference=FixedSamples(1))
    assert own.rows[0].policy == FixedSamples(1)
    assert own.rows[0].result.num_launched.mean == 1


def test_too_short_a_log_is_counted_not_dropped(log):
    result = sims.replay(Sampling(12), FixedSamples(12), log)
    assert result.num_unsupported == 150
    assert (result.correct.mean, result.at_most(correct=1).correct.mean) == (0, 1)


@pytest.mark.parametrize(
    ("reference", "rule"),
    [("single", FixedSamples(1)), ("majority@4", FixedSamples(4)), ("majority@8", FixedSamples(8)),
     ("budget=500", TokenBudget(500)), ("logged", FixedSamples(8))],
)  # fmt: skip
def test_the_reference_is_the_logs_own(log, reference, rule):
    stated = dataclasses.replace(log, reference=Reference.parse(reference))
    assert Sampling(8).reference_rule(stated) == rule
    assert stopping.compare(Sampling(8), [Margin(2)], stated).rows[0].policy == rule


def test_a_reference_of_more_samples_than_the_log_has_is_refused(log):
    stated = dataclasses.replace(log, reference=Reference("majority", 99))
    for num_traces in (4, 8, 99):
        with pytest.raises(ValueError, match="reference majority@99: expected at most the log's 8 samples, got 99"):
            Sampling(num_traces).reference_rule(stated)
    assert Sampling(4).reference_rule(log) == FixedSamples(4)  # fewer were asked for here


def test_without_named_answers_the_reference_is_one_sample():
    unnamed = from_columns({"problem": ["p", "p"], "length_tokens": [5, 6], "correct": [True, False]})
    assert Sampling(2).reference_rule(unnamed) == FixedSamples(1)


def test_compare_refuses_a_reference_the_log_is_too_short_for(log):
    with pytest.raises(ValueError, match=r"fewer in 100.0% of the problems; the fewest is 8"):
        stopping.compare(Sampling(12), [FirstFinish(1)], log, reference=FixedSamples(12))


def test_bounds_hold_order_by_order():
    """Two orders, one supported and wrong, one unsupported after a right answer: between 0 and a half."""
    worlds = SamplingWorld(
        length_tokens=np.array([[[5, 5], [5, 5]]], np.int32), right=np.array([[[False, False], [True, True]]]),
        answer=np.array([[[0, 0], [0, 0]]], np.int32), logged=np.array([[[True, True], [True, False]]]),
        problem=np.zeros((1, 2), np.int32),
    )  # fmt: skip
    result = sims.replay_worlds(Sampling(2, wave_size=1), Margin(2), worlds)
    most = result.at_most(correct=1, total_tokens=2 * 7)
    assert (result.num_unsupported, most.num_unsupported) == (0.5, 0)
    assert (result.correct.mean, most.correct.mean) == (0.0, 0.5)
    assert (result.total_tokens.mean, most.total_tokens.mean) == ((10 + 5) / 2, (10 + 5 + 14) / 2)


@pytest.mark.parametrize("rule", [Margin(2), FixedSamples(4)], ids=str)
@pytest.mark.parametrize("settings", [{}, {"wave_size": 2, "decision_interval_tokens": 900}, {"wave_size": 1}], ids=str)
def test_what_a_cut_log_gives_bounds_what_the_whole_one_gives(log, rule, settings):
    """Every problem loses some samples; unit by unit, the truth lies between the bounds."""
    problem = Sampling(8, lag_tokens=50, **settings)
    whole = problem.worlds(log)
    num_logged = np.random.default_rng(0).integers(1, 9, log.num_problems)
    cut = whole._replace(logged=np.arange(8) < num_logged[:, None, None])
    truth, known = (sims.replay_worlds(problem, rule, worlds) for worlds in (whole, cut))
    longest = 8 * int(log.length_tokens.max())
    most = known.at_most(correct=1, total_tokens=longest, latency_tokens=longest, num_launched=8, utility=1)
    assert 0 < known.num_unsupported < 150
    for name in ("correct", "total_tokens", "latency_tokens", "num_launched"):
        assert (known.values[name] <= truth.values[name]).all()
        assert (truth.values[name] <= most.values[name]).all()
    if settings.get("wave_size") == 1:  # then something was spent before the log ended
        assert (known.values["total_tokens"] > 0).all()
    same = known.values["unsupported"] == 0
    assert all((known.values[name] == truth.values[name])[same].all() for name in truth.values)


def test_names_that_are_missing_bound_from_where_they_matter(log):
    """Without answer names a lead is unknown: the cost until the second answer is a lower bound."""
    problem = Sampling(8)
    named = problem.worlds(log)
    unnamed = named._replace(answer=np.where(np.asarray(named.answer) == NO_ANSWER, NO_ANSWER, NOT_LOGGED))
    for rule in (FirstFinish(2), Margin(2), FixedSamples(8)):
        truth, known = (sims.replay_worlds(problem, rule, worlds) for worlds in (named, unnamed))
        for name in ("correct", "total_tokens", "latency_tokens"):
            assert (known.values[name] <= truth.values[name]).all(), (rule, name)
        assert (known.values["answer"][known.values["unsupported"] == 1] == NO_ANSWER).all()


def test_the_digest_tells_apart_what_only_double_precision_does():
    worlds = {"x": np.array([[1.0], [2.0]]), "n": np.array([3, 2**40]), "b": np.array([True, False])}
    near = worlds | {"x": np.array([[1.0 + 1e-12], [2.0]])}
    with jax.enable_x64(True):
        one, other, far = (digest_block(each, 0) for each in (worlds, near, worlds | {"n": np.array([3, 2**41])}))
        assert one.shape == (2, 2)
        assert (one[:, 0] != other[:, 0]).all() and (one[:, 1] == other[:, 1]).all()
        assert (one[:, 0] == far[:, 0]).all() and (one[:, 1] != far[:, 1]).all()


@pytest.mark.parametrize("num_orders", [0, -1, 1.5, True])
def test_the_number_of_orders_is_a_count(log, num_orders):
    for run in (lambda **given: sims.replay(Sampling(8), FirstFinish(1), log, **given),
                lambda **given: stopping.compare(Sampling(8), [FirstFinish(1)], log, **given)):  # fmt: skip
        with pytest.raises(ValueError, match="num_orders: expected a whole number >= 1"):
            run(num_orders=num_orders)
