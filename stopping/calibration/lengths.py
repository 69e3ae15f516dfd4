"""Lengths by problem and class: a mixed model with censoring, fitted by an arrow-shaped Newton method.

For each problem q the log-lengths y are a + scale_right z when right and a + shift + scale_wrong z when wrong. A wrong trace
loops with probability `loop`, and then reaches any cap (a mixture cure model: Boag, Maximum Likelihood Estimates of the
Proportion of Patients Cured, 1949); at the cap it is censored. The effects are a ~ Normal(centre + slope x_q, spread) with
x_q the problem's share of wrong traces: without the slope, that hard problems are long would pass for a shift (Mundlak, On
the Pooling of Time Series and Cross Section Data, 1978). The objective is the likelihood with every a integrated out by
Laplace's approximation (exact without censoring),

    F(a, theta) = sum_q  log p(y_q | a_q, theta) + log p(a_q | theta) - log(P_q) / 2

with P_q the curvature in a_q, maximised over a and theta together. Its Hessian is an arrow: diagonal in the problems'
effects, bordered by seven shared parameters. One step eliminates the diagonal and solves a 7 x 7 system. In P_q the share
of censored traces that would have ended is held fixed, as in EM: that keeps it positive.

Weak priors keep a data set with an empty class finite; they are listed in `_PRIOR`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Bool, Float

from stopping.calibration.statistics import Statistics

MAX_STEPS = 60
EFFECT_STEP, SHARED_STEP = 1.0, 0.5  # largest moves in one step, in log tokens and in logs of scales
FRACTIONS = np.array([1.0, 0.5, 0.125], np.float32)  # of a step, the one that climbs highest is taken


class Shared(NamedTuple):
    """The parameters all problems share; `[]` each."""

    shift: Float[Array, ""]
    log_scale_right: Float[Array, ""]
    log_scale_wrong: Float[Array, ""]
    centre: Float[Array, ""]
    slope: Float[Array, ""]
    log_spread: Float[Array, ""]
    logit_loop: Float[Array, ""]


_PRIOR = Shared(  # mean and standard deviation of a normal law each
    shift=(0.0, 1.0),
    log_scale_right=(np.log(0.5), 1.0),
    log_scale_wrong=(np.log(0.5), 1.0),
    centre=(8.0, 10.0),
    slope=(0.0, 1.0),
    log_spread=(np.log(0.5), 1.0),
    logit_loop=(-3.0, 2.0),
)
_LOGS = np.array([1, 2, 5])  # of scale_right, scale_wrong and spread: the parameters in P


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
    tolerance = 2e-5 if effect.dtype == jnp.float32 else 1e-10

    def step(carry: tuple) -> tuple:
        effect, shared, num_steps, _ = carry
        move_effect, move_shared, _ = _newton(effect, shared, data)
        move_effect = jnp.clip(move_effect, -EFFECT_STEP, EFFECT_STEP)
        move_shared = jnp.clip(move_shared, -SHARED_STEP, SHARED_STEP)

        def moved(fraction: Array) -> tuple[Array, Shared]:
            return effect + fraction * move_effect, Shared(*(jnp.stack(shared) + fraction * move_shared))

        climbs = jax.vmap(lambda fraction: objective(*moved(fraction), data))(jnp.asarray(FRACTIONS, effect.dtype))
        effect, shared = moved(jnp.asarray(FRACTIONS, effect.dtype)[jnp.argmax(climbs)])
        largest = jnp.maximum(jnp.max(jnp.abs(move_effect)), jnp.max(jnp.abs(move_shared)))
        return effect, shared, num_steps + 1, largest

    def unfinished(carry: tuple) -> Array:
        return (carry[3] > tolerance) & (carry[2] < MAX_STEPS)

    start = (effect, shared, 0, jnp.full((), jnp.inf, effect.dtype))
    effect, shared, num_steps, largest = jax.lax.while_loop(unfinished, step, start)
    covariance = jnp.linalg.inv(_newton(effect, shared, data)[2])
    return LengthFit(
        effect=effect,
        effect_scale=_weights(effect, shared, data).curvature ** -0.5,
        shared=shared,
        shared_error=Shared(*jnp.sqrt(jnp.diag(covariance))),
        objective=objective(effect, shared, data),
        num_steps=num_steps,
        converged=largest <= tolerance,
    )


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


def share_wrong(data: Statistics) -> Float[Array, " problems"]:
    """The share of wrong traces, 0 for a problem without traces."""
    wrong = data.num_wrong + jnp.sum(data.num_censored, axis=1)
    return wrong / jnp.maximum(data.num_right + wrong, 1)


def objective(effect: Float[Array, " problems"], shared: Shared, data: Statistics) -> Float[Array, ""]:
    """F of the module's head, constants dropped."""
    right = data.scatter_right + data.num_right * (data.mean_right - effect) ** 2
    wrong = data.scatter_wrong + data.num_wrong * (data.mean_wrong - effect - shared.shift) ** 2
    z = (data.censoring_point - effect[:, None] - shared.shift) * jnp.exp(-shared.log_scale_wrong)
    log_loop, log_end = jax.nn.log_sigmoid(shared.logit_loop), jax.nn.log_sigmoid(-shared.logit_loop)
    deviation = effect - shared.centre - shared.slope * share_wrong(data)
    per_problem = (
        -data.num_right * shared.log_scale_right - 0.5 * right * jnp.exp(-2 * shared.log_scale_right)
        + data.num_wrong * (log_end - shared.log_scale_wrong) - 0.5 * wrong * jnp.exp(-2 * shared.log_scale_wrong)
        + jnp.sum(data.num_censored * jnp.logaddexp(log_loop, log_end + log_ndtr(-z)), axis=1)
        - shared.log_spread - 0.5 * deviation**2 * jnp.exp(-2 * shared.log_spread)
        - 0.5 * jnp.log(_weights(effect, shared, data).curvature)
    )  # fmt: skip
    log_prior = sum(-0.5 * ((value - mean) / scale) ** 2 for value, (mean, scale) in zip(shared, _PRIOR, strict=True))
    return jnp.sum(per_problem) + log_prior


