"""Replay: policies played through the worlds of a log."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from sims.engine import FAMILY_BLOCK, blocks_of, digest_blocks, digest_text, one_device, play_blocks, play_family
from sims.results import Result
from stopping.policies import Policy, parameters
from stopping.problems import Problem, Replayable, admit, as_pytree, stack
from stopping.problems.problem import names_of
from stopping.traces import TraceLog


def replay(problem: Replayable, policy: Policy, log: TraceLog, *, num_orders: int = 1, seed: int = 0) -> Result:
    """Estimate every component of a policy's outcome on a log. The independent unit is the log's problem.

    Args:
        problem: its model is not used.
        policy: any policy the problem admits.
        log: one whose answers are all labelled right or wrong.
        num_orders: 1 takes each problem's traces in the logged order; more averages over that many random orders.
        seed: of the orders.

    Raises:
        PolicyMismatch: if the policy needs a signal, an action or more traces than the problem has.
        ValueError: if a trace's correctness is not known, or `num_orders` is not a whole number >= 1.
    """
    return replay_worlds(problem, policy, problem.worlds(log, num_orders=num_orders, seed=seed))


def replay_worlds(problem: Problem, policy: Policy, worlds: Any) -> Result:
    """Play a policy through worlds with leading axes `[units, orders]`; average over the orders.

    Raises:
        PolicyMismatch: if the policy needs a signal, an action or more traces than the problem has.
    """
    admit(problem, policy)
    num_units, num_orders = jax.tree.leaves(worlds)[0].shape[:2]
    flat = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), worlds)
    pytree, mesh, digests, parts = as_pytree(policy), one_device(num_units * num_orders), [], []
    for first, count, block in blocks_of(flat):
        worlds = jax.tree.map(lambda leaf: leaf[None], block)
        digests.append(np.asarray(digest_blocks(worlds, np.int32(first), np.int32(first + count), mesh))[0])
        outcome = play_blocks(problem, pytree, worlds, mesh)
        parts.append({name: np.asarray(values[0], np.float64)[:count] for name, values in outcome._asdict().items()})
    shape = (num_units, num_orders)
    values = {name: np.concatenate([part[name] for part in parts]).reshape(shape).mean(axis=1) for name in parts[0]}
    return Result(values, digest_text(np.stack(digests)), f"replay of {policy}", names=names_of(problem))


def play_rules(
    problem: Problem, policies: Sequence[Policy], worlds: Any, components: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return outcome components of many policies on each world; `[policies, units, orders]` each.

    Policies of one class are played by one program call.

    Args:
        problem: its model is not used.
        policies: any that the problem admits.
        worlds: with leading axes `[units, orders]`.
        components: names of outcome components.

    Raises:
        PolicyMismatch: if a policy needs a signal, an action or more traces than the problem has.
    """
    families: dict[Any, list[int]] = defaultdict(list)
    for index, policy in enumerate(policies):
        admit(problem, policy)
        shapes = tuple(np.shape(value) for value in parameters(policy).values())
        families[type(policy), shapes].append(index)
    lead = jax.tree.leaves(worlds)[0].shape[:2]
    flat = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), worlds)
    parts: dict[str, list[np.ndarray]] = defaultdict(list)
    for family in families.values():
        stacked, axes = stack([policies[index] for index in family])
        blocks = [
            [np.asarray(getattr(outcome, name))[:, :count] for name in components]
            for _, count, block in blocks_of(flat, FAMILY_BLOCK)
            for outcome in [play_family(problem, stacked, axes, block)]
        ]
        for name, values in zip(components, zip(*blocks, strict=True), strict=True):
            parts[name].append(np.concatenate(values, axis=1))
    back = np.argsort(np.concatenate(list(families.values())))
    return {name: np.concatenate(values)[back].reshape(-1, *lead) for name, values in parts.items()}
