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

FAMILY_BLOCK = 1024  # of worlds that many policies are played through: fewer, for memory and for short logs
FEW_WORLDS = 4 * BLOCK  # tens of milliseconds of one core
AXIS = "block"


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """The devices in a row, one block each; those of all processes where `jax.distributed` is started."""
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def default_devices(num_worlds: int) -> list[jax.Device]:
    """All devices; but few worlds stay on the CPU, where they are done before an accelerator's program is compiled."""
    if num_worlds <= FEW_WORLDS and jax.default_backend() != "cpu" and jax.process_count() == 1:
        return jax.local_devices(backend="cpu")[:1]
    return jax.devices()


def one_device(num_worlds: int) -> Mesh:
    """A device of this process, by itself, of the kind where so many worlds are simulated by default."""
    there = [device for device in default_devices(num_worlds) if device.process_index == jax.process_index()]
    return mesh_of(there[:1])


def _each_block(mesh: Mesh, compute: Callable, shared: tuple, blocks: tuple = ()) -> Any:
    """Run the same program on every device: `compute(*shared, *blocks)`, its own row of each of the `blocks`."""
    arrays, static = eqx.partition(shared, eqx.is_array)

    def own(arrays: Any, blocks: Any) -> Any:
        found = compute(*eqx.combine(arrays, static), *jax.tree.map(lambda leaf: leaf[0], blocks))
        return jax.tree.map(lambda leaf: leaf[None], found)

    specs = PartitionSpec(), PartitionSpec(AXIS)
    return jax.shard_map(own, mesh=mesh, in_specs=specs, out_specs=specs[1], check_vma=False)(arrays, blocks)


def own_first(first: Any) -> Any:
    """The first replica of this device's block, where `first` is that of the first device's."""
    return first + BLOCK * jax.lax.axis_index(AXIS)


@eqx.filter_jit
def draw_blocks(problem: Any, key: Any, first: Any, mesh: Mesh) -> Any:
    """Draw the worlds of replicas first, first + 1, ...: a block a device, `[devices, BLOCK]`."""

    def draw(problem: Any, key: Any, first: Any) -> Any:
        return jax.vmap(lambda index: problem.draw(jr.fold_in(key, index)))(own_first(first) + jnp.arange(BLOCK))

    return _each_block(mesh, draw, (problem, key, first))


@eqx.filter_jit
def play_blocks(problem: Any, policy: Any, worlds: Any, mesh: Mesh) -> Any:
    """Play a policy through a block of worlds a device."""

    def play(problem: Any, policy: Any, worlds: Any) -> Any:
        return jax.vmap(lambda world: problem.play(world, policy))(worlds)

    return _each_block(mesh, play, (problem, policy), (worlds,))


@eqx.filter_jit
def sum_blocks(values: tuple, centre: Any, first: Any, total: Any, mesh: Mesh) -> tuple:
    """Sums of each block's values less the centre, `[devices, components]`, of their products, and of their fourth powers.

    In float32 a sum of 4,096 values is known to some 1e-7 of their spread, the centre being near their mean; which digits are
    lost differs from block to block, so the mean of many is known better. Replicas from `total` on do not count.
    """

    def add_up(centre: Any, first: Any, total: Any, values: tuple) -> tuple:
        counts = own_first(first) + jnp.arange(BLOCK) < total
        away = jnp.stack([jnp.where(counts, value.astype(centre.dtype), 0) for value in values])
        away = jnp.where(counts, away - centre[:, None], 0)
        return away.sum(axis=1), jnp.matmul(away, away.T, precision="highest"), jnp.sum(away**4, axis=1)

    return _each_block(mesh, add_up, (centre, first, total), (values,))


def gather(tree: Any) -> Any:
    """Arrays of all devices as NumPy's, the same in every process."""
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


@eqx.filter_jit
def digest_blocks(worlds: Any, first: Any, total: Any, mesh: Mesh) -> Any:
    """The sum of the hashes of each block's worlds, `[devices, 2]`, modulo 2^32; of replicas from `total` on there is none.

    The problem's index is left out: it numbers a model's problems here and a log's there.
    """

    def add_up(first: Any, total: Any, worlds: Any) -> Any:
        worlds = worlds._replace(problem=jnp.zeros_like(worlds.problem))
        counts = own_first(first) + jnp.arange(BLOCK) < total
        return jnp.where(counts, digest_block(worlds, own_first(first)), jnp.uint32(0)).sum(axis=1, dtype=jnp.uint32)

    return _each_block(mesh, add_up, (first, total), (worlds,))


def digest_text(sums: np.ndarray) -> str:
    """The digest of worlds, of the sums over their blocks, `[2]` or `[blocks, 2]`."""
    return "".join(f"{int(word):016x}" for word in sums.astype(np.uint64).reshape(-1, 2).sum(axis=0))
