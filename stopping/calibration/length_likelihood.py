"""The likelihood of lengths by problem and class, with its first and second derivatives.

For each problem q the log-lengths y are a + scale_right z when right and a + shift + scale_wrong z when wrong. A wrong
trace loops with probability `loop`, and then reaches any cap (a mixture cure model: Boag, Maximum Likelihood Estimates
of the Proportion of Patients Cured, 1949); at the cap it is censored. The effects are a ~ Normal(centre + slope x_q,
spread) with x_q the problem's share of wrong traces: without the slope, that hard problems are long would pass for a
shift (Mundlak, On the Pooling of Time Series and Cross Section Data, 1978). The objective is the likelihood with every
a integrated out by Laplace's approximation (exact without censoring),

    F(a, theta) = sum_q  log p(y_q | a_q, theta) + log p(a_q | theta) - log(P_q) / 2

with P_q the curvature in a_q. In P_q the share of censored traces that would have ended is taken as known, as in EM:
that keeps it positive. The derivatives of F are complete: they include those of P_q, and of that share.

Weak priors keep a data set with an empty class finite; they are listed in `PRIOR_MEAN` and `PRIOR_SCALE`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float

from stopping.calibration.statistics import Statistics


class Shared(NamedTuple):
    """The parameters all problems share; `[]` each."""

    shift: Float[Array, ""]
    log_scale_right: Float[Array, ""]
    log_scale_wrong: Float[Array, ""]
    centre: Float[Array, ""]
    slope: Float[Array, ""]
    log_spread: Float[Array, ""]
    logit_loop: Float[Array, ""]


# mean and standard deviation of a normal law for each
PRIOR_MEAN = Shared(0.0, np.log(0.5), np.log(0.5), 8.0, 0.0, np.log(0.5), -3.0)  # type: ignore[arg-type]
PRIOR_SCALE = Shared(1.0, 1.0, 1.0, 10.0, 1.0, 1.0, 2.0)  # type: ignore[arg-type]
SHIFT, RIGHT, WRONG, CENTRE, SLOPE, SPREAD, LOOP = range(7)  # places of the shared parameters in the arrow
EFFECT = 7  # and of the problem's effect in its own block of it


class Derivatives(NamedTuple):
    """Gradient of F, and minus its Hessian: an arrow, diagonal in the effects and bordered by the shared parameters.

    Attributes:
        effect, shared: the gradient; `[problems]` and `[7]`.
        diagonal: `[problems]`.
        border: `[problems, 7]`.
        corner: `[7, 7]`.
        curvature: P; `[problems]`.
    """

    effect: Float[Array, " problems"]
    shared: Float[Array, " shared"]
    diagonal: Float[Array, " problems"]
    border: Float[Array, "problems shared"]
    corner: Float[Array, "shared shared"]
    curvature: Float[Array, " problems"]


def share_wrong(data: Statistics) -> Float[Array, " problems"]:
    """The share of wrong traces, 0 for a problem without traces."""
    wrong = data.num_wrong + jnp.sum(data.num_censored, axis=1)
    return wrong / jnp.maximum(data.num_right + wrong, 1)


def objective(effect: Float[Array, " problems"], shared: Shared, data: Statistics) -> Float[Array, ""]:
    """F of the module's head, constants dropped."""
    at = _terms(effect, shared, data)
    log_loop, log_end = jax.nn.log_sigmoid(shared.logit_loop), jax.nn.log_sigmoid(-shared.logit_loop)
    per_problem = (
        -data.num_right * shared.log_scale_right - 0.5 * at.square_right
        + data.num_wrong * (log_end - shared.log_scale_wrong) - 0.5 * at.square_wrong
        + jnp.sum(data.num_censored * jnp.logaddexp(log_loop, log_end + at.log_above), axis=1)
        - shared.log_spread - 0.5 * at.deviation**2 * at.prior
        - 0.5 * jnp.log(at.curvature)
    )  # fmt: skip
    away = (jnp.stack(shared) - jnp.asarray(PRIOR_MEAN, effect.dtype)) / jnp.asarray(PRIOR_SCALE, effect.dtype)
    return jnp.sum(per_problem) - 0.5 * jnp.sum(away**2)


def curvature(effect: Float[Array, " problems"], shared: Shared, data: Statistics) -> Float[Array, " problems"]:
    """P of the module's head, the precision of each effect given the data."""
    return _terms(effect, shared, data).curvature


