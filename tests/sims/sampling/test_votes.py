"""Counts: exact tables, and agreement with drawing each vote."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

from sims.sampling import beta_binomial, binomial, binomials, uniform, words

NUM = 1 << 16


def uniforms(seed: int) -> jax.Array:
    return uniform(words(jr.key(seed), jnp.arange(NUM)))


@pytest.mark.parametrize("wide", [False, True], ids=["x32", "x64"])
@pytest.mark.parametrize("num_draws", [1, 16, 200])
def test_tables(num_draws, wide):
    prob, k = np.array([0.0, 1e-4, 0.3, 0.97, 1.0]), np.arange(num_draws)
    alpha, beta = np.array([0.02, 1.0, 3.0, 800.0]), np.array([5.0, 1.0, 0.4, 300.0])
    with jax.enable_x64(wide):
        tables = binomial(num_draws, prob), beta_binomial(num_draws, alpha, beta)
        assert tables[0].cumulative.dtype == (jnp.float64 if wide else jnp.float32)
    exact = (
        stats.binom.cdf(k, num_draws, prob[:, None]),
        stats.betabinom.cdf(k, num_draws, alpha[:, None], beta[:, None]),
    )
    for table, values in zip(tables, exact, strict=True):
        np.testing.assert_allclose(table.cumulative, values, atol=1e-9 if wide else 5e-6)


@pytest.mark.parametrize("num_draws", [5, 100])  # compared one by one, and in a loop
def test_counts_have_the_binomial_distribution(num_draws):
    count = np.asarray(jax.jit(lambda u: binomial(num_draws, 0.3).draw(u))(uniforms(1)))
    _agree(np.bincount(count, minlength=num_draws + 1), stats.binom.pmf(np.arange(num_draws + 1), num_draws, 0.3))


def test_each_by_the_law_in_its_row():
    row = jnp.arange(NUM) % 4
    count = np.asarray(binomials(3, 0.6).draw(uniforms(2), row))
    for number in range(4):
        observed = np.bincount(count[np.asarray(row) == number], minlength=4)
        _agree(observed, stats.binom.pmf(np.arange(4), number, 0.6))


def test_no_uniform_gives_more_than_there_are():
    last = jnp.full(9, 1 - 2.0**-24, jnp.float32)
    np.testing.assert_array_equal(binomials(8, 0.37).draw(last, jnp.arange(9)), np.arange(9))
    np.testing.assert_array_equal(binomial(8, 0.0).draw(last), 0)
    np.testing.assert_array_equal(binomial(8, 1.0).draw(1 - last), 8)


def _agree(observed: np.ndarray, distribution: np.ndarray) -> None:
    """Chi-squared test, pooling counts expected less than ten times."""
    expected = distribution * observed.sum()
    rare = expected < 10
    pooled = [np.append(values[~rare], values[rare].sum()) for values in (observed, expected)]
    keep = pooled[1] > 0
    assert pooled[0][~keep].sum() == 0
    if keep.sum() > 1:
        assert stats.chisquare(pooled[0][keep], pooled[1][keep] * observed.sum() / pooled[1].sum()).pvalue > 1e-3
