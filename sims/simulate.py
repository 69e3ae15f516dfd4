"""Draw worlds from a model and play a policy through them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key
from rich.progress import Progress

from sims.engine import BLOCK, Digest, draw_block, play_block
from sims.estimates import Estimate
from sims.results import Result
from stopping.policies.policy import whole_number
from stopping.problems import admit, as_pytree

MAX_REPLICAS = 2**24


class PrecisionNotReached(ValueError):
    """The standard error asked for needs more worlds than the engine takes."""


def simulate(
    key: Key[Array, ""],
    problem: Any,
    policy: Any,
    *,
    num_replicas: int | None = None,
    standard_error: float | None = None,
    chunk_blocks: int = 1,
    progress: bool = False,
) -> Result:
    """Estimate every component of a policy's outcome under the problem's model.

    Args:
        key: of the worlds: the same key means the same worlds, for any policy.
        problem: a problem with a model.
        policy: any policy the problem admits.
        num_replicas: how many worlds; or
        standard_error: of the utility, to be reached: looked at after 2^k blocks of 4,096 worlds.
        chunk_blocks: blocks on the device at once; no effect on the result.
        progress: show a bar.

    Raises:
        PolicyMismatch: if the policy needs a signal, an action or more traces than the problem has.
        ValueError: unless exactly one of `num_replicas` and `standard_error` is given and positive, and counts are whole.
        PrecisionNotReached: if the error is not reached with 2^24 worlds.
    """
    admit(problem, policy)
    if (num_replicas is None) == (standard_error is None):
        raise ValueError("expected either num_replicas or standard_error")
    if standard_error is not None and not standard_error > 0:
        raise ValueError(f"standard_error: expected a positive number, got {standard_error!r}")
    chunk_blocks = whole_number("chunk_blocks", chunk_blocks, 1)
    goal = MAX_REPLICAS if num_replicas is None else whole_number("num_replicas", num_replicas, 1)
    title = f"simulation of {policy}"
    with Progress(disable=not progress, transient=True) as bar:
        task = bar.add_task("simulating", total=goal if num_replicas else None)
        parts, digest, done, look = [], Digest(), 0, BLOCK
        while done < goal:
            chunk = [first for first in range(done, done + chunk_blocks * BLOCK, BLOCK) if first < min(goal, look)]
            drawn = [draw_block(problem, key, jnp.int32(first)) for first in chunk]
            played = [play_block(problem, as_pytree(policy), worlds) for worlds in drawn]
            for first, worlds, outcome in zip(chunk, drawn, played, strict=True):
                count = min(BLOCK, goal - first)
                digest.add(worlds, first, count)
                parts.append({name: np.asarray(v, np.float64)[:count] for name, v in outcome._asdict().items()})
                done += count
            bar.update(task, completed=done)
            if done >= min(look, goal):
                look *= 2
                if standard_error is not None:
                    error = Estimate.of(np.concatenate([part["utility"] for part in parts])).standard_error
                    bar.update(task, description=f"simulating, error {error:.2g}")
                    if error <= standard_error:
                        break
        else:
            if standard_error is not None:
                raise PrecisionNotReached(f"standard_error {standard_error}: not reached with {MAX_REPLICAS} worlds")
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Result(values, str(digest), title)


def draw(key: Key[Array, ""], problem: Any, num_replicas: int) -> Any:
    """Return the very worlds that `simulate` plays, stacked; `[replicas]`.

    Raises:
        ValueError: if `num_replicas` is not a whole number >= 1, or the problem has no model.
    """
    num_replicas = whole_number("num_replicas", num_replicas, 1)
    blocks = [draw_block(problem, key, jnp.int32(first)) for first in range(0, num_replicas, BLOCK)]
    return jax.tree.map(lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves])[:num_replicas], *blocks)
