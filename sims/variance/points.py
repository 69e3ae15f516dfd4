"""Where an integrand is evaluated: points in the unit cube, each of them uniform by itself, none of them at a face.

What differs is how they hang together, and hence which values are independent: single ones, pairs, or whole replicates.
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

BLOCK = 4096  # points drawn at once, of those that come singly or in pairs


class Points(Protocol):
    """How points are drawn."""

    def unit_size(self, num_evaluations: int) -> int:
        """How many points in a row make an independent unit.

        Raises:
            ValueError: if so many points cannot be had.
        """

    def blocks(self, key: Key[Array, ""], num_evaluations: int, num_uniforms: int) -> Iterator[Array]:
        """Blocks of points `[points, uniforms]`, all of one size; the last may hold more than are wanted."""


@dataclass(frozen=True)
class Independent:
    """Plain Monte Carlo: each point by itself."""

    def unit_size(self, num_evaluations: int) -> int:
        """One point is a unit."""
        return 1

    def blocks(self, key: Key[Array, ""], num_evaluations: int, num_uniforms: int) -> Iterator[Array]:
        """Blocks of 4,096 points: of more evaluations, the first are the same."""
        for index in range(math.ceil(num_evaluations / BLOCK)):
            yield _uniforms(jr.fold_in(key, index), BLOCK, num_uniforms)

    def __str__(self) -> str:
        return "independent points"


@dataclass(frozen=True)
class Antithetic:
    """Pairs u and 1 - u: an integrand monotone in each coordinate loses variance, one even about 1/2 gains a factor of 2."""

    def unit_size(self, num_evaluations: int) -> int:
        """A pair is a unit."""
        if num_evaluations % 2:
            raise ValueError(f"num_evaluations: expected an even number, for pairs, got {num_evaluations}")
        return 2

    def blocks(self, key: Key[Array, ""], num_evaluations: int, num_uniforms: int) -> Iterator[Array]:
        """Blocks of 2,048 pairs: of more evaluations, the first are the same."""
        for index in range(math.ceil(num_evaluations / BLOCK)):
            first = _uniforms(jr.fold_in(key, index), BLOCK // 2, num_uniforms)
            yield jnp.stack([first, 1 - first], axis=1).reshape(BLOCK, num_uniforms)

    def __str__(self) -> str:
        return "antithetic pairs"


@dataclass(frozen=True)
class LatinHypercube:
    """Stratified in every coordinate: of the n points of a replicate each nth part of each coordinate holds one.

    What is a sum of functions of single coordinates loses nearly all its variance. With one coordinate this is stratified
    sampling with one point a stratum.

    Attributes:
        num_replicates: independent ones, from whose spread the error is taken.

    References:
        McKay, Beckman and Conover, "A comparison of three methods for selecting values of input variables" (1979); Stein,
        "Large sample properties of simulations using Latin hypercube sampling" (1987).
    """

    num_replicates: int = 32

    def unit_size(self, num_evaluations: int) -> int:
        """A replicate is a unit."""
        return _replicate_size(num_evaluations, self.num_replicates)

    def blocks(self, key: Key[Array, ""], num_evaluations: int, num_uniforms: int) -> Iterator[Array]:
        """As many whole replicates as 4,096 points hold, at least one."""
        size = self.unit_size(num_evaluations)
        for replicates in _replicate_blocks(self.num_replicates, size):
            keys = jax.vmap(partial(jr.fold_in, key))(jnp.asarray(replicates))
            yield _latin(keys, size, num_uniforms)

    def __str__(self) -> str:
        return f"{self.num_replicates} replicates of a Latin hypercube"


@dataclass(frozen=True)
class Sobol:
    """Scrambled Sobol points: even in many coordinates at once; for smooth integrands the variance falls as n^-3, nearly.

    The first coordinates are the most even: give them to what matters most. SciPy's points, scrambled by a random matrix and
    a digital shift, which has the variance of Owen's scrambling.

    Attributes:
        num_replicates: independent scramblings, from whose spread the error is taken.

    References:
        Owen, "Variance with alternative scramblings of digital nets" (2003).
    """

    num_replicates: int = 32

    def unit_size(self, num_evaluations: int) -> int:
        """A replicate is a unit, its size a power of two: only then are the points even."""
        size = _replicate_size(num_evaluations, self.num_replicates)
        if size & (size - 1):
            raise ValueError(
                f"num_evaluations: expected {self.num_replicates} replicates times a power of two, got {num_evaluations}"
            )
        return size

    def blocks(self, key: Key[Array, ""], num_evaluations: int, num_uniforms: int) -> Iterator[Array]:
        """As many whole replicates as 4,096 points hold, at least one."""
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
    """Numbers of replicates by block, all blocks of one size; the last may go beyond."""
    num_blocks = math.ceil(num_replicates / max(BLOCK // size, 1))
    return np.arange(num_blocks * math.ceil(num_replicates / num_blocks)).reshape(num_blocks, -1)


@partial(jax.jit, static_argnums=(1, 2))
def _uniforms(key: Key[Array, ""], count: int, num_uniforms: int) -> Float[Array, "points uniforms"]:
    """Centres of 2^23 equal cells (2^52 in float64): with u, 1 - u is one of them, exactly."""
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
    """Keep points off the faces, where quantiles are infinite: rounding may have put them there."""
    half = _half_cell(points)
    return jnp.clip(points, half, 1 - half)


def _half_cell(points: Float[Array, "points uniforms"]) -> float:
    return float(jnp.finfo(points.dtype).epsneg)
