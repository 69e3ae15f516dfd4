"""Planning: how much to record before a rule can be certified, what that costs, and when it does not pay."""

import math
from dataclasses import dataclass

import numpy as np

from stopping.traces.splits import FRACTIONS
from stopping.tuning.betting import problems_floor, problems_used

POWER = 0.9
NUM_RUNS = 1000  # simulated certifications: the power has a standard error of .01
NUM_PARTS = 10  # in which runs are computed, to save memory
MOST_PROBLEMS = 2**15  # beyond, no number is looked for


@dataclass(frozen=True)
class Plan:
    """What a certification needs.

    Numbers of problems are for a whole log, of which `stopping.tune` certifies on a part (`FRACTIONS`).

    Attributes:
        max_loss, confidence: what is to be certified.
        floor: the fewest problems in a log that can certify a rule that changes nothing on them.
        num_problems: number of problems in a log that certifies a rule with these losses with probability `POWER`; None
            without losses, or if `MOST_PROBLEMS` are not enough.
        tokens_a_problem: tokens generated to record one problem, with probes.
        tokens: tokens for `num_problems`, or for the floor if that is None.
        cost: of those tokens, in the unit of the price.
        least_saving_tokens: the saving for each request that pays for the recording in time; None without requests.
    """

    max_loss: float
    confidence: float
    floor: int
    num_problems: int | None
    tokens_a_problem: float
    tokens: float
    cost: float
    least_saving_tokens: float | None


def plan(
    max_loss: float,
    confidence: float = 0.95,
    *,
    discordance: float | None = None,
    mean_loss: float = 0.0,
    num_samples: int = 1,
    mean_tokens: float = 0.0,
    probe_tokens: float = 0.0,
    price_per_token: float = 0.0,
    requests_per_day: float | None = None,
    payback_days: float = 30.0,
) -> Plan:
    """Return how many problems a certification needs, what recording them costs, and the saving below which it does not pay.

    Args:
        max_loss: the limit on the loss, between 0 and 1.
        confidence: of the certificate.
        discordance: the share of problems on which the rule changes the outcome; None if nothing is known of it.
        mean_loss: of the rule: the share of answers it spoils minus the share it corrects; at most the discordance in size.
        num_samples: number of traces recorded for each problem.
        mean_tokens: mean length of a trace.
        probe_tokens: tokens of all probes of a trace.
        price_per_token: in any unit.
        requests_per_day: that the rule will serve.
        payback_days: days in which savings must pay for the recording.

    Raises:
        ValueError: naming the argument, for an invalid number.
    """
    floor = problems_of_log(problems_floor(max_loss, confidence))
    at_least_zero = {"mean_tokens": mean_tokens, "probe_tokens": probe_tokens, "price_per_token": price_per_token}
    for name, number in at_least_zero.items():
        if not (math.isfinite(number) and number >= 0):
            raise ValueError(f"{name}: expected a number >= 0, got {number!r}")
    more_than_zero = {"num_samples": num_samples, "requests_per_day": requests_per_day, "payback_days": payback_days}
    for name, known in more_than_zero.items():
        if known is not None and not (math.isfinite(known) and known > 0):
            raise ValueError(f"{name}: expected a number > 0, got {known!r}")
    num_problems = None if discordance is None else problems_needed(max_loss, confidence, discordance, mean_loss)
    if num_problems is not None:
        num_problems = problems_of_log(num_problems)
    tokens_a_problem = num_samples * (mean_tokens + probe_tokens)
    tokens = (num_problems or floor) * tokens_a_problem
    return Plan(
        max_loss,
        confidence,
        floor,
        num_problems,
        tokens_a_problem,
        tokens,
        tokens * price_per_token,
        None if requests_per_day is None else tokens / (requests_per_day * payback_days),
    )


def problems_of_log(num_certifying: int) -> int:
    """Return how many problems a log must have for `stopping.tune` to certify on this many."""
    return math.ceil(num_certifying / FRACTIONS[1])


def problems_needed(max_loss: float, confidence: float, discordance: float, mean_loss: float = 0.0) -> int | None:
    """Return on how many problems a rule is certified with probability `POWER`; None if `MOST_PROBLEMS` are not enough.

    The loss of a problem is 1, -1 or 0, with probabilities (discordance ± mean_loss) / 2 of the first two. A rule once
    certified stays certified with more problems, so the number is the `POWER` quantile of the problems used in `NUM_RUNS`
    simulated certifications, with a fixed seed.

    Raises:
        ValueError: naming the argument, for invalid probabilities or numbers outside (0, 1).
    """
    if not 0 <= discordance <= 1:
        raise ValueError(f"discordance: expected a number from 0 to 1, got {discordance!r}")
    if not abs(mean_loss) <= discordance:
        raise ValueError(f"mean_loss: expected at most the discordance {discordance!r} in size, got {mean_loss!r}")
    num_problems = 2 * problems_floor(max_loss, confidence)
    if mean_loss >= max_loss:
        return None
    while True:
        losses = drawn_losses(discordance, mean_loss, (NUM_RUNS, num_problems))
        parts = np.array_split(losses, NUM_PARTS)
        used = np.concatenate([problems_used(part, max_loss, confidence) for part in parts])
        enough = int(np.quantile(used, POWER, method="higher"))
        if enough <= num_problems:
            return enough
        if num_problems >= MOST_PROBLEMS:
            return None
        num_problems = min(2 * num_problems, MOST_PROBLEMS)


def drawn_losses(discordance: float, mean_loss: float, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Draw losses of 1, -1 and 0, with probabilities (discordance ± mean_loss) / 2 of the first two; int8."""
    uniform = np.random.default_rng(seed).random(shape, np.float32)
    spoilt, changed = uniform < (discordance + mean_loss) / 2, uniform < discordance
    return spoilt.astype(np.int8) - (changed & ~spoilt)