class _Weights(NamedTuple):
    """Curvature in each effect by source; `[problems]`. The rest of the censored, `[problems, points]`."""

    right: Array
    wrong: Array
    prior: Array
    z: Array
    hazard: Array
    ends: Array  # how many of the censored would have ended, had there been no cap
    doubt: Array  # the variance of that number

    @property
    def curvature(self) -> Array:
        """P."""
        return self.right + self.wrong + self.prior


def _weights(effect: Array, shared: Shared, data: Statistics) -> _Weights:
    precision_right, precision_wrong, precision = (jnp.exp(-2 * shared[i]) for i in _LOGS)
    z = (data.censoring_point - effect[:, None] - shared.shift) * jnp.sqrt(precision_wrong)
    log_above = log_ndtr(-z)
    hazard = jnp.exp(-0.5 * z * z - 0.5 * jnp.log(2 * jnp.pi) - log_above)  # of the normal law, stable in both tails
    ends = data.num_censored * jax.nn.sigmoid(log_above - shared.logit_loop)
    doubt = ends * jax.nn.sigmoid(shared.logit_loop - log_above)
    bend = jnp.sum(ends * hazard * (hazard - z), axis=1)
    return _Weights(
        right=data.num_right * precision_right,
        wrong=(data.num_wrong + bend) * precision_wrong,
        prior=jnp.broadcast_to(precision, effect.shape),
        z=z,
        hazard=hazard,
        ends=ends,
        doubt=doubt,
    )


def _newton(effect: Array, shared: Shared, data: Statistics) -> tuple[Array, Array, Array]:
    """Return the step in the effects, the step in the shared parameters, and the Schur complement of the arrow."""
    gradient, shared_gradient = jax.grad(objective, argnums=(0, 1))(effect, shared, data)
    curvature, border, corner = _arrow(effect, shared, data)
    schur = corner - border.T @ (border / curvature[:, None])
    values, vectors = jnp.linalg.eigh(schur)
    values = jnp.maximum(jnp.abs(values), 1e-6)  # far from the maximum the Hessian may be indefinite
    reduced = jnp.stack(shared_gradient) - border.T @ (gradient / curvature)
    move_shared = vectors @ ((vectors.T @ reduced) / values)
    move_effect = (gradient - border @ move_shared) / curvature
    return move_effect, move_shared, schur


