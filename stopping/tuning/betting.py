"""Tests and confidence bounds for a mean loss by betting, valid for any number of losses.

Losses x_1, x_2, ... in [-1, 1] are independent, one a problem, in an order fixed beforehand. To test the hypothesis that
their mean is at least m, a fraction of the capital is staked on each of them,

    capital_t = prod_{s <= t} (1 + lambda (m - x_s)),   lambda = stake / (1 - m),   0 <= stake <= 1.

If the mean is at least m, no factor exceeds 1 on average: the capital is a supermartingale that starts at 1, and by
Ville's inequality it ever reaches 1 / alpha with probability at most alpha. The same holds for a capital that is divided
among several stakes at the start. The p-value is the inverse of the largest capital so far
(`theory_notes/03_certification.md`).

A stake of 1 grows fastest if there are no losses, to (1 - m)^-n with n problems, and is lost with the first loss of 1.
Smaller stakes survive losses, and grow fastest if losses have both signs. With the shares below, 163 problems without a
loss certify a drop below .02; no valid test needs fewer than 149.

References:
    Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSSB 2024): capital processes of
    section 4, inverted to bounds as in theorem 3, one-sided. Ville, "Etude critique de la notion de collectif" (1939).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sims import Estimate

STAKES = np.array([1.0, 0.85, 0.6, 0.3, 0.1])
SHARES = np.array([0.6, 0.18, 0.12, 0.06, 0.04])  # of the capital
TOGETHER = 32  # losses between two logarithms: products of factors do not overflow unless 1 - m < 1e-9
NUM_HALVINGS = 15  # until a bound is known to 2^-14
FEW_OTHERS = 15  # with fewer values other than the most common one, a mean is not treated as normal


class Bets(NamedTuple):
    """Outcome of bets that the mean loss of each member is below a limit; `[members]` each.

    Attributes:
        log_capital: logarithm of the capital after the last loss.
        log_most: logarithm of the largest capital after any loss.
        num_used: number of losses until the capital reached the goal; one more than there are if it did not.
    """

    log_capital: Any
    log_most: Any
    num_used: Any


def bet(
    losses: Float[np.ndarray, "*members problems"],
    max_mean: float | Float[np.ndarray, "*members"],
    log_goal: float = math.inf,
) -> Bets:
    """Bet that mean losses are below `max_mean`, in double precision.

    Numbers of members and problems are padded to powers of two, so that few programs are compiled.

    Args:
        losses: in [-1, 1], independent along the last axis, in an order fixed beforehand.
        max_mean: between 0 and 1, one for all or one for each member.
        log_goal: logarithm of a capital.

    Raises:
        ValueError: for no losses, one outside [-1, 1], or a limit outside (0, 1).
    """
    losses = _checked(losses)
    *members, num_problems = losses.shape
    limit = np.broadcast_to(np.asarray(max_mean, np.float64), members)
    if not ((limit > 0) & (limit < 1)).all():
        raise ValueError(f"max_mean: expected a number between 0 and 1, got {max_mean!r}")
    with jax.enable_x64(True):
        rows = _padded(losses)
        found = _bet(rows, np.pad(limit.reshape(-1), (0, len(rows) - limit.size)), num_problems, log_goal)
    return Bets(*(np.asarray(values)[: limit.size].reshape(members) for values in found))


def _checked(losses: np.ndarray) -> np.ndarray:
    losses = np.asarray(losses, np.float64)
    if not (losses.size and losses.min() >= -1 and losses.max() <= 1):  # NaN fails both
        raise ValueError("losses: expected numbers in [-1, 1], one a problem, got none or others")
    return losses


def _padded(losses: np.ndarray) -> np.ndarray:
    """Return the rows padded to powers of two, so that few programs are compiled."""
    rows = losses.reshape(-1, losses.shape[-1])
    return np.pad(rows, [(0, max(TOGETHER, 1 << (count - 1).bit_length()) - count) for count in rows.shape])


@jax.jit
def _bet(
    losses: Float[Array, "members problems"], limit: Float[Array, " members"], num_problems: Any, log_goal: Any
) -> Bets:
    """Bet on the first `num_problems` losses; the number of columns is a multiple of `TOGETHER`."""
    num_members, num_padded = losses.shape
    there = jnp.arange(num_padded)[:, None] < num_problems
    gains = jnp.where(there, (limit - losses.T) / (1 - limit), 0)  # by 1 - m; a gain of 0 leaves the capital as it is
    stakes = jnp.asarray(STAKES)[:, None]

    def one(at: Any, gain: Array) -> tuple[Any, None]:
        each, most, num_short, goal = at
        each = each * (1 + stakes * gain)
        most = jnp.maximum(most, each.sum(axis=0))
        return (each, most, num_short + (most < goal), goal), None

    def part(at: Any, some: Array) -> tuple[Any, None]:
        shares, log, log_most, num_short = at
        goal = jnp.where(log_most < log_goal, jnp.exp(log_goal - log), 0)
        (each, most, num_short, _), _ = jax.lax.scan(one, (shares, jnp.zeros_like(log), num_short, goal), some)
        total = each.sum(axis=0)
        return (each / total, log + jnp.log(total), jnp.maximum(log_most, log + jnp.log(most)), num_short), None

    none = jnp.zeros(num_members)
    start = (jnp.asarray(SHARES)[:, None] + none, none, none - jnp.inf, jnp.zeros(num_members, int))
    at, _ = jax.lax.scan(part, start, gains.reshape(-1, TOGETHER, num_members))
    _, log, log_most, num_short = at
    return Bets(log, log_most, jnp.minimum(num_short, num_problems) + 1)


def p_values(
    losses: Float[np.ndarray, "*members problems"], max_mean: float | Float[np.ndarray, "*members"]
) -> Float[np.ndarray, "*members"]:
    """Return the p-value of "the mean loss is `max_mean` or more" for each member; arguments and errors as `bet`."""
    return np.exp(-np.maximum(bet(losses, max_mean).log_most, 0))


def problems_used(
    losses: Float[np.ndarray, "*members problems"], max_mean: float, confidence: float
) -> Int[np.ndarray, "*members"]:
    """Return how many losses it takes until the p-value is 1 - confidence; one more than there are if they are not enough.

    Raises:
        ValueError: as `bet`, or for a confidence outside (0, 1).
    """
    used: np.ndarray = bet(losses, max_mean, -math.log(risk_of(confidence))).num_used
    return used


def upper_bounds(losses: Float[np.ndarray, "*members problems"], confidence: float) -> Float[np.ndarray, "*members"]:
    """Return the upper confidence bound on each member's mean loss, in (-1, 1]; 1 if the losses exclude nothing.

    It is the smallest limit that the test rejects. For every stake the capital increases with the limit, so the bound is
    found by bisection, to 2^-14 and rounded up.

    Raises:
        ValueError: as `bet`, or for a confidence outside (0, 1).
    """
    losses, log_goal = _checked(losses), -math.log(risk_of(confidence))
    *members, num_problems = losses.shape
    with jax.enable_x64(True):
        found = np.asarray(_bounds(_padded(losses), num_problems, log_goal))
    return found[: math.prod(members)].reshape(members)


@jax.jit
def _bounds(losses: Float[Array, "members problems"], num_problems: Any, log_goal: Any) -> Float[Array, " members"]:
    def halve(_: Any, between: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = between
        middle = (low + high) / 2
        excluded = _bet(losses, middle, num_problems, log_goal).log_most >= log_goal
        return jnp.where(excluded, low, middle), jnp.where(excluded, middle, high)

    none = jnp.zeros(losses.shape[0])
    return jax.lax.fori_loop(0, NUM_HALVINGS, halve, (none - 1, none + 1))[1]


def mean_interval(values: Float[np.ndarray, " problems"], confidence: float = 0.95) -> tuple[float, float]:
    """Return a confidence interval for the mean of independent values in [-1, 1], most of which may be equal.

    The normal interval (Student's t with few values) needs values other than the most common one to estimate the variance.
    With fewer than `FEW_OTHERS` of them it is too narrow, and without any it has no width. The interval is then that of
    betting, which is valid for any number of values.

    Args:
        values: one a problem, such as differences of accuracy.
        confidence: of the interval, two-sided.

    Raises:
        ValueError: for no values, one outside [-1, 1], or a confidence outside (0, 1).
    """
    values, risk = _checked(values), risk_of(confidence)
    estimate = Estimate.of(values)
    if is_taken_for_normal(values):
        low, high = estimate.interval(confidence)
        return max(low, -1.0), min(high, 1.0)
    above, below = upper_bounds(np.stack([values, -values]), 1 - risk / 2)
    return min(-float(below), estimate.mean), max(float(above), estimate.mean)


def is_taken_for_normal(values: np.ndarray) -> bool:
    """Return whether enough values differ from the most common one for their mean to be treated as normal."""
    return bool(len(values) - np.unique(values, return_counts=True)[1].max() >= FEW_OTHERS)


def problems_floor(max_loss: float, confidence: float) -> int:
    """Return the fewest problems that can certify a rule that changes nothing on them: ln(1 / alpha) / -ln(1 - max_loss).

    Fewer are enough only if the rule corrects more answers than it spoils. Losses that are 1 with probability `max_loss` must
    not be certified, and fewer of them are all 0 with probability above alpha = 1 - confidence.

    Raises:
        ValueError: for numbers outside (0, 1).
    """
    if not 0 < max_loss < 1:
        raise ValueError(f"max_loss: expected a number between 0 and 1, got {max_loss!r}")
    return math.ceil(math.log(risk_of(confidence)) / math.log1p(-max_loss))


def risk_of(confidence: float) -> float:
    """Return alpha = 1 - confidence.

    Raises:
        ValueError: for a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence!r}")
    return 1 - confidence
