"""What bounds the engine on one core: random words and passes over memory, against NumPy; and how far off the samplers are."""

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.harness import Report, rows_of, time_together

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np

from benchmarks.samplers import NUM_SCORES, normal_scores
from sims.sampling import first_finish_totals, least_of_all_traces, least_of_two_groups, pairs
from sims.sampling.first_finish import LANES, Race

NUM_WORDS = 1 << 24
NUM_NUMBERS = 1 << 26  # of 4 bytes, far more than any cache holds
WORDS, JAX_WORDS, NUMPY_WORDS = "stopping, random words", "jax.random.bits, stored", "NumPy SFC64, words, stored"
PASS, NUMPY_PASS = "XLA, a pass over 256 MiB in place", "NumPy, the same"


def run() -> Report:
    """Time words and passes, and the samplers in words."""
    key = jax.random.key(0)
    race = Race(*(jnp.float32(value) for value in (0.4, 8.0, 8.3, 0.4, 0.5)))
    random, numbers = np.random.Generator(np.random.SFC64(0)), [jnp.ones(NUM_NUMBERS, jnp.float32)]
    array = np.ones(NUM_NUMBERS, np.float32)
    words: dict[str, Callable[[], Any]] = {
        WORDS: lambda: jax.block_until_ready(_words(key)),
        JAX_WORDS: lambda: jax.block_until_ready(_jax_words(key)),
        NUMPY_WORDS: lambda: random.integers(0, 1 << 32, NUM_WORDS, np.uint32),
    }
    passes: dict[str, Callable[[], Any]] = {
        PASS: lambda: numbers.append(jax.block_until_ready(_increment(numbers.pop()))),
        NUMPY_PASS: lambda: np.add(array, 1, out=array),
    }
    rounds = NUM_WORDS // (16 * LANES)

    def finishing(least: Callable) -> Callable[[], Any]:
        return lambda: jax.block_until_ready(
            first_finish_totals(key, race, jnp.int32(rounds), least=least, num_traces=16)
        )

    # A pair of words counts the right traces; a score takes one word of Box-Muller's pair.
    used = {
        "first finish, all 16 traces": (finishing(least_of_all_traces), rounds * LANES * (2 + 16)),
        "first finish, two groups": (finishing(least_of_two_groups), rounds * LANES * (2 + 2)),
        "normal scores": (lambda: jax.block_until_ready(normal_scores(key)), NUM_SCORES),
    }
    timings = time_together({**words, **passes, **{name: draw for name, (draw, _) in used.items()}}, repeats=9)
    factor = dict.fromkeys(words, 1e9 / NUM_WORDS) | dict.fromkeys(passes, 1e9 / (8 * NUM_NUMBERS))
    factor |= {name: 1e9 / count for name, (_, count) in used.items()}
    groups = [{name: timings[name] for name in group} for group in (words, passes, {WORDS: None, **used})]
    rows = [row for group in groups[:2] for row in rows_of(group, factor, (WORDS, JAX_WORDS, PASS))]
    rows += rows_of(groups[2], factor, tuple(used))[1:]
    took = {row.name: row.minimum for row in rows}
    shares = {name: took[WORDS] / took[name] for name in used}
    return Report(
        title="Roofline",
        goal="half of what the words alone cost, by the sampler that is bound by them",
        unit="nanoseconds a word used, or a byte moved",
        rows=rows,
        reached=[(f"half of the roof: {name}", f"{share:.2f}", share >= 0.5) for name, share in shares.items()],
        checks={
            "random words, 10^9 a second": 1 / took[WORDS],
            "read and written, 10^9 bytes a second": 1 / took[PASS],
        },
        notes=[
            f"Words are threefry's, twenty rounds, summed where they are made, {LANES:,} lanes at once; a sampler's roof is "
            "that many words and nothing else. Samplers also take logarithms, roots, sines and quantiles of what they draw.",
            "The samplers store nothing, so memory bounds none of them. Worlds that are drawn, stored and played are bounded "
            "by passes over a block of 4,096 in the cache: see `stepwise`.",
        ],
    )


@jax.jit
def _words(key: Any) -> Any:
    lanes = jnp.arange(LANES)

    def add(step: Any, total: Any) -> Any:
        left, right = pairs(key, lanes, step)
        return total + (left ^ right)

    return jax.lax.fori_loop(0, NUM_WORDS // (2 * LANES), add, jnp.zeros(LANES, jnp.uint32))


@jax.jit
def _jax_words(key: Any) -> Any:
    return jax.random.bits(key, (NUM_WORDS,), jnp.uint32)


@partial(jax.jit, donate_argnums=0)
def _increment(numbers: Any) -> Any:
    return numbers + 1
