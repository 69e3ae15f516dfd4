"""Which wrong answers agree: the Ewens-Pitman law, by maximum likelihood of the group sizes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from stopping.calibration.ascent import Ascent, ascend
from stopping.calibration.sufficient_statistics import Statistics
from stopping.models import Answers

MAX_KINDS = 12  # beyond, finitely many kinds cannot be told from infinitely many in a log
ENDLESS = 0  # stands for infinitely many


class AnswersFit(NamedTuple):
    """The law; standard errors of its discount and of the log of its concentration (`+ discount`); `[]` each.

    `converged` says whether the search for it ended. Standard errors take the number of kinds as known.
    """

    answers: Answers
    discount_error: Float[Array, ""]
    log_concentration_error: Float[Array, ""]
    converged: Bool[Array, ""]


def fit_answers(data: Statistics) -> AnswersFit:
    """Fit both branches of the law, infinitely many kinds and 1 to `MAX_KINDS` of them, and keep the likelier one.

    Weak priors, on the branches' own scales: log(concentration + discount) and the log of each kind's weight
    ~ Normal(0, 2), logit of the discount ~ Normal(-1, 2).
    """
    dtype = data.more_kinds.dtype

    def law(point: Array, num_kinds: Array) -> Answers:
        weight, discount = jnp.exp(point[0]), jax.nn.sigmoid(point[1])
        endless = num_kinds == ENDLESS  # else the second coordinate is idle, and stays at its prior's mean
        return Answers(jnp.where(endless, discount, -weight), jnp.where(endless, weight - discount, num_kinds * weight))

    def log_likelihood(point: Array, num_kinds: Array) -> Array:
        return law(point, num_kinds).log_likelihood(data.more_kinds, data.more_wrong, data.more_copies)

    def climb(num_kinds: Array) -> tuple[Array, Ascent]:
        def log_posterior(point: Array) -> Array:
            return log_likelihood(point, num_kinds) - 0.5 * (point[0] / 2) ** 2 - 0.5 * ((point[1] + 1) / 2) ** 2

        found = ascend(log_posterior, jnp.array([0.0, -1.0], dtype))
        return log_likelihood(found.point, num_kinds), found

    kinds = jnp.concatenate([jnp.array([ENDLESS]), jnp.arange(1, MAX_KINDS + 1)]).astype(dtype)
    value, found = jax.vmap(climb)(kinds)
    most = jnp.argmax(value)
    best = jax.tree.map(lambda values: values[most], found)
    answers = law(best.point, kinds[most])
    endless = answers.discount * (1 - answers.discount) * best.standard_error[1]
    finite = -answers.discount * best.standard_error[0]
    discount_error = jnp.where(kinds[most] == ENDLESS, endless, finite)
    return AnswersFit(answers, discount_error, best.standard_error[0], best.converged)
