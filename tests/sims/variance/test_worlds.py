"""Worlds from uniform numbers: the distribution of `draw`, and less variance of outcomes."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta, norm

from sims import draw, simulate
from sims.engine import BLOCK
from sims.variance import Antithetic, LatinHypercube, Sobol, expectation
from stopping.makespan import first_finish_curve
from stopping.models import AnswerChain, Answers, LengthCorrectness
from stopping.models.beta import beta_quantile
from stopping.policies import FirstFinish, FixedSamples
from stopping.problems import Sampling, Thinking

NUM_TRACES = 3
MODEL = LengthCorrectness(
    [1.5, 0.4], [1.5, 1.2], [8.0, 8.3], 0.4, shift=0.4, scale_right=0.35, scale_wrong=0.5, loop_prob=0.15,
    no_answer_prob=0.2, cap_tokens=6000.0, answers=Answers(0.2, 0.6),
)  # fmt: skip
FREE = LengthCorrectness(2.0, 1.0, 8.0, 0.4, shift=0.3, scale_right=0.4, scale_wrong=0.5)
CHAIN = AnswerChain(0.4, 0.1, 0.05, 0.1, right_log_prob=-0.3, wrong_log_prob=-1.0, num_points=3)
POINTS = [Antithetic(), LatinHypercube(), Sobol()]


def features(world):
    """What determines the distribution of a world: each number has a mean, and so has each product of two."""
    leaves = [jnp.asarray(leaf, float) for leaf in jax.tree.leaves(world._asdict())]
    numbers = jnp.concatenate([jnp.ravel(jnp.where(leaf >= 2**20, -1.0, leaf)) for leaf in leaves])
    numbers = jnp.where(numbers > 40, jnp.log(jnp.maximum(numbers, 1)), numbers)
    return jnp.outer(numbers, numbers)[jnp.triu_indices(numbers.shape[0])], numbers


@pytest.mark.parametrize(
    "problem", [Sampling(NUM_TRACES, model=MODEL), Thinking(model=CHAIN)], ids=lambda problem: type(problem).__name__
)
def test_the_law_is_that_of_draw(problem):
    """Means of all numbers of a world and of all their products, two samples of 8,192."""

    uniforms = jr.uniform(jr.key(0), (2 * BLOCK, problem.num_uniforms), minval=1e-7)
    made = jax.jit(jax.vmap(problem.from_uniforms))(uniforms)
    drawn = draw(jr.key(1), problem, 2 * BLOCK)
    sums = []
    for worlds in (made, drawn):
        products, numbers = jax.jit(jax.vmap(features))(jax.tree.map(jnp.asarray, worlds))
        values = np.concatenate([np.asarray(products, np.float64), np.asarray(numbers, np.float64)], axis=1)
        sums.append((values.mean(axis=0), values.var(axis=0) / len(values)))
    (mean_made, square_made), (mean_drawn, square_drawn) = sums
    gap, error = np.abs(mean_made - mean_drawn), np.sqrt(square_made + square_drawn)
    assert (error > 0).sum() > 20
    assert (gap <= 5 * error + 1e-5 * np.abs(mean_drawn)).all(), np.max(gap / np.maximum(error, 1e-12))


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.3), (30.0, 12.0), (1.0, 40.0)])
def test_quantiles_of_the_beta_distribution(a, b):
    share = np.concatenate([[1e-6], np.linspace(0.001, 0.999, 50), [1 - 1e-6]]).astype(np.float32)
    single = np.asarray(beta_quantile(jnp.asarray(share), a, b), np.float64)
    assert np.minimum(np.abs(beta.cdf(single, a, b) - share), np.abs(single - beta.ppf(share, a, b))).max() < 4e-6
    with jax.enable_x64(True):
        double = np.asarray(beta_quantile(jnp.asarray(share, float), a, b))
    np.testing.assert_allclose(double, beta.ppf(share.astype(np.float64), a, b), atol=1e-12)


def test_without_a_model_there_are_no_worlds():
    for problem in (Sampling(2), Thinking()):
        with pytest.raises(ValueError, match="expected a model to draw worlds from, got None"):
            _ = problem.num_uniforms
        with pytest.raises(ValueError, match="expected a model to draw worlds from, got None"):
            problem.from_uniforms(jnp.ones(3) / 2)


PROBLEM = Sampling(NUM_TRACES, model=MODEL, price_per_token=2e-5)


def utilities(uniforms):
    """Two policies on the same world, and their difference."""
    world = PROBLEM.from_uniforms(uniforms)
    first, all_ = (PROBLEM.play(world, policy).utility for policy in (FirstFinish(1), FixedSamples(NUM_TRACES)))
    return {"first": first, "all": all_, "gain": first - all_}


@pytest.fixture(scope="module")
def independent():
    return expectation(jr.key(0), utilities, PROBLEM.num_uniforms, num_evaluations=2**14)


@pytest.mark.parametrize(("points", "least"), [(Antithetic(), 1.4), (LatinHypercube(), 1.4), (Sobol(), 1.6)], ids=str)
def test_policies_lose_variance(points, least, independent):
    found = expectation(jr.key(1), utilities, PROBLEM.num_uniforms, points=points, num_evaluations=2**13)
    for name, estimate in found.estimates.items():
        plain = independent.estimates[name]
        error = math.hypot(estimate.standard_error, plain.standard_error)
        assert abs(estimate.mean - plain.mean) < 4.5 * error
    assert found.reduction["all"].mean > least


def test_the_same_worlds_make_differences_sure(independent):
    """Beside the difference of the two policies on independent worlds, one for each."""
    simulated = [
        simulate(jr.key(2), PROBLEM, rule, num_replicas=2**14) for rule in (FirstFinish(1), FixedSamples(NUM_TRACES))
    ]
    for name, result in zip(("first", "all"), simulated, strict=True):
        estimate, exact = independent.estimates[name], result.utility
        assert abs(estimate.mean - exact.mean) < 4.5 * math.hypot(estimate.standard_error, exact.standard_error)
    apart = independent.first.standard_error**2 + getattr(independent, "all").standard_error ** 2  # noqa: B009
    assert apart / independent.gain.standard_error**2 > 1.5


def test_first_finish_given_how_many_are_right_and_with_controls():
    """Conditional expectation: which answer comes first, given how many are right, has a closed form.

    The effect moves all lengths alike, so of k right and n - k wrong traces a right one ends first with probability
    integral of k f S^(k-1) R^(n-k), f and S the right ones' density and survival, R the wrong ones' survival. The number
    right and the lengths have known means, and are controls of both.
    """

    def first_is_right(k):
        def density(y):
            right, wrong = norm.logsf(y / 0.4), norm.logsf((y - 0.3) / 0.5)
            return k * norm.pdf(y / 0.4) / 0.4 * math.exp((k - 1) * right + (NUM_TRACES - k) * wrong)

        return quad(density, -4, 4, epsabs=1e-10)[0] if k else 0.0

    table = jnp.array([first_is_right(k) for k in range(NUM_TRACES + 1)])
    problem = Sampling(NUM_TRACES, model=FREE)

    def integrand(uniforms):
        world = problem.from_uniforms(uniforms)
        given = table[jnp.sum(world.right)]
        return {
            "played": problem.play(world, FirstFinish(1)).correct,
            "given": given,
            "num_right": jnp.sum(world.right),
            "log_length": jnp.mean(jnp.log(world.length_tokens)),
        }

    found = expectation(jr.key(0), integrand, problem.num_uniforms, num_evaluations=2**13)
    exact = float(first_finish_curve(FREE, [NUM_TRACES]).accuracy[0, 0])
    for name in ("played", "given"):
        estimate = found.estimates[name]
        assert abs(estimate.mean - exact) < 4.5 * estimate.standard_error
    assert (found.played.standard_error / found.given.standard_error) ** 2 > 1.5
    controls = {"num_right": NUM_TRACES * 2 / 3, "log_length": 8.0 + 0.3 / 3}
    controlled = expectation(jr.key(0), integrand, problem.num_uniforms, num_evaluations=2**13, controls=controls)
    assert not controlled.warnings and abs(controlled.played.mean - exact) < 4.5 * controlled.played.standard_error
    gain = controlled.reduction["played"]
    assert gain.mean - 3 * gain.standard_error > 1.2
    assert (found.played.standard_error / controlled.given.standard_error) ** 2 > 10
    even = expectation(jr.key(0), integrand, problem.num_uniforms, points=Sobol(), num_evaluations=2**13)
    assert abs(even.given.mean - exact) < 4.5 * even.given.standard_error + 1e-5
    assert even.reduction["given"].mean > 5
