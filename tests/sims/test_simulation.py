"""Contract C6 and contract C3: the same bits for any chunk size, and replay of drawn worlds equals simulation."""

import jax
import numpy as np
import pytest

import sims
import stopping
from sims.engine import BLOCK, draw_blocks, play_blocks
from stopping.makespan import first_finish_curve, majority_curve
from stopping.models import Answers, LengthCorrectness
from stopping.policies import FirstFinish, FixedSamples, Margin, TokenBudget, UnanimousWindow, VoteTable
from stopping.problems import PolicyMismatch, Sampling
from tests.stopping.policies.own_policies import ReadsTemperature

MODEL = LengthCorrectness(
    [2.0, 1.0, 0.4], [1.0, 2.0, 0.3], [8.0, 8.5, 7.5], [0.3, 0.2, 0.1],
    shift=0.3, scale_right=0.4, scale_wrong=0.6, loop_prob=0.1, no_answer_prob=0.1, cap_tokens=8000.0,
    answers=Answers(0.2, 0.5),
)  # fmt: skip
PROBLEM = Sampling(8, model=MODEL, price_per_token=2e-6, price_per_second=1e-4)
RULES = [
    FirstFinish(1), FixedSamples(5), Margin(2), VoteTable.adaptive_consistency(0.9, 8),
    UnanimousWindow(3), TokenBudget(3000),
]  # fmt: skip


def same(a: sims.Result, b: sims.Result) -> bool:
    return a.digest == b.digest and all(np.array_equal(a.values[name], b.values[name]) for name in a.values)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("settings", [{}, {"wave_size": 3, "decision_interval_tokens": 700}], ids=str)
def test_replay_of_drawn_worlds_is_simulation_to_the_last_bit(rule, settings):
    problem, key, count = Sampling(8, model=MODEL, price_per_token=2e-6, **settings), jax.random.key(3), BLOCK + 1000
    log = problem.log(sims.draw(key, problem, count))
    assert log.num_problems == count
    assert same(sims.replay(problem, rule, log), sims.simulate(key, problem, rule, num_replicas=count))


def test_the_chunk_does_not_matter():
    results = [
        sims.simulate(jax.random.key(1), PROBLEM, Margin(2), num_replicas=3 * BLOCK - 5, chunk_blocks=chunk)
        for chunk in (1, 2, 5)
    ]
    assert same(results[0], results[1])
    assert same(results[0], results[2])
    fewer = sims.simulate(jax.random.key(1), PROBLEM, Margin(2), num_replicas=BLOCK + 7)
    np.testing.assert_array_equal(fewer.values["utility"], results[0].values["utility"][: BLOCK + 7])


def test_worlds_hang_on_the_key_alone():
    digests = {
        (seed, str(rule)): sims.simulate(jax.random.key(seed), PROBLEM, rule, num_replicas=500).digest
        for seed in (0, 1)
        for rule in RULES[:3]
    }
    assert len({digests[0, str(rule)] for rule in RULES[:3]}) == 1
    assert digests[0, str(RULES[0])] != digests[1, str(RULES[0])]


def test_agrees_with_the_closed_forms():
    first = sims.simulate(jax.random.key(5), PROBLEM, FirstFinish(1), num_replicas=10 * BLOCK)
    curve = first_finish_curve(MODEL, (8,))
    for estimate, exact in zip(
        (first.correct, first.latency_tokens, first.total_tokens),
        (values[:, 0].mean() for values in curve),
        strict=True,
    ):
        assert abs(estimate.mean - exact) < 4.5 * estimate.standard_error
    full = sims.simulate(jax.random.key(5), PROBLEM, FixedSamples(8), num_replicas=10 * BLOCK)
    curve = majority_curve(MODEL, (8,))
    assert abs(full.total_tokens.mean - curve.total_tokens.mean()) < 4.5 * full.total_tokens.standard_error
    assert abs(full.latency_tokens.mean - curve.latency_tokens.mean()) < 4.5 * full.latency_tokens.standard_error


@pytest.mark.parametrize(
    "model", [MODEL, LengthCorrectness(2.0, 1.0, shift=-0.3, scale_wrong=0.9)], ids=["capped", "plain"]
)
def test_order_statistics_give_the_first_finish_curve(model):
    drawn = sims.first_finish(jax.random.key(2), model, 8, num_replicas=40 * BLOCK)
    exact = first_finish_curve(model, (8,))
    assert abs(drawn.correct.mean - exact.accuracy.mean()) < 4.5 * drawn.correct.standard_error
    played = sims.simulate(jax.random.key(4), Sampling(8, model=model), FirstFinish(1), num_replicas=10 * BLOCK)
    answered = played.values["answer"] >= 0
    latency = sims.Estimate.of(np.where(answered, played.values["latency_tokens"], 0))
    gap = np.hypot(latency.standard_error, drawn.latency_tokens.standard_error)
    assert abs(latency.mean - drawn.latency_tokens.mean) < 4.5 * gap
    assert (
        abs(answered.mean() - drawn.answered.mean)
        < 4.5 * np.hypot(drawn.answered.standard_error, sims.Estimate.of(answered).standard_error) + 1e-12
    )


