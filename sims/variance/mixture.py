"""Many expectations from one sample, by adaptive importance sampling from a mixture of normal distributions.

For a density f and functions phi_j >= 0, j = 1 .. J, the I_j = E_f[phi_j] are estimated from one sample x of g = sum_j a_j g_j by

    mean[(f phi_j - b_j g_j) / g] + b_j

Each g_j is a normal density fitted to f phi_j. It integrates to 1 whatever its parameters, so it is also a control variate, and
b_j adds no bias. At most half of the evaluations are used to adapt, in rounds of a tenth, the first of which is drawn from f:

1. b_j = the mean of phi_j, a_j in proportion to sqrt(w_j) b_j, V = sum_j w_j var(phi_j).
2. g_j: mean and covariance weighted by f phi_j / h, from all draws so far; h is the mixture of the densities of these draws.
3. a minimises the mean of sum_j w_j (f phi_j - b_j g_j)^2 / (g h) over the same draws.
4. A round from g: b_j = Cov(g_j / g, f phi_j / g) / Var(g_j / g), V' = sum_j w_j var((f phi_j - b_j g_j) / g).
5. After n of N evaluations, k of them in this round, stop if V / (N - n + k) <= V' / (N - n): without the round, the final
   estimate would have been no worse. Otherwise set V = V' and go to 2.
6. The remaining evaluations are one fresh sample from g, which a, b and g do not depend on. Only it is used for the estimates.

Reference: Demange-Chryst, Bachoc and Morio, "Efficient estimation of multiple expectations with the same sample by adaptive
importance sampling and control variates" (arXiv 2212.00568). They solve step 3 by a general optimiser; here an upper bound
on the convex function is minimised repeatedly. To guard against what the first points miss, covariances are widened here, and a
tenth of the draws is spread evenly over the parts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key
from scipy.special import logsumexp

from sims.estimates import Estimate
from sims.variance.integration import LOG_WEIGHT, Expectation, components, evaluate, exploding, reduction
from sims.variance.weights import WeightReport
from stopping.policies.checks import whole_number

NUM_ROUNDS, ADAPTING_ROUNDS = 10, 5  # a round is a tenth of all evaluations; at most half of them adapt
NUM_SHARE_STEPS = 100
EVEN = 0.1  # share of draws spread evenly over the parts, so that no part is lost because of few draws
LEAST_DENSITY = 1e-100  # relative to h; smaller ones would overflow
FEWEST = 200  # evaluations


@dataclass(frozen=True)
class _Normals:
    """A mixture of normal distributions.

    Attributes:
        share: weight of each part, `[parts]`; they sum to 1.
        mean: `[parts, dimensions]`.
        factor: lower Cholesky factor of the covariance, `[parts, dimensions, dimensions]`.
    """

    share: np.ndarray
    mean: np.ndarray
    factor: np.ndarray

    @classmethod
    def fit(cls, share: np.ndarray, points: np.ndarray, weight: np.ndarray, prior: np.ndarray) -> Self:
        """Fit a part to each column of weights, `[points, parts]`, by weighted mean and covariance, which minimise cross-entropy.

        Where few points have most of the weight, their covariance is too narrow or singular. It is shrunk towards that of f,
        which counts as one point more than there are dimensions.
        """
        weight = weight / weight.sum(axis=0)
        mean = weight.T @ points
        apart = points[:, None, :] - mean
        covariance = np.einsum("nj,nja,njb->jab", weight, apart, apart)
        size, more = 1 / (weight**2).sum(axis=0)[:, None, None], 1 + points.shape[1]
        covariance = (size * covariance + more * prior) / (size + more)
        return cls(share, mean, np.linalg.cholesky(covariance))

    def log_parts(self, points: np.ndarray) -> np.ndarray:
        """Return the log-density of each part at each point; `[points, parts]`."""
        score = np.einsum("jab,njb->nja", np.linalg.inv(self.factor), points[:, None, :] - self.mean)
        log_volume = np.log(np.diagonal(self.factor, axis1=1, axis2=2)).sum(axis=1)
        return -0.5 * (score**2).sum(axis=2) - log_volume - 0.5 * points.shape[1] * np.log(2 * np.pi)

    def log_density(self, points: np.ndarray) -> np.ndarray:
        """Return the log-density of the mixture at each point; `[points]`."""
        return logsumexp(self.log_parts(points), b=self.share, axis=1)

    def draw(self, key: Key[Array, ""], count: int) -> np.ndarray:
        """Draw points, `[points, dimensions]`, rounded to JAX's default precision."""
        key_part, key_score = jr.split(key)
        part = np.searchsorted(np.cumsum(self.share)[:-1], np.asarray(jr.uniform(key_part, (count,))), side="right")
        score = np.asarray(jr.normal(key_score, (count, self.mean.shape[1])), np.float64)
        points = self.mean[part] + np.einsum("nab,nb->na", self.factor[part], score)
        return np.asarray(jnp.asarray(points, float), np.float64)


