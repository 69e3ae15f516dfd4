"""Lengths by problem and class: a mixed model with censoring, fitted by an arrow-shaped Newton method.

The objective of `length_likelihood` is maximised over the problems' effects and the shared parameters together. Its
Hessian is an arrow: diagonal in the effects, bordered by seven shared parameters. One step eliminates the diagonal and
solves a 7 x 7 system.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from stopping.calibration.length_likelihood import Derivatives, Shared, curvature, derivatives, objective
from stopping.calibration.sufficient_statistics import Statistics

MAX_STEPS = 60
EFFECT_STEP, SHARED_STEP = 1.0, 1.0  # largest moves in one step, in log tokens and in logs of scales
SHORTER, LONGER = 0.25, 2.0  # what a step that does not climb, and one that does, make of the next
SMALL_STEP = {
    "float32": 1e-2,
    "float64": 1e-6,
}  # in standard errors; what single precision can settle of a flat maximum


class LengthFit(NamedTuple):
    """The maximum.

    Attributes:
        effect, effect_scale: mean and standard deviation of each problem's effect given the data; `[problems]`.
        shared: the estimates, and `shared_error` their standard errors (of logs where they are logs).
        objective: F at the maximum; `[]`.
        num_steps: Newton steps tried.
        converged: that the last would move nothing by more than `SMALL_STEP` of its standard error.
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
    tolerance = SMALL_STEP[dtype.name]

    rounding = 8 * jnp.finfo(dtype).eps * jnp.sum(data.num_right + data.num_wrong + jnp.sum(data.num_censored, axis=1))

    def step(carry: _Search) -> _Search:
        newton = _newton(derivatives(carry.effect, carry.shared, data), carry.fraction)
        effect, shared = carry.effect + newton.effect, Shared(*(jnp.stack(carry.shared) + newton.shared))
        height = objective(effect, shared, data)
        climbs = height >= carry.height - rounding  # not so where it is not a number: a step too far is none to take
        fraction = jnp.where(climbs, jnp.minimum(LONGER * carry.fraction, 1), SHORTER * carry.fraction)
        there = _Search(effect, shared, height, newton.error, newton.largest, fraction, carry.num_steps + 1)
        here = there._replace(effect=carry.effect, shared=carry.shared, height=carry.height)
        return jax.tree.map(lambda new, old: jnp.where(climbs, new, old), there, here)

    def unfinished(carry: _Search) -> Array:
        return (carry.largest > tolerance) & (carry.num_steps < MAX_STEPS)

    start = _Search(
        effect, shared, objective(effect, shared, data), jnp.zeros(len(shared), dtype),
        largest=jnp.full((), jnp.inf, dtype), fraction=jnp.ones((), dtype), num_steps=jnp.zeros((), jnp.int32),
    )  # fmt: skip
    end = jax.lax.while_loop(unfinished, step, start)
    return LengthFit(
        effect=end.effect,
        effect_scale=curvature(end.effect, end.shared, data) ** -0.5,
        shared=end.shared,
        shared_error=Shared(*end.error),
        objective=end.height,
        num_steps=end.num_steps,
        converged=end.largest <= tolerance,
    )


class _Search(NamedTuple):
    """Where the search stands; `largest` and `fraction` as in `_Newton` and `_newton`."""

    effect: Array
    shared: Shared
    height: Array
    error: Array
    largest: Array
    fraction: Array
    num_steps: Array


class _Newton(NamedTuple):
    """One step, in the effects and in the shared parameters.

    Attributes:
        error: standard errors of the shared parameters.
        largest: move that the whole step would make, in standard errors.
    """

    effect: Array
    shared: Array
    error: Array
    largest: Array


def _newton(at: Derivatives, fraction: Array) -> _Newton:
    """Take a fraction of Newton's step, or of its direction where it is long: a small enough fraction climbs.

    Far from the maximum the Hessian may be indefinite: negative curvature is turned round, and kept off zero.
    """
    diagonal = jnp.maximum(at.diagonal, 0.25 * at.curvature)
    schur = at.corner - at.border.T @ (at.border / diagonal[:, None])
    values, vectors = jnp.linalg.eigh(schur)
    values = jnp.maximum(jnp.abs(values), 1e-6)
    whole = vectors @ ((vectors.T @ (at.shared - at.border.T @ (at.effect / diagonal))) / values)
    error = jnp.sqrt(jnp.sum(vectors**2 / values, axis=1))
    effect = (at.effect - at.border @ whole) / diagonal
    largest = jnp.maximum(jnp.max(jnp.abs(whole) / error), jnp.max(jnp.abs(effect) * jnp.sqrt(diagonal)))
    shared = whole * (SHARED_STEP / jnp.maximum(jnp.max(jnp.abs(whole)), SHARED_STEP))  # one by one it might go down
    effect = (at.effect - at.border @ shared) / diagonal
    return _Newton(jnp.clip(fraction * effect, -EFFECT_STEP, EFFECT_STEP), fraction * shared, error, largest)


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
