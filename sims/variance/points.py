"""Points in the open unit cube at which an integrand is evaluated; each is uniform by itself.

The methods differ in how points depend on each other, and so in the independent unit: a point, a pair or a replicate.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key
from scipy.stats import qmc

from stopping.policies.checks import whole_number

BLOCK = 4096  # points drawn at once, for single points and pairs


class Points(Protocol):
    """A method of drawing points."""

    def unit_size(self, num_evaluations: int) -> int:
        """Return how many consecutive points are one independent unit.

        Raises:
            ValueError: if the method cannot draw this number of points.
        """

    def blocks(self, key: Key[Array, ""], num_evaluations: int, num_uniforms: int) -> Iterator[Array]:
        """Yield blocks of points `[points, uniforms]`, all of one size; the last may have more points than needed."""


@dataclass(frozen=True)
class Independent:
    """Plain Monte Carlo: independent points."""

    def unit_size(self, num_evaluations: int) -> int:
        """One point is a unit."""
        return 1

    def blocks(self, key: Key[Array, ""], num_evaluations: int, num_uniforms: int) -> Iterator[Array]:
        """Yield blocks of 4,096 points; more evaluations extend the same sequence."""
        for index in range(math.ceil(num_evaluations / BLOCK)):
            yield _uniforms(jr.fold_in(key, index), BLOCK, num_uniforms)

    def __str__(self) -> str:
        return "independent points"


@dataclass(frozen=True)
class Antithetic:
    """Pairs u and 1 - u: the variance falls if the integrand is monotone in each coordinate, doubles if it is even about 1/2."""

    def unit_size(self, num_evaluations: int) -> int:
        """A pair is a unit."""
        if num_evaluations % 2:
            raise ValueError(f"num_evaluations: expected an even number, for pairs, got {num_evaluations}")
        return 2

    def blocks(self, key: Key[Array, ""], num_evaluations: int, num_uniforms: int) -> Iterator[Array]:
        """Yield blocks of 2,048 pairs; more evaluations extend the same sequence."""
        for index in range(math.ceil(num_evaluations / BLOCK)):
            first = _uniforms(jr.fold_in(key, index), BLOCK // 2, num_uniforms)
            yield jnp.stack([first, 1 - first], axis=1).reshape(BLOCK, num_uniforms)

    def __str__(self) -> str:
        return "antithetic pairs"


@dataclass(frozen=True)
class LatinHypercube:
    """Latin hypercube sampling: each of n equal intervals of every coordinate has exactly one of a replicate's n points.

    An integrand that is additive in its coordinates loses nearly all its variance. With one coordinate this is stratified
    sampling with one point per stratum.

    Attributes:
        num_replicates: number of independent replicates, from whose spread the error is estimated.

    References:
        McKay, Beckman and Conover, "A comparison of three methods for selecting values of input variables" (1979); Stein,
        "Large sample properties of simulations using Latin hypercube sampling" (1987).
    """

    num_replicates: int = 32

    def unit_size(self, num_evaluations: int) -> int:
        """A replicate is a unit."""
        return _replicate_size(num_evaluations, self.num_replicates)

    def blocks(self, key: Key[Array, ""], num_evaluations: int, num_uniforms: int) -> Iterator[Array]:
        """Yield blocks of as many whole replicates as fit in 4,096 points, at least one."""
        size = self.unit_size(num_evaluations)
        for replicates in _replicate_blocks(self.num_replicates, size):
            keys = jax.vmap(partial(jr.fold_in, key))(jnp.asarray(replicates))
            yield _latin(keys, size, num_uniforms)

    def __str__(self) -> str:
        return f"{self.num_replicates} replicates of a Latin hypercube"


@dataclass(frozen=True)
class Sobol:
    """Scrambled Sobol points: uniform in many coordinates jointly; for smooth integrands the variance falls almost as n^-3.

    The first coordinates are the most uniform: use them for what matters most. These are SciPy's points, scrambled by a random
    matrix and a digital shift, which has the same variance as Owen's scrambling.

    Attributes:
        num_replicates: number of independent scramblings, from whose spread the error is estimated.

    References:
        Owen, "Variance with alternative scramblings of digital nets" (2003).
    """

    num_replicates: int = 32

    def unit_size(self, num_evaluations: int) -> int:
        """A replicate is a unit; its size is a power of two, as Sobol points require."""
        size = _replicate_size(num_evaluations, self.num_replicates)
        if size & (size - 1):
            raise ValueError(
                f"num_evaluations: expected {self.num_replicates} replicates times a power of two, got {num_evaluations}"
            )
        return size

    def blocks(self, key: Key[Array, ""], num_evaluations: int, num_uniforms: int) -> Iterator[Array]:
        """Yield blocks of as many whole replicates as fit in 4,096 points, at least one."""
        size = self.unit_size(num_evaluations)
        seed = np.asarray(jr.bits(key, (4,), jnp.uint32))
        for replicates in _replicate_blocks(self.num_replicates, size):
            randoms = [np.random.default_rng([*seed, replicate]) for replicate in replicates]
            points = np.concatenate([qmc.Sobol(num_uniforms, rng=random).random(size) for random in randoms])
            yield _inside(jnp.asarray(points, float))

    def __str__(self) -> str:
        return f"{self.num_replicates} replicates of scrambled Sobol points"


def _replicate_size(num_evaluations: int, num_replicates: int) -> int:
    whole_number("num_replicates", num_replicates, 2)
    if num_evaluations % num_replicates:
        raise ValueError(f"num_evaluations: expected a multiple of {num_replicates} replicates, got {num_evaluations}")
    return num_evaluations // num_replicates


def _replicate_blocks(num_replicates: int, size: int) -> np.ndarray:
    """Return the numbers of the replicates in each block, all blocks of one size; the last may exceed `num_replicates`."""
    num_blocks = math.ceil(num_replicates / max(BLOCK // size, 1))
    return np.arange(num_blocks * math.ceil(num_replicates / num_blocks)).reshape(num_blocks, -1)


@partial(jax.jit, static_argnums=(1, 2))
def _uniforms(key: Key[Array, ""], count: int, num_uniforms: int) -> Float[Array, "points uniforms"]:
    """Return centres of 2^23 equal cells (2^52 in float64), so that 1 - u is exactly such a centre too."""
    uniforms = jr.uniform(key, (count, num_uniforms))
    return uniforms + _half_cell(uniforms)


@partial(jax.jit, static_argnums=(1, 2))
def _latin(keys: Key[Array, " replicates"], count: int, num_uniforms: int) -> Float[Array, "points uniforms"]:
    strata = jnp.broadcast_to(jnp.arange(count)[:, None], (count, num_uniforms))

    def replicate(key: Key[Array, ""]) -> Float[Array, "points uniforms"]:
        key_order, key_within = jr.split(key)
        order = jr.permutation(key_order, strata, axis=0, independent=True)
        return _inside((order + jr.uniform(key_within, (count, num_uniforms))) / count)

    return jax.vmap(replicate)(keys).reshape(-1, num_uniforms)


def _inside(points: Float[Array, "points uniforms"]) -> Float[Array, "points uniforms"]:
    """Move points that rounding put on a face of the cube inside, because quantiles are infinite there."""
    half = _half_cell(points)
    return jnp.clip(points, half, 1 - half)


def _half_cell(points: Float[Array, "points uniforms"]) -> float:
    return float(jnp.finfo(points.dtype).epsneg)
