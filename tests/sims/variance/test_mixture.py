"""Adaptive mixtures: the moments of a normal distribution, of Demange-Chryst, Bachoc and Morio (arXiv 2212.00568)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from sims import Estimate
from sims.variance import mixture_expectations
from tests.helpers import sized

MOMENTS = [f"moment_{2 * j:02}" for j in range(1, 11)]
EXACT = np.array([math.prod(range(1, 2 * j, 2)) for j in range(1, 11)], float)


def moments(point):
    return {name: point[0] ** (2 * j) for j, name in enumerate(MOMENTS, 1)}


def log_normal(point):
    return -0.5 * jnp.sum(point**2) - 0.5 * len(point) * math.log(2 * math.pi)


def normal(key):
    return jax.random.normal(key, (1,))


def repeated(num_repetitions, max_evaluations):
    keys = jax.random.split(jax.random.key(0), num_repetitions)
    return [mixture_expectations(key, moments, log_normal, normal, max_evaluations=max_evaluations) for key in keys]


def check(found):
    """No bias, the relative variances published, and the stated errors.

    The published sum is .00163 by 200 repetitions; plain sampling has, exactly, 49.8 (12.8 in the same 200: its own variance
    is nearly infinite, and hardly ever seen).
    """
    assert not any(each.warnings for each in found)
    relative = np.array([[each.estimates[name].mean for name in MOMENTS] for each in found]) / EXACT
    errors = np.array([[each.estimates[name].standard_error for name in MOMENTS] for each in found]) / EXACT
    for column in relative.T:
        overall = Estimate.of(column)
        assert abs(overall.mean - 1) < 4 * overall.standard_error
    variance, stated = relative.var(axis=0, ddof=1), (errors**2).mean(axis=0)
    assert variance.sum() < 0.01
    # a variance of n values has the relative error sqrt(2 / n); the ten are highly correlated
    assert stated.sum() == pytest.approx(variance.sum(), rel=4 * math.sqrt(2 / len(found)))


def test_even_moments_of_a_normal_distribution():
    check(repeated(12, 20_000))


@pytest.mark.slow
def test_even_moments_of_a_normal_distribution_many_times():
    check(repeated(sized(100, 200), 20_000))


def test_the_reduction_is_that_beside_exact_plain_variances():
    (found,) = repeated(1, 20_000)
    for j, name in enumerate(MOMENTS, 1):
        plain = (math.prod(range(1, 4 * j, 2)) - EXACT[j - 1] ** 2) / 20_000
        gain = found.reduction[name]
        exact = plain / found.estimates[name].standard_error ** 2
        assert gain.mean == pytest.approx(exact, rel=0.05 + 4 * gain.standard_error / gain.mean)


def test_no_more_evaluations_than_allowed():
    """Points are counted as they are computed; what fills the last block up, less than a round, is beyond the number."""
    counted, max_evaluations = [], 299

    def counting(point):
        jax.debug.callback(lambda _: counted.append(1), point[0])
        return moments(point)

    found = mixture_expectations(jax.random.key(0), counting, log_normal, normal, max_evaluations=max_evaluations)
    jax.effects_barrier()
    assert found.num_evaluations == max_evaluations
    assert max_evaluations <= len(counted) < max_evaluations + max_evaluations // 10
    assert found.moment_02.num_independent >= max_evaluations // 2


def test_probabilities_in_two_dimensions_with_stated_weights():
    """Three tails of a correlated normal distribution, of 2e-2 to 1e-3, with separate weights."""
    covariance = np.array([[1.0, 0.6], [0.6, 1.0]])
    root = jnp.asarray(np.linalg.cholesky(covariance), float)
    normal = multivariate_normal([0, 0], covariance)

    def tails(point):
        return {"first": point[0] > 2.0, "both": jnp.min(point) > 1.8, "second": point[1] < -3.0}

    def log_density(point):
        score = jnp.linalg.solve(root, point)
        return log_normal(score) - jnp.log(root[0, 0] * root[1, 1])

    exact = {"first": norm.sf(2), "both": normal.cdf([-1.8, -1.8]), "second": norm.sf(3)}
    found = mixture_expectations(
        jax.random.key(0), tails, log_density, lambda key: root @ jax.random.normal(key, (2,)),
        max_evaluations=20_000, weights={"first": 1.0, "both": 10.0, "second": 100.0},
    )  # fmt: skip
    for name, chance in exact.items():
        estimate = found.estimates[name]
        assert abs(estimate.mean - chance) < 5 * estimate.standard_error
    gain = found.reduction["second"]  # has most of the weighted variance
    assert gain.mean - 3 * gain.standard_error > 100
    assert not found.warnings


def test_one_function_alone():
    found = mixture_expectations(jax.random.key(0), lambda x: x[0] ** 4, log_normal, normal, max_evaluations=5000)
    assert abs(found.value.mean - 3) < 5 * found.value.standard_error and found.reduction["value"].mean > 2


def test_a_law_with_heavier_tails_than_its_samplers_is_told():
    """Student's t with 2 degrees of freedom and its first absolute moment: under a normal sampler the variance is infinite."""

    def log_student(point):
        return -1.5 * jnp.log1p(point[0] ** 2 / 2) - 0.5 * math.log(8)

    def student(key):
        return jax.random.t(key, 2.0, (1,))

    found = mixture_expectations(
        jax.random.key(0), lambda x: jnp.abs(x[0]), log_student, student, max_evaluations=20_000
    )
    assert found.weights["value"].explodes and "value: its weighted terms explode" in repr(found)


def test_mistakes_are_named():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="max_evaluations: expected a whole number >= 200"):
        mixture_expectations(key, moments, log_normal, normal, max_evaluations=100)
    with pytest.raises(ValueError, match=r"expected values >= 0, got -.* in value"):
        mixture_expectations(key, lambda x: x[0], log_normal, normal, max_evaluations=1000)
    with pytest.raises(ValueError, match="expected values > 0 at some of 100 points of draw, got none in value"):
        mixture_expectations(key, lambda x: x[0] > 9.0, log_normal, normal, max_evaluations=1000)
    with pytest.raises(ValueError, match="weights: expected value, got other"):
        mixture_expectations(key, lambda x: x[0] ** 2, log_normal, normal, max_evaluations=1000, weights={"other": 1.0})
