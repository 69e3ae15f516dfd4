"""Is the mean loss below a limit? Betting on it: p-values and bounds that hold for any number of losses.

Losses x_1, x_2, ... in [-1, 1] are independent, one a problem, and come in an order fixed beforehand. Whoever does not
believe that their mean is at least m stakes a fraction of the capital on each of them,

    capital_t = prod_{s <= t} (1 + lambda (m - x_s)),   lambda = stake / (1 - m),   0 <= stake <= 1.

If the mean is at least m, no factor exceeds 1 on average: the capital is a supermartingale that starts at 1, and by
Ville's inequality it ever reaches 1 / alpha with probability alpha at most. The same holds for capital that is shared out
among several stakes once and for all. The p-value is 1 over the most it has been worth
(`theory_notes/03_certification.md`).

A stake of 1 grows fastest where there is no loss at all, to (1 - m)^-n with n problems, and is gone with the first loss
of 1. Smaller stakes outlive losses, and grow fastest where losses come with both signs. With the shares below, 163
problems without a loss certify a drop below .02, where 149 are the least that anyone needs.

References:
    Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSSB 2024): capital processes of
    section 4, inverted to bounds as in theorem 3, one-sided. Ville, "Etude critique de la notion de collectif" (1939).
"""

import math

import numpy as np
from jaxtyping import Float, Int

STAKES = np.array([1.0, 0.85, 0.6, 0.3, 0.1])
SHARES = np.array([0.6, 0.18, 0.12, 0.06, 0.04])  # of the capital
TOGETHER = 32  # factors multiplied before a logarithm is taken: their product is a number unless 1 - m < 1e-9
TOLERANCE = 1e-4  # of a bound


def log_capital(
    losses: Float[np.ndarray, "*members problems"], max_mean: float | Float[np.ndarray, "*members"]
) -> Float[np.ndarray, "*members problems"]:
    """The logarithm of the capital after each loss, of one who bets that the mean is below `max_mean`.

    Args:
        losses: in [-1, 1], independent along the last axis, in an order fixed beforehand.
        max_mean: between 0 and 1, one for all or one for each member.

    Raises:
        ValueError: for no losses, one outside [-1, 1], or a limit outside (0, 1).
    """
    losses = np.asarray(losses, np.float64)
    if not losses.size or not (np.abs(losses) <= 1).all():
        raise ValueError("losses: expected numbers in [-1, 1], one a problem, got none or others")
    limit = np.broadcast_to(np.asarray(max_mean, np.float64), losses.shape[:-1])
    if not ((limit > 0) & (limit < 1)).all():
        raise ValueError(f"max_mean: expected a number between 0 and 1, got {max_mean!r}")
    gains = np.ascontiguousarray(((limit[..., None] - losses) / (1 - limit[..., None])).reshape(-1, losses.shape[-1]).T)
    stakes = STAKES[:, None]
    logs = np.log(SHARES)[:, None] + np.zeros(gains.shape[1])
    capital, factor = np.empty_like(gains), np.empty_like(logs)
    for first in range(0, len(gains), TOGETHER):
        largest = logs.max(axis=0)
        each = np.exp(logs - largest)
        part = capital[first : first + TOGETHER]
        for gain, total in zip(gains[first : first + TOGETHER], part, strict=True):
            np.multiply(stakes, gain, out=factor)
            factor += 1
            each *= factor
            each.sum(axis=0, out=total)
        with np.errstate(divide="ignore"):  # a stake of 1 has met a loss of 1
            logs = np.log(each) + largest
        part[:] = np.log(part) + largest
    return capital.T.reshape(losses.shape)


def p_values(
    losses: Float[np.ndarray, "*members problems"], max_mean: float | Float[np.ndarray, "*members"]
) -> Float[np.ndarray, "*members"]:
    """The p-value of "the mean loss is `max_mean` or more" for each member; arguments and errors as `log_capital`."""
    most: np.ndarray = log_capital(losses, max_mean).max(axis=-1)
    return np.exp(-np.maximum(most, 0))


def problems_used(
    losses: Float[np.ndarray, "*members problems"], max_mean: float, confidence: float
) -> Int[np.ndarray, "*members"]:
    """How many losses it takes until the p-value is 1 - confidence; one more than there are where they do not do.

    Raises:
        ValueError: as `log_capital`, or for a confidence outside (0, 1).
    """
    enough = log_capital(losses, max_mean) >= -math.log(risk_of(confidence))
    count: np.ndarray = np.where(enough.any(axis=-1), enough.argmax(axis=-1), enough.shape[-1]) + 1
    return count


def upper_bounds(losses: Float[np.ndarray, "*members problems"], confidence: float) -> Float[np.ndarray, "*members"]:
    """With this confidence the mean loss is at most so much, for each member; 1 where nothing can be said.

    It is the least limit that the p-value rules out: with every stake the capital only grows with the limit, so bisection
    finds it, to `TOLERANCE` and rounded up.

    Raises:
        ValueError: as `log_capital`, or for a confidence outside (0, 1).
    """
    risk, losses = risk_of(confidence), np.asarray(losses, np.float64)
    low, high = np.zeros(losses.shape[:-1]), np.ones(losses.shape[:-1])
    for _ in range(math.ceil(-math.log2(TOLERANCE))):
        middle = (low + high) / 2
        excluded = p_values(losses, middle) <= risk
        low, high = np.where(excluded, low, middle), np.where(excluded, middle, high)
    return high


def problems_floor(max_drop: float, confidence: float) -> int:
    """The fewest problems that any certificate needs, had none of them a loss: ln(1 / alpha) / -ln(1 - max_drop).

    Of losses that are 1 with chance `max_drop`, and must not be certified, fewer are all 0 with more chance than
    alpha = 1 - confidence.

    Raises:
        ValueError: for numbers outside (0, 1).
    """
    if not 0 < max_drop < 1:
        raise ValueError(f"max_drop: expected a number between 0 and 1, got {max_drop!r}")
    return math.ceil(math.log(risk_of(confidence)) / math.log1p(-max_drop))


def risk_of(confidence: float) -> float:
    """Return alpha = 1 - confidence.

    Raises:
        ValueError: for a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence!r}")
    return 1 - confidence
