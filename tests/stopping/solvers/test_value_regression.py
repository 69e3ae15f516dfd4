"""Rules fitted to logs: against backward induction, a dynamic program on what is seen, hindsight and the play's own accounts."""

import jax
import numpy as np
import pytest

import sims
from sims import Estimate
from sims.engine import evaluate
from stopping.models import AnswerChain
from stopping.policies import ExitValue, ProbedExitValue, bind
from stopping.policies.exit_value import FREE_SIGNALS
from stopping.problems import Thinking, ThinkingWorld
from stopping.problems.thinking_worlds import NEVER
from stopping.reasoner import load_shipped_log
from stopping.solvers import exit_values, fitted_value, induced_point, value_regression
from stopping.traces import split
from tests.stopping.solvers.test_chain_induction import tried

CHAIN = AnswerChain(
    0.2, 0.3, 0.05, 0.1, right_log_prob=-0.3, wrong_log_prob=-0.9, log_prob_scale=0.3, num_points=8, gap_tokens=32
)


def drawn(model, count, key, noise=0.0):
    """Worlds `[traces, 1]` of a chain, with free signals that tell nothing: all 0, or drawn anew at each point."""
    worlds = sims.draw(jax.random.key(key), Thinking(model=model), count)
    random = np.random.default_rng(key)
    shape = worlds.position_tokens.shape
    told = {name: random.normal(-1, noise, shape).astype(np.float32) for name in FREE_SIGNALS[1:]}
    worlds = worlds._replace(signals={**worlds.signals, **told})
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:, None], worlds)


def play(problem, rule, worlds):
    return sims.replay_worlds(problem, rule, worlds).utility


@pytest.mark.parametrize("price", [1e-4, 1e-3, 3e-3])
def test_where_nothing_is_seen_it_is_backward_induction(price):
    problem = Thinking(model=CHAIN, price_per_token=price)
    rule = fitted_value(problem, drawn(CHAIN, 4000, 0), 0)
    assert isinstance(rule, ExitValue) and rule.price_per_token == pytest.approx(price, rel=1e-3)
    point, value = induced_point(problem)
    estimate = play(problem, rule, drawn(CHAIN, 20_000, 1))
    assert abs(estimate.mean - value) < 4 * estimate.standard_error
    last = CHAIN.num_points  # where stopping is as good as thinking to the end
    stops = [k for k in range(1, last + 1) if decides(rule, elapsed_tokens=32 * k)] or [last]
    # the same point or one tied with it: a gain between two points is known to .01 from 4,000 thoughts
    assert tried(CHAIN, price)[stops[0] - 1] == pytest.approx(value, abs=0.01)
    assert price != 1e-3 or 1 < point < last


def decides(rule, **seen):
    bound = bind(rule, "numpy")
    fields = {name: np.float32(seen.get(name, -1)) for name in FREE_SIGNALS}
    _, action = bound.step(bound.init((1,)), type("Seen", (), {name: np.array([x]) for name, x in fields.items()}))
    return bool(action.kind[0])


NUM_POINTS, GAP, ANSWER, RISE, RIGHT = 6, 32, 10, 0.3, (0.15, 0.75)


def lamps(count, seed):
    """Worlds in which a lamp goes on with chance `RISE` a point, and stays on. It is observed, and answers depend on it alone."""
    random = np.random.default_rng(seed)
    shape = (count, NUM_POINTS)
    on = np.logical_or.accumulate(random.random(shape) < RISE, axis=1)
    right = random.random(shape) < np.where(on, RIGHT[1], RIGHT[0])
    signals = dict.fromkeys(FREE_SIGNALS[1:], np.zeros(shape, np.float32)) | {"log_close_prob": np.float32(on) - 3}
    worlds = ThinkingWorld(
        length_tokens=np.full(count, NUM_POINTS * GAP + ANSWER, np.int32), right=right[:, -1],
        answer=1 - right[:, -1].astype(np.int32),
        position_tokens=np.tile(GAP * np.arange(1, NUM_POINTS + 1, dtype=np.int32), (count, 1)),
        probe_answer=1 - right.astype(np.int32), probe_right=right, probe_cost_tokens=np.full(shape, ANSWER, np.int32),
        signals=signals, probe_known=np.ones(shape, bool), problem=np.arange(count, dtype=np.int32),
    )  # fmt: skip
    return jax.tree.map(lambda leaf: leaf[:, None], worlds)


@pytest.mark.parametrize("price", [5e-4, 2e-3, 8e-3])
def test_with_a_signal_of_two_values_it_is_the_dynamic_program(price):
    stopped = np.array(RIGHT) - price * (GAP * np.arange(1, NUM_POINTS + 1)[:, None] + ANSWER)
    value, gain = stopped[-1], {}
    for point in range(NUM_POINTS - 1, 0, -1):
        going_on = np.array([RISE * value[1] + (1 - RISE) * value[0], value[1]])
        gain[point] = stopped[point - 1] - going_on
        value = np.maximum(stopped[point - 1], going_on)
    exact = RISE * value[1] + (1 - RISE) * value[0]
    problem = Thinking(price_per_token=price)
    rule = fitted_value(problem, lamps(8000, 0))
    for point, gains in gain.items():
        for on in (0, 1):
            stops = decides(
                rule, elapsed_tokens=GAP * point, **dict.fromkeys(FREE_SIGNALS[2:], 0), log_close_prob=on - 3
            )
            assert stops == (gains[on] > 0) or abs(gains[on]) < 0.02
    estimate = play(problem, rule, lamps(20_000, 1))
    assert abs(estimate.mean - exact) < 4 * estimate.standard_error


