"""The likelihood of lengths by problem and class, with its first and second derivatives.

For each problem q the log-lengths y are a + scale_right z for right traces and a + shift + scale_wrong z for wrong ones. A
wrong trace loops with probability `loop`, and then reaches any cap (a mixture cure model: Boag, Maximum Likelihood Estimates
of the Proportion of Patients Cured, 1949); at the cap it is censored. Right traces end below the cap: their distribution is
normal, truncated there (Cohen, Estimating the Mean and Variance of Normal Populations from Singly Truncated and Doubly
Truncated Samples, 1950). The effects are a ~ Normal(centre + slope x_q, spread) with x_q the problem's share of wrong
traces: without the slope, the greater length of hard problems would bias the shift (Mundlak, On the Pooling of Time Series
and Cross Section Data, 1978). The objective is the likelihood with every a integrated out by Laplace's approximation (exact
without a cap),

    F(a, theta) = sum_q  log p(y_q | a_q, theta) + log p(a_q | theta) - log(P_q) / 2

with P_q the curvature in a_q. In P_q the share of censored traces that would have ended is taken as known, as in EM, which
keeps P_q positive. The derivatives of F are complete: they include those of P_q and of that share.

If most traces reach the cap, looping and long traces can hardly be distinguished, and the prior decides.

The weak priors in `PRIOR_MEAN` and `PRIOR_SCALE` keep estimates finite if a class is empty.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stopping.calibration.sufficient_statistics import Statistics
from stopping.models.normal_tails import UpperTail, upper_tail


class Shared(NamedTuple):
    """Parameters that all problems share; `[]` each."""

    shift: Float[Array, ""]
    log_scale_right: Float[Array, ""]
    log_scale_wrong: Float[Array, ""]
    centre: Float[Array, ""]
    slope: Float[Array, ""]
    log_spread: Float[Array, ""]
    logit_loop: Float[Array, ""]


# mean and standard deviation of the normal prior of each
PRIOR_MEAN = Shared(0.0, np.log(0.5), np.log(0.5), 8.0, 0.0, np.log(0.5), -3.0)  # type: ignore[arg-type]
PRIOR_SCALE = Shared(1.0, 1.0, 1.0, 10.0, 1.0, 1.0, 2.0)  # type: ignore[arg-type]
SHIFT, RIGHT, WRONG, CENTRE, SLOPE, SPREAD, LOOP = range(7)  # indices of the shared parameters in the arrow
EFFECT = 7  # index of the effect in the block of a problem


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
    """Return the share of wrong traces, 0 for a problem without traces."""
    wrong = data.num_wrong + jnp.sum(data.num_censored, axis=1)
    return wrong / jnp.maximum(data.num_right + wrong, 1)


def objective(effect: Float[Array, " problems"], shared: Shared, data: Statistics) -> Float[Array, ""]:
    """Return F as defined above, up to a constant."""
    at = _terms(effect, shared, data)
    log_loop, log_end = jax.nn.log_sigmoid(shared.logit_loop), jax.nn.log_sigmoid(-shared.logit_loop)
    per_problem = (
        -data.num_right * (shared.log_scale_right + at.below.log_mass) - 0.5 * at.square_right
        + data.num_wrong * (log_end - shared.log_scale_wrong) - 0.5 * at.square_wrong
        + jnp.sum(data.num_censored * jnp.logaddexp(log_loop, log_end + at.above.log_mass), axis=1)
        - shared.log_spread - 0.5 * at.deviation**2 * at.prior
        - 0.5 * jnp.log(at.curvature)
    )  # fmt: skip
    away = (jnp.stack(shared) - jnp.asarray(PRIOR_MEAN, effect.dtype)) / jnp.asarray(PRIOR_SCALE, effect.dtype)
    return jnp.sum(per_problem) - 0.5 * jnp.sum(away**2)


def curvature(effect: Float[Array, " problems"], shared: Shared, data: Statistics) -> Float[Array, " problems"]:
    """Return P as defined above, the precision of each effect given the data."""
    return _terms(effect, shared, data).curvature


class _Terms(NamedTuple):
    """Terms of F and its derivatives: `[problems]`, those of censored traces `[problems, points]`."""

    residual_right: Array
    residual_wrong: Array
    deviation: Array  # of the effect from its prior mean, given the share of wrong traces
    square_right: Array  # sums of squares in units of the scale
    square_wrong: Array
    right: Array  # terms of the curvature by source
    wrong: Array
    prior: Array
    root_right: Array  # 1 / scale
    root: Array
    below: UpperTail  # of right traces, at the distance of the effect above the cap: the mass below the cap
    above: UpperTail  # of wrong traces, at the points of censoring
    share: Array  # of the censored traces, those that would have ended without a cap

    @property
    def curvature(self) -> Array:
        """P."""
        return self.right + self.wrong + self.prior


def _terms(effect: Array, shared: Shared, data: Statistics) -> _Terms:
    precision_right, precision_wrong, precision = (
        jnp.exp(-2 * log) for log in (shared.log_scale_right, shared.log_scale_wrong, shared.log_spread)
    )
    residual_right, residual_wrong = data.mean_right - effect, data.mean_wrong - effect - shared.shift
    root_right, root = jnp.exp(-shared.log_scale_right), jnp.exp(-shared.log_scale_wrong)
    below = upper_tail((effect - data.truncation_point) * root_right)
    above = upper_tail((data.censoring_point - effect[:, None] - shared.shift) * root)
    share = jax.nn.sigmoid(above.log_mass - shared.logit_loop)
    return _Terms(
        residual_right=residual_right,
        residual_wrong=residual_wrong,
        deviation=effect - shared.centre - shared.slope * share_wrong(data),
        square_right=(data.scatter_right + data.num_right * residual_right**2) * precision_right,
        square_wrong=(data.scatter_wrong + data.num_wrong * residual_wrong**2) * precision_wrong,
        right=data.num_right * (1 - below.bend) * precision_right,
        wrong=(data.num_wrong + jnp.sum(data.num_censored * share * above.bend, axis=1)) * precision_wrong,
        prior=jnp.broadcast_to(precision, effect.shape),
        root_right=root_right,
        root=root,
        below=below,
        above=above,
        share=share,
    )


def derivatives(effect: Float[Array, " problems"], shared: Shared, data: Statistics) -> Derivatives:
    """Return gradient and Hessian of the objective in closed form; automatic derivatives take many times as long to compile."""
    at, x = _terms(effect, shared, data), share_wrong(data)
    below, above = at.below, at.above
    zero = jnp.zeros_like(effect)
    tail = lambda values: jnp.sum(data.num_censored * values, axis=1)  # noqa: E731
    prior_mean, prior_scale = (jnp.asarray(values, effect.dtype) for values in (PRIOR_MEAN, PRIOR_SCALE))

    doubt = at.share * (1 - at.share)
    pulls = at.share * above.hazard  # minus the derivative of the log-likelihood by z, and its derivative
    gives = at.share * above.bend - doubt * above.hazard**2
    precision_right = data.num_right * at.root_right**2
    pull_right, pull_wrong = precision_right * at.residual_right, data.num_wrong * at.root**2 * at.residual_wrong
    pull_cap, pull_tail = data.num_right * at.root_right * below.hazard, at.root * tail(pulls)
    pull_prior = at.prior * at.deviation
    loop = jax.nn.sigmoid(shared.logit_loop)
    num_wrong = data.num_wrong + jnp.sum(data.num_censored, axis=1)

    slope_of = [zero] * 8
    slope_of[SHIFT] = pull_wrong + pull_tail
    slope_of[RIGHT] = at.square_right - data.num_right * (1 + below.z * below.hazard)
    slope_of[WRONG] = at.square_wrong - data.num_wrong + tail(pulls * above.z)
    slope_of[CENTRE], slope_of[SLOPE] = pull_prior, x * pull_prior
    slope_of[SPREAD] = pull_prior * at.deviation - 1
    slope_of[LOOP] = tail(1 - at.share) - loop * num_wrong
    slope_of[EFFECT] = pull_right + pull_cap + slope_of[SHIFT] - pull_prior

    by_shift = data.num_wrong * at.root**2 + at.root**2 * tail(gives)
    by_shift_and_scale = 2 * pull_wrong + at.root * tail(pulls + above.z * gives)
    by_right = below.z * below.bend + below.hazard  # the derivative of z * hazard
    by_shift_and_loop = at.root * tail(doubt * above.hazard)
    bends_of = {
        (SHIFT, SHIFT): by_shift, (SHIFT, WRONG): by_shift_and_scale, (SHIFT, LOOP): by_shift_and_loop,
        (RIGHT, RIGHT): 2 * at.square_right - data.num_right * below.z * by_right,
        (WRONG, WRONG): 2 * at.square_wrong + tail(above.z * (pulls + above.z * gives)),
        (WRONG, LOOP): tail(doubt * above.hazard * above.z),
        (CENTRE, CENTRE): at.prior, (CENTRE, SLOPE): x * at.prior, (CENTRE, SPREAD): 2 * pull_prior,
        (SLOPE, SLOPE): x * x * at.prior, (SLOPE, SPREAD): 2 * x * pull_prior,
        (SPREAD, SPREAD): 2 * pull_prior * at.deviation,
        (LOOP, LOOP): loop * (1 - loop) * num_wrong - tail(doubt),
        (EFFECT, EFFECT): at.right + by_shift + at.prior,
        (RIGHT, EFFECT): 2 * pull_right + data.num_right * at.root_right * by_right,
        (SHIFT, EFFECT): by_shift, (WRONG, EFFECT): by_shift_and_scale,
        (CENTRE, EFFECT): -at.prior, (SLOPE, EFFECT): -x * at.prior, (SPREAD, EFFECT): -2 * pull_prior,
        (LOOP, EFFECT): by_shift_and_loop,
    }  # fmt: skip
    first, second = _curvature_derivatives(at, data, doubt)
    gradient = [of - 0.5 * first.get(i, zero) for i, of in enumerate(slope_of)]
    # only entries that are not zero: full 8 x 8 matrices for every problem cost twice as much
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
    """Return the non-zero first and second derivatives of P, divided by P, by index; `[problems]` each.

    A censored trace adds k(z, logit_loop) / scale_wrong^2 with k = share * bend; a right one (1 - bend) / scale_right^2.
    """
    h, b, z, twist = at.above.hazard, at.above.bend, at.above.z, at.above.twist
    tail = lambda values: at.root**2 * jnp.sum(data.num_censored * values, axis=1)  # noqa: E731
    skew = doubt * (1 - 2 * at.share)
    k_z, k_loop = at.share * twist - doubt * h * b, -doubt * b
    k_zz = skew * h * h * b - doubt * (b * b + 2 * h * twist) + at.share * at.above.warp
    k_z_loop, k_loop_loop = skew * h * b - doubt * twist, skew * b
    below, precision_right = at.below, data.num_right * at.root_right**2
    bends, warps = precision_right * below.twist, precision_right * below.warp

    first: dict[int, Array] = {}
    first[SHIFT] = -at.root * tail(k_z)
    first[EFFECT] = first[SHIFT] - at.root_right * bends
    first[RIGHT], first[SPREAD] = -2 * at.right + below.z * bends, -2 * at.prior
    first[WRONG] = -2 * at.wrong - tail(z * k_z)
    first[LOOP] = tail(k_loop)
    by_shift, by_shift_and_loop = at.root**2 * tail(k_zz), -at.root * tail(k_z_loop)
    by_shift_and_scale = at.root * tail(3 * k_z + z * k_zz)
    second = {
        (SHIFT, SHIFT): by_shift, (SHIFT, EFFECT): by_shift, (EFFECT, EFFECT): by_shift - at.root_right**2 * warps,
        (SHIFT, WRONG): by_shift_and_scale, (WRONG, EFFECT): by_shift_and_scale,
        (SHIFT, LOOP): by_shift_and_loop, (LOOP, EFFECT): by_shift_and_loop,
        (RIGHT, RIGHT): 4 * at.right - below.z * (5 * bends + below.z * warps), (SPREAD, SPREAD): 4 * at.prior,
        (RIGHT, EFFECT): at.root_right * (3 * bends + below.z * warps),
        (WRONG, WRONG): 4 * at.wrong + tail(z * (5 * k_z + z * k_zz)),
        (WRONG, LOOP): -tail(2 * k_loop + z * k_z_loop),
        (LOOP, LOOP): tail(k_loop_loop),
    }  # fmt: skip
    over = 1 / at.curvature
    return {i: values * over for i, values in first.items()}, {at: values * over for at, values in second.items()}