@dataclass(frozen=True)
class _Sample:
    """Points with log f `[points]` and phi `[points, functions]` there."""

    points: np.ndarray
    log_density: np.ndarray
    values: np.ndarray

    def and_(self, other: "_Sample") -> "_Sample":
        """Return both samples, concatenated."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Sample(*(np.concatenate(pair) for pair in pairs))


def mixture_expectations(
    key: Key[Array, ""],
    integrand: Callable[[Array], Any],
    log_density: Callable[[Array], Array],
    draw: Callable[[Key[Array, ""]], Array],
    *,
    max_evaluations: int,
    weights: dict[str, float] | None = None,
) -> Expectation:
    """Estimate the means of many functions >= 0 under one distribution from one sample, to which each contributes a sampler.

    Means under different densities f_j are means of phi_j f_j / f under one f. If f phi_j has heavier tails than the normal
    distribution fitted to it, weights explode: read the result's `warnings`.

    Args:
        key: of all draws.
        integrand: takes a point `[dimensions]`, and returns a scalar, or a dictionary or named tuple of scalars, each >= 0.
        log_density: returns log f at a point, with its normalising constant.
        draw: draws a point from f.
        max_evaluations: of integrand and density, adaptation included; all are used.
        weights: w_j of each component; by default 1 / I_j^2, so that relative variances are summed.

    Returns:
        Estimates from the final sample only; variance reduction factors count all evaluations.

    Raises:
        ValueError: for fewer than 200 evaluations, a negative or infinite value, weights for other components, or a function
            that is 0 at all points of the first round: for a rare event, choose f, and phi to match, so that it occurs.
    """
    max_evaluations = whole_number("max_evaluations", max_evaluations, FEWEST)
    key_first, key_last, *keys_round = jr.split(key, 1 + ADAPTING_ROUNDS)
    size = max_evaluations // NUM_ROUNDS
    evaluated = partial(_evaluated, jax.tree_util.Partial(_both, integrand, log_density), size)
    names, first = evaluated(np.asarray(_draws(draw, key_first, size), np.float64))
    if empty := [name for name, column in zip(names, first.values.T, strict=True) if not column.any()]:
        raise ValueError(
            f"integrand: expected values > 0 at some of {size} points of draw, got none in {', '.join(empty)}"
        )
    if weights is not None and set(weights) != set(names):
        raise ValueError(f"weights: expected {', '.join(names)}, got {', '.join(weights)}")
    stated = None if weights is None else np.array([weights[name] for name in names])
    sampler, slopes, num_rounds = _adapted(
        lambda points: evaluated(points)[1], first, keys_round, max_evaluations, stated
    )
    rest = max_evaluations - num_rounds * size
    _, final = evaluated(sampler.draw(key_last, rest))
    terms, parts = _over(sampler, final)
    corrected, second = terms - slopes * (parts - 1), terms * final.values
    reports = {name: WeightReport.of(column) for name, column in zip(names, terms.T, strict=True)}
    return Expectation(
        title=f"an adaptive mixture of {len(names)} normal distributions, {num_rounds} of {NUM_ROUNDS} rounds to adapt",
        num_evaluations=max_evaluations,
        estimates={name: Estimate.of(column) for name, column in zip(names, corrected.T, strict=True)},
        reduction={
            name: reduction(second[:, j], terms[:, j], corrected[:, j], max_evaluations / rest)
            for j, name in enumerate(names)
        },
        weights=reports,
        warnings=exploding(reports),
    )


def _adapted(
    evaluated: Callable[[np.ndarray], _Sample],
    everything: _Sample,
    keys: Sequence[Key[Array, ""]],
    max_evaluations: int,
    stated: np.ndarray | None,
) -> tuple[_Normals, np.ndarray, int]:
    """Return the adapted sampler, the slopes of its parts and the number of rounds, including the first, which is drawn from f.

    Args:
        evaluated: evaluates functions and density at points.
        everything: the first round.
        keys: of the other rounds.
        max_evaluations: as in `mixture_expectations`.
        stated: w_j; None for 1 / I_j^2, with the newest estimates.
    """
    means, size = everything.values.mean(axis=0), len(everything.points)
    weight = means**-2.0 if stated is None else stated
    shares, slopes = np.sqrt(weight) * means / (np.sqrt(weight) @ means), means
    last, samplers = everything.values.var(axis=0) @ weight, list[_Normals]()
    prior = np.cov(everything.points.T).reshape(2 * everything.points.shape[1:])
    for key in keys:
        log_densities = [everything.log_density, *(each.log_density(everything.points) for each in samplers)]
        log_drawn = logsumexp(log_densities, axis=0) - np.log(len(log_densities))  # log h: rounds are equally large
        wanted = np.exp(everything.log_density - log_drawn)[:, None] * everything.values
        fitted = _Normals.fit(shares, everything.points, wanted, prior)
        own = np.exp(fitted.log_parts(everything.points) - log_drawn[:, None])
        shares = _best_shares(shares, own, (wanted - slopes * own) ** 2 @ weight)
        samplers.append(replace(fitted, share=(1 - EVEN) * shares + EVEN / len(shares)))
        fresh = evaluated(samplers[-1].draw(key, size))
        everything = everything.and_(fresh)
        terms, parts = _over(samplers[-1], fresh)
        slopes = _slopes(terms, parts)
        corrected = terms - slopes * (parts - 1)
        if stated is None:
            weight = corrected.mean(axis=0) ** -2.0
        now, left = corrected.var(axis=0) @ weight, max_evaluations - len(everything.points)
        if last / (left + size) <= now / left:
            break
        last = now
    return samplers[-1], slopes, 1 + len(samplers)


def _evaluated(both: Callable[[Array], Any], size: int, points: np.ndarray) -> tuple[list[str], _Sample]:
    """Return the functions' names, and a sample of their values and log f at some points, computed in blocks of one size."""
    blocks = np.pad(points, [(0, -len(points) % size), (0, 0)], mode="edge").reshape(-1, size, points.shape[1])
    found = evaluate(both, jnp.asarray(blocks, float), len(points))
    log_f = found.pop(LOG_WEIGHT)
    for name, column in found.items():
        if column.min() < 0:
            raise ValueError(f"integrand: expected values >= 0, got {column.min():g} in {name}")
    return list(found), _Sample(points, log_f, np.stack(list(found.values()), axis=1))


