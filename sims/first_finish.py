"""First Finish Search by order statistics: the two earliest finishers are drawn, not all n traces.

Of n traces K are right, binomially. The least of K normal scores lies above z with probability (1 - Phi(z))^K, so it
is Phi^-1(1 - exp(-E / K)) with E exponential: one draw for K traces, with their exact law. The same for the wrong ones
that answer. The first answer is right if the earlier of the two is.
"""

import hashlib
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key

from sims.engine import BLOCK
from sims.results import Result
from stopping.models import LengthCorrectness
from stopping.models.normal_tails import quantile_below


def first_finish(key: Key[Array, ""], model: LengthCorrectness, num_traces: int, *, num_replicas: int) -> Result:
    """Simulate returning the first of `num_traces` answers.

    The quadrature `stopping.makespan.first_finish_curve` is faster, and its error smaller than any simulation's; this is
    its check. Lengths are not rounded to whole tokens.

    Returns:
        A result with `correct`, `answered` and, where answered, `latency_tokens` (0 elsewhere), one value a replica.
    """
    blocks = [_block(model, num_traces, key, jnp.int32(first)) for first in range(0, num_replicas, BLOCK)]
    names = ("correct", "answered", "latency_tokens")
    values = {
        name: np.concatenate([np.asarray(block[i], np.float64) for block in blocks])[:num_replicas]
        for i, name in enumerate(names)
    }
    leaves = [np.asarray(leaf).tobytes() for leaf in (*jax.tree.leaves(model), jr.key_data(key), num_traces)]
    digest = hashlib.sha256(b"".join(leaves)).hexdigest()[:32]
    return Result({**values, "unsupported": np.zeros(num_replicas)}, digest, f"first finish of {num_traces}")


@partial(jax.jit, static_argnames="num_traces")
def _block(model: LengthCorrectness, num_traces: int, key: Key[Array, ""], first: Array) -> tuple[Array, Array, Array]:
    return jax.vmap(lambda index: _draw(model, num_traces, jr.fold_in(key, index)))(first + jnp.arange(BLOCK))


def _draw(model: LengthCorrectness, num_traces: int, key: Key[Array, ""]) -> tuple[Array, Array, Array]:
    key_problem, key_chance, key_effect, key_right, key_answer, key_first = jr.split(key, 6)
    problem = jr.randint(key_problem, (), 0, model.num_problems)
    chance = jr.beta(key_chance, model.alpha[problem], model.beta[problem])
    effect = model.effect[problem] + model.effect_scale[problem] * jr.normal(key_effect)
    is_right = jr.uniform(key_right, (num_traces,)) < chance
    answers = jr.uniform(key_answer, (num_traces,)) < (1 - model.loop_prob) * (1 - model.no_answer_prob)
    num_right, num_wrong = jnp.sum(is_right), jnp.sum(~is_right & answers)
    waits = jr.exponential(key_first, (2,))
    log_cap = jnp.log(model.cap_tokens)
    limit = (log_cap - effect) / model.scale_right  # right traces end below the cap
    right = effect + model.scale_right * _least_score(waits[0], num_right, limit)
    wrong = effect + model.shift + model.scale_wrong * _least_score(waits[1], num_wrong, jnp.inf)
    wrong = jnp.where(wrong < log_cap, wrong, jnp.inf)
    earliest = jnp.minimum(right, wrong)
    answered = jnp.isfinite(earliest)
    return right < wrong, answered, jnp.where(answered, jnp.exp(jnp.where(answered, earliest, 0.0)), 0.0)


def _least_score(wait: Array, count: Int[Array, ""], limit: Array | float) -> Float[Array, ""]:
    """The least of `count` normal scores, each kept below `limit`; infinity of none."""
    y = wait / jnp.maximum(count, 1)
    return jnp.where(count > 0, quantile_below(jnp.asarray(limit, y.dtype), -jnp.expm1(-y), jnp.exp(-y)), jnp.inf)
