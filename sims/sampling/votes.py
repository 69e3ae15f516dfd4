"""How many of n: counts from one uniform each, without drawing the n.

A count is drawn by inversion: it is the number of cumulative probabilities that the uniform exceeds.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlog1py, xlogy
from jaxtyping import Array, Float, Int
from scipy.special import gammaln

UNROLLED = 64


class CountDistribution(eqx.Module):
    """One distribution, or a table of distributions, of a count from 0 to `draws`.

    Attributes:
        cumulative: P(count <= 0), ..., P(count <= draws - 1); error below 1e-6 in float32.
    """

    cumulative: Float[Array, "... draws"]

    def draw(self, uniform: Float[Array, "..."], *row: Int[Array, "..."]) -> Int[Array, "..."]:
        """Turn uniforms into counts, int32; with a table, each uniform uses the distribution in its row."""
        if row:
            return jnp.sum(uniform[..., None] > self.cumulative[row], axis=-1, dtype=jnp.int32)
        draws = self.cumulative.shape[-1]

        def exceed(i: Array | int, count: Array) -> Array:
            return count + (uniform > self.cumulative[..., i])

        count = jnp.zeros(jnp.broadcast_shapes(uniform.shape, self.cumulative.shape[:-1]), jnp.int32)
        if draws > UNROLLED:
            return jax.lax.fori_loop(0, draws, exceed, count)
        for i in range(draws):  # fuses with what makes the uniforms
            count = exceed(i, count)
        return count


def binomial(num_draws: int, prob: Float[Array, "..."]) -> CountDistribution:
    """Return the distribution of successes among `num_draws`; a table of them for an array of probabilities."""
    return CountDistribution(_binomial(np.asarray(num_draws), num_draws, jnp.asarray(prob, float)[..., None]))


def binomials(most: int, prob: Float[Array, "..."]) -> CountDistribution:
    """Return the binomial distributions for each number of draws from 0 to `most`, one row each."""
    numbers = np.arange(most + 1)[:, None]
    return CountDistribution(_binomial(numbers, most, jnp.asarray(prob, float)[..., None, None]))


def beta_binomial(num_draws: int, alpha: Float[Array, "..."], beta: Float[Array, "..."]) -> CountDistribution:
    """Return the distribution of successes among `num_draws` whose common probability is Beta(alpha, beta) distributed."""
    alpha, beta = jnp.asarray(alpha, float)[..., None], jnp.asarray(beta, float)[..., None]
    i = np.arange(num_draws)
    rising = [jnp.cumsum(jnp.log((shape + i) / (alpha + beta)), axis=-1) for shape in (alpha, beta)]
    won, lost = (jnp.pad(each, [(0, 0)] * (each.ndim - 1) + [(1, 0)]) for each in rising)
    k = np.arange(num_draws + 1)
    return CountDistribution(
        _cumulative(won + lost[..., ::-1] + _log_choose(np.asarray(num_draws), k), np.asarray(num_draws))
    )


def _binomial(numbers: np.ndarray, most: int, prob: Float[Array, "..."]) -> Float[Array, "... draws"]:
    k = np.arange(most + 1)
    rest = np.maximum(numbers - k, 0)
    return _cumulative(xlogy(k, prob) + xlog1py(rest, -prob) + _log_choose(numbers, k), numbers)


def _cumulative(log_weights: Float[Array, "... counts"], numbers: np.ndarray) -> Float[Array, "... draws"]:
    """Return P(count <= k) for each k but the largest; exactly 1 from the number of draws on, so that no uniform exceeds it."""
    sums = jnp.cumsum(jax.nn.softmax(log_weights, axis=-1), axis=-1)
    return jnp.where(np.arange(sums.shape[-1]) >= numbers, 1, sums)[..., :-1]


def _log_choose(numbers: np.ndarray, k: np.ndarray) -> np.ndarray:
    ways = gammaln(numbers + 1) - gammaln(k + 1) - gammaln(np.maximum(numbers - k, 0) + 1)
    return np.where(k <= numbers, ways, -np.inf)
