"""First Finish Search simulated by order statistics: only the earliest right and the earliest wrong trace are drawn.

Of n traces, the number K of right ones is Beta-binomial, and the number of the others that answer is binomial; both are drawn
from tables. The minimum of K normal scores lies above z with probability (1 - Phi(z))^K, so it is Phi^-1(1 - exp(-E / K)) with E
exponential: one exact draw replaces K. The same holds for the wrong traces that answer. The first answer is right if the earlier
of the two traces is.
"""

import hashlib
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from sims.results import Result
from sims.sampling.normals import normal_pair
from sims.sampling.order_statistics import least_masses, least_normal
from sims.sampling.threefry import exponential, pairs, uniform
from sims.sampling.votes import CountDistribution, beta_binomial, binomials
from stopping.models import LengthCorrectness
from stopping.models.normal_tails import quantile_below

REPLICAS = 1 << 15  # per call of the program
PROBLEM, ANSWERS, EFFECT, WAITS = range(4)  # steps of a replica's address


class Counts(NamedTuple):
    """Distributions of the two counts.

    Attributes:
        right: number of right traces, one row per problem.
        answering: number of wrong traces that answer, one row per number of right traces.
    """

    right: CountDistribution
    answering: CountDistribution


def first_finish(key: Key[Array, ""], model: LengthCorrectness, num_traces: int, *, num_replicas: int) -> Result:
    """Simulate returning the first of `num_traces` answers.

    The quadrature `stopping.makespan.first_finish_curve` is faster and more accurate; this simulation checks it. Lengths are not
    rounded to whole tokens.

    Returns:
        A result with `correct`, `answered` and `latency_tokens` (0 where no trace answers), one value per replica.
    """
    counts = _counts(model, num_traces)
    blocks = [_block(model, counts, key, jnp.int32(first)) for first in range(0, num_replicas, REPLICAS)]
    names = ("correct", "answered", "latency_tokens")
    values = {
        name: np.concatenate([np.asarray(block[i], np.float64) for block in blocks])[:num_replicas]
        for i, name in enumerate(names)
    }
    leaves = [np.asarray(leaf).tobytes() for leaf in (*jax.tree.leaves(model), jr.key_data(key), num_traces)]
    digest = hashlib.sha256(b"".join(leaves)).hexdigest()[:32]
    return Result({**values, "unsupported": np.zeros(num_replicas)}, digest, f"first finish of {num_traces}")


@partial(jax.jit, static_argnames="num_traces")
def _counts(model: LengthCorrectness, num_traces: int) -> Counts:
    answers = (1 - model.loop_prob) * (1 - model.no_answer_prob)
    by_wrong = binomials(num_traces, answers).cumulative
    return Counts(beta_binomial(num_traces, model.alpha, model.beta), CountDistribution(by_wrong[::-1]))


@jax.jit
def _block(
    model: LengthCorrectness, counts: Counts, key: Key[Array, ""], first: Int[Array, ""]
) -> tuple[Bool[Array, " replicas"], Bool[Array, " replicas"], Float[Array, " replicas"]]:
    replica = first + jnp.arange(REPLICAS)
    which, right_share = pairs(key, replica, PROBLEM)
    problem = (which % jnp.uint32(model.num_problems)).astype(jnp.int32)
    num_right = counts.right.draw(uniform(right_share), problem)
    num_wrong = counts.answering.draw(uniform(pairs(key, replica, ANSWERS)[0]), num_right)
    score, _ = normal_pair(*pairs(key, replica, EFFECT))
    effect = model.effect[problem] + model.effect_scale[problem] * score
    log_cap = jnp.log(model.cap_tokens)
    limit = (log_cap - effect) / model.scale_right  # right traces end below the cap
    wait_right, wait_wrong = (exponential(word) for word in pairs(key, replica, WAITS))
    least_right = quantile_below(limit, *least_masses(wait_right, jnp.maximum(num_right, 1)))
    right = jnp.where(num_right > 0, effect + model.scale_right * least_right, jnp.inf)
    wrong = effect + model.shift + model.scale_wrong * least_normal(wait_wrong, num_wrong)
    wrong = jnp.where(wrong < log_cap, wrong, jnp.inf)
    earliest = jnp.minimum(right, wrong)
    answered = jnp.isfinite(earliest)
    return right < wrong, answered, jnp.where(answered, jnp.exp(jnp.where(answered, earliest, 0.0)), 0.0)
