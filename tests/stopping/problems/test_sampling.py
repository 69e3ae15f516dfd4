"""The dynamics of sampling: by hand, against a second implementation, and their laws."""

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sims import replay_worlds, simulate
from stopping.models import LengthCorrectness
from stopping.policies import (
    NO_ANSWER,
    FirstFinish,
    FixedSamples,
    Kind,
    Margin,
    Return,
    SamplingObservation,
    TokenBudget,
    UnanimousWindow,
    VoteTable,
    bind,
)
from stopping.problems import PolicyMismatch, Sampling, SamplingWorld, admit, as_pytree, stack
from stopping.traces import answers, from_columns
from stopping.traces.answers import NOT_LOGGED
from tests.stopping.policies.own_policies import (
    LaunchesOne,
    LaunchesPairs,
    LaunchesUndeclared,
    Peeks,
    ReadsTemperature,
    Restarts,
    StopsUndeclared,
)


def world(lengths, answers, right, num_logged=None) -> SamplingWorld:
    n = len(lengths)
    logged = np.arange(n) < (n if num_logged is None else num_logged)
    is_right = np.array([answer == right for answer in answers])
    first = [answers.index(answer) if answer >= 0 else answer for answer in answers]
    return SamplingWorld(np.array(lengths, np.int32), is_right, np.array(first, np.int32), logged, np.int32(0))


def play(problem, rule, one):
    stacked = jax.tree.map(lambda leaf: np.asarray(leaf)[None, None], one)
    return {name: values[0] for name, values in replay_worlds(problem, rule, stacked).values.items()}


# Four traces: ends at 50, 30, 80, 60; answers A, B, none, A; A is right.
FOUR = world([50, 30, 80, 60], [0, 1, NO_ANSWER, 0], 0)


@pytest.mark.parametrize(
    ("rule", "settings", "expected"),
    [
        # (total tokens, latency, launched, index of the answer, correct)
        (FirstFinish(1), {}, (120, 30, 4, 1, 0)),  # the second trace ends first, and is wrong
        (FirstFinish(2), {}, (50 + 30 + 50 + 50, 50, 4, 1, 0)),  # one vote each: the one seen first leads
        (FirstFinish(3), {}, (50 + 30 + 60 + 60, 60, 4, 0, 1)),
        (FixedSamples(4), {}, (220, 80, 4, 0, 1)),
        (FixedSamples(2), {}, (80, 50, 2, 1, 0)),
        (Margin(1), {}, (120, 30, 4, 1, 0)),
        (Margin(2), {}, (220, 80, 4, 0, 1)),  # never two ahead: all end
        (VoteTable.cannot_be_caught(4), {}, (220, 80, 4, 0, 1)),
        (UnanimousWindow(2), {}, (220, 80, 4, 0, 1)),  # windows B A and A: none full and unanimous
        (FirstFinish(1), {"lag_tokens": 25}, (50 + 30 + 55 + 55, 30, 4, 1, 0)),
        (FirstFinish(1), {"wave_size": 1}, (50, 50, 1, 0, 1)),
        (FirstFinish(3), {"wave_size": 1}, (220, 220, 4, 0, 1)),
        (FixedSamples(3), {"wave_size": 2}, (160, 50 + 80, 3, 1, 0)),
        (FixedSamples(4), {"wave_size": 2}, (220, 50 + 80, 4, 0, 1)),
        (Margin(1), {"wave_size": 2}, (60, 30, 2, 1, 0)),
        (TokenBudget(40), {}, (50 + 30 + 50 + 50, 50, 4, 1, 0)),  # looks only when a trace ends
        (TokenBudget(40), {"decision_interval_tokens": 40}, (40 + 30 + 40 + 40, 40, 4, 1, 0)),
        (TokenBudget(10), {"decision_interval_tokens": 10}, (120, 30, 4, 1, 0)),  # put off until there is an answer
    ],
)
def test_by_hand(rule, settings, expected):
    outcome = play(Sampling(4, **settings), rule, FOUR)
    got = tuple(int(outcome[name]) for name in ("total_tokens", "latency_tokens", "num_launched", "answer", "correct"))
    assert got == expected
    assert outcome["unsupported"] == 0


