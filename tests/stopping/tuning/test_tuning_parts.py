"""Pieces of tuning on numbers drawn or written by hand: mixtures of rules, and halves played by rules fitted to the others."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stopping.policies import TokenBudget
from stopping.problems import Thinking
from stopping.reasoner import load_shipped_log
from stopping.solvers.families import fitted_families
from stopping.tuning.played import play
from stopping.tuning.tuning import _crossed, _is_above, _mixture


def test_a_coin_uses_up_the_limit():
    loss, saving = np.array([0.0, 0.04, 0.01]), np.array([0.0, 8.0, 1.0])
    assert _mixture(loss, saving, 0.02) == (0, 1, 0.5)
    assert _mixture(loss, saving, 0.04)[1:] == (1, 1.0)  # the second as it is
    assert _mixture(loss[:1], saving[:1], 0.02)[:2] == (0, 0)


numbers = arrays(np.float64, 5, elements=st.floats(-1, 1, allow_subnormal=False))


@settings(max_examples=200, deadline=None)
@given(numbers, numbers, st.floats(0, 1), st.integers(0, 4), st.integers(0, 4), st.floats(0, 1))
def test_no_other_coin_within_the_limit_saves_more(loss, saving, limit, one, other, coin):
    loss[0] = 0.0  # the reference
    first, second, share = _mixture(loss, saving, limit)
    assert 0 <= share <= 1
    assert (1 - share) * loss[first] + share * loss[second] <= limit + 1e-9
    if (1 - coin) * loss[one] + coin * loss[other] <= limit:
        best = (1 - share) * saving[first] + share * saving[second]
        assert (1 - coin) * saving[one] + coin * saving[other] <= best + 1e-9


def test_only_a_rule_above_the_line_of_fixed_ones_is_above():
    """Fixed rules save 100 tokens for .1 of accuracy; so does a rule that tosses a coin on every problem."""
    random = np.random.default_rng(0)
    fixed_loss = (random.random((1, 4000)) < 0.1) * np.array([[0.0], [1.0]])
    fixed_saving = np.array([[0.0], [100.0]]) + np.zeros((2, 4000))
    tossed = random.random(4000) < 0.5
    loss = np.where(tossed, fixed_loss[1], 0.0)
    saving = np.where(tossed, 100.0, 0.0)
    assert not _is_above(loss, saving, fixed_loss, fixed_saving)
    assert _is_above(loss, saving + 10, fixed_loss, fixed_saving)
    assert not _is_above(loss, saving - 10, fixed_loss, fixed_saving)


def test_each_half_is_played_by_rules_fitted_to_the_other():
    problem, reference = Thinking(), TokenBudget(10**6)
    log = load_shipped_log()
    worlds = problem.worlds(log.take(log.probed).take(range(40)))
    fitted = _crossed(problem, reference, worlds)
    parts = [jax.tree.map(lambda leaf, start=start: np.asarray(leaf)[start::2], worlds) for start in (0, 1)]
    for part, other in ((0, 1), (1, 0)):
        for name, members in fitted_families(problem, parts[other]).items():
            played = play(problem, reference, members, parts[part])
            np.testing.assert_array_equal(fitted[name][:, :, part::2], [played.loss[1:], played.saving[1:]])
    assert fitted.keys() == {"ExitValue", "ProbedExitValue"}
