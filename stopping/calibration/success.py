"""The chance of a right answer over problems: a Beta law, by maximum likelihood of the counts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stopping.calibration.ascent import ascend
from stopping.calibration.statistics import Statistics


class SuccessFit(NamedTuple):
    """The Beta law over problems, as its mean's logit and the log of alpha + beta; `[]` each, with standard errors."""

    logit_mean: Float[Array, ""]
    log_concentration: Float[Array, ""]
    logit_mean_error: Float[Array, ""]
    log_concentration_error: Float[Array, ""]

    @property
    def alpha(self) -> Float[Array, ""]:
        """First parameter of the Beta law."""
        return jax.nn.sigmoid(self.logit_mean) * jnp.exp(self.log_concentration)

    @property
    def beta(self) -> Float[Array, ""]:
        """Second parameter of the Beta law."""
        return jax.nn.sigmoid(-self.logit_mean) * jnp.exp(self.log_concentration)


def fit_success(data: Statistics) -> SuccessFit:
    """Fit the Beta-binomial law of right answers per problem.

    log-likelihood = sum_i R_i log(alpha + i) + W_i log(beta + i) - N_i log(alpha + beta + i), with R_i, W_i, N_i the
    problems with more than i right, not right, and all traces. Weak priors: logit of the mean ~ Normal(0, 2), log of
    alpha + beta ~ Normal(log 2, 1.5); without the second, problems that agree would send it to infinity.
    """

    def log_posterior(point: Array) -> Array:
        fit = SuccessFit(point[0], point[1], *point)
        terms = [
            jnp.sum(count * jnp.log(parameter + jnp.arange(count.shape[0])))
            for count, parameter in (
                (data.more_right, fit.alpha),
                (data.more_not_right, fit.beta),
                (-data.more_traces, fit.alpha + fit.beta),
            )
        ]
        return sum(terms) - 0.5 * (point[0] / 2) ** 2 - 0.5 * ((point[1] - np.log(2)) / 1.5) ** 2

    best, error = ascend(log_posterior, jnp.array([0.0, np.log(2)], data.more_right.dtype))
    return SuccessFit(*best, *error)