def test_a_unanimous_window_returns_its_own_answer_not_the_leaders():
    lengths, answers = [10, 20, 30, 40, 50, 60], [0, 1, 0, 0, 1, 1]  # windows of 2: A B, A A
    outcome = play(Sampling(6), UnanimousWindow(2), world(lengths, answers, 0))
    assert outcome["latency_tokens"] == 40
    answers = [0, 1, 0, 2, 1, 1]  # A B, A C, B B: B is the window's answer; A was seen first, B leads by votes
    assert play(Sampling(6), UnanimousWindow(2), world(lengths, answers, 1))["correct"] == 1
    answers = [0, 0, 1, 0, 1, 1]  # a window of 3: A A B, A B B: none; the vote is tied and A was seen first
    assert play(Sampling(6), UnanimousWindow(3), world(lengths, answers, 0))["correct"] == 1
    answers = [0, 1, 0, 1, 1, 0, 1, 1, 1]  # A B A, B B A, B B B
    last = play(Sampling(9), UnanimousWindow(3), world([*lengths, 70, 80, 90], answers, 1))
    assert (last["correct"], last["latency_tokens"]) == (1, 90)


def test_utility_prices_tokens_and_seconds():
    problem = Sampling(4, price_per_token=1e-3, price_per_second=0.1, seconds_per_token=0.02)
    outcome = play(problem, FixedSamples(4), FOUR)
    assert outcome["latency_seconds"] == pytest.approx(1.6)
    assert outcome["utility"] == pytest.approx(1 - 0.22 - 0.16, rel=1e-6)


def test_no_answer_at_all_is_told_and_is_not_correct():
    silent = world([5, 9], [NO_ANSWER, NO_ANSWER], 0)
    for rule in (FirstFinish(1), FixedSamples(2), TokenBudget(1)):
        outcome = play(Sampling(2), rule, silent)
        assert (outcome["answer"], outcome["correct"], outcome["latency_tokens"]) == (NO_ANSWER, 0, 9)


def test_a_fixed_number_of_samples_is_exactly_that_even_if_none_answers():
    outcome = play(Sampling(4), FixedSamples(2), world([5, 9, 4, 4], [NO_ANSWER, NO_ANSWER, 0, 0], 0))
    assert (outcome["num_launched"], outcome["correct"]) == (2, 0)


def test_past_the_log_a_unit_is_unsupported():
    short = world([50, 30, 80, 60], [0, 1, 2, 3], 0, num_logged=2)
    assert play(Sampling(4), FixedSamples(2), short)["unsupported"] == 0
    assert play(Sampling(4), FixedSamples(3), short)["unsupported"] == 1
    assert play(Sampling(4, wave_size=1), FirstFinish(1), short)["unsupported"] == 0
    beyond = play(Sampling(4, wave_size=1, lag_tokens=9), Margin(2), short)
    assert beyond["unsupported"] == 1
    assert (beyond["total_tokens"], beyond["latency_tokens"], beyond["num_launched"]) == (80, 80, 2)  # until then
    assert (beyond["answer"], beyond["correct"]) == (NO_ANSWER, 0)  # though the first answer was right


def test_answers_the_log_does_not_name_support_the_first_answer_only():
    unnamed = world([50, 30, 80, 60], [NOT_LOGGED] * 4, 0)._replace(right=np.array([True, False, True, True]))
    assert play(Sampling(4), FirstFinish(1), unnamed)["unsupported"] == 0
    assert play(Sampling(4), FirstFinish(1), unnamed)["correct"] == 0
    assert play(Sampling(4), FirstFinish(2), unnamed)["unsupported"] == 1


RULES = [
    FirstFinish(1), FirstFinish(3), FixedSamples(1), FixedSamples(4), Margin(1), Margin(2), TokenBudget(25),
    VoteTable.adaptive_consistency(0.8, 6), VoteTable.cannot_be_caught(6), UnanimousWindow(2), UnanimousWindow(3),
]  # fmt: skip