class _Terms(NamedTuple):
    """What F and its derivatives are made of: `[problems]`, of the censored traces `[problems, points]`."""

    residual_right: Array
    residual_wrong: Array
    deviation: Array  # of the effect from what its problem's share of wrong traces predicts
    square_right: Array  # sums of squares in units of the scale
    square_wrong: Array
    right: Array  # parts of the curvature by source
    wrong: Array
    prior: Array
    root: Array  # 1 / scale_wrong
    z: Array
    log_above: Array  # of the normal law, and its hazard with two derivatives
    hazard: Array
    bend: Array
    share: Array  # of the censored traces that would have ended, had there been no cap

    @property
    def curvature(self) -> Array:
        """P."""
        return self.right + self.wrong + self.prior


def _terms(effect: Array, shared: Shared, data: Statistics) -> _Terms:
    precision_right, precision_wrong, precision = (
        jnp.exp(-2 * log) for log in (shared.log_scale_right, shared.log_scale_wrong, shared.log_spread)
    )
    residual_right, residual_wrong = data.mean_right - effect, data.mean_wrong - effect - shared.shift
    z = (data.censoring_point - effect[:, None] - shared.shift) * jnp.exp(-shared.log_scale_wrong)
    log_above = log_ndtr(-z)
    hazard = jnp.exp(-0.5 * z * z - 0.5 * np.log(2 * np.pi) - log_above)  # stable in both tails
    bend = hazard * (hazard - z)
    share = jax.nn.sigmoid(log_above - shared.logit_loop)
    return _Terms(
        residual_right=residual_right,
        residual_wrong=residual_wrong,
        deviation=effect - shared.centre - shared.slope * share_wrong(data),
        square_right=(data.scatter_right + data.num_right * residual_right**2) * precision_right,
        square_wrong=(data.scatter_wrong + data.num_wrong * residual_wrong**2) * precision_wrong,
        right=data.num_right * precision_right,
        wrong=(data.num_wrong + jnp.sum(data.num_censored * share * bend, axis=1)) * precision_wrong,
        prior=jnp.broadcast_to(precision, effect.shape),
        root=jnp.exp(-shared.log_scale_wrong),
        z=z,
        log_above=log_above,
        hazard=hazard,
        bend=bend,
        share=share,
    )


def derivatives(effect: Float[Array, " problems"], shared: Shared, data: Statistics) -> Derivatives:
    """Gradient and Hessian of the objective, in closed form: automatic ones take many times as long to compile."""
    at, x = _terms(effect, shared, data), share_wrong(data)
    zero = jnp.zeros_like(effect)
    tail = lambda values: jnp.sum(data.num_censored * values, axis=1)  # noqa: E731
    prior_mean, prior_scale = (jnp.asarray(values, effect.dtype) for values in (PRIOR_MEAN, PRIOR_SCALE))

    doubt = at.share * (1 - at.share)
    pulls = at.share * at.hazard  # minus the log-likelihood's derivative by z, and the derivative of that
    gives = at.share * at.bend - doubt * at.hazard**2
    pull_right, pull_wrong = at.right * at.residual_right, data.num_wrong * at.root**2 * at.residual_wrong
    pull_tail, pull_prior = at.root * tail(pulls), at.prior * at.deviation
    loop = jax.nn.sigmoid(shared.logit_loop)
    num_wrong = data.num_wrong + jnp.sum(data.num_censored, axis=1)

    slope_of = [zero] * 8
    slope_of[SHIFT] = pull_wrong + pull_tail
    slope_of[RIGHT] = at.square_right - data.num_right
    slope_of[WRONG] = at.square_wrong - data.num_wrong + tail(pulls * at.z)
    slope_of[CENTRE], slope_of[SLOPE] = pull_prior, x * pull_prior
    slope_of[SPREAD] = pull_prior * at.deviation - 1
    slope_of[LOOP] = tail(1 - at.share) - loop * num_wrong
    slope_of[EFFECT] = pull_right + slope_of[SHIFT] - pull_prior

    by_shift = data.num_wrong * at.root**2 + at.root**2 * tail(gives)
    by_shift_and_scale = 2 * pull_wrong + at.root * tail(pulls + at.z * gives)
    by_shift_and_loop = at.root * tail(doubt * at.hazard)
    bends_of = {
        (SHIFT, SHIFT): by_shift, (SHIFT, WRONG): by_shift_and_scale, (SHIFT, LOOP): by_shift_and_loop,
        (RIGHT, RIGHT): 2 * at.square_right,
        (WRONG, WRONG): 2 * at.square_wrong + tail(at.z * (pulls + at.z * gives)),
        (WRONG, LOOP): tail(doubt * at.hazard * at.z),
        (CENTRE, CENTRE): at.prior, (CENTRE, SLOPE): x * at.prior, (CENTRE, SPREAD): 2 * pull_prior,
        (SLOPE, SLOPE): x * x * at.prior, (SLOPE, SPREAD): 2 * x * pull_prior,
        (SPREAD, SPREAD): 2 * pull_prior * at.deviation,
        (LOOP, LOOP): loop * (1 - loop) * num_wrong - tail(doubt),
        (EFFECT, EFFECT): at.right + by_shift + at.prior,
        (SHIFT, EFFECT): by_shift, (RIGHT, EFFECT): 2 * pull_right, (WRONG, EFFECT): by_shift_and_scale,
        (CENTRE, EFFECT): -at.prior, (SLOPE, EFFECT): -x * at.prior, (SPREAD, EFFECT): -2 * pull_prior,
        (LOOP, EFFECT): by_shift_and_loop,
    }  # fmt: skip
    first, second = _curvature_derivatives(at, data, doubt)
    gradient = [of - 0.5 * first.get(i, zero) for i, of in enumerate(slope_of)]
    # entry by entry, and only where it is not zero: whole 8 x 8 matrices of every problem cost twice as much
    places = bends_of.keys() | second.keys() | {(i, j) for i in first for j in first if i <= j}
    arrow = {
        (i, j): bends_of.get((i, j), zero) + 0.5 * (second.get((i, j), zero) - first.get(i, zero) * first.get(j, zero))
        for i, j in sorted(places)
    }
    inner = [(i, j) for i, j in arrow if j < EFFECT]
    sums = jnp.sum(jnp.stack([zero, *(arrow[place] for place in inner)]), axis=1)
    place = np.array(
        [
            [1 + inner.index(both) if (both := (min(i, j), max(i, j))) in inner else 0 for j in range(7)]
            for i in range(7)
        ]
    )
    return Derivatives(
        effect=gradient[EFFECT],
        shared=jnp.sum(jnp.stack(gradient[:EFFECT]), axis=1) - (jnp.stack(shared) - prior_mean) / prior_scale**2,
        diagonal=arrow[EFFECT, EFFECT],
        border=jnp.stack([arrow.get((i, EFFECT), zero) for i in range(EFFECT)], axis=-1),
        corner=sums[place] + jnp.diag(prior_scale**-2),
        curvature=at.curvature,
    )