def test_precision_on_demand():
    loose = sims.simulate(jax.random.key(0), PROBLEM, Margin(2), standard_error=0.01)
    tight = sims.simulate(jax.random.key(0), PROBLEM, Margin(2), standard_error=0.003)
    assert loose.utility.num_independent == BLOCK
    assert tight.utility.standard_error <= 0.003
    assert tight.utility.num_independent in {BLOCK * 2**k for k in range(1, 8)}


def test_one_program_for_all_values_of_a_rule():
    problem = Sampling(7, model=MODEL)
    sims.simulate(jax.random.key(0), problem, Margin(1), num_replicas=10)
    before = draw_blocks._cached._cache_size(), play_blocks._cached._cache_size()
    for votes in (2, 3):
        sims.simulate(jax.random.key(votes), problem, Margin(votes), num_replicas=2 * BLOCK)
        sims.simulate(
            jax.random.key(votes), Sampling(7, model=MODEL, price_per_token=1e-6), Margin(votes), num_replicas=10
        )
    assert (draw_blocks._cached._cache_size(), play_blocks._cached._cache_size()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_replicas": 10, "standard_error": 0.1},
        {"num_replicas": 0},
        {"num_replicas": 2.7},
        {"num_replicas": True},
        {"num_replicas": 5, "chunk_blocks": 1.5},
        {"standard_error": -1.0},
        {"num_replicas": 5, "chunk_blocks": 0},
    ],
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match=r"num_replicas|standard_error|chunk_blocks"):
        sims.simulate(jax.random.key(0), PROBLEM, Margin(1), **arguments)


def test_counts_may_be_numpys():
    drawn = sims.draw(jax.random.key(0), PROBLEM, np.int64(5))
    assert drawn.problem.shape == (5,)
    assert sims.simulate(jax.random.key(0), PROBLEM, Margin(1), num_replicas=np.int32(5)).utility.num_independent == 5
    for bad in (0, 2.5, True):
        with pytest.raises(ValueError, match="num_replicas: expected a whole number >= 1"):
            sims.draw(jax.random.key(0), PROBLEM, bad)


@pytest.mark.parametrize("settings", [{}, {"decision_interval_tokens": 500}], ids=str)
def test_double_precision_simulates_too(settings):
    with jax.enable_x64(True):
        model = LengthCorrectness(2.0, 1.0, loop_prob=0.1, cap_tokens=8000.0)
        problem, key = Sampling(4, model=model, price_per_token=1e-5, **settings), jax.random.key(0)
        for rule in (Margin(2), FixedSamples(3)):
            log = problem.log(sims.draw(key, problem, 50))
            assert same(sims.replay(problem, rule, log), sims.simulate(key, problem, rule, num_replicas=50))


def test_no_total_overflows():
    """As many and as long traces as are allowed, one after the other: their sum is what it is."""

    def played(model, num_traces):
        problem = Sampling(num_traces, model=model, wave_size=1)
        outcome = problem.play(problem.draw(jax.random.key(0)), FixedSamples(num_traces))
        return int(outcome.total_tokens), int(outcome.latency_tokens)

    model = LengthCorrectness(1e-3, 1e3, loop_prob=1.0, cap_tokens=2.0**22)
    assert played(model, 255) == (255 * 2**22, 255 * 2**22)
    with pytest.raises(ValueError, match="num_traces: expected fewer than 1,073,741,824 tokens in all, got 256 traces"):
        Sampling(256, model=model)
    with pytest.raises(ValueError, match="model: traces that loop never end without a cap"):
        Sampling(2, model=LengthCorrectness(loop_prob=0.1))
    huge = LengthCorrectness(effect=30.0)  # no cap, and lengths beyond all bounds
    assert played(huge, 160) == ((2**30 - 1) // 160 * 160, (2**30 - 1) // 160 * 160)


def test_a_policy_the_problem_lacks_signals_for_is_refused_before_anything_is_drawn():
    with pytest.raises(PolicyMismatch, match="temperature"):
        sims.simulate(jax.random.key(0), PROBLEM, ReadsTemperature(), num_replicas=10)


def test_a_log_without_a_cap_does_not_make_endless_traces():
    """Nothing was cut, so nothing loops: what is simulated has the log's own mean length."""
    source = Sampling(4, model=LengthCorrectness(2.0, 1.0, shift=0.3))
    log = source.log(sims.draw(jax.random.key(8), source, 200))
    fitted = stopping.fit(LengthCorrectness(), log).model
    assert float(fitted.loop_prob) == 0
    drawn = sims.simulate(jax.random.key(9), Sampling(4, model=fitted), FixedSamples(4), num_replicas=4 * BLOCK)
    assert abs(drawn.total_tokens.mean / log.length_tokens.sum(axis=1).mean() - 1) < 0.05


def test_endless_traces_need_a_cap():
    with pytest.raises(ValueError, match="never end without a cap"):
        first_finish_curve(LengthCorrectness(loop_prob=0.1), (2,))