def second_implementation(problem, rule, one):
    """The rules of the problem once more: an event loop in plain Python over the policy on plain numbers."""
    bound, n, wave = bind(rule, "python"), problem.num_traces, problem.wave_size
    length, answer = one.length_tokens.tolist(), one.answer.tolist()
    state, now, started, ended, came, votes, latest = bound.init(), 0, {}, [], NO_ANSWER, [], NO_ANSWER

    def leader():
        counts = Counter(votes)
        return max(counts, key=lambda label: (counts[label], -votes.index(label))) if votes else NO_ANSWER

    while True:
        counts = [*sorted(Counter(votes).values(), reverse=True), 0, 0]
        running = [i for i in started if i not in ended]
        spent = sum(min(length[i], now - started[i]) for i in started)
        seen = SamplingObservation(len(started), len(running), len(votes), came, *counts[:2], now, spent)
        state, action = bound.step(state, seen)
        stops = action.kind == Kind.STOP and (votes or (started and not running and Kind.LAUNCH in rule.kinds))
        if stops or (not running and len(started) == n):
            chosen = latest if action.kind == Kind.STOP and action.amount == Return.LATEST else leader()
            chosen = chosen if votes else NO_ANSWER
            spent = sum(min(length[i], now + int(problem.lag_tokens) - started[i]) for i in started)
            return spent, now, len(started), chosen, int(chosen >= 0 and one.right[chosen])
        wanted = action.amount if action.kind == Kind.LAUNCH else (0 if running else wave)
        for _ in range(max(min(wanted, wave - len(running), n - len(started)), 0 if running else 1)):
            started[len(started)] = now
        running = [i for i in started if i not in ended]
        first = min(running, key=lambda i: (started[i] + length[i], i))
        end, came = started[first] + length[first], NO_ANSWER
        if problem.decision_interval_tokens:
            tick = (now // problem.decision_interval_tokens + 1) * problem.decision_interval_tokens
            if tick < end:
                now = tick
                continue
        now = end
        ended.append(first)
        if answer[first] >= 0:
            came = latest = answer[first]
            votes.append(answer[first])


def random_worlds(seed, count=200, size=6):
    """Small lengths and few answers: many ties."""
    random = np.random.default_rng(seed)
    return [
        world(random.integers(1, 40, size).tolist(), random.integers(-1, 4, size).tolist(), int(random.integers(0, 4)))
        for _ in range(count)
    ]


@pytest.mark.parametrize("problem", [
    Sampling(6),
    Sampling(6, wave_size=1, lag_tokens=3),
    Sampling(6, wave_size=2),
    Sampling(6, wave_size=4, decision_interval_tokens=7, lag_tokens=5),
])  # fmt: skip
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5, deadline=None)
def test_play_agrees_with_a_second_implementation(problem, seed):
    many = random_worlds(seed)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves)[:, None], *many)
    for rule in RULES:
        values = replay_worlds(problem, rule, stacked).values
        for i, one in enumerate(many):
            names = ("total_tokens", "latency_tokens", "num_launched", "answer", "correct")
            assert tuple(int(values[name][i]) for name in names) == second_implementation(problem, rule, one), (
                rule,
                one,
            )


@pytest.mark.parametrize("wave", [1, 3, 6])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5, deadline=None)
def test_laws_of_every_rule(wave, seed):
    many = random_worlds(seed)
    problem = Sampling(6, wave_size=wave, price_per_token=1e-3, price_per_second=1e-2, lag_tokens=2)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves)[:, None], *many)
    best = np.asarray(jax.vmap(problem.hindsight)(jax.tree.map(lambda leaf: leaf[:, 0], stacked)).utility)
    full = replay_worlds(problem, FixedSamples(6), stacked).values
    sure = replay_worlds(problem, VoteTable.cannot_be_caught(6), stacked).values
    assert (sure["answer"] == full["answer"]).all()  # the grade "proof": no answer changes
    assert (sure["total_tokens"] <= full["total_tokens"]).all()
    for rule in RULES:
        values = replay_worlds(problem, rule, stacked).values
        assert (values["utility"] <= best + 1e-5).all()  # nobody beats hindsight
        assert (values["latency_tokens"] <= full["latency_tokens"]).all()
        has_answer = np.array([(one.answer >= 0).any() for one in many])
        if Kind.LAUNCH not in rule.kinds:
            assert ((values["answer"] >= 0) == has_answer).all()  # never empty because we stopped


