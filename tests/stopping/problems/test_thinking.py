"""The dynamics of thinking: by hand, against a second implementation, and their laws."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sims
import stopping
from sims import replay_worlds, simulate
from stopping.models import AnswerChain
from stopping.policies import (
    NO_ANSWER,
    AnswerAgreement,
    CandidateStop,
    CloseTokenThreshold,
    ConfidenceExit,
    EntropySlope,
    FirstFinish,
    FixedSamples,
    Kind,
    Margin,
    ThinkingObservation,
    TokenBudget,
    WindowedConfidence,
    bind,
)
from stopping.policies.decisions import THINKING
from stopping.problems import PolicyMismatch, Thinking, ThinkingWorld, admit
from stopping.problems.thinking_worlds import NEVER, SIGNALS
from stopping.traces import Reference, from_columns, with_checkpoints

CHAIN = AnswerChain(0.2, 0.3, 0.1, 0.1, right_log_prob=-0.2, wrong_log_prob=-1.0, log_prob_scale=0.5, num_points=8)


def world(positions, answers, length, answer, right, cost=10, num_points=6, known=None, **signals) -> ThinkingWorld:
    empty = num_points - len(positions)

    def padded(values, fill, dtype):
        return np.array([*values, *[fill] * empty], dtype)

    return ThinkingWorld(
        length_tokens=np.int32(length),
        right=np.bool_(answer == right),
        answer=np.int32(answer),
        position_tokens=padded(positions, NEVER, np.int32),
        probe_answer=padded(answers, NO_ANSWER, np.int32),
        probe_right=padded([one == right for one in answers], False, bool),
        probe_cost_tokens=padded([cost] * len(positions), 0, np.int32),
        signals={name: padded(values, 0, np.float32) for name, values in signals.items()},
        probe_known=padded([True] * len(positions) if known is None else known, True, bool),
        problem=np.int32(0),
    )


def play(problem, rule, one):
    stacked = jax.tree.map(lambda leaf: np.asarray(leaf)[None, None], one)
    return {name: values[0] for name, values in replay_worlds(problem, rule, stacked).values.items()}


# Thinks for 112 tokens; forced at 20, 40, 60, 80, 100 it would say 5, none, 7, 7, 7; by itself it says 5, and 7 is right.
TRACE = world(
    [20, 40, 60, 80, 100], [5, NO_ANSWER, 7, 7, 7], 112, 5, 7,
    log_close_prob=[-6, -3, -1, -4, -9], mean_log_prob=[-0.2, -0.3, -0.4, -0.5, -2], num_candidates=[0, 0, 1, 1, 2],
    answer_mean_log_prob=[-2, -1.5, -1, -0.5, -0.5], mean_entropy=[1, 1, 1, 1, 1],
)  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "settings", "expected"),
    [
        # (total tokens, thought, probes paid in vain, read again, answer, correct)
        (TokenBudget(1000), {}, (112, 112, 0, 0, 5, 0)),
        (TokenBudget(60), {}, (60 + 10, 60, 0, 60, 7, 1)),
        (TokenBudget(61), {}, (80 + 10, 80, 0, 80, 7, 1)),
        (TokenBudget(20), {}, (20 + 10, 20, 0, 20, 5, 0)),
        (TokenBudget(21), {}, (60 + 10 + 10, 60, 10, 40 + 60, 7, 1)),  # no answer at 40: paid, and the trace thinks on
        (TokenBudget(60), {"lag_tokens": 1}, (80 + 10, 80, 0, 80, 7, 1)),
        (TokenBudget(60), {"lag_tokens": 20}, (80 + 10, 80, 0, 80, 7, 1)),
        (TokenBudget(100), {"lag_tokens": 1}, (112, 112, 0, 0, 5, 0)),  # too late: it answers by itself
        (ConfidenceExit(-1.25, 1), {}, (60 + 30, 60, 20, 120, 7, 1)),
        (ConfidenceExit(-1.25, 30), {}, (80 + 20, 80, 10, 40 + 80, 7, 1)),  # looks at 40 and, 30 later, at 80
        (ConfidenceExit(-1.25, 1), {"lag_tokens": 5}, (80 + 30 + 10, 80, 30, 120 + 80, 7, 1)),  # its probe is not its answer
        (ConfidenceExit(0.5, 1), {}, (112 + 50, 112, 50, 300, 5, 0)),  # never sure: five probes for nothing
        (AnswerAgreement(1, 1), {}, (20 + 10, 20, 0, 20, 5, 0)),
        (AnswerAgreement(2, 1), {}, (80 + 40, 80, 30, 200, 7, 1)),
        (AnswerAgreement(3, 1), {}, (100 + 50, 100, 40, 300, 7, 1)),
        (AnswerAgreement(2, 40), {}, (112 + 20, 112, 20, 40 + 80, 5, 0)),
        (CloseTokenThreshold(-2, -100, 0), {}, (60 + 10, 60, 0, 60, 7, 1)),
        (CloseTokenThreshold(0, -8, 50), {}, (100 + 10, 100, 0, 100, 7, 1)),
        (CloseTokenThreshold(0, -5, 30), {}, (100 + 10, 100, 0, 100, 7, 1)),
        (CloseTokenThreshold(0, -5, 20), {}, (20 + 10, 20, 0, 20, 5, 0)),
        (WindowedConfidence(-0.35, 0), {}, (60 + 10, 60, 0, 60, 7, 1)),
        (WindowedConfidence(-0.35, 90), {}, (100 + 10, 100, 0, 100, 7, 1)),
        (CandidateStop(1), {}, (60 + 10, 60, 0, 60, 7, 1)),
        (CandidateStop(2), {}, (100 + 10, 100, 0, 100, 7, 1)),
        (CandidateStop(3), {}, (112, 112, 0, 0, 5, 0)),
        (EntropySlope(0.1, 1, 1), {}, (100 + 50, 100, 40, 300, 7, 1)),  # gains .5 a probe, then nothing
        (EntropySlope(0.6, 2, 1), {}, (60 + 30, 60, 20, 120, 7, 1)),
    ],
    ids=str,
)  # fmt: skip
def test_by_hand(rule, settings, expected):
    outcome = play(Thinking(**settings), rule, TRACE)
    names = ("total_tokens", "thought_tokens", "probe_tokens", "prefill_tokens", "answer", "correct")
    assert tuple(int(outcome[name]) for name in names) == expected
    assert outcome["unsupported"] == 0 and outcome["stopped"] == (outcome["thought_tokens"] < 112)
    assert outcome["latency_tokens"] == outcome["total_tokens"]


def test_prices():
    prices = {"price_per_token": 1e-3, "price_per_prefill_token": 1e-4, "price_per_second": 0.01}
    problem = Thinking(**prices, seconds_per_token=0.02, seconds_per_prefill_token=0.001)
    outcome = play(problem, ConfidenceExit(-1.25, 1), TRACE)  # 90 tokens, 120 read again
    assert outcome["latency_seconds"] == pytest.approx(90 * 0.02 + 120 * 0.001)
    assert outcome["utility"] == pytest.approx(1 - 0.09 - 0.012 - 0.01 * 1.92, rel=1e-6)


def test_an_answer_not_judged_is_unsupported_only_where_it_is_given():
    doubtful = TRACE._replace(probe_known=np.array([True, True, False, True, True, True]))
    stopped, later = (play(Thinking(), TokenBudget(tokens), doubtful) for tokens in (60, 80))
    assert (stopped["unsupported"], stopped["correct"], later["unsupported"], later["correct"]) == (1, 0, 0, 1)


def test_a_thought_that_ends_before_the_first_decision_point():
    short = world([], [], 15, 3, 3)
    for rule in (TokenBudget(1), CandidateStop(1)):
        missing = short._replace(signals={name: np.zeros(6, np.float32) for name in SIGNALS})
        assert play(Thinking(), rule, missing)["total_tokens"] == 15


RULES = [
    TokenBudget(70), ConfidenceExit(-0.7, 1), ConfidenceExit(-0.7, 64), AnswerAgreement(2, 1), AnswerAgreement(2, 90),
    CloseTokenThreshold(-1.0, -8.0, 64), WindowedConfidence(-2.5, 64), CandidateStop(2), EntropySlope(0.2, 2, 33),
]  # fmt: skip


def by_the_letter(rule, one, lag, accepts_empty=False):
    """Tokens, read again, correct: the module's head, in plain Python."""
    bound, points = bind(rule, "numpy"), [i for i, at in enumerate(one.position_tokens) if at < NEVER]
    state, paid, read = bound.init(()), 0, 0

    def observe(i, probed):
        values = {"elapsed_tokens": one.position_tokens[i], "probed": probed}
        values["probed_answer"] = one.probe_answer[i] if probed else NO_ANSWER
        for name, signal in one.signals.items():
            values[name] = signal[i] if probed or not name.startswith("answer") else 0
        return ThinkingObservation(*(np.asarray(values[n], THINKING.dtype_of(n)) for n in ThinkingObservation._fields))

    for i in points:
        state, action = bound.step(state, observe(i, False))
        probed = action.kind == Kind.PROBE
        if probed:
            paid, read = paid + one.probe_cost_tokens[i], read + one.position_tokens[i]
            state, action = bound.step(state, observe(i, True))
        if action.kind == Kind.STOP:
            later = [j for j in points if one.position_tokens[j] >= one.position_tokens[i] + lag]
            if not later:
                break
            j = later[0]
            if not (probed and j == i):
                paid, read = paid + one.probe_cost_tokens[j], read + one.position_tokens[j]
            if one.probe_answer[j] != NO_ANSWER or accepts_empty:
                return one.position_tokens[j] + paid, read, one.probe_right[j]
    return one.length_tokens + paid, read, one.right


