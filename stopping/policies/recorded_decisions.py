"""Decisions recorded on a running model, compared with those of the same policy in JAX."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from stopping.policies.binding import bind
from stopping.policies.decisions import decision_with
from stopping.policies.namespace import namespace

TIE = 1e-5  # a score this close to 0 may fall either way


class Comparison(NamedTuple):
    """Numbers of decisions: taken; of these, at a tie; and of the others, taken differently."""

    num_decisions: int
    num_ties: int
    num_different: int


def compare_decisions(policy: Any, decisions: Sequence[Sequence[Any]]) -> Comparison:
    """Step a policy in JAX through what it saw, and count where it decides otherwise.

    Args:
        policy: what was asked.
        decisions: of each row, in order: with its `observation` in plain numbers, `kind` and `amount`.
    """
    import jax.numpy as jnp

    rows, found = [row for row in decisions if row], np.zeros(3, int)
    bound, xp, shape = bind(policy, "jax"), namespace("jax"), (len(rows),)
    state = bound.init(shape)
    for step in range(max(map(len, rows), default=0)):
        asked = [row[min(step, len(row) - 1)] for row in rows]  # a row that is over is asked on, and not counted
        counted = np.array([step < len(row) for row in rows])
        observation: Any = type(asked[0].observation)
        dtype_of = decision_with(observation).dtype_of
        columns = zip(observation._fields, zip(*(each.observation for each in asked), strict=True), strict=True)
        seen = observation(*(jnp.asarray(column, dtype_of(name)) for name, column in columns))
        score = policy.score(xp, state, seen) if hasattr(policy, "score") else np.inf
        state, action = bound.step(state, seen)
        tie = counted & (np.abs(np.broadcast_to(np.asarray(score), shape)) <= TIE)
        told = np.array([(each.kind, each.amount) for each in asked])
        kind, amount = (np.broadcast_to(np.asarray(part), shape) for part in action)
        same = (told[:, 0] == kind) & (told[:, 1] == amount)
        found += [counted.sum(), tie.sum(), (counted & ~tie & ~same).sum()]
    return Comparison(*found.tolist())
