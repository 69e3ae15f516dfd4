"""What is promised of runs to come, of numbers drawn by hand: coupled to the runs left alone, and not."""

import numpy as np
import pytest

from stopping.policies import CandidateStop, TokenBudget
from stopping.problems import Thinking
from stopping.reasoner import load_shipped_log
from stopping.tuning.measurement import misses_by_chance, observed, predict, predicted

NUM_ORDERS, NUM_RUNS, NUM_REPEATS = 8, 500, 2000


def drawn(random, num_problems, num_rules=1):
    """The reference and rules that lose .02 and save more on some problems than on others: `[1 + rules, problems, orders]`.

    A rule's answer is the reference's own in four of five orders.
    """
    shape = num_problems, NUM_ORDERS
    chance, left = random.uniform(0.3, 0.9, num_problems)[:, None], random.uniform(0.4, 1, num_problems)[:, None]
    noise, tokens = random.random(shape), 300 - 200 * chance + 60 * random.standard_normal(shape)
    own = [np.where(random.random(shape) < 0.8, noise, random.random(shape)) for _ in range(num_rules)]
    correct = np.stack([noise < chance, *(each < chance - 0.02 for each in own)])
    return correct, np.stack([tokens, *[left * tokens] * num_rules])


def test_runs_that_are_not_coupled_are_promised_the_same_with_more_noise():
    correct, tokens = drawn(np.random.default_rng(0), 200)
    both = [predicted(correct, tokens, NUM_RUNS, coupled=coupled) for coupled in (True, False)]
    for name in both[0]:
        assert both[0][name].mean == pytest.approx(both[1][name].mean, abs=1e-12)
        widths = [told[name].high - told[name].low for told in both]
        assert widths[1] > 1.15 * widths[0]


@pytest.mark.parametrize("coupled", [True, False])
def test_intervals_hold_what_comes_in_19_of_20(coupled):
    """Within 4 standard errors of a share of .95, over test parts and runs drawn anew."""
    random, held = np.random.default_rng(1), np.zeros(2)
    rows = np.arange(NUM_RUNS)
    for _ in range(NUM_REPEATS):
        told = predicted(*drawn(random, 100), NUM_RUNS, coupled=coupled)
        correct, tokens = drawn(random, NUM_RUNS)
        own = np.zeros(NUM_RUNS, int)
        stopped = own if coupled else own + 1
        came = observed(
            correct[1, rows, stopped], tokens[1, rows, stopped], correct[0, rows, own], tokens[0, rows, own]
        )
        held += [told[name].holds(came[name].mean) for name in told]
    assert np.abs(held / NUM_REPEATS - 0.95).max() < 4 * np.sqrt(0.05 * 0.95 / NUM_REPEATS)


def test_misses_come_together():
    """So many on average as the level says, but with a longer tail than independent ones."""
    correct, tokens = drawn(np.random.default_rng(2), 200, num_rules=3)
    misses = misses_by_chance(correct, tokens, NUM_RUNS, 2, 500)
    error = misses.std() / np.sqrt(len(misses))
    assert abs(misses.mean() - 12 * 0.05) < 4 * error
    assert misses.var() > 1.3 * 12 * 0.05 * 0.95
    np.testing.assert_array_equal(misses, misses_by_chance(correct, tokens, NUM_RUNS, 2, 500))
    with pytest.raises(ValueError, match="correct: expected 4 orders at least, one for each rule, got 3"):
        misses_by_chance(correct[..., :3], tokens[..., :3], NUM_RUNS, 2, 1)


def test_a_log_is_played_for_it():
    log = load_shipped_log()
    worlds = Thinking().worlds(log.take(log.probed).take(range(100)))
    rules = TokenBudget(480), CandidateStop(1)
    coupled, apart = (predict(Thinking(), *rules, worlds, 1000, coupled=each) for each in (True, False))
    for name in coupled:
        assert coupled[name].mean == pytest.approx(apart[name].mean, abs=1e-9)
        assert coupled[name].low > apart[name].low and coupled[name].high < apart[name].high


def test_one_order_cannot_be_uncoupled():
    with pytest.raises(ValueError, match="worlds: expected two orders at least where runs are not coupled, got one"):
        predicted(np.ones((2, 5, 1)), np.ones((2, 5, 1)), 10, coupled=False)


def test_what_never_changed_is_promised_within_an_interval():
    """No answer changed on 40 problems: a loss on 5 % of those to come would be missed by no width in 13 % of cases."""
    correct, tokens = np.ones((2, 40, 1)), np.stack([np.full((40, 1), 100.0), np.full((40, 1), 60.0)])
    tokens += np.arange(40)[:, None]
    told = predicted(correct, tokens, 1000)["accuracy_change"]
    assert told.mean == 0 and told.low < -0.08 and told.high > 0.08
    few = predicted(correct, tokens, 20)["accuracy_change"]
    assert few.low < told.low and few.high > told.high  # fewer runs, more noise
    correct[1, 7] = 0
    one = predicted(correct, tokens, 1000)["accuracy_change"]
    assert one.low < told.low and one.low < one.mean == -1 / 40 < one.high


def test_changes_that_are_all_the_same_are_promised_within_an_interval():
    correct, tokens = np.stack([np.ones((40, 1)), np.zeros((40, 1))]), np.ones((2, 40, 1))
    told = predicted(correct, tokens, 1000)["accuracy_change"]
    assert told.mean == -1 and told.high > -0.95


def test_rare_changes_are_held_by_what_is_promised():
    """Losses on 2 % of problems, 60 problems to predict from: held in 95 % of cases or more, by 4 standard errors."""
    random, held, repeats = np.random.default_rng(3), 0, 1000
    for _ in range(repeats):
        correct = np.ones((2, 60, 1))
        correct[1, :, 0] = random.random(60) >= 0.02
        told = predicted(correct, np.ones((2, 60, 1)) + random.random((2, 60, 1)), 500)["accuracy_change"]
        held += told.holds(-(random.random(500) < 0.02).mean())
    assert held / repeats > 0.95 - 4 * np.sqrt(0.05 * 0.95 / repeats)