def _both(integrand: Callable[[Array], Any], log_density: Callable[[Array], Array], point: Array) -> dict[str, Array]:
    return {**components(integrand(point)), LOG_WEIGHT: log_density(point)}


@eqx.filter_jit
def _draws(
    draw: Callable[[Key[Array, ""]], Array], key: Key[Array, ""], count: int
) -> Float[Array, "points dimensions"]:
    return jax.vmap(draw)(jr.split(key, count))


def _over(sampler: _Normals, sample: _Sample) -> tuple[np.ndarray, np.ndarray]:
    """Return f phi_j / g and g_j / g at each point; `[points, functions]`."""
    log_parts = sampler.log_parts(sample.points)
    log_mixture = logsumexp(log_parts, b=sampler.share, axis=1)[:, None]
    return np.exp(sample.log_density[:, None] - log_mixture) * sample.values, np.exp(log_parts - log_mixture)


def _slopes(terms: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Return the regression slope of each term on its own part; 0 where the part does not vary, being the whole mixture."""
    parts = parts - parts.mean(axis=0)
    variance = (parts**2).mean(axis=0)
    varies = variance > 1e-20
    return np.where(varies, (parts * terms).mean(axis=0) / np.where(varies, variance, 1), 0)


def _best_shares(shares: np.ndarray, own: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Minimise the mean of square / (own @ shares) over the simplex.

    By convexity of 1 / x, for any shares a the function of new shares a' is at most sum_j a_j^2 G_j / a'_j, with G_j the mean of
    square own_j / (own @ a)^2, and equal to it at a' = a. The bound is minimised by a'_j in proportion to a_j sqrt(G_j), so each
    step lowers the function, and shares stay positive.

    Args:
        shares: to begin with, above 0; `[parts]`.
        own: each part's density over h; `[points, parts]`.
        square: `[points]`.
    """
    for _ in range(NUM_SHARE_STEPS):
        pull = square / np.maximum(own @ shares, LEAST_DENSITY) ** 2 @ own
        shares = shares * np.sqrt(pull)
        shares = shares / shares.sum()
    return shares