def test_worlds_of_a_log_keep_its_traces_and_relabel_answers():
    log = from_columns({
        "problem": ["p"] * 3 + ["q"] * 2, "sample": [0, 1, 2, 0, 1], "length_tokens": [5, 6, 7, 8, 9],
        "correct": [False, True, True, True, False], "answer": ["x", "y", "y", "z", None],
    })  # fmt: skip
    got = Sampling(4).worlds(log)
    np.testing.assert_array_equal(got.length_tokens[:, 0], [[5, 6, 7, 0], [8, 9, 0, 0]])
    np.testing.assert_array_equal(got.answer[:, 0], [[0, 1, 1, NO_ANSWER], [0, NO_ANSWER, NO_ANSWER, NO_ANSWER]])
    np.testing.assert_array_equal(got.logged[:, 0], [[True, True, True, False], [True, True, False, False]])
    many = Sampling(2).worlds(log, num_orders=200, seed=1)
    pairs = Counter(map(tuple, np.asarray(many.length_tokens[0]).tolist()))
    assert set(pairs) == {(a, b) for a in (5, 6, 7) for b in (5, 6, 7) if a != b}
    assert (np.asarray(many.length_tokens[1]) > 0).all()  # padding comes last
    same = np.asarray(many.answer[0, :, 1] == 0)
    assert (same == (np.asarray(many.length_tokens[0]).min(axis=1) > 5)).all()  # y y in either order: label 0


def test_logs_and_policies_mean_the_same_by_no_answer():
    assert answers.NONE == NO_ANSWER  # named twice, for neither room may import the other


def test_worlds_refuse_unknown_correctness():
    log = from_columns({"problem": ["p", "p"], "length_tokens": [5, 6], "answer": ["x", "y"]})
    with pytest.raises(ValueError, match="2 traces without"):
        Sampling(2).worlds(log)


def test_a_policy_is_checked_at_the_door():
    problem = Sampling(2)
    with pytest.raises(PolicyMismatch, match="ReadsTemperature reads temperature; Sampling shows num_launched"):
        admit(problem, ReadsTemperature())
    with pytest.raises(PolicyMismatch, match="Restarts may ask for RESTART; Sampling allows CONTINUE, STOP, LAUNCH"):
        admit(problem, Restarts())
    for rule in RULES:
        admit(Sampling(6), rule)


def test_a_policy_that_does_what_it_does_not_declare_is_refused():
    problem = Sampling(4)
    with pytest.raises(PolicyMismatch, match="Peeks reads total_tokens; its signals are num_answers"):
        replay_worlds(problem, Peeks(), FOUR)
    with pytest.raises(PolicyMismatch, match="LaunchesUndeclared asks for LAUNCH; its kinds are CONTINUE, STOP"):
        replay_worlds(problem, LaunchesUndeclared(2), FOUR)
    with pytest.raises(PolicyMismatch, match="StopsUndeclared asks for STOP; its kinds are CONTINUE, LAUNCH"):
        simulate(jax.random.key(0), Sampling(4, model=LengthCorrectness()), StopsUndeclared(), num_replicas=10)


@pytest.mark.parametrize("settings", [{}, {"decision_interval_tokens": 1000}, {"wave_size": 2}], ids=str)
def test_what_is_not_declared_buys_nothing_in_play(settings):
    problem = Sampling(4, **settings)
    for undeclared, declared in ((LaunchesUndeclared(2), FirstFinish(5)), (StopsUndeclared(), LaunchesOne())):
        one, other = (problem.play(jax.tree.map(jnp.asarray, FOUR), rule) for rule in (undeclared, declared))
        assert [float(value) for value in one] == [float(value) for value in other]


