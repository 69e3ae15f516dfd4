"""Play a policy through the worlds a log holds."""

from typing import Any

import jax
import numpy as np

from sims.engine import Digest, blocks_of, play_block
from sims.results import Result
from stopping.problems import admit, as_pytree
from stopping.traces import TraceLog


def replay(problem: Any, policy: Any, log: TraceLog, *, num_orders: int = 1, seed: int = 0) -> Result:
    """Estimate every component of a policy's outcome on a log. The unit is the log's problem.

    Args:
        problem: its model is not used.
        policy: any policy the problem admits.
        log: with known correctness.
        num_orders: 1 to take each problem's traces in the order logged, more to average over random orders.
        seed: of the orders.

    Raises:
        PolicyMismatch: if the policy needs a signal, an action or more traces than the problem has.
        ValueError: if a trace's correctness is not known, or `num_orders` is not a whole number >= 1.
    """
    return replay_worlds(problem, policy, problem.worlds(log, num_orders=num_orders, seed=seed))


def replay_worlds(problem: Any, policy: Any, worlds: Any) -> Result:
    """Play a policy through worlds with leading axes `[units, orders]`; average over the orders.

    Raises:
        PolicyMismatch: if the policy needs a signal, an action or more traces than the problem has.
    """
    admit(problem, policy)
    num_units, num_orders = jax.tree.leaves(worlds)[0].shape[:2]
    flat = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), worlds)
    pytree, digest, parts = as_pytree(policy), Digest(), []
    for first, count, block in blocks_of(flat):
        digest.add(block, first, count)
        outcome = play_block(problem, pytree, block)
        parts.append({name: np.asarray(values, np.float64)[:count] for name, values in outcome._asdict().items()})
    shape = (num_units, num_orders)
    values = {name: np.concatenate([part[name] for part in parts]).reshape(shape).mean(axis=1) for name in parts[0]}
    return Result(values, str(digest), f"replay of {policy}")