@st.composite
def traces(draw):
    num = draw(st.integers(0, 6))
    gaps = draw(st.lists(st.integers(1, 60), min_size=num, max_size=num))
    answers = draw(st.lists(st.integers(-1, 2), min_size=num, max_size=num))
    log_probs = st.lists(st.floats(-10, 0, width=32), min_size=num, max_size=num)
    signals = {name: draw(log_probs) for name in SIGNALS}
    signals["num_candidates"] = np.cumsum(draw(st.lists(st.integers(0, 1), min_size=num, max_size=num)))
    positions = np.cumsum(gaps)
    end = int(positions[-1]) if num else 0
    return world(positions, answers, end + draw(st.integers(0, 50)), draw(st.integers(-1, 2)), 1, **signals)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_against_a_second_implementation(rule):
    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(traces(), st.sampled_from([0, 1, 40]), st.booleans())
    def agrees(one, lag, accepts_empty):
        outcome = play(Thinking(lag_tokens=lag, accepts_empty=accepts_empty), rule, one)
        got = outcome["total_tokens"], outcome["prefill_tokens"], outcome["correct"]
        assert tuple(map(int, got)) == tuple(map(int, by_the_letter(rule, one, lag, accepts_empty)))

    agrees()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(traces(), st.sampled_from(RULES), st.sampled_from([0.0, 1e-3, 1e-2]), st.sampled_from([0, 10]), st.booleans())
