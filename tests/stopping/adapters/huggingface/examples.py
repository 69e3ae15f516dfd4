"""References for the tests of both modules."""

import jax.numpy as jnp

from stopping.policies import bind
from stopping.policies.namespace import namespace


def stepped_by_jax(policy, decisions):
    """Return kind, amount and score of the same policy in JAX on the observations of a row."""
    bound = bind(policy, "jax")
    state = bound.init(())
    for decision in decisions:
        seen = type(decision.observation)(*map(jnp.asarray, decision.observation))
        score = policy.score(namespace("jax"), state, seen) if hasattr(policy, "score") else jnp.inf
        state, action = bound.step(state, seen)
        yield int(action.kind), int(action.amount), float(score)
