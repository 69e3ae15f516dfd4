"""The words equal JAX's, bit for bit, and addresses do not collide."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

from sims.sampling import exponential, pairs, uniform, words


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1])
@pytest.mark.parametrize("wide", [False, True], ids=["x32", "x64"])
def test_words_are_those_of_jax(seed, wide):
    with jax.enable_x64(wide):
        key, count = jr.fold_in(jr.key(seed), 3), (1 << 16) + 500
        assert jax.config.jax_threefry_partitionable
        expected = np.asarray(jr.bits(key, (count,), jnp.uint32))
        np.testing.assert_array_equal(words(key, jnp.arange(count)), expected)
        for offset in (1, 12_345, 1 << 16):
            got = jax.jit(words)(key, offset + jnp.arange(300))
            np.testing.assert_array_equal(got, expected[offset : offset + 300])
        assert got.dtype == jnp.uint32


def test_known_answers_of_the_reference_implementation():
    """Random123 of Salmon et al., threefry2x32 in 20 rounds: the element is the counter's second word."""
    key = jr.wrap_key_data(jnp.array([0x13198A2E, 0x03707344], jnp.uint32))
    left, right = pairs(key, jnp.uint32(0x85A308D3), jnp.uint32(0x243F6A88))
    assert (int(left), int(right)) == (0xC4923A9C, 0x483DF7A0)
    ones = jr.wrap_key_data(jnp.full(2, 0xFFFFFFFF, jnp.uint32))
    left, right = pairs(ones, jnp.uint32(0xFFFFFFFF), jnp.uint32(0xFFFFFFFF))
    assert (int(left), int(right)) == (0x1CB996FC, 0xBB002BE7)


def test_an_address_gives_the_same_words_alone_in_blocks_and_mapped():
    key, element = jr.key(1), jnp.arange(40)
    whole = pairs(key, element[:, None], jnp.arange(5))
    mapped = jax.vmap(lambda i: jax.vmap(lambda step: pairs(key, i, step))(jnp.arange(5)))(element)
    np.testing.assert_array_equal(whole, mapped)
    np.testing.assert_array_equal(whole[0][17, 3], pairs(key, 17, 3)[0])
    assert np.unique(np.asarray(whole)).size == 2 * 40 * 5


def test_uniforms_are_open_symmetric_and_uniform():
    ends = np.asarray(uniform(jnp.array([0, 0xFFFFFFFF], jnp.uint32)), np.float64)
    np.testing.assert_array_equal(ends, [2.0**-24, 1 - 2.0**-24])
    drawn = np.asarray(uniform(words(jr.key(2), jnp.arange(1 << 18))))
    assert drawn.dtype == np.float32
    np.testing.assert_array_equal((1 - drawn).astype(np.float64), 1 - drawn.astype(np.float64))
    assert stats.kstest(drawn.astype(np.float64), "uniform").pvalue > 1e-3
    wait = np.asarray(exponential(words(jr.key(3), jnp.arange(1 << 18))), np.float64)
    assert stats.kstest(wait, "expon").pvalue > 1e-3
    assert wait.min() > 0


def test_a_key_of_another_generator_is_refused():
    with pytest.raises(ValueError, match=r"expected one threefry key, two words, got words of shape \(4,\)"):
        words(jr.key(0, impl="rbg"), jnp.arange(3))
    with pytest.raises(ValueError, match="expected one threefry key"):
        words(jr.split(jr.key(0)), jnp.arange(2))
