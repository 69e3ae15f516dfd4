"""The fit of lengths by problem and class, a mixed model with censoring, by Newton's method.

The objective of `length_likelihood` is maximised jointly over the effects of problems and the shared parameters. Its Hessian
is an arrow: diagonal in the effects, bordered by seven shared parameters. A step eliminates the diagonal and solves a 7 x 7
system.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from stopping.calibration.length_likelihood import Derivatives, Shared, curvature, derivatives, objective
from stopping.calibration.sufficient_statistics import Statistics

MAX_STEPS = 60
EFFECT_STEP, SHARED_STEP = 1.0, 1.0  # largest moves in one step, in log tokens and in logs of scales
SHORTER, LONGER = (
    0.25,
    2.0,
)  # factors on the next step after one that does not increase the objective, and one that does
SMALL_STEP = {
    "float32": 1e-2,
    "float64": 1e-6,
}  # in standard errors: as far as the precision resolves a flat maximum


class LengthFit(NamedTuple):
    """The fitted lengths.

    Attributes:
        effect, effect_scale: mean and standard deviation of each problem's effect given the data; `[problems]`.
        shared: the estimates; `shared_error` has their standard errors, those of logs where the parameter is a log.
        objective: F at the maximum; `[]`.
        num_steps: Newton steps tried.
        converged: whether the last step would move no parameter by more than `SMALL_STEP` of its standard error.
    """

    effect: Float[Array, " problems"]
    effect_scale: Float[Array, " problems"]
    shared: Shared
    shared_error: Shared
    objective: Float[Array, ""]
    num_steps: Array
    converged: Bool[Array, ""]


def fit_lengths(data: Statistics) -> LengthFit:
    """Return the fit of one data set; use `jax.vmap` for several."""
    effect, shared = _start(data)
    dtype = effect.dtype
    tolerance = SMALL_STEP[dtype.name]

    rounding = 8 * jnp.finfo(dtype).eps * jnp.sum(data.num_right + data.num_wrong + jnp.sum(data.num_censored, axis=1))

    def step(carry: _Search) -> _Search:
        newton = _newton(derivatives(carry.effect, carry.shared, data), carry.fraction)
        effect, shared = carry.effect + newton.effect, Shared(*(jnp.stack(carry.shared) + newton.shared))
        height = objective(effect, shared, data)
        climbs = height >= carry.height - rounding  # False for NaN, so that a step too far is rejected
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
    """State of the search; `largest` and `fraction` as in `_Newton` and `_newton`."""

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
        largest: the largest move of the full step, in standard errors.
    """

    effect: Array
    shared: Array
    error: Array
    largest: Array


def _newton(at: Derivatives, fraction: Array) -> _Newton:
    """Return a fraction of Newton's step, shortened if it is long; a small enough fraction increases the objective.

    Far from the maximum the Hessian may be indefinite: negative curvature is reversed, and bounded away from zero.
    """
    diagonal = jnp.maximum(at.diagonal, 0.25 * at.curvature)
    schur = at.corner - at.border.T @ (at.border / diagonal[:, None])
    values, vectors = jnp.linalg.eigh(schur)
    values = jnp.maximum(jnp.abs(values), 1e-6)
    whole = vectors @ ((vectors.T @ (at.shared - at.border.T @ (at.effect / diagonal))) / values)
    error = jnp.sqrt(jnp.sum(vectors**2 / values, axis=1))
    effect = (at.effect - at.border @ whole) / diagonal
    largest = jnp.maximum(jnp.max(jnp.abs(whole) / error), jnp.max(jnp.abs(effect) * jnp.sqrt(diagonal)))
    shared = whole * (
        SHARED_STEP / jnp.maximum(jnp.max(jnp.abs(whole)), SHARED_STEP)
    )  # as a whole: clipping each could go downhill
    effect = (at.effect - at.border @ shared) / diagonal
    return _Newton(jnp.clip(fraction * effect, -EFFECT_STEP, EFFECT_STEP), fraction * shared, error, largest)


def _start(data: Statistics) -> tuple[Array, Shared]:
    """Return starting values from moments: the mean of each problem, the scatter of each class, and the spread of the means."""
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
