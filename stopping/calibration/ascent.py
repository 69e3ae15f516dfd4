"""Newton's method for a smooth function of a few unbounded parameters."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

NUM_STEPS = 40


def ascend(objective: Callable[[Array], Array], start: Float[Array, " parameters"]) -> tuple[Array, Array]:
    """Climb from `start`; return the maximum and the standard errors there (from the curvature before the last step).

    Negative curvature is turned round; steps move no parameter by more than 1 and are halved until they climb.
    """

    def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        point = carry[0]
        gradient, hessian = jax.grad(objective)(point), jax.hessian(objective)(point)
        values, vectors = jnp.linalg.eigh(-hessian)
        move = vectors @ ((vectors.T @ gradient) / jnp.maximum(jnp.abs(values), 1e-3))
        move = move / jnp.maximum(jnp.max(jnp.abs(move)), 1)  # as a whole: parameter by parameter it might go down
        candidates = point + move * jnp.append(0.5 ** jnp.arange(6), 0)[:, None]
        heights = jax.vmap(objective)(candidates)
        rounding = 8 * jnp.finfo(heights.dtype).eps * jnp.max(jnp.abs(heights))
        longest = jnp.argmax(heights >= jnp.max(heights) - rounding)  # of those that rounding cannot tell apart
        return (candidates[longest], jnp.sqrt(jnp.sum(vectors**2 / jnp.maximum(values, 1e-6), axis=1))), None

    return jax.lax.scan(step, (start, jnp.zeros_like(start)), None, length=NUM_STEPS)[0]
