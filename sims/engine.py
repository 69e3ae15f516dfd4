"""The only place that batches worlds: drawn and played in blocks of one fixed size, by one compiled program each.

Replica i has the key `fold_in(key, i)`, whatever block it falls in and whatever is computed beside it. Drawing and
playing are two programs, so a replayed world meets the very program that a simulated one meets. Hence, on one backend
and version, results are the same to the last bit for any chunk size, and replay of drawn worlds equals simulation.

Between backends (CPU, GPU) less holds, by construction; no GPU has been measured yet. A log's worlds are integers, and so
is all of play but prices: counts and answers are equal, except where a policy compares floats that agree within rounding;
utility and seconds agree to the rounding of float32. Drawn worlds start from the same random bits, but their lengths and
chances come from functions of float32 that may round differently: such results are samples of the same law, not the same
sample, and the digest tells when the worlds are not the same.
"""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

BLOCK = 4096
FAMILY_BLOCK = 1024  # of worlds that many policies are played through: fewer, for memory and for short logs


@eqx.filter_jit
def draw_block(problem: Any, key: Any, first: Any) -> Any:
    """Draw the worlds of replicas first, ..., first + BLOCK - 1."""
    return jax.vmap(lambda index: problem.draw(jr.fold_in(key, index)))(first + jnp.arange(BLOCK))


@eqx.filter_jit
def play_block(problem: Any, policy: Any, worlds: Any) -> Any:
    """Play a policy through a block of worlds."""
    return jax.vmap(lambda world: problem.play(world, policy))(worlds)


@eqx.filter_jit
def play_family(problem: Any, policies: Any, axes: Any, worlds: Any) -> Any:
    """Play many policies of one class, stacked along `axes`, through a block of worlds; `[policies, worlds]`."""
    return jax.vmap(lambda policy: jax.vmap(lambda world: problem.play(world, policy))(worlds), (axes,))(policies)


@eqx.filter_jit
def evaluate_block(problem: Any, method: str, worlds: Any) -> Any:
    """Call a method of the problem, which takes one world, on a block of worlds."""
    return jax.vmap(getattr(problem, method))(worlds)


def evaluate(problem: Any, method: str, worlds: Any) -> Any:
    """Call a method of the problem on each of many stacked worlds."""
    parts = [
        jax.tree.map(lambda values: np.asarray(values)[:count], evaluate_block(problem, method, block))  # noqa: B023
        for _, count, block in blocks_of(worlds)
    ]
    return jax.tree.map(lambda *blocks: np.concatenate(blocks), *parts)


@eqx.filter_jit
def digest_block(worlds: Any, first: Any) -> Any:
    """Hash each world of a block with its index, and add the hashes up: the order of computing does not matter.

    Two words by multiplying and shifting (the finaliser of MurmurHash3): to tell worlds apart, not against malice.
    """
    words = [_words(jnp.asarray(leaf)) for leaf in jax.tree.leaves(worlds)]
    columns = jnp.concatenate([*words, (first + jnp.arange(words[0].shape[0]))[:, None].astype(jnp.uint32)], axis=1)

    def mix(h: Any, column: Any) -> tuple[Any, None]:
        h = (h ^ column) * jnp.uint32(0x85EBCA6B)
        h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
        return h ^ (h >> 16), None

    starts = jnp.array([[0x9E3779B9], [0x7F4A7C15]], jnp.uint32) * jnp.ones(columns.shape[0], jnp.uint32)
    hashes, _ = jax.lax.scan(mix, starts, columns.T)
    return hashes


def _words(leaf: Any) -> Any:
    """The bits of each world's values, as words of 32: one a value, two where it has 64 bits."""
    if leaf.dtype.itemsize < 4:
        leaf = leaf.astype(jnp.float32 if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.int32)
    return jax.lax.bitcast_convert_type(leaf, jnp.uint32).reshape(leaf.shape[0], -1)


def blocks_of(worlds: Any, size: int = BLOCK) -> Iterator[tuple[int, int, Any]]:
    """Cut stacked worlds into blocks, the last one filled up with copies of a world; (first, how many count, block)."""
    num_worlds = jax.tree.leaves(worlds)[0].shape[0]
    for first in range(0, num_worlds, size):
        count = min(size, num_worlds - first)
        index = np.minimum(np.arange(first, first + size), num_worlds - 1)
        yield first, count, jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[index]), worlds)  # noqa: B023


class Digest:
    """The running sum of the hashes of worlds."""

    def __init__(self) -> None:
        self._total = np.zeros(2, np.uint64)

    def add(self, worlds: Any, first: int, count: int) -> None:
        """Add the first `count` worlds of a block.

        The problem's index is left out: it numbers a model's problems here and a log's there.
        """
        worlds = worlds._replace(problem=jnp.zeros_like(worlds.problem))
        hashes = np.asarray(digest_block(worlds, jnp.int32(first)))[:, :count]
        self._total += hashes.astype(np.uint64).sum(axis=1)

    def __str__(self) -> str:
        return "".join(f"{int(word) % 2**64:016x}" for word in self._total)
