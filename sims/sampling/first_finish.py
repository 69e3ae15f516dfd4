"""The first of n traces to end, with log-normal lengths, simulated from all traces or from two order statistics.

Traces are exchangeable: the number K of right ones is binomial, and it does not matter which they are. The earliest right trace
has the minimum of K normal scores, the earliest wrong one the minimum of n - K. The answer is right if the former ends first.
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

LANES = 4096  # replicas at a time: their state fits in the cache
LEAST_STEP = 1  # the first step that scores read; step 0 draws the count

Scores = tuple[Float[Array, "..."], Float[Array, "..."]]
LeastScores = Callable[[Key[Array, ""], Int[Array, "..."], Int[Array, "..."], int], Scores]


class Race(NamedTuple):
    """One problem; `[]` each.

    Attributes:
        chance: probability that a trace is right.
        mean_right, mean_wrong: means of log tokens of right and wrong traces.
        scale_right, scale_wrong: standard deviations of log tokens.
    """

    chance: Float[Array, ""]
    mean_right: Float[Array, ""]
    mean_wrong: Float[Array, ""]
    scale_right: Float[Array, ""]
    scale_wrong: Float[Array, ""]


class Totals(NamedTuple):
    """Sums over replicas, kept separately for each lane; `[lanes]` each.

    Attributes:
        correct: number of right answers.
        tokens: tokens until the first trace ends.
        tokens_squared: their squares.
    """

    correct: Int[Array, " lanes"]
    tokens: Float[Array, " lanes"]
    tokens_squared: Float[Array, " lanes"]


def least_of_two_groups(
    key: Key[Array, ""], element: Int[Array, "..."], num_right: Int[Array, "..."], num_traces: int
) -> Scores:
    """Draw the minimum score of the right traces and of the wrong traces, from one word each; infinite for an empty group."""
    first, second = pairs(key, element, LEAST_STEP)
    return least_normal(exponential(first), num_right), least_normal(exponential(second), num_traces - num_right)


def least_of_all_traces(
    key: Key[Array, ""], element: Int[Array, "..."], num_right: Int[Array, "..."], num_traces: int
) -> Scores:
    """Draw the same minima by drawing every trace's score, two a step; a check, and the way of families without quantiles."""

    # Both minima are stored as one complex number: with two arrays, XLA would run a separate loop for each, drawing scores twice.
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
    """Sum right answers and tokens until the first trace ends, over num_rounds * LANES replicas, without storing them.

    `least` is `least_of_two_groups` or `least_of_all_traces`; both draw from the same distribution.
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

    # Each iteration has counts, scores and sums of three successive rounds: XLA recomputes whatever is not carried.
    def play(index: Array, carry: tuple[Totals, Scores, Array]) -> tuple[Totals, Scores, Array]:
        totals, scores, num_right = carry
        return add(totals, scores), least(key, address(index - 1), num_right, num_traces), count(index)

    zero = jnp.zeros(LANES, jnp.float32)
    totals = Totals(jnp.zeros(LANES, jnp.int32), zero, zero)
    start = (totals, least(key, address(0), count(0), num_traces), count(1))
    totals, scores, _ = jax.lax.fori_loop(2, num_rounds + 1, play, start)
    return add(totals, scores)