def test_nobody_beats_hindsight_and_no_answer_is_lost(one, rule, price, lag, accepts_empty):
    problem = Thinking(price_per_token=price, price_per_second=price, lag_tokens=lag, accepts_empty=accepts_empty)
    outcome, best = play(problem, rule, one), problem.hindsight(one)
    assert outcome["utility"] <= float(best.utility) + 1e-5
    if one.answer != NO_ANSWER and not accepts_empty:
        assert outcome["answer"] != NO_ANSWER


@pytest.mark.parametrize("rule", [TokenBudget(100), ConfidenceExit(-0.5, 64), AnswerAgreement(2, 32)], ids=str)
def test_replay_of_drawn_worlds_is_the_simulation(rule):
    problem, key = Thinking(model=CHAIN, price_per_token=1e-3), jax.random.key(3)
    drawn = sims.draw(key, problem, 300)
    simulated = simulate(key, problem, rule, num_replicas=300)
    stacked = replay_worlds(problem, rule, jax.tree.map(lambda leaf: leaf[:, None], drawn))
    assert simulated.digest == stacked.digest
    for name, values in simulated.values.items():
        np.testing.assert_array_equal(values, stacked.values[name])
    replayed = sims.replay(problem, rule, problem.log(drawn))
    for name in set(simulated.values) - {"answer"}:  # labels are a log's own
        np.testing.assert_array_equal(simulated.values[name], replayed.values[name])


def test_a_chain_is_right_as_often_as_its_closed_form():
    num = 40_000
    drawn = sims.draw(jax.random.key(0), Thinking(model=CHAIN), num)
    running = drawn.position_tokens < NEVER
    expected = np.asarray(CHAIN.right_prob(), float)
    for k in range(CHAIN.num_points):
        there = running[:, k]
        error = np.sqrt(expected[k] * (1 - expected[k]) / there.sum())
        assert abs(drawn.probe_right[there, k].mean() - expected[k]) < 4.5 * error
    survival = 0.9 ** np.arange(CHAIN.num_points)
    assert np.abs(running.mean(axis=0) - survival).max() < 4.5 * 0.5 / np.sqrt(num)
    last = running.sum(axis=1) - 1
    rows = np.arange(num)
    np.testing.assert_array_equal(drawn.right, drawn.probe_right[rows, last])
    np.testing.assert_array_equal(drawn.length_tokens, (last + 1) * 32 + 10)
    same = drawn.probe_answer[:, :-1] == drawn.probe_answer[:, 1:]
    kept = drawn.probe_right[:, :-1] == drawn.probe_right[:, 1:]
    assert (same == kept)[running[:, 1:]].all()


