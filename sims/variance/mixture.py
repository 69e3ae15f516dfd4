"""Several expectations from one sample: an adaptive mixture of normal laws, whose parts are control variates too.

For a law f and functions phi_j >= 0, j = 1 .. J, the I_j = E_f[phi_j] are estimated from one sample x of g = sum_j a_j g_j by

    mean[(f phi_j - b_j g_j) / g] + b_j

A normal law g_j is fitted to f phi_j, and integrates to 1 whatever it is, so that b_j adds no bias. At most half of the
evaluations adapt, in rounds of a tenth, the first of which is drawn from f:

1. b_j = the mean of phi_j, a_j in proportion to sqrt(w_j) b_j, V = sum_j w_j var(phi_j).
2. g_j: mean and covariance weighted by f phi_j / h, from all draws so far; h is the mixture of all the laws that they came from.
3. a minimises the mean of sum_j w_j (f phi_j - b_j g_j)^2 / (g h) over the same draws.
4. A round from g: b_j = Cov(g_j / g, f phi_j / g) / Var(g_j / g), V' = sum_j w_j var((f phi_j - b_j g_j) / g).
5. With n evaluations made, k of them in this round, of N in all: stop where V / (N - n + k) <= V' / (N - n): had the round been
   left out, the final estimate would have been no worse. Else V = V', and from 2 again.
6. All that is left is one fresh sample from g, and alone is estimated from: a, b and g do not depend on it.

Reference: Demange-Chryst, Bachoc and Morio, "Efficient estimation of multiple expectations with the same sample by adaptive
importance sampling and control variates" (arXiv 2212.00568). Step 3 is solved otherwise there, by a general optimiser; here by
minimising a bound on the convex function, again and again. Against what few
first points may miss, covariances are widened here, and a tenth of the draws is spread evenly over the parts.
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
from sims.variance.expectation import LOG_WEIGHT, Expectation, components, evaluate, exploding, reduction
from sims.variance.weights import WeightReport
from stopping.policies.checks import whole_number

NUM_ROUNDS, ADAPTING_ROUNDS = 10, 5  # a round is a tenth of all evaluations; half of them may adapt
NUM_SHARE_STEPS = 100
EVEN = 0.1  # of the draws, spread evenly over the parts: none is given up on the word of few draws
LEAST_DENSITY = 1e-100  # relative to h; below, steps of the shares would leave float64
FEWEST = 200  # evaluations


@dataclass(frozen=True)
class _Normals:
    """A mixture of normal laws.

    Attributes:
        share: `[parts]`, sum 1.
        mean: `[parts, dimensions]`.
        factor: lower triangular, times its transpose the covariance; `[parts, dimensions, dimensions]`.
    """

    share: np.ndarray
    mean: np.ndarray
    factor: np.ndarray

    @classmethod
    def fit(cls, share: np.ndarray, points: np.ndarray, weight: np.ndarray, prior: np.ndarray) -> Self:
        """Fit a part to each column of weights, `[points, parts]`: least cross-entropy is equal mean and covariance.

        Where few points carry the weight, their covariance is too narrow, or none: it is drawn towards that of f, as if by one
        point more than there are dimensions.
        """
        weight = weight / weight.sum(axis=0)
        mean = weight.T @ points
        apart = points[:, None, :] - mean
        covariance = np.einsum("nj,nja,njb->jab", weight, apart, apart)
        size, more = 1 / (weight**2).sum(axis=0)[:, None, None], 1 + points.shape[1]
        covariance = (size * covariance + more * prior) / (size + more)
        return cls(share, mean, np.linalg.cholesky(covariance))

    def log_parts(self, points: np.ndarray) -> np.ndarray:
        """Log-density of each part at each point; `[points, parts]`."""
        score = np.einsum("jab,njb->nja", np.linalg.inv(self.factor), points[:, None, :] - self.mean)
        log_volume = np.log(np.diagonal(self.factor, axis1=1, axis2=2)).sum(axis=1)
        return -0.5 * (score**2).sum(axis=2) - log_volume - 0.5 * points.shape[1] * np.log(2 * np.pi)

    def log_density(self, points: np.ndarray) -> np.ndarray:
        """Log-density of the mixture at each point; `[points]`."""
        return logsumexp(self.log_parts(points), b=self.share, axis=1)

    def draw(self, key: Key[Array, ""], count: int) -> np.ndarray:
        """Draw points, `[points, dimensions]`; in the numbers that JAX will see."""
        key_part, key_score = jr.split(key)
        part = np.searchsorted(np.cumsum(self.share)[:-1], np.asarray(jr.uniform(key_part, (count,))), side="right")
        score = np.asarray(jr.normal(key_score, (count, self.mean.shape[1])), np.float64)
        points = self.mean[part] + np.einsum("nab,nb->na", self.factor[part], score)
        return np.asarray(jnp.asarray(points, float), np.float64)


@dataclass(frozen=True)
class _Sample:
    """Points with what was computed there: log f `[points]`, phi `[points, functions]`."""

    points: np.ndarray
    log_density: np.ndarray
    values: np.ndarray

    def and_(self, other: "_Sample") -> "_Sample":
        """Both, one after the other."""
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
    """Estimate the means of many functions >= 0 under one law, each with a sampler of its own, from one sample.

    Functions that are means under different laws f_j are means of phi_j f_j / f under any one f. Where a law fitted to
    f phi_j has lighter tails than f phi_j itself, weights explode: read the result's `warnings`.

    Args:
        key: of all draws.
        integrand: takes a point `[dimensions]`, and returns a scalar, or a dictionary or named tuple of scalars, each >= 0.
        log_density: log f at a point, with its constant.
        draw: a point from f.
        max_evaluations: of integrand and density, adaptation included; all are made.
        weights: w_j of each component; by default 1 / I_j^2, which makes the sum one of relative variances.

    Returns:
        The estimates, of the final sample alone; reductions count all evaluations.

    Raises:
        ValueError: for fewer than 200 evaluations, a negative or infinite value, weights for other components than there are, or
            a function that is 0 at all of the first points: a rare event needs an f, and a phi to match, that finds it.
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
    law, slopes, num_rounds = _adapted(lambda points: evaluated(points)[1], first, keys_round, max_evaluations, stated)
    rest = max_evaluations - num_rounds * size
    _, final = evaluated(law.draw(key_last, rest))
    terms, parts = _over(law, final)
    corrected, second = terms - slopes * (parts - 1), terms * final.values
    reports = {name: WeightReport.of(column) for name, column in zip(names, terms.T, strict=True)}
    return Expectation(
        title=f"an adaptive mixture of {len(names)} normal laws, {num_rounds} of {NUM_ROUNDS} rounds to adapt",
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
    """The sampler and the slopes of its parts, and the rounds that they took, the first, from f, among them.

    Args:
        evaluated: what is computed at given points.
        everything: the first round.
        keys: of the others.
        max_evaluations: as of `mixture_expectations`.
        stated: w_j; None for 1 / I_j^2, by the newest estimate.
    """
    means, size = everything.values.mean(axis=0), len(everything.points)
    weight = means**-2.0 if stated is None else stated
    shares, slopes = np.sqrt(weight) * means / (np.sqrt(weight) @ means), means
    last, laws = everything.values.var(axis=0) @ weight, list[_Normals]()
    prior = np.cov(everything.points.T).reshape(2 * everything.points.shape[1:])
    for key in keys:
        log_laws = [everything.log_density, *(law.log_density(everything.points) for law in laws)]
        log_drawn = logsumexp(log_laws, axis=0) - np.log(len(log_laws))  # log h: rounds are equally large
        wanted = np.exp(everything.log_density - log_drawn)[:, None] * everything.values
        law = _Normals.fit(shares, everything.points, wanted, prior)
        own = np.exp(law.log_parts(everything.points) - log_drawn[:, None])
        shares = _best_shares(shares, own, (wanted - slopes * own) ** 2 @ weight)
        laws.append(replace(law, share=(1 - EVEN) * shares + EVEN / len(shares)))
        fresh = evaluated(laws[-1].draw(key, size))
        everything = everything.and_(fresh)
        terms, parts = _over(laws[-1], fresh)
        slopes = _slopes(terms, parts)
        corrected = terms - slopes * (parts - 1)
        if stated is None:
            weight = corrected.mean(axis=0) ** -2.0
        now, left = corrected.var(axis=0) @ weight, max_evaluations - len(everything.points)
        if last / (left + size) <= now / left:
            break
        last = now
    return laws[-1], slopes, 1 + len(laws)


def _evaluated(both: Callable[[Array], Any], size: int, points: np.ndarray) -> tuple[list[str], _Sample]:
    """The functions' names, and what they and log f are at some points, in blocks of one size."""
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


def _over(law: _Normals, sample: _Sample) -> tuple[np.ndarray, np.ndarray]:
    """Terms f phi_j / g and parts g_j / g at each point; `[points, functions]`."""
    log_parts = law.log_parts(sample.points)
    log_law = logsumexp(log_parts, b=law.share, axis=1)[:, None]
    return np.exp(sample.log_density[:, None] - log_law) * sample.values, np.exp(log_parts - log_law)


def _slopes(terms: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Of each term on its own part; 0 where that does not vary, for it is the whole mixture."""
    parts = parts - parts.mean(axis=0)
    variance = (parts**2).mean(axis=0)
    varies = variance > 1e-20
    return np.where(varies, (parts * terms).mean(axis=0) / np.where(varies, variance, 1), 0)


def _best_shares(shares: np.ndarray, own: np.ndarray, square: np.ndarray) -> np.ndarray:
    """Minimise the mean of square / (own @ shares) over the simplex.

    1 / x is convex, so for any shares a the function lies below sum_j a_j^2 G_j / a'_j of the new shares a', with G_j the mean
    of square own_j / (own @ a)^2, and touches it at a' = a. The bound is least at a'_j in proportion to a_j sqrt(G_j): each
    step lowers the function, and shares stay above 0.

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
