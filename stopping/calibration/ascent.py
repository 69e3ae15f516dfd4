"""Newton's method for a smooth function of a few unbounded parameters."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

NUM_STEPS = 40
SMALL_STEP = 0.02  # in standard errors


class Ascent(NamedTuple):
    """A maximum.

    Attributes:
        point: `[parameters]`.
        standard_error: from the curvature at the point; `[parameters]`.
        converged: whether a Newton step would move no parameter by more than a fiftieth of its standard error; `[]`.
    """

    point: Float[Array, " parameters"]
    standard_error: Float[Array, " parameters"]
    converged: Bool[Array, ""]


def ascend(objective: Callable[[Array], Array], start: Float[Array, " parameters"]) -> Ascent:
    """Return the maximum reached from `start`.

    Negative curvature is reversed. A step moves no parameter by more than 1, and is halved until the objective increases.
    """

    def step(carry: Ascent, _: None) -> tuple[Ascent, None]:
        point = carry.point
        gradient, hessian = jax.grad(objective)(point), jax.hessian(objective)(point)
        values, vectors = jnp.linalg.eigh(-hessian)
        error = jnp.sqrt(jnp.sum(vectors**2 / jnp.maximum(values, 1e-6), axis=1))
        move = vectors @ ((vectors.T @ gradient) / jnp.maximum(jnp.abs(values), 1e-3))
        converged = jnp.all(values > 0) & jnp.all(jnp.abs(move) < SMALL_STEP * error)
        move = move / jnp.maximum(jnp.max(jnp.abs(move)), 1)  # as a whole: clipping each parameter could go downhill
        candidates = point + move * jnp.append(0.5 ** jnp.arange(6), 0)[:, None]
        heights = jax.vmap(objective)(candidates)
        rounding = 8 * jnp.finfo(heights.dtype).eps * jnp.max(jnp.abs(heights))
        longest = jnp.argmax(heights >= jnp.max(heights) - rounding)  # of those equal up to rounding
        return Ascent(candidates[longest], error, converged), None

    return jax.lax.scan(step, Ascent(start, jnp.zeros_like(start), jnp.array(False)), None, length=NUM_STEPS)[0]
