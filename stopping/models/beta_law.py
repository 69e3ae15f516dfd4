"""The Beta law: its quantiles, which JAX has no function for."""

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc
from jaxtyping import Array, Float


def beta_quantile(
    share: Float[Array, "..."], alpha: Float[Array, "..."], beta: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Return the number below which lies this share of the Beta law's mass, elementwise.

    The unit interval is halved until it is as narrow as the type resolves at 1: the error is that of JAX's `betainc`, 4e-6 in
    single precision.
    """
    share, alpha, beta = jnp.broadcast_arrays(share, alpha, beta)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        is_below = betainc(alpha, beta, middle) < share
        return jnp.where(is_below, middle, low), jnp.where(is_below, high, middle)

    ends = jnp.zeros_like(share), jnp.ones_like(share)
    low, high = jax.lax.fori_loop(0, jnp.finfo(share.dtype).nmant + 1, halve, ends)
    return (low + high) / 2
