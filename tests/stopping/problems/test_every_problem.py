"""What every problem goes through: ours, and the one that the guide to custom problems (notebook 08) defines."""

from typing import Any

import jax
import numpy as np
import pytest

import sims
import stopping
from sims.engine import BLOCK, evaluate
from stopping.models import AnswerChain, LengthCorrectness
from stopping.policies import Kind, bind
from stopping.problems import Problem, Replayable, Sampling, Thinking
from stopping.solvers import FamilySearch, Status
from stopping.tuning import Grade
from tests.stopping.problems import guide


def giving_up() -> Any:
    return guide.module().GivingUp(price_per_token=5e-4)


PROBLEMS = {
    "sampling": lambda: Sampling(6, model=LengthCorrectness([2.0], [1.0], shift=0.3), price_per_token=1e-4),
    "sampling in sequence": lambda: Sampling(
        4, model=LengthCorrectness([2.0], [1.0]), wave_size=1, price_per_second=1e-3
    ),
    "thinking": lambda: Thinking(
        model=AnswerChain(
            0.3, 0.3, 0.02, 0.05, right_log_prob=-0.2, wrong_log_prob=-1.2, log_prob_scale=0.3, num_points=8
        ),
        price_per_token=1e-3,
    ),
    "giving up": giving_up,
}


@pytest.fixture(scope="module", params=PROBLEMS)
def problem(request: pytest.FixtureRequest) -> Any:
    return PROBLEMS[request.param]()


@pytest.fixture(scope="module")
def worlds(problem: Any) -> Any:
    return sims.draw(jax.random.key(1), problem, 400)


@pytest.fixture(scope="module")
def log(problem: Any, worlds: Any) -> Any:
    return problem.log(worlds)


@pytest.fixture(scope="module")
def rules(problem: Any, worlds: Any) -> list[Any]:
    fixed = problem.fixed_rules(worlds)
    return [fixed[0], fixed[len(fixed) // 2], fixed[-1]]


def test_it_is_a_problem(problem, worlds):
    assert isinstance(problem, Problem) and isinstance(problem, Replayable)
    names = [component.name for component in problem.components]
    outcome = evaluate(problem, "hindsight", worlds)
    assert len(set(names)) == len(names) and "utility" in names and {*names, "unsupported"} <= {*outcome._fields}
    assert {component.role for component in problem.components} >= {"worth", "cost"}


def test_simulation_is_replay_of_the_drawn_worlds(problem, rules):
    rule = rules[1]
    simulated = sims.simulate(jax.random.key(1), problem, rule, num_replicas=400)
    worlds = sims.draw(jax.random.key(1), problem, 400)
    replayed = sims.replay_worlds(problem, rule, jax.tree.map(lambda leaf: leaf[:, None], worlds))
    assert simulated.digest == replayed.digest
    for name, values in replayed.values.items():
        np.testing.assert_array_equal(simulated.values[name], values, err_msg=name)


def test_replay_of_drawn_worlds_written_as_a_log_is_their_replay(problem, rules, worlds, log):
    for rule in rules:
        drawn = sims.replay_worlds(problem, rule, jax.tree.map(lambda leaf: leaf[:, None], worlds))
        logged = sims.replay(problem, rule, log)
        for name in drawn.estimates:  # labels are a log's own
            np.testing.assert_array_equal(logged.values[name], drawn.values[name], err_msg=f"{rule}: {name}")


def test_nobody_beats_hindsight(problem, rules, worlds):
    best = np.asarray(evaluate(problem, "hindsight", worlds).utility, np.float64)
    for rule in rules:
        result = sims.replay_worlds(problem, rule, jax.tree.map(lambda leaf: leaf[:, None], worlds))
        assert (result.values["utility"] <= best + 1e-5).all()


def test_loss_and_cost(problem, rules, worlds):
    stacked = jax.tree.map(lambda leaf: leaf[:, None], worlds)
    played = stopping.tuning.play(problem, rules[-1], rules, stacked)
    assert played.loss.shape == played.cost.shape == (4, 400)
    assert np.abs(played.loss).max() <= 1 and (played.cost >= 0).all()
    assert (played.loss[[0, 3]] == 0).all() and (played.saving[[0, 3]] == 0).all()  # the reference itself
    utility = played.mean("utility")
    np.testing.assert_allclose(played.mean("correct") - played.cost, utility, atol=1e-4)  # prices are not 0 here
    assert problem.lossless(rules[0], rules[0]) in (True, False)


def test_it_is_solved(problem):
    found = stopping.solve(problem, FamilySearch(BLOCK))
    assert found.status in Status and found.value.mean <= found.clairvoyant.mean + 4 * found.clairvoyant.standard_error
    assert found.best_fixed.gain.mean == 0 and str(found.policy) in repr(found)
    found.plot()


def test_it_is_swept_and_searched(problem, rules):
    grid = sims.sweep(jax.random.key(0), problem, rules, num_replicas=500)
    alone = sims.simulate(jax.random.key(0), problem, rules[2], num_replicas=500)
    for component in problem.components:
        assert grid.estimate(component.name, 2).mean == pytest.approx(alone.estimates[component.name].mean, rel=1e-5)
    found = sims.search(jax.random.key(0), problem, rules, num_replicas=BLOCK)
    assert found.policy in rules
    dearer = problem.priced(1e-2)
    prices = sims.sweep(jax.random.key(0), [problem, dearer], rules, num_replicas=500)
    assert (prices.mean["utility"][0] > prices.mean["utility"][1]).all()


def test_it_is_compared(problem, rules, log):
    table = stopping.compare(problem, rules, log)
    assert table.rows[0].policy == problem.reference_rule(log) and len(repr(table)) > 50
    costs = {component.name for component in problem.components if component.role == "cost"}
    assert all(set(row.at_equal) <= costs for row in table.rows)
    table.plot()


def test_it_is_tuned_certified_saved_loaded_and_stepped(problem, log, rules, tmp_path):
    found = stopping.tune(problem, log, max_loss=0.2)
    assert found.advice and len(found.tested) >= 1 and found.problem is problem
    assert all(0 <= rule.measured.clairvoyant_share <= 1 for rule in found.tested)
    certificates = stopping.certify(problem, rules, log, max_loss=0.9).certificates
    assert certificates[-1].grade in Grade
    policy = (found.chosen or found.tested[0]).policy
    stopping.save_policy(policy, tmp_path / "policy", problem=problem)
    loaded = stopping.load_policy(tmp_path / "policy")
    assert loaded.policy == policy and loaded.document.observation == problem.decision.observation.__name__
    assert loaded.document.decision_points.on == problem.decision.asked
    rule = bind(loaded.policy, "numpy")
    zeros = {name: np.zeros(3, problem.decision.dtype_of(name)) for name in problem.decision.signals}
    _, action = rule.step(rule.init((3,)), problem.decision.observation(**zeros))
    assert set(np.ravel(action.kind).tolist()) <= {int(kind) for kind in problem.decision.kinds} | {int(Kind.CONTINUE)}