def _arrow(effect: Array, shared: Shared, data: Statistics) -> tuple[Array, Array, Array]:
    """Minus the Hessian: its diagonal `[problems]`, border `[problems, 7]` and corner `[7, 7]`.

    That of the complete data, less what is not known because a censored trace may loop (Louis, Finding the Observed
    Information Matrix when Using the EM Algorithm, 1982): the variance of the score's part that hangs on it.
    """
    at = _weights(effect, shared, data)
    curvature, x = at.curvature, share_wrong(data)
    residual_right, residual_wrong = data.mean_right - effect, data.mean_wrong - effect - shared.shift
    pull_right = at.right * residual_right
    precision_wrong = jnp.exp(-2 * shared.log_scale_wrong)
    pull_wrong = data.num_wrong * residual_wrong * precision_wrong
    pull = (effect - shared.centre - shared.slope * x) * at.prior
    tail = lambda values: jnp.sum(at.ends * values, axis=1)  # noqa: E731
    bend = at.hazard * (at.hazard - at.z)  # the hazard's derivative
    cross_wrong = 2 * pull_wrong + tail(bend * at.z + at.hazard) * jnp.sqrt(precision_wrong)
    square_right = data.scatter_right * jnp.exp(-2 * shared.log_scale_right) + pull_right * residual_right
    square_wrong = data.scatter_wrong * precision_wrong + pull_wrong * residual_wrong
    square_tail = tail(bend * at.z**2 + at.hazard * at.z)
    loop = jax.nn.sigmoid(shared.logit_loop)
    num_wrong = jnp.sum(data.num_wrong) + jnp.sum(data.num_censored)

    by_shift, by_scale = -at.hazard * jnp.sqrt(precision_wrong), -at.hazard * at.z  # of the log-odds to loop
    lost = lambda a, b: jnp.sum(at.doubt * a * b, axis=1)  # noqa: E731
    lost_shift, lost_cross, lost_loop = (lost(by_shift, other) for other in (by_shift, by_scale, 1.0))

    border = jnp.stack(
        [
            at.wrong - lost_shift,
            2 * pull_right,
            cross_wrong - lost_cross,
            -at.prior,
            -x * at.prior,
            -2 * pull,
            -lost_loop,
        ],
        axis=1,
    )
    within = {
        (0, 0): at.wrong - lost_shift, (0, 2): cross_wrong - lost_cross, (0, 6): -lost_loop,
        (1, 1): 2 * square_right,
        (2, 2): 2 * square_wrong + square_tail - lost(by_scale, by_scale), (2, 6): -lost(by_scale, 1.0),
        (3, 3): at.prior, (3, 4): x * at.prior, (3, 5): 2 * pull,
        (4, 4): x * x * at.prior, (4, 5): 2 * x * pull, (5, 5): 2 * pull * pull / at.prior,
        (6, 6): -lost(1.0, 1.0),
    }  # fmt: skip
    corner = jnp.diag(jnp.stack([1 / scale**2 + 0 * loop for _, scale in _PRIOR]))
    corner = corner.at[6, 6].add(num_wrong * loop * (1 - loop))
    for (i, j), values in within.items():
        corner = corner.at[i, j].add(jnp.sum(values))
        corner = corner.at[j, i].set(corner[i, j])
    shares = jnp.stack([at.right, at.wrong, at.prior], axis=1) / curvature[:, None]
    laplace = 2 * jnp.diag(jnp.sum(shares, axis=0)) - 2 * shares.T @ shares
    diagonal = jnp.maximum(curvature - lost_shift, 0.25 * curvature)
    return diagonal, border, corner.at[np.ix_(_LOGS, _LOGS)].add(laplace)
