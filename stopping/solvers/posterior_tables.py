"""`PosteriorVote` from a model: the joint distribution of chance and length of a new problem, in a table.

A problem's chance p of a right answer is distributed as in the model: Beta, or the mixture of the distributions of its
problems. Gauss nodes integrate exactly every power of p that up to `num_traces` traces need. The problem's effect on length is
normal given p, with a mean linear in p, as `Fit` estimates it: long problems are the hard ones. Its nodes are equally spaced.

With one problem, as in `Fit.population`, chance and effect are independent, so this is the model, and the posterior is exact to
1e-5. With several, mean, variance and covariance are those of the problems, and no single problem is memorised.
"""

from typing import Any

import jax
import numpy as np
from scipy.special import log_ndtr, logsumexp
from scipy.stats import norm

from stopping.policies import PosteriorVote
from stopping.policies.checks import INT32_MAX
from stopping.policies.normal_tail import MOST
from stopping.problems import Sampling

REACH = 4.5  # standard deviations of the effect, to each side
SPACING = 1.4  # of the narrowest posterior that all traces can leave: a sum over normal densities is then exact to 1e-4
MOST_EFFECTS = 96
LEAST = 1e-6  # chances are kept this far from 0 and 1: in single precision the next is one of them
SMALLEST_LOG = -80.0


def posterior_vote(model: Any, problem: Sampling, threshold: float, least_hope: float = 0.0) -> PosteriorVote:
    """Return the policy that stops when P(the leading answer is right) reaches `threshold`, or hope falls to `least_hope`.

    Args:
        model: a `LengthCorrectness`: of one problem, such as a fit's `population`, or of many.
        problem: has the number of traces.
        threshold: in [0, 1].
        least_hope: of P(the leading answer is wrong and the next trace gives the right one), in [0, 1].
    """
    most = problem.num_traces
    shared = {name: np.float64(np.asarray(getattr(model, name))) for name in _SHARED}
    nodes, weights = model.chance_nodes(most)
    chances, chance_weights = _gauss(nodes.ravel(), weights.ravel() / model.num_problems, most // 2 + 1)
    chances = np.clip(chances, LEAST, 1 - LEAST)
    effects, log_effects = _effects(model, shared, chances, most)
    log_prior = log_effects + np.log(chance_weights)
    cap_score = (np.log(shared["cap_tokens"]) - effects) / shared["scale_right"]
    log_below_cap = log_ndtr(np.maximum(cap_score, -MOST))  # the policy keeps all scores within these bounds
    with np.errstate(divide="ignore"):
        log_wrong = np.log1p(-shared["loop_prob"]) + np.log1p(-shared["no_answer_prob"]) - np.log(shared["scale_wrong"])
    with jax.enable_x64(True):
        counts = np.arange(most + 1)
        log_kinds = model.answers.log_block_weights(counts, 0 * counts, most)
        log_wrong_answers = model.answers.log_block_weights(0 * counts, counts, most)
        log_copies = model.answers.log_copies(counts, most)
    return PosteriorVote(
        threshold=threshold,
        least_hope=least_hope,
        effects=effects,
        chances=chances,
        log_prior=np.maximum(log_prior, SMALLEST_LOG),
        right_below_cap=np.exp(log_below_cap),
        log_right_to_wrong=np.minimum(-np.log(shared["scale_right"]) - log_below_cap - log_wrong, -SMALLEST_LOG),
        shift=float(shared["shift"]),
        scale_right=float(shared["scale_right"]),
        scale_wrong=float(shared["scale_wrong"]),
        loop_prob=float(shared["loop_prob"]),
        cap_tokens=int(min(shared["cap_tokens"], INT32_MAX)),
        log_kinds=np.asarray(log_kinds),
        log_wrong_answers=np.asarray(log_wrong_answers),
        log_copies=np.asarray(log_copies),
    )


_SHARED = ("shift", "scale_right", "scale_wrong", "loop_prob", "no_answer_prob", "cap_tokens")


def _gauss(points: np.ndarray, weights: np.ndarray, num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return fewer nodes and weights that integrate polynomials of degree 2 `num_nodes` - 1 as all the points do.

    Source: Golub and Welsch, Calculation of Gauss Quadrature Rules (1969); the recurrence by Lanczos's method, with
    every vector made orthogonal to all before it, twice.
    """
    basis = [np.sqrt(weights / weights.sum())]
    for _ in range(num_nodes - 1):
        vector = points * basis[-1]
        for _ in range(2):
            vector -= np.array(basis).T @ (np.array(basis) @ vector)
        basis.append(vector / np.linalg.norm(vector))
    nodes, vectors = np.linalg.eigh(np.array(basis) * points @ np.array(basis).T)
    return nodes, vectors[0] ** 2


def _effects(
    model: Any, shared: dict[str, np.float64], chances: np.ndarray, num_traces: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return equally spaced effects, and the log-probability of each given each chance, `[effects, chances]`.

    Linear regression over a problem drawn at random, in which p and the effect are independent given the problem.
    """
    alpha, beta, centre, scale = (
        np.asarray(values, np.float64) for values in (model.alpha, model.beta, model.effect, model.effect_scale)
    )
    mean_chance = alpha / (alpha + beta)
    variance_chance = mean_chance.var() + (mean_chance * (1 - mean_chance) / (alpha + beta + 1)).mean()
    slope = ((centre - centre.mean()) * mean_chance).mean() / variance_chance
    spread = np.sqrt(max(centre.var() + (scale**2).mean() - slope**2 * variance_chance, 0))
    mean = centre.mean() + slope * (chances - mean_chance.mean())
    low, high = mean.min() - REACH * spread, mean.max() + REACH * spread
    if high == low:
        return np.array([low]), np.zeros((1, len(chances)))
    of_lengths = min(shared["scale_right"], shared["scale_wrong"]) / np.sqrt(num_traces)
    narrowest = spread * of_lengths / np.hypot(spread, of_lengths)
    wanted = min((high - low) / max(SPACING * narrowest, LEAST), MOST_EFFECTS - 1)
    effects = np.linspace(low, high, int(np.ceil(wanted)) + 1)
    log_probs = norm.logpdf(effects[:, None], mean, max(spread, effects[1] - effects[0]))
    return effects, log_probs - logsumexp(log_probs, axis=0)
