"""Newton's method for a smooth function of a few unbounded parameters."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

NUM_STEPS = 40


def ascend(objective: Callable[[Array], Array], start: Float[Array, " parameters"]) -> tuple[Array, Array]:
    """Climb from `start`; return the maximum and the standard errors there (from the curvature).

    Negative curvature is turned round, steps are at most 1 in each parameter and are halved until they climb.
    """

    def step(point: Array, _: None) -> tuple[Array, None]:
        gradient, hessian = jax.grad(objective)(point), jax.hessian(objective)(point)
        values, vectors = jnp.linalg.eigh(-hessian)
        move = vectors @ ((vectors.T @ gradient) / jnp.maximum(jnp.abs(values), 1e-3))
        candidates = point + jnp.clip(move, -1, 1) * 0.5 ** jnp.arange(6)[:, None]
        candidates = jnp.concatenate([point[None], candidates])
        return candidates[jnp.argmax(jax.vmap(objective)(candidates))], None

    best, _ = jax.lax.scan(step, start, None, length=NUM_STEPS)
    values, vectors = jnp.linalg.eigh(-jax.hessian(objective)(best))
    return best, jnp.sqrt(jnp.sum(vectors**2 / jnp.maximum(values, 1e-6), axis=1))
