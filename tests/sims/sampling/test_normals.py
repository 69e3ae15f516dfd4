"""Box-Muller against exact moments, tails and its own formula; the quantile against SciPy in float64."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import special, stats

from sims.sampling import normal_pair, normal_quantile, pairs

NUM_BLOCKS, BLOCK = 64, 1 << 18  # 33.6 million scores


@pytest.fixture(scope="module")
def some() -> np.ndarray:
    return np.asarray(normal_pair(*pairs(jr.key(11), jnp.arange(BLOCK))), np.float64)


@jax.jit
def sums(key, first):
    left, right = normal_pair(*pairs(key, first + jnp.arange(BLOCK)))
    both = jnp.concatenate([left, right])
    counts = [jnp.sum(jnp.abs(both) > level) for level in (4.0, 5.0)]
    return jnp.stack([jnp.mean(both**m) for m in range(1, 9)]), jnp.stack(counts), jnp.mean(left * right)


def test_moments_tails_and_correlation():
    found = [sums(jr.key(0), jnp.int32(i * BLOCK)) for i in range(NUM_BLOCKS)]
    moments, counts, product = (np.stack([np.asarray(part[i], np.float64) for part in found]) for i in range(3))
    number = 2 * NUM_BLOCKS * BLOCK
    for m, mean in enumerate(moments.mean(axis=0), start=1):
        exact, square = (special.factorial2(k - 1) if k % 2 == 0 else 0.0 for k in (m, 2 * m))
        assert abs(mean - exact) < 5 * np.sqrt((square - exact**2) / number), m
    for level, count in zip((4, 5), counts.sum(axis=0), strict=True):
        expected = number * 2 * special.ndtr(-level)
        assert abs(count - expected) < 5 * np.sqrt(expected), level
    assert abs(product.mean()) < 5 / np.sqrt(number / 2)


def test_law_and_independence_of_the_pair(some):
    left, right = some
    for each in some:
        assert stats.kstest(each, "norm").pvalue > 1e-3
    assert stats.kstest(left**2 + right**2, stats.chi2(2).cdf).pvalue > 1e-3
    assert stats.kstest(np.arctan2(right, left) / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-3
    cells = np.histogram2d(*special.ndtr(some), bins=16, range=[[0, 1]] * 2)[0]
    assert stats.chisquare(cells.ravel()).pvalue > 1e-3


def test_radius_and_angle_are_those_of_the_words():
    """In float64 from the same words, at random ones and at the ends of every quadrant."""
    first, second = (np.asarray(word, np.uint32) for word in pairs(jr.key(4), jnp.arange(1 << 16)))
    corners = np.array([q * 2**30 + rest for q in range(4) for rest in (0, 1, 2**29, 2**30 - 1)], np.uint32)
    first = np.concatenate([first, np.resize(np.array([0, 1, 2**31, 2**32 - 1], np.uint32), corners.size)])
    second = np.concatenate([second, corners])
    level = ((first >> 1) + 0.5) / 2**31
    quadrant, turn = second >> 30, ((second << 2) | 2).view(np.int32) / 2**31
    angle = np.pi / 2 * quadrant + np.pi / 4 * turn
    expected = np.sqrt(-2 * np.log(level)) * np.stack([np.cos(angle), np.sin(angle)])
    got = np.asarray(normal_pair(jnp.asarray(first), jnp.asarray(second)))
    assert got.dtype == np.float32
    close = level < 0.9  # near 1 the level is rounded to float32, and the radius, near 0, with it
    np.testing.assert_allclose(got[:, close], expected[:, close], atol=2e-6)
    np.testing.assert_allclose(got, expected, atol=4e-4)
    assert 6.65 < np.abs(got).max() < 6.67


@pytest.mark.parametrize("side", [1, -1])
def test_quantile_in_single_precision(side):
    mass = np.concatenate([np.logspace(-20, np.log10(0.5), 20_000), [0.5, 1 - 2.0**-24]]).astype(np.float32)
    masses = (mass, (1 - mass.astype(np.float64)).astype(np.float32))[::side]
    got = np.asarray(normal_quantile(*map(jnp.asarray, masses)))
    assert got.dtype == np.float32
    smaller = np.minimum(*masses).astype(np.float64)
    exact = np.sign(masses[0].astype(np.float64) - masses[1]) * -special.ndtri(smaller)
    far = smaller < 0.4
    np.testing.assert_allclose(got[far], exact[far], rtol=2e-6)
    np.testing.assert_allclose(got, exact, atol=1e-6, rtol=1e-6)


def test_quantile_in_double_precision():
    with jax.enable_x64(True):
        mass = np.logspace(-300, np.log10(0.5), 500)
        got = normal_quantile(jnp.asarray(mass), 1 - jnp.asarray(mass))
        np.testing.assert_allclose(got, special.ndtri(mass), rtol=1e-7, atol=1e-12)
        assert normal_pair(*pairs(jr.key(0), jnp.arange(3)))[0].dtype == jnp.float32