@pytest.mark.parametrize("lag_tokens", [0, 40])
@pytest.mark.parametrize("interval_tokens", [0, 32, 64])
def test_its_accounts_are_those_of_the_play_and_hindsight_is_never_beaten(lag_tokens, interval_tokens, monkeypatch):
    """All prices, a lag, answers that do not come and some not judged: what the fit thinks its rule is worth, the play pays."""
    problem = Thinking(
        price_per_token=1e-3, price_per_prefill_token=1e-4, price_per_second=1e-3, seconds_per_prefill_token=1e-2,
        lag_tokens=lag_tokens,
    )  # fmt: skip
    worlds, random = drawn(CHAIN, 2000, 2, noise=1.0), np.random.default_rng(0)
    lost, unknown = random.random((2, *worlds.position_tokens.shape)) < 0.1
    worlds = worlds._replace(
        probe_answer=np.where(lost, -1, worlds.probe_answer),
        probe_right=worlds.probe_right & ~lost,
        probe_known=lost | ~unknown,
    )
    backward, told = value_regression._backward, []

    def noted(*args):
        told.append(backward(*args))
        return told[-1]

    monkeypatch.setattr(value_regression, "_backward", noted)
    rule = fitted_value(problem, worlds, interval_tokens)
    # one trace of 2,000 may be at a tie, which single precision decides otherwise
    assert play(problem, rule, worlds).mean == pytest.approx(max(value for _, value in told), abs=5e-4)
    if not lag_tokens:
        flat = jax.tree.map(lambda leaf: leaf[:, 0], worlds)
        assert isinstance(rule, ProbedExitValue) == (interval_tokens > 0)
        mine = sims.play_rules(problem, [rule], worlds, ("utility",))["utility"][0, :, 0]
        assert (mine <= np.asarray(evaluate(problem, "hindsight", flat).utility) + 1e-6).all()


def test_a_probe_that_tells_is_worth_its_price():
    """Of the same thoughts: probes at 10 tokens each against free signals that tell nothing, on fresh worlds."""
    problem = Thinking(price_per_token=1e-3)
    worlds, fresh = drawn(CHAIN, 4000, 3, noise=1.0), drawn(CHAIN, 8000, 4, noise=1.0)
    rules = [fitted_value(problem, worlds, interval) for interval in (0, 32)]
    free, probed = sims.play_rules(problem, rules, fresh, ("utility",))["utility"][..., 0]
    gain = sims.Estimate.of(probed.astype(float) - free)
    assert gain.mean > 4 * gain.standard_error


def test_families_go_from_thinking_to_the_end_to_stopping_at_once():
    worlds = drawn(CHAIN, 1000, 5, noise=1.0)
    families = exit_values(Thinking(), worlds, [32, 64])
    assert [len(members) for members in families.values()] == [8, 16]
    tokens = sims.play_rules(Thinking(), families["ExitValue"], worlds, ("total_tokens",))["total_tokens"].mean((1, 2))
    assert (np.diff(tokens) < 0.05 * tokens[0]).all() and tokens[0] > 2 * tokens[-1]  # but for noise, ever less
    bare = worlds._replace(signals={"answer_mean_log_prob": worlds.signals["answer_mean_log_prob"]})
    assert exit_values(Thinking(), bare, [32]) == {}
    with pytest.raises(ValueError, match="got no log_close_prob, mean_log_prob"):
        fitted_value(Thinking(), bare)
    assert fitted_value(Thinking(), worlds, 512).quadratic[0, 0] == -1  # no trace gets there: it never stops
    assert (worlds.position_tokens == NEVER).any()  # traces of unequal length were among them


def test_the_ridge_hardly_matters_on_the_shipped_log(monkeypatch):
    """Fitted on 300 problems, played on the other 700, where thinking to the end costs .2 of a right answer."""
    log = load_shipped_log()
    chosen, rest = split(log.take(log.probed), (0.3, 0.7), seed=0)
    problem = Thinking(price_per_token=0.2 / float(chosen.length_tokens[chosen.present].mean()))
    worlds, others = problem.worlds(chosen), problem.worlds(rest)
    rules = {}
    for interval in (0, 64):
        for ridge in (1e-3, 1e-2, 1e-1):
            monkeypatch.setattr(value_regression, "RIDGE", ridge)
            rules[interval, ridge] = fitted_value(problem, worlds, interval)
    budgets = problem.fixed_rules(worlds)
    played = sims.play_rules(problem, [*rules.values(), *budgets], others, ("utility",))["utility"].mean(axis=2)
    of = dict(zip(rules, played, strict=False))
    for interval, ridge in rules:
        changed = Estimate.of(of[interval, ridge] - of[interval, 1e-2])
        assert abs(changed.mean) < 0.003 + 4 * changed.standard_error
    best_budget = max(played[len(rules) :], key=np.mean)  # in hindsight
    for less in (best_budget, of[64, 1e-2]):
        gain = Estimate.of(of[0, 1e-2] - less)
        assert gain.mean > 4 * gain.standard_error