def _curvature_derivatives(
    at: _Terms, data: Statistics, doubt: Array
) -> tuple[dict[int, Array], dict[tuple[int, int], Array]]:
    """P's first and second derivatives over P, by place, where they are not zero; `[problems]` each.

    A censored trace adds k(z, logit_loop) / scale_wrong^2 with k = share * bend.
    """
    h, b = at.hazard, at.bend
    tail = lambda values: at.root**2 * jnp.sum(data.num_censored * values, axis=1)  # noqa: E731
    twist = b * (2 * h - at.z) - h  # the derivative of bend
    skew = doubt * (1 - 2 * at.share)
    k_z, k_loop = at.share * twist - doubt * h * b, -doubt * b
    k_zz = (
        skew * h * h * b - doubt * (b * b + 2 * h * twist) + at.share * (twist * (2 * h - at.z) + 2 * b * (b - 1))
    )  # fmt: skip
    k_z_loop, k_loop_loop = skew * h * b - doubt * twist, skew * b

    first: dict[int, Array] = {}
    first[SHIFT] = first[EFFECT] = -at.root * tail(k_z)
    first[RIGHT], first[SPREAD] = -2 * at.right, -2 * at.prior
    first[WRONG] = -2 * at.wrong - tail(at.z * k_z)
    first[LOOP] = tail(k_loop)
    by_shift, by_shift_and_loop = at.root**2 * tail(k_zz), -at.root * tail(k_z_loop)
    by_shift_and_scale = at.root * tail(3 * k_z + at.z * k_zz)
    second = {
        (SHIFT, SHIFT): by_shift, (SHIFT, EFFECT): by_shift, (EFFECT, EFFECT): by_shift,
        (SHIFT, WRONG): by_shift_and_scale, (WRONG, EFFECT): by_shift_and_scale,
        (SHIFT, LOOP): by_shift_and_loop, (LOOP, EFFECT): by_shift_and_loop,
        (RIGHT, RIGHT): 4 * at.right, (SPREAD, SPREAD): 4 * at.prior,
        (WRONG, WRONG): 4 * at.wrong + tail(at.z * (5 * k_z + at.z * k_zz)),
        (WRONG, LOOP): -tail(2 * k_loop + at.z * k_z_loop),
        (LOOP, LOOP): tail(k_loop_loop),
    }  # fmt: skip
    over = 1 / at.curvature
    return {i: values * over for i, values in first.items()}, {at: values * over for at, values in second.items()}
