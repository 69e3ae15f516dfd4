"""Normal scores: two from a pair of words (Box-Muller), and a quantile function accurate in both tails.

A radius sqrt(-2 log u) and an independent angle give two independent scores, their cosine and sine. The first word gives u,
the second the angle: its two highest bits choose the quadrant, the rest a turn t pi / 4 with t in (-1, 1), for which short
polynomials in t^2 suffice. u is one of the odd multiples of 2^-32 (above 2^-8 rounded to float32), so no score exceeds 6.66.

Reference: Box and Muller, "A note on the generation of random normal deviates" (1958).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, UInt32

HIGHEST_BIT = np.uint32(1 << 31)


def normal_pair(
    first: UInt32[Array, "..."], second: UInt32[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Turn two words into two independent standard normal scores, float32, at most 6.66 in size, with errors below 1e-6."""
    level = (first >> 1).astype(jnp.int32).astype(jnp.float32) + np.float32(0.5)
    radius = jnp.sqrt(-2 * jnp.log(level * np.float32(2**-31)))
    turn = jax.lax.bitcast_convert_type((second << 2) | 2, jnp.int32).astype(jnp.float32) * np.float32(2**-31)
    square = turn * turn
    cosine, sine = horner(_COSINE, square), turn * horner(_SINE, square)
    odd = (second & (HIGHEST_BIT >> 1)) != 0  # a quarter turn, which swaps cosine and sine
    left, right = jnp.where(odd, sine, cosine), jnp.where(odd, cosine, sine)
    return _flip(radius * left, second ^ (second << 1)), _flip(radius * right, second)


def _flip(value: Float[Array, "..."], sign: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Change the sign where the highest bit of `sign` is set."""
    bits = jax.lax.bitcast_convert_type(value, jnp.uint32) ^ (sign & HIGHEST_BIT)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def normal_quantile(below: Float[Array, "..."], above: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the score with mass `below` under it and mass `above` over it, each exact where it is small.

    In float32 z = (below - above) f(w) with w = -log(4 below above), f a polynomial in w up to 5.5 and in sqrt(w) beyond
    (the idea of Giles, "Approximating the erfinv function", 2010; the coefficients are ours, fitted to
    `scipy.special.ndtri_exp`): relative error 1e-6 in both tails, and at most 9.2 in size (masses of 1e-20). In float64
    by `jax.scipy.special.ndtri` of the smaller mass.
    """
    if jnp.result_type(below, above) == jnp.float64:
        return jnp.where(below < above, ndtri(below), -ndtri(above))
    w = jnp.clip(-jnp.log(4 * below * above), 0, DEEPEST)
    factor = jnp.where(w < NEAR, horner(_NEAR, w), horner(_DEEP, jnp.sqrt(w) - MIDDLE))
    return (below - above) * factor


def horner(coefficients: tuple[float, ...], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Evaluate a polynomial, lowest power first, in the precision of x."""
    value = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + coefficient
    return value


NEAR, MIDDLE, DEEPEST = 5.5, 4.5, 46.0

# minimax on t^2 in [0, 1] of cos(pi t / 4) and sin(pi t / 4) / t: errors 5e-11 and 2e-9, below float32's own
_COSINE = (0.9999999999526, -0.3084251351618, 0.01585432524605, -3.259386141295e-4, 3.529811231853e-6)
_SINE = (0.7853981609834, -0.08074543483018, 2.490007127011e-3, -3.595450773092e-5)
# minimax of z / (below - above), relative errors 2e-7 and 6e-7
_NEAR = (
    1.25331391, 0.328124503, 0.0162921463, -0.00321917440, -2.63142614e-4,
    1.09562558e-4, -9.60188165e-6, 9.42667702e-8, 1.84379013e-8,
)  # fmt: skip
_DEEP = (
    6.14441321, 1.42868442, 4.24424878e-4, -6.09282197e-4, 2.78691549e-4,
    -5.91589408e-5, -2.83504917e-5, -1.09946013e-6, 1.34943130e-5, -3.47252587e-6,
)  # fmt: skip
