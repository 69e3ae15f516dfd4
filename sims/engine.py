"""Blocks: worlds are drawn and played in blocks of one fixed size, by one compiled program each.

Replica i has the key `fold_in(key, i)`, whichever block it is in. Drawing and playing are two programs, so replay runs the same
program as simulation. Hence, on one backend and version, results are bit-identical for any chunk size, and replay of drawn
worlds equals simulation.

Between backends (CPU, GPU) the guarantee is weaker; no GPU has been measured yet. A log's worlds are integers, and playing uses
floats only for prices: counts and answers are equal, except where a policy compares floats that agree within rounding; utility
and seconds agree to float32 rounding. Drawn worlds start from the same random bits, but their lengths and probabilities come
from float32 functions that may round differently: such results are samples from the same distribution, not the same sample, and
their digests differ.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, PartitionSpec

from sims.precision import BLOCK

FAMILY_BLOCK = 1024  # worlds that many policies are played through at once; smaller, for memory and short logs
FEW_WORLDS = 4 * BLOCK  # tens of milliseconds on one core
AXIS = "block"


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """Return a one-dimensional mesh of devices, one block each; of all processes under `jax.distributed`."""
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def default_devices(num_worlds: int) -> list[jax.Device]:
    """Return all devices; but for few worlds the CPU, which is done before a program for an accelerator is compiled."""
    if num_worlds <= FEW_WORLDS and jax.default_backend() != "cpu" and jax.process_count() == 1:
        return jax.local_devices(backend="cpu")[:1]
    return jax.devices()


def one_device(num_worlds: int) -> Mesh:
    """Return a mesh of one device of this process, of the kind that simulates this many worlds by default."""
    there = [device for device in default_devices(num_worlds) if device.process_index == jax.process_index()]
    return mesh_of(there[:1])


def _each_block(mesh: Mesh, compute: Callable, shared: tuple, blocks: tuple = ()) -> Any:
    """Run `compute(*shared, *blocks)` on every device, each with its row of each of the `blocks`."""
    arrays, static = eqx.partition(shared, eqx.is_array)

    def own(arrays: Any, blocks: Any) -> Any:
        found = compute(*eqx.combine(arrays, static), *jax.tree.map(lambda leaf: leaf[0], blocks))
        return jax.tree.map(lambda leaf: leaf[None], found)

    specs = PartitionSpec(), PartitionSpec(AXIS)
    return jax.shard_map(own, mesh=mesh, in_specs=specs, out_specs=specs[1], check_vma=False)(arrays, blocks)


def own_first(first: Any) -> Any:
    """Return the first replica of this device's block, where `first` is that of the first device."""
    return first + BLOCK * jax.lax.axis_index(AXIS)


@eqx.filter_jit
def draw_blocks(problem: Any, key: Any, first: Any, mesh: Mesh) -> Any:
    """Draw the worlds of replicas first, first + 1, ..., one block per device; `[devices, BLOCK]`."""

    def draw(problem: Any, key: Any, first: Any) -> Any:
        return jax.vmap(lambda index: problem.draw(jr.fold_in(key, index)))(own_first(first) + jnp.arange(BLOCK))

    return _each_block(mesh, draw, (problem, key, first))


@eqx.filter_jit
def play_blocks(problem: Any, policy: Any, worlds: Any, mesh: Mesh) -> Any:
    """Play a policy through one block of worlds per device."""

    def play(problem: Any, policy: Any, worlds: Any) -> Any:
        return jax.vmap(lambda world: problem.play(world, policy))(worlds)

    return _each_block(mesh, play, (problem, policy), (worlds,))


@eqx.filter_jit
def sum_blocks(values: tuple, centre: Any, first: Any, total: Any, mesh: Mesh) -> tuple:
    """Return each block's sums of centred values, `[devices, components]`, of their products and of their fourth powers.

    With the centre near the mean, a float32 sum of 4,096 values is accurate to about 1e-7 of their spread. Rounding differs from
    block to block, so the mean over many blocks is more accurate. Replicas from `total` on are excluded.
    """

    def add_up(centre: Any, first: Any, total: Any, values: tuple) -> tuple:
        counts = own_first(first) + jnp.arange(BLOCK) < total
        away = jnp.stack([jnp.where(counts, value.astype(centre.dtype), 0) for value in values])
        away = jnp.where(counts, away - centre[:, None], 0)
        return away.sum(axis=1), jnp.matmul(away, away.T, precision="highest"), jnp.sum(away**4, axis=1)

    return _each_block(mesh, add_up, (centre, first, total), (values,))


def gather(tree: Any) -> Any:
    """Return arrays of all devices as NumPy arrays, the same in every process."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.tree.map(np.asarray, tree)


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


def digest_block(worlds: Any, first: Any) -> Any:
    """Hash each world of a block together with its index; hashes are summed, so that the order of computing does not matter.

    Two words each, by multiplying and shifting (the finaliser of MurmurHash3); not cryptographic.
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
    """Return the bits of each world's values as 32-bit words: one per value, two for 64-bit values."""
    if leaf.dtype.itemsize < 4:
        leaf = leaf.astype(jnp.float32 if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.int32)
    return jax.lax.bitcast_convert_type(leaf, jnp.uint32).reshape(leaf.shape[0], -1)


def blocks_of(worlds: Any, size: int = BLOCK) -> Iterator[tuple[int, int, Any]]:
    """Cut stacked worlds into blocks, the last one padded with copies; yields (first index, number of worlds, block)."""
    num_worlds = jax.tree.leaves(worlds)[0].shape[0]
    for first in range(0, num_worlds, size):
        count = min(size, num_worlds - first)
        index = np.minimum(np.arange(first, first + size), num_worlds - 1)
        yield first, count, jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[index]), worlds)  # noqa: B023


@eqx.filter_jit
def digest_blocks(worlds: Any, first: Any, total: Any, mesh: Mesh) -> Any:
    """Return the sum of the hashes of each block's worlds, `[devices, 2]`, modulo 2^32; replicas from `total` on are excluded.

    The problem's index is not hashed, because a model and a log number problems differently.
    """

    def add_up(first: Any, total: Any, worlds: Any) -> Any:
        worlds = worlds._replace(problem=jnp.zeros_like(worlds.problem))
        counts = own_first(first) + jnp.arange(BLOCK) < total
        return jnp.where(counts, digest_block(worlds, own_first(first)), jnp.uint32(0)).sum(axis=1, dtype=jnp.uint32)

    return _each_block(mesh, add_up, (first, total), (worlds,))


def digest_text(sums: np.ndarray) -> str:
    """Return the digest of worlds as text, from the sums of their hashes, `[2]` or `[blocks, 2]`."""
    return "".join(f"{int(word):016x}" for word in sums.astype(np.uint64).reshape(-1, 2).sum(axis=0))
