"""Lengths by problem and class: a mixed model with censoring, fitted by an arrow-shaped Newton method.

The objective of `length_likelihood` is maximised over the problems' effects and the shared parameters together. Its
Hessian is an arrow: diagonal in the effects, bordered by seven shared parameters. One step eliminates the diagonal and
solves a 7 x 7 system.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from stopping.calibration.length_likelihood import Derivatives, Shared, curvature, derivatives, objective
from stopping.calibration.statistics import Statistics

MAX_STEPS = 60
EFFECT_STEP, SHARED_STEP = 1.0, 0.5  # largest moves in one step, in log tokens and in logs of scales
FRACTIONS = np.array([1.0, 0.25], np.float32)  # of a step, the one that climbs highest is taken


class LengthFit(NamedTuple):
    """The maximum.

    Attributes:
        effect, effect_scale: mean and standard deviation of each problem's effect given the data; `[problems]`.
        shared: the estimates, and `shared_error` their standard errors (of logs where they are logs).
        objective: F at the maximum; `[]`.
        num_steps: Newton steps taken, and whether the last was below the tolerance.
    """

    effect: Float[Array, " problems"]
    effect_scale: Float[Array, " problems"]
    shared: Shared
    shared_error: Shared
    objective: Float[Array, ""]
    num_steps: Array
    converged: Bool[Array, ""]


def fit_lengths(data: Statistics) -> LengthFit:
    """Maximise the objective for one data set; map over several with `jax.vmap`."""
    effect, shared = _start(data)
    dtype = effect.dtype
    tolerance = 2e-5 if dtype == jnp.float32 else 1e-10
    fractions = jnp.asarray(FRACTIONS, dtype)

    def step(carry: tuple) -> tuple:
        effect, shared, num_steps, *_ = carry
        move_effect, move_shared, error = _newton(derivatives(effect, shared, data))
        largest = jnp.maximum(jnp.max(jnp.abs(move_effect)), jnp.max(jnp.abs(move_shared)))
        move_effect = jnp.clip(move_effect, -EFFECT_STEP, EFFECT_STEP)
        move_shared = jnp.clip(move_shared, -SHARED_STEP, SHARED_STEP)

        def moved(fraction: Array) -> tuple[Array, Shared]:
            return effect + fraction * move_effect, Shared(*(jnp.stack(shared) + fraction * move_shared))

        climbs = jax.lax.map(
            lambda fraction: objective(*moved(fraction), data), fractions
        )  # mapped, it is not vectorised
        climbs = jnp.where(jnp.isnan(climbs), -jnp.inf, climbs)  # a step too far is none to take
        highest = jnp.max(climbs)
        rounding = 8 * jnp.finfo(dtype).eps * jnp.abs(highest)
        chosen = jnp.argmax(climbs >= highest - rounding)  # the longest of those that rounding cannot tell apart
        return *moved(fractions[chosen]), num_steps + 1, largest, error, climbs[chosen]

    def unfinished(carry: tuple) -> Array:
        return (carry[3] > tolerance) & (carry[2] < MAX_STEPS)

    unknown = jnp.full((), jnp.inf, dtype)
    start = (effect, shared, jnp.zeros((), jnp.int32), unknown, jnp.zeros(len(shared), dtype), -unknown)
    effect, shared, num_steps, largest, error, highest = jax.lax.while_loop(unfinished, step, start)
    return LengthFit(
        effect=effect,
        effect_scale=curvature(effect, shared, data) ** -0.5,
        shared=shared,
        shared_error=Shared(*error),
        objective=highest,
        num_steps=num_steps,
        converged=largest <= tolerance,
    )


def _newton(at: Derivatives) -> tuple[Array, Array, Array]:
    """Return the step in the effects, the step in the shared parameters, and the latter's standard errors.

    Far from the maximum the Hessian may be indefinite: negative curvature is turned round, and kept off zero.
    """
    diagonal = jnp.maximum(at.diagonal, 0.25 * at.curvature)
    schur = at.corner - at.border.T @ (at.border / diagonal[:, None])
    values, vectors = jnp.linalg.eigh(schur)
    values = jnp.maximum(jnp.abs(values), 1e-6)
    move_shared = vectors @ ((vectors.T @ (at.shared - at.border.T @ (at.effect / diagonal))) / values)
    move_effect = (at.effect - at.border @ move_shared) / diagonal
    return move_effect, move_shared, jnp.sqrt(jnp.sum(vectors**2 / values, axis=1))


def _start(data: Statistics) -> tuple[Array, Shared]:
    """Start from the moments: each problem's mean, the classes' scatter about it, and the means' own spread."""
    count = data.num_right + data.num_wrong
    sums = data.num_right * data.mean_right + data.num_wrong * data.mean_wrong
    censored = jnp.sum(data.num_censored, axis=1)
    sums += jnp.sum(data.num_censored * data.censoring_point, axis=1)
    total = count + censored
    centre = jnp.sum(sums) / jnp.maximum(jnp.sum(total), 1)
    effect = (sums + centre) / (total + 1)
    spread = jnp.sum(total * (effect - centre) ** 2) / jnp.maximum(jnp.sum(total), 1)
    right = jnp.sum(data.scatter_right + data.num_right * (data.mean_right - effect) ** 2)
    wrong = jnp.sum(data.scatter_wrong + data.num_wrong * (data.mean_wrong - effect) ** 2)
    half_log = lambda square, number: 0.5 * jnp.log((square + 0.25) / (number + 1))  # noqa: E731
    scale_right, scale_wrong = half_log(right, jnp.sum(data.num_right)), half_log(wrong, jnp.sum(data.num_wrong))
    zero = jnp.zeros_like(centre)
    return effect, Shared(zero, scale_right, scale_wrong, centre, zero, 0.5 * jnp.log(spread + 0.01), zero - 3)
