"""The first of n traces to end, with log-normal lengths: by all traces, and by the order statistics of two groups.

Traces are exchangeable: K of them are right, binomially, and it does not matter which. The earliest right trace has the least
of K normal scores, the earliest wrong one the least of n - K, and the answer is right if the former ends first.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sims.sampling.normals import normal_pair
from sims.sampling.order_statistics import least_normal
from sims.sampling.threefry import exponential, pairs, uniform
from sims.sampling.votes import binomial

LANES = 4096  # replicas at once: what they carry stays in the cache
LEAST_STEP = 1  # of an element's steps, the first that the scores read; step 0 draws the count

Scores = tuple[Float[Array, "..."], Float[Array, "..."]]
LeastScores = Callable[[Key[Array, ""], Int[Array, "..."], Int[Array, "..."], int], Scores]


class Race(NamedTuple):
    """One problem: the chance of a right trace, and means and scales of log tokens; `[]` each."""

    chance: Float[Array, ""]
    mean_right: Float[Array, ""]
    mean_wrong: Float[Array, ""]
    scale_right: Float[Array, ""]
    scale_wrong: Float[Array, ""]


class Totals(NamedTuple):
    """Sums over replicas, a part to each lane: of right answers, tokens and squared tokens; `[lanes]` each."""

    correct: Int[Array, " lanes"]
    tokens: Float[Array, " lanes"]
    tokens_squared: Float[Array, " lanes"]


def least_of_two_groups(
    key: Key[Array, ""], element: Int[Array, "..."], num_right: Int[Array, "..."], num_traces: int
) -> Scores:
    """Draw the least score of the right traces and of the wrong ones, one word each; infinity of none."""
    first, second = pairs(key, element, LEAST_STEP)
    return least_normal(exponential(first), num_right), least_normal(exponential(second), num_traces - num_right)


def least_of_all_traces(
    key: Key[Array, ""], element: Int[Array, "..."], num_right: Int[Array, "..."], num_traces: int
) -> Scores:
    """The same law by drawing every trace's score, two a step: what laws without a quantile would take, and a check."""

    # Both minima are one complex number: as two arrays, each would be a loop of its own that draws all scores anew.
    def draw(step: Array, least: Array) -> Array:
        right, wrong = jnp.real(least), jnp.imag(least)
        for trace, score in enumerate(normal_pair(*pairs(key, element, LEAST_STEP + step))):
            index = 2 * step + trace
            is_right, is_trace = index < num_right, index < num_traces
            right = jnp.minimum(right, jnp.where(is_right, score, jnp.inf))
            wrong = jnp.minimum(wrong, jnp.where(is_trace & ~is_right, score, jnp.inf))
        return jax.lax.complex(right, wrong)

    none = jnp.full(jnp.shape(element), jnp.inf, jnp.float32)
    least = jax.lax.fori_loop(0, (num_traces + 1) // 2, draw, jax.lax.complex(none, none))
    return jnp.real(least), jnp.imag(least)


@partial(jax.jit, static_argnames=("least", "num_traces"))
def first_finish_totals(
    key: Key[Array, ""], race: Race, num_rounds: Int[Array, ""], *, least: LeastScores, num_traces: int
) -> Totals:
    """Sum right answers and tokens until the first over num_rounds * LANES replicas, storing none of them.

    `least` is `least_of_two_groups` or `least_of_all_traces`: the same law.
    """
    race = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), race)
    counts = binomial(num_traces, race.chance)

    def address(index: Array | int) -> Int[Array, " lanes"]:
        return index * LANES + jnp.arange(LANES)

    def count(index: Array | int) -> Int[Array, " lanes"]:
        return counts.draw(uniform(pairs(key, address(index))[0]))

    def add(totals: Totals, scores: Scores) -> Totals:
        right = race.mean_right + race.scale_right * scores[0]
        wrong = race.mean_wrong + race.scale_wrong * scores[1]
        tokens = jnp.exp(jnp.minimum(right, wrong))
        return Totals(totals.correct + (right < wrong), totals.tokens + tokens, totals.tokens_squared + tokens * tokens)

    # Counts, scores and sums of three rounds at once: what is not carried is computed anew by everything that reads it.
    def play(index: Array, carry: tuple[Totals, Scores, Array]) -> tuple[Totals, Scores, Array]:
        totals, scores, num_right = carry
        return add(totals, scores), least(key, address(index - 1), num_right, num_traces), count(index)

    zero = jnp.zeros(LANES, jnp.float32)
    totals = Totals(jnp.zeros(LANES, jnp.int32), zero, zero)
    start = (totals, least(key, address(0), count(0), num_traces), count(1))
    totals, scores, _ = jax.lax.fori_loop(2, num_rounds + 1, play, start)
    return add(totals, scores)
