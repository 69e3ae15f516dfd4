"""Tails of the normal distribution, for fits, integrals and draws of censored lengths."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, ndtr, ndtri
from jaxtyping import Array, Float

FAR = 40.0  # standard deviations, at which z is clipped
HIGH = 7.0  # beyond, the series of the hazard is used in float32
DEEP = -8.0  # below, masses underflow in single precision


class UpperTail(NamedTuple):
    """The upper tail at one or many standard scores z, elementwise.

    Attributes:
        z: clipped to 40 standard deviations, so that it is finite without a cap.
        log_mass: log P(Z > z).
        hazard: density over mass, which is minus the derivative of `log_mass`.
        bend, twist, warp: first to third derivative of the hazard.
    """

    z: Float[Array, "..."]
    log_mass: Float[Array, "..."]
    hazard: Float[Array, "..."]
    bend: Float[Array, "..."]
    twist: Float[Array, "..."]
    warp: Float[Array, "..."]


def upper_tail(z: Float[Array, "..."]) -> UpperTail:
    """Return the tail above z; fields that are not used cost nothing under `jax.jit`.

    In float32, hazard - z loses its digits far out, and with it 1 - bend, a curvature that must not be negative. Beyond
    `HIGH`, all are therefore computed from the asymptotic series z + 1 / z - 2 / z^3 + 10 / z^5 - ... of the hazard.
    """
    z = jnp.clip(z, -FAR, FAR)
    log_mass = log_ndtr(-z)
    hazard = jnp.exp(-0.5 * z * z - 0.5 * np.log(2 * np.pi) - log_mass)  # stable in both tails
    bend = hazard * (hazard - z)
    twist = bend * (2 * hazard - z) - hazard
    warp = twist * (2 * hazard - z) + 2 * bend * (bend - 1)
    if z.dtype == jnp.float32:
        high = z > HIGH
        far = 1 / jnp.where(high, z, HIGH)
        hazard, bend, twist, warp = (
            jnp.where(high, jnp.polyval(jnp.asarray(series, z.dtype), far), near)
            for series, near in zip(_derivatives(), (hazard, bend, twist, warp), strict=True)
        )
        hazard = jnp.where(high, z + hazard, hazard)
    return UpperTail(z, log_mass, hazard, bend, twist, warp)


def _derivatives() -> list[np.ndarray]:
    """Return the series of hazard - z and of the derivatives of the hazard, as polynomials in 1 / z, highest power first."""
    found = [np.array(_SERIES, float)]  # by power, lowest first
    for _ in range(3):
        found.append(np.append(0, -np.arange(len(found[-1])) * found[-1]))  # d/dz z^-n = -n z^-(n + 1)
    found[1][0] += 1  # of z itself
    return [series[::-1] for series in found]


_SERIES = (0, 1, 0, -2, 0, 10, 0, -74, 0, 706, 0, -8162)  # of hazard - z, by power of 1 / z


def quantile_below(
    limit: Float[Array, "..."], share: Float[Array, "..."], rest: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Return the quantile at this share of the normal distribution truncated above at `limit`; `rest` is 1 - share.

    Each tail is computed from the side on which it is exact. Far below zero the logarithm of the mass is -z^2 / 2 - log |z| -
    1 / z^2 up to a constant, and is solved for z in two iterations: error 5e-5 at shares of 1e-12, 4e-6 at the median.
    """
    below = ndtr(limit)
    lower, upper = share * below, rest * below + ndtr(-limit)
    near = jnp.where(lower < 0.5, ndtri(lower), -ndtri(upper))
    start = jnp.minimum(limit, DEEP) ** 2
    square = start - 2 * jnp.log(share)
    once = square - jnp.log(square / start)
    far = -jnp.sqrt(square - jnp.log(once / start) + 2 / start - 2 / once)
    return jnp.where(limit < DEEP, far, near)
