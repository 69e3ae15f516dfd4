"""How many problems: simulated certifications, and what they cost."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from stopping.traces.splits import FRACTIONS, sizes_of
from stopping.tuning import plan
from stopping.tuning.betting import p_values
from stopping.tuning.planning import POWER, drawn_losses, problems_needed, problems_of_log


def test_losses_are_drawn_as_told():
    losses = drawn_losses(0.2, 0.05, (400_000,))
    for value, chance in ((1, 0.125), (-1, 0.075), (0, 0.8)):
        assert abs(np.mean(losses == value) - chance) < 5 * math.sqrt(chance * (1 - chance) / losses.size)


@pytest.mark.parametrize(("discordance", "mean_loss"), [(0.01, 0.0), (0.05, -0.02), (0.005, 0.005)])
def test_with_so_many_problems_nine_in_ten_are_certified(discordance, mean_loss):
    """Another seed: the share certified is the power, within the error of finding the number and of this run."""
    number = problems_needed(0.02, 0.95, discordance, mean_loss)
    losses = drawn_losses(discordance, mean_loss, (1000, number), seed=9)
    share = np.mean(p_values(losses, 0.02) <= 0.05)
    assert abs(share - POWER) < 4.5 * math.sqrt(2 * POWER * (1 - POWER) / 1000)


def test_rules_without_losses_need_little_and_hopeless_ones_no_number_helps():
    assert problems_needed(0.02, 0.95, 0.0) == 163
    assert problems_needed(0.02, 0.95, 0.1, 0.02) is None
    # one changed outcome in a hundred is a loss: 162 problems often have none
    assert binom.pmf(0, 163, 0.01) > 0.15 and problems_needed(0.02, 0.95, 0.01, 0.01) > 1000


@pytest.mark.parametrize("num_certifying", range(1, 400, 7))
def test_a_log_is_as_large_as_its_split_takes(num_certifying):
    number = problems_of_log(num_certifying)
    assert sizes_of(number, FRACTIONS)[1] >= num_certifying > sizes_of(number - 2, FRACTIONS)[1]


def test_what_recording_costs():
    found = plan(
        0.02, 0.95, num_samples=4, mean_tokens=300, probe_tokens=50, price_per_token=2e-6,
        requests_per_day=1000, payback_days=10,
    )  # fmt: skip
    assert (found.floor, found.num_problems, found.tokens_a_problem) == (298, None, 1400)
    assert found.tokens == 298 * 1400 and found.cost == pytest.approx(298 * 1400 * 2e-6)
    assert found.least_saving_tokens == pytest.approx(298 * 1400 / 10_000)
    more = plan(0.02, 0.95, discordance=0.0, num_samples=4, mean_tokens=350)
    assert (more.num_problems, more.tokens, more.least_saving_tokens) == (326, 326 * 1400, None)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"max_loss": 0.0}, "max_loss: expected"),
        ({"confidence": 1.0}, "confidence: expected"),
        ({"discordance": 1.5}, "discordance: expected"),
        ({"discordance": 0.1, "mean_loss": 0.2}, "mean_loss: expected"),
        ({"mean_tokens": -1.0}, "mean_tokens: expected"),
        ({"price_per_token": math.nan}, "price_per_token: expected"),
        ({"num_samples": 0}, "num_samples: expected"),
        ({"requests_per_day": 0.0}, "requests_per_day: expected"),
        ({"payback_days": math.inf}, "payback_days: expected"),
    ],
)
def test_what_cannot_be_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        plan(**({"max_loss": 0.02} | wrong))
