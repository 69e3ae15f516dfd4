"""The Ewens-Pitman distribution of wrong answers, fitted by maximum likelihood to the sizes of groups of equal answers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from stopping.calibration.ascent import Ascent, ascend
from stopping.calibration.sufficient_statistics import Statistics
from stopping.models import Answers

MAX_KINDS = 12  # in a log, more kinds cannot be distinguished from infinitely many
ENDLESS = 0  # infinitely many kinds


class AnswersFit(NamedTuple):
    """The fitted distribution, and standard errors of its discount and of log(concentration + discount); `[]` each.

    `converged` says whether the search converged. The standard errors take the number of kinds as known.
    """

    answers: Answers
    discount_error: Float[Array, ""]
    log_concentration_error: Float[Array, ""]
    converged: Bool[Array, ""]


def fit_answers(data: Statistics) -> AnswersFit:
    """Fit the distribution with infinitely many kinds and with 1 to `MAX_KINDS` kinds, and return the most likely one.

    The priors are weak: log(concentration + discount), or with finitely many kinds the log of the weight of each,
    ~ Normal(0, 2), and logit of the discount ~ Normal(-1, 2).
    """
    dtype = data.more_kinds.dtype

    def distribution(point: Array, num_kinds: Array) -> Answers:
        weight, discount = jnp.exp(point[0]), jax.nn.sigmoid(point[1])
        endless = num_kinds == ENDLESS  # else the second coordinate is unused, and stays at its prior mean
        return Answers(jnp.where(endless, discount, -weight), jnp.where(endless, weight - discount, num_kinds * weight))

    def log_likelihood(point: Array, num_kinds: Array) -> Array:
        return distribution(point, num_kinds).log_likelihood(data.more_kinds, data.more_wrong, data.more_copies)

    def climb(num_kinds: Array) -> tuple[Array, Ascent]:
        def log_posterior(point: Array) -> Array:
            return log_likelihood(point, num_kinds) - 0.5 * (point[0] / 2) ** 2 - 0.5 * ((point[1] + 1) / 2) ** 2

        found = ascend(log_posterior, jnp.array([0.0, -1.0], dtype))
        return log_likelihood(found.point, num_kinds), found

    kinds = jnp.concatenate([jnp.array([ENDLESS]), jnp.arange(1, MAX_KINDS + 1)]).astype(dtype)
    value, found = jax.vmap(climb)(kinds)
    most = jnp.argmax(value)
    best = jax.tree.map(lambda values: values[most], found)
    answers = distribution(best.point, kinds[most])
    endless = answers.discount * (1 - answers.discount) * best.standard_error[1]
    finite = -answers.discount * best.standard_error[0]
    discount_error = jnp.where(kinds[most] == ENDLESS, endless, finite)
    return AnswersFit(answers, discount_error, best.standard_error[0], best.converged)
