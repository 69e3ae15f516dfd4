"""Quantiles, masses and densities against SciPy in float64; truncation against its definition."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

from sims.sampling import Gamma, InverseGaussian, LogNormal, Truncated, Weibull, uniform, words

SHAPES = np.geomspace(0.05, 1000, 25).astype(np.float32)
SMALL = np.concatenate([np.logspace(-7, -1, 25), np.linspace(0.1, 0.5, 12)]).astype(np.float32)
REST = (1 - SMALL.astype(np.float64)).astype(np.float32)

# by shape parameter: ours, SciPy's, and the stated relative error of quantiles in float32
FAMILIES = {
    "log-normal": (lambda s: LogNormal(2.0, s), lambda s: stats.lognorm(s, scale=np.exp(2.0)), 2e-6, 4.0),
    "Weibull": (lambda s: Weibull(s, 3.0), lambda s: stats.weibull_min(s, scale=3.0), 1e-6, 50.0),
    "gamma": (lambda s: Gamma(s, 3.0), lambda s: stats.gamma(s, scale=3.0), 3e-5, 1000.0),
    "inverse Gaussian": (
        lambda s: InverseGaussian(2.0, 2.0 * s),
        lambda s: stats.invgauss(1 / s, scale=2.0 * s),
        1e-5,
        1000.0,
    ),
}
quantile = eqx.filter_jit(lambda family, below, above: family.quantile(below, above))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("upper", [False, True])
def test_quantiles_in_single_precision(name, upper):
    ours, peer, error, most = FAMILIES[name]
    shapes = SHAPES[most >= SHAPES][:, None]
    below, above = (REST, SMALL) if upper else (SMALL, REST)
    got = np.asarray(quantile(ours(shapes), below, above))
    assert got.dtype == np.float32
    distribution = peer(shapes.astype(np.float64))
    exact = distribution.isf(above.astype(np.float64)) if upper else distribution.ppf(below.astype(np.float64))
    kept = (exact > 1e-36) & (exact < 1e36)  # else it leaves single precision
    size = 1 + np.abs(np.log(exact[kept])) if name in ("log-normal", "Weibull") else 1.0
    assert (np.abs(got[kept] / exact[kept] - 1) / size).max() < error
    assert (got[exact <= 1e-36] < 2e-36).all()
    assert np.isfinite(got[exact < 1e36]).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_double_precision(name):
    ours, peer, _, most = FAMILIES[name]
    shapes = np.array([0.05, 0.4, 3.0, min(200.0, most)])[:, None]
    distribution = peer(shapes)
    small = SMALL.astype(np.float64)
    with jax.enable_x64(True):
        family = ours(shapes)
        x = quantile(family, small, 1 - small)
        assert x.dtype == np.float64
        np.testing.assert_allclose(x, distribution.ppf(small), rtol=2e-9)
        far = quantile(family, 1 - small, small)
        np.testing.assert_allclose(far, distribution.isf(small), rtol=2e-9)
        for at in (x, far):
            (below, above), density = eqx.filter_jit(lambda x: (family.masses(x), family.log_density(x)))(at)
            np.testing.assert_allclose(below, distribution.cdf(at), rtol=1e-7)
            np.testing.assert_allclose(above, distribution.sf(at), rtol=1e-7)
            np.testing.assert_allclose(density, distribution.logpdf(at), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_draws_and_the_ends(name):
    ours, peer, _, _ = FAMILIES[name]
    u = uniform(words(jr.key(1), jnp.arange(1 << 14)))
    drawn = np.asarray(eqx.filter_jit(lambda family: family.quantile(u))(ours(0.7)), np.float64)
    assert stats.kstest(drawn, peer(0.7).cdf).pvalue > 1e-3
    below, above = ours(0.7).masses(jnp.array([0.0, np.inf], jnp.float32))
    np.testing.assert_array_equal(below, [0, 1])
    np.testing.assert_array_equal(above, [1, 0])
    np.testing.assert_array_equal(ours(0.7).survival(jnp.float32(1.0)), ours(0.7).masses(jnp.float32(1.0))[1])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("limits", [(0.0, 0.3), (0.3, 0.99), (1e-6, 1e-5), (1 - 1e-5, 1 - 1e-6), (0.9, 1.0)], ids=str)
def test_truncation(name, limits):
    """Limits as masses of the whole distribution, in both tails too; u is the truncated distribution's own mass."""
    ours, peer, _, _ = FAMILIES[name]
    distribution = peer(1.3)
    low, high = np.float32(distribution.ppf(limits))
    family = Truncated(ours(1.3), low, high)
    u = np.linspace(0.02, 0.98, 49).astype(np.float32)
    drawn = np.asarray(quantile(family, u, 1 - u), np.float64)
    assert (drawn >= low).all()
    assert (drawn <= high).all()
    assert (np.diff(drawn) > 0).all()
    over = distribution.sf(np.float64([low, high]))
    share = (over[0] - distribution.sf(drawn)) / (over[0] - over[1])
    if limits[0] < 0.5:
        under = distribution.cdf(np.float64([low, high]))
        share = (distribution.cdf(drawn) - under[0]) / (under[1] - under[0])
    np.testing.assert_allclose(share, u, atol=1e-4 if limits[0] in (0.0, 0.3, 0.9) else 1e-3)
    below, above = family.masses(jnp.asarray(drawn, jnp.float32))
    np.testing.assert_allclose(below, u, atol=1e-3)
    np.testing.assert_allclose(above, 1 - u, atol=1e-3)
    inside = np.exp(np.float64(family.log_density(jnp.asarray(drawn, jnp.float32))))
    np.testing.assert_allclose(
        inside * (distribution.cdf(high) - distribution.cdf(low)), distribution.pdf(drawn), rtol=2e-3
    )
    outside = jnp.array([low * 0.99 - 1e-3, high * 1.01], jnp.float32)
    if np.isfinite(high):
        assert np.isneginf(family.log_density(outside)).all()
