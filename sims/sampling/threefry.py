"""Random words by counter: threefry-2x32 in twenty rounds, written out so that it fuses with what consumes it.

A draw is addressed by (element, step): the element is usually a replica, and the step numbers its draws. The same address always
gives the same words; an address must not be used for two draws.

Reference: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011), section 4.2 (Threefry).
"""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt32

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)


def pairs(
    key: Key[Array, ""], element: Int[Array, "..."], step: Int[Array, "..."] | int = 0
) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """Return the two independent words of an address; element and step are taken modulo 2^32.

    Raises:
        ValueError: for a key that is not one of JAX's threefry keys.
    """
    data = jr.key_data(key)
    if data.shape != (2,):
        raise ValueError(f"key: expected one threefry key, two words, got words of shape {data.shape}")
    schedule = (data[0], data[1], data[0] ^ data[1] ^ PARITY)
    left, right = jnp.asarray(step).astype(jnp.uint32), jnp.asarray(element).astype(jnp.uint32)
    left, right = left + schedule[0], right + schedule[1]
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            left = left + right
            right = ((right << rotation) | (right >> (32 - rotation))) ^ left
        left = left + schedule[(group + 1) % 3]
        right = right + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return left, right


def words(key: Key[Array, ""], index: Int[Array, "..."], step: Int[Array, "..."] | int = 0) -> UInt32[Array, "..."]:
    """Return one word of an address: at step 0, word number `index` of `jax.random.bits(key, (n,), uint32)`.

    Bit for bit, for the partitionable threefry that is JAX's default. `pairs` yields two words for the same work.
    """
    left, right = pairs(key, index, step)
    return left ^ right


def uniform(word: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Turn a word into a float32 in (0, 1): one of the odd multiples of 2^-24, neither 0 nor 1.

    The distribution is symmetric, and 1 - u is exact. (All multiples of 2^-24 would include either 0 or 1.)
    """
    return ((word >> 8) | 1).astype(jnp.int32).astype(jnp.float32) * np.float32(2**-24)


def exponential(word: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Turn a word into a float32 standard exponential, between 6e-8 and 16.6."""
    return -jnp.log(uniform(word))