def test_a_policy_that_launches_more_than_is_offered_is_refused():
    admit(Sampling(5), FixedSamples(5))
    for wave_size in (1, 4):
        with pytest.raises(PolicyMismatch, match="FixedSamples launches up to 5 traces; Sampling offers 4"):
            replay_worlds(Sampling(4, wave_size=wave_size), FixedSamples(5), FOUR)
    with pytest.raises(PolicyMismatch, match="FixedSamples launches up to 5 traces; Sampling offers 4"):
        simulate(jax.random.key(0), Sampling(4, model=LengthCorrectness()), FixedSamples(5), num_replicas=10)
    admit(Sampling(4), LaunchesPairs(2))  # a custom rule declares it in the same way
    with pytest.raises(PolicyMismatch, match="LaunchesPairs launches up to 6 traces; Sampling offers 4"):
        admit(Sampling(4), LaunchesPairs(3))


def test_a_log_shorter_than_the_problem_is_still_counted_as_unsupported():
    log = from_columns(
        {"problem": ["p"] * 2, "length_tokens": [50, 30], "correct": [True, False], "answer": ["x", "y"]}
    )
    problem = Sampling(4)
    assert replay_worlds(problem, FixedSamples(3), problem.worlds(log)).num_unsupported == 1
    assert replay_worlds(problem, FixedSamples(2), problem.worlds(log)).num_unsupported == 0
    with pytest.raises(PolicyMismatch, match="launches up to 5 traces; Sampling offers 4"):
        replay_worlds(problem, FixedSamples(5), problem.worlds(log))


@pytest.mark.parametrize("bad", [
    {"num_traces": 0}, {"wave_size": 0}, {"price_per_token": -1.0}, {"price_per_second": float("nan")},
    {"lag_tokens": -1}, {"decision_interval_tokens": 0}, {"num_traces": 2.5}, {"num_traces": True}, {"wave_size": True},
    {"lag_tokens": 1.9}, {"lag_tokens": 3e9}, {"lag_tokens": 2**30}, {"lag_tokens": True},
    {"decision_interval_tokens": 2**30}, {"decision_interval_tokens": 2.0}, {"seconds_per_token": float("inf")},
])  # fmt: skip
def test_bad_settings_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**{"num_traces": 4, **bad})


def test_counts_may_be_numpys():
    problem = Sampling(np.int64(4), wave_size=np.int32(2), lag_tokens=np.int16(3), decision_interval_tokens=np.int64(5))
    assert (problem.num_traces, problem.wave_size, int(problem.lag_tokens), problem.decision_interval_tokens) == (
        4,
        2,
        3,
        5,
    )


def test_a_log_whose_tokens_overflow_is_refused():
    columns = {"problem": ["p"] * 3, "correct": [True] * 3, "answer": ["x"] * 3}
    log = from_columns({**columns, "length_tokens": [2**29, 2**29 - 1, 7]})
    assert Sampling(2).worlds(log).length_tokens.sum() == 2**30 - 1
    for num_traces in (3, 99):
        with pytest.raises(
            ValueError, match=r"log: expected fewer than 1,073,741,824 tokens in all .*, got 1,073,741,830"
        ):
            Sampling(num_traces).worlds(log)


def test_without_a_model_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match="expected a model"):
        Sampling(2).draw(jax.random.key(0))


def test_a_grid_of_policies_is_one_policy_mapped_over():
    problem = Sampling(4, model=LengthCorrectness())
    one = problem.draw(jax.random.key(0))
    grid = [Margin(votes) for votes in (1, 2, 3)]
    stacked, axes = stack(grid)
    mapped = jax.vmap(lambda rule: problem.play(one, rule), (axes,))(stacked)
    for i, rule in enumerate(grid):
        alone = problem.play(one, as_pytree(rule))
        assert all(a == b[i] for a, b in zip(alone, mapped, strict=True))
    with pytest.raises(ValueError, match="one class"):
        stack([Margin(1), FirstFinish(1)])
    with pytest.raises(ValueError, match="one shape"):
        stack([VoteTable(jnp.array([1])), VoteTable(jnp.array([1, 2]))])


def test_a_policy_survives_the_pytree():
    for rule in RULES:
        leaves, tree = jax.tree.flatten(as_pytree(rule))
        again = jax.tree.unflatten(tree, [np.asarray(leaf) for leaf in leaves])
        assert again == rule
        assert {field.name for field in dataclasses.fields(rule)} == set(vars(again))
