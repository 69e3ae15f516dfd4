"""Order statistics of n draws (the minimum, the first k) without drawing all n.

With E_1, E_2, ... standard exponentials, the order statistics of n uniforms are U_(k) = 1 - exp(-Y_k), with
Y_k = E_1 / n + E_2 / (n - 1) + ... + E_k / (n - k + 1); those of any other distribution are its quantiles of U_(k).
Both U and 1 - U are returned, each accurate where it is small; a family's `quantile` takes both.

Reference: Rényi, "On the theory of order statistics" (1953), equation 1.9.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sims.sampling.normals import normal_quantile
from sims.sampling.threefry import exponential, pairs

Masses = tuple[Float[Array, "..."], Float[Array, "..."]]


def least_masses(wait: Float[Array, "..."], count: Int[Array, "..."]) -> Masses:
    """Return the masses below and above the minimum of `count` draws, from one standard exponential; count >= 1."""
    y = wait / count.astype(wait.dtype)
    above = jnp.exp(-y)
    series = y * (1 - y / 2 * (1 - y / 3 * (1 - y / 4 * (1 - y / 5))))  # 1e-8 at .1; a fraction of the cost of expm1
    return jnp.where(y < 0.1, series, 1 - above), above


def least_normal(wait: Float[Array, "..."], count: Int[Array, "..."]) -> Float[Array, "..."]:
    """Return the minimum of `count` normal scores, from one standard exponential; infinite where `count` is 0."""
    below, above = least_masses(wait, jnp.maximum(count, 1))
    return jnp.where(count > 0, normal_quantile(below, above), jnp.inf)


def first_masses(key: Key[Array, ""], element: Int[Array, "..."], num_draws: int, num_first: int) -> Masses:
    """Return the masses below and above the `num_first` smallest of `num_draws`, in order, on a new last axis.

    Reads steps 0 to (num_first - 1) / 2 of the element: `num_first` exponentials, two a step.

    Raises:
        ValueError: unless 1 <= num_first <= num_draws.
    """
    _check("num_first", num_first, num_draws)
    element = jnp.asarray(element)[..., None]
    waits = [exponential(word) for word in pairs(key, element, jnp.arange((num_first + 1) // 2))]
    wait = jnp.stack(waits, axis=-1).reshape(*element.shape[:-1], -1)[..., :num_first]
    y = jnp.cumsum(wait / jnp.arange(num_draws, num_draws - num_first, -1, dtype=wait.dtype), axis=-1)
    return -jnp.expm1(-y), jnp.exp(-y)


def _check(name: str, rank: int, num_draws: int) -> None:
    if not 1 <= rank <= num_draws:
        raise ValueError(f"{name}: expected a whole number from 1 to {num_draws}, the number of draws, got {rank}")
