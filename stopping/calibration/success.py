"""The Beta distribution of the chance of a right answer over problems, fitted by maximum likelihood to counts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from stopping.calibration.ascent import ascend
from stopping.calibration.sufficient_statistics import Statistics


class SuccessFit(NamedTuple):
    """The Beta distribution over problems: logit of its mean and log of alpha + beta, with standard errors; `[]` each.

    `converged` says whether the search converged.
    """

    logit_mean: Float[Array, ""]
    log_concentration: Float[Array, ""]
    logit_mean_error: Float[Array, ""]
    log_concentration_error: Float[Array, ""]
    converged: Bool[Array, ""]

    @property
    def alpha(self) -> Float[Array, ""]:
        """First parameter of the Beta distribution."""
        return _shapes(self.logit_mean, self.log_concentration)[0]

    @property
    def beta(self) -> Float[Array, ""]:
        """Second parameter of the Beta distribution."""
        return _shapes(self.logit_mean, self.log_concentration)[1]


def _shapes(logit_mean: Array, log_concentration: Array) -> tuple[Array, Array]:
    total = jnp.exp(log_concentration)
    return jax.nn.sigmoid(logit_mean) * total, jax.nn.sigmoid(-logit_mean) * total


def fit_success(data: Statistics) -> SuccessFit:
    """Fit the Beta-binomial distribution of the number of right answers of a problem.

    log-likelihood = sum_i R_i log(alpha + i) + W_i log(beta + i) - N_i log(alpha + beta + i), with R_i, W_i, N_i the
    numbers of problems with more than i right, not right, and all traces. The priors are weak: logit of the mean ~ Normal(0,
    2), log of alpha + beta ~ Normal(log 2, 1.5); without the second, alpha + beta is infinite if all problems agree.
    """

    def log_posterior(point: Array) -> Array:
        alpha, beta = _shapes(point[0], point[1])
        terms = [
            jnp.sum(count * jnp.log(parameter + jnp.arange(count.shape[0])))
            for count, parameter in (
                (data.more_right, alpha),
                (data.more_not_right, beta),
                (-data.more_traces, alpha + beta),
            )
        ]
        return sum(terms) - 0.5 * (point[0] / 2) ** 2 - 0.5 * ((point[1] - np.log(2)) / 1.5) ** 2

    best, error, converged = ascend(log_posterior, jnp.array([0.0, np.log(2)], data.more_right.dtype))
    return SuccessFit(best[0], best[1], error[0], error[1], converged)
