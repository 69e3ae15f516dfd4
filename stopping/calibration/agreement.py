"""Which wrong answers agree: the Ewens-Pitman law, by maximum likelihood of the group sizes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stopping.calibration.ascent import ascend
from stopping.calibration.statistics import Statistics
from stopping.models import Answers

MAX_KINDS = 12  # beyond, finitely many kinds cannot be told from infinitely many in a log


class AnswersFit(NamedTuple):
    """The law and the standard error of the log of its concentration (`+ discount`); `[]` each."""

    answers: Answers
    log_concentration_error: Float[Array, ""]


def fit_answers(data: Statistics) -> AnswersFit:
    """Fit both branches of the law, infinitely many kinds and 1 to `MAX_KINDS` of them, and keep the likelier one.

    Weak priors, on the branches' own scales: log(concentration + discount) and the log of each kind's weight
    ~ Normal(0, 2), logit of the discount ~ Normal(-1, 2).
    """
    dtype = data.more_kinds.dtype

    def log_likelihood(answers: Answers) -> Array:
        return answers.log_likelihood(data.more_kinds, data.more_wrong, data.more_copies)

    def endless(point: Array) -> Answers:
        discount = jax.nn.sigmoid(point[1])
        return Answers(discount, jnp.exp(point[0]) - discount)

    def finite(point: Array, num_kinds: Array) -> Answers:
        return Answers(-jnp.exp(point[0]), num_kinds * jnp.exp(point[0]))

    def endless_posterior(point: Array) -> Array:
        return log_likelihood(endless(point)) - 0.5 * (point[0] / 2) ** 2 - 0.5 * ((point[1] + 1) / 2) ** 2

    def finite_posterior(point: Array, num_kinds: Array) -> Array:
        return log_likelihood(finite(point, num_kinds)) - 0.5 * (point[0] / 2) ** 2

    best, error = ascend(endless_posterior, jnp.array([0.0, -1.0], dtype))

    def climb(num_kinds: Array) -> tuple[Array, Array, Array]:
        point, error = ascend(lambda at: finite_posterior(at, num_kinds), jnp.zeros(1, dtype))
        return log_likelihood(finite(point, num_kinds)), point, error

    kinds = jnp.arange(1, MAX_KINDS + 1, dtype=dtype)
    value, point, finite_error = jax.vmap(climb)(kinds)
    most = jnp.argmax(value)
    is_finite = value[most] > log_likelihood(endless(best))
    chosen, other = finite(point[most], kinds[most]), endless(best)
    answers = jax.tree.map(lambda a, b: jnp.where(is_finite, a, b), chosen, other)
    return AnswersFit(answers, jnp.where(is_finite, finite_error[most, 0], error[0]))