def test_a_chain_that_cannot_move_stays():
    np.testing.assert_allclose(AnswerChain(0.4, 0.0, 0.0).right_prob(), np.full(16, 0.4), rtol=1e-6)
    for name in ("first_right_prob", "repair_prob", "break_prob"):
        with pytest.raises(ValueError, match=f"{name}: expected a probability, got 1.5"):
            AnswerChain(**{"first_right_prob": 0.1, "repair_prob": 0.1, "break_prob": 0.1, name: 1.5})


@pytest.fixture(scope="module")
def log():
    problem = Thinking(model=CHAIN)
    return problem.log(sims.draw(jax.random.key(1), problem, 60))


def test_the_reference_is_the_whole_thought_or_the_log_s_budget(log):
    whole = Thinking().reference_rule(log)
    result = sims.replay(Thinking(), whole, log)
    np.testing.assert_array_equal(result.values["total_tokens"], log.length_tokens[:, 0])
    np.testing.assert_array_equal(result.values["correct"], log.correct[:, 0])
    assert Thinking().reference_rule(dataclasses.replace(log, reference=Reference("budget", 70))) == TokenBudget(70)
    table = stopping.compare(Thinking(), [TokenBudget(64)], log)
    assert table.rows[0].policy == whole and table.rows[1].result.thought_tokens.mean <= 64


def test_signals_that_traces_lack_and_rules_of_other_problems_are_refused(log):
    for rule in (CandidateStop(1), CloseTokenThreshold(-1, -9, 0)):
        with pytest.raises(
            PolicyMismatch, match=r"reads (num_candidates|log_close_prob); these traces have answer_least"
        ):
            sims.replay(Thinking(), rule, log)
    for rule in (FirstFinish(1), Margin(2)):
        with pytest.raises(PolicyMismatch, match="Thinking shows elapsed_tokens"):
            admit(Thinking(), rule)
    with pytest.raises(PolicyMismatch, match=r"LAUNCH|reads"):
        admit(Thinking(), FixedSamples(2))


def test_logs_without_what_is_needed_are_refused(log):
    def replayed(log):
        return sims.replay(Thinking(), TokenBudget(64), log)

    with pytest.raises(ValueError, match="expected checkpoints, got none"):
        replayed(dataclasses.replace(log, checkpoints=None))
    ahead = dataclasses.replace(log.checkpoints, grid="fraction_of_final")
    with pytest.raises(ValueError, match="got fractions of the final length"):
        replayed(dataclasses.replace(log, checkpoints=ahead))
    with pytest.raises(ValueError, match="expected 1, for each trace is an episode by itself, got 4"):
        sims.replay(Thinking(), TokenBudget(64), log, num_orders=4)
    unjudged = dataclasses.replace(log, correct_known=np.zeros_like(log.correct_known))
    with pytest.raises(ValueError, match="expected known correctness, got 60 traces without"):
        replayed(unjudged)
    with pytest.raises(ValueError, match="expected a model to draw worlds from"):
        Thinking().draw(jax.random.key(0))
    for name in ("price_per_token", "seconds_per_prefill_token"):
        with pytest.raises(ValueError, match=f"{name}: expected a number >= 0, got -1"):
            Thinking(**{name: -1.0})
    with pytest.raises(ValueError, match=r"lag_tokens: expected a whole number .* got 1\.5"):
        Thinking(lag_tokens=1.5)


def test_problems_without_checkpoints_are_refused_and_rows_of_several_lengths_repeat_their_own():
    columns = {
        "problem": ["a", "a", "b", "c"],
        "length_tokens": [50, 70, 60, 40],
        "correct": [1, 0, 1, 0],
        "answer": list("xyxy"),
    }
    probes = {"problem": ["a", "a", "a", "b"], "sample": [0, 0, 1, 0], "position_tokens": [0, 32, 32, 32],
              "answer": list("yxyx"), "correct": [0, 1, 0, 1], "probe_cost_tokens": [5] * 4}  # fmt: skip
    log = with_checkpoints(from_columns(columns), probes, grid="token", protocol="by hand")
    assert log.probed.tolist() == [True, True, False]
    with pytest.raises(ValueError, match=r"got 1 without; take those that have them: log\.take\(log\.probed\)"):
        Thinking().worlds(log)
    worlds = Thinking().worlds(log.take(log.probed))
    assert worlds.length_tokens.tolist() == [[50, 70], [60, 60]]
    assert worlds.position_tokens.tolist() == [[[32], [32]], [[32], [32]]]  # a point before the first token is none
    result = sims.replay(Thinking(), TokenBudget(32), log.take(log.probed))
    assert result.values["total_tokens"].tolist() == [37, 37] and result.values["correct"].tolist() == [0.5, 1]
