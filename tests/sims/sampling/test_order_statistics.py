"""Order statistics against their exact distributions."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import special, stats

from sims.sampling import exponential, first_masses, least_masses, least_normal, pairs, words

NUM = 1 << 16


@pytest.mark.parametrize("count", [1, 2, 16, 1000, 10**6])
def test_least_normal_as_a_function_of_its_exponential(count):
    """z with (1 - Phi(z))^count = exp(-wait), from the smallest exponential to the largest."""
    wait = np.geomspace(2.0**-24, 24 * np.log(2), 5000).astype(np.float32)
    got = np.asarray(least_normal(jnp.asarray(wait), jnp.full(wait.shape, count)), np.float64)
    below = -np.expm1(-wait.astype(np.float64) / count)
    above = np.exp(-wait.astype(np.float64) / count)
    exact = np.where(below < above, special.ndtri(below), -special.ndtri(above))
    np.testing.assert_allclose(got, exact, rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 16, 10**6])
def test_law_of_the_least_normal(count):
    wait = exponential(words(jr.key(count), jnp.arange(NUM)))
    least = np.asarray(least_normal(wait, jnp.int32(count)), np.float64)
    assert stats.kstest(least, lambda z: -np.expm1(count * special.log_ndtr(-z))).pvalue > 1e-3


def test_the_least_of_none_never_comes():
    assert np.isposinf(least_normal(jnp.float32(0.3), jnp.int32(0)))


def test_the_first_jointly():
    """Each is Beta; so are the ratios of neighbours, U_(k) / U_(k + 1) ~ Beta(k, 1), independently."""
    num_draws, num_first = 9, 5
    below, above = (np.asarray(m, np.float64) for m in first_masses(jr.key(3), jnp.arange(NUM), num_draws, num_first))
    assert below.shape == (NUM, num_first)
    for k in range(1, num_first + 1):
        assert stats.kstest(below[:, k - 1], stats.beta(k, num_draws + 1 - k).cdf).pvalue > 1e-3
    powers = (below[:, :-1] / below[:, 1:]) ** np.arange(1, num_first)
    for each in powers.T:
        assert stats.kstest(each, "uniform").pvalue > 1e-3
    correlation = np.corrcoef(powers.T)[np.triu_indices(num_first - 1, 1)]
    assert np.abs(correlation).max() < 5 / np.sqrt(NUM)
    np.testing.assert_allclose(below + above, 1, atol=2e-7)


def test_the_first_and_the_least_are_one():
    """The same addresses give the same draws, also under vmap."""
    key, element = jr.key(4), jnp.arange(50)
    below = first_masses(key, element, 20, 7)[0]
    wait = exponential(pairs(key, element)[0])
    np.testing.assert_allclose(least_masses(wait, jnp.int32(20))[0], below[:, 0], rtol=1e-6)
    mapped = jax.vmap(lambda i: first_masses(key, i, 20, 7)[0])(element)
    np.testing.assert_allclose(mapped, below, rtol=1e-6)


@pytest.mark.parametrize("k", [0, 6])
def test_ranks_out_of_range(k):
    expected = f"num_first: expected a whole number from 1 to 5, the number of draws, got {k}"
    with pytest.raises(ValueError, match=expected):
        first_masses(jr.key(0), jnp.arange(2), 5, k)
