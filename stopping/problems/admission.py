"""Policies inside JAX: as pytrees, so that a grid of them is one policy mapped over, and checked at the door."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stopping.policies.policy import parameters, with_parameters


class PolicyMismatch(ValueError):
    """A policy asks for a signal, an action or a number of traces that the problem does not have."""


def admit(problem: Any, policy: Any) -> None:
    """Refuse a policy that the problem cannot run.

    Raises:
        PolicyMismatch: naming the policy, what it asks for and what there is.
    """
    name, there = type(policy).__name__, problem.observation._fields
    if missing := [signal for signal in policy.signals if signal not in there]:
        raise PolicyMismatch(f"{name} reads {', '.join(missing)}; {type(problem).__name__} shows {', '.join(there)}")
    if illegal := [kind.name for kind in policy.kinds if kind not in problem.kinds]:
        legal = ", ".join(kind.name for kind in problem.kinds)
        raise PolicyMismatch(f"{name} may ask for {', '.join(illegal)}; {type(problem).__name__} allows {legal}")
    asked, offered = getattr(policy, "max_traces", 0), getattr(problem, "num_traces", 0)
    if asked > offered:
        raise PolicyMismatch(f"{name} launches up to {asked} traces; {type(problem).__name__} offers {offered}")


def as_pytree(policy: Any) -> Any:
    """Return the policy with its parameters as JAX arrays, its class registered as a pytree."""
    kind = type(policy)
    if kind not in _registered:
        jax.tree_util.register_pytree_with_keys(
            kind, _flatten, lambda names, leaves: _unflatten(kind, names, tuple(leaves))
        )
        _registered.add(kind)
    return with_parameters(policy, {name: jnp.asarray(value) for name, value in parameters(policy).items()})


def stack(policies: Sequence[Any]) -> Any:
    """Return many policies of one class as one, each parameter with a new first axis.

    Raises:
        ValueError: if the classes, or the shapes of a parameter, differ.
    """
    kinds = {type(policy) for policy in policies}
    if len(kinds) != 1:
        raise ValueError(f"policies: expected one class, got {sorted(kind.__name__ for kind in kinds)}")
    stacked = {}
    for name in parameters(policies[0]):
        values = [np.asarray(getattr(policy, name)) for policy in policies]
        if len({value.shape for value in values}) != 1:
            raise ValueError(
                f"{kinds.pop().__name__}.{name}: expected one shape, got {[value.shape for value in values]}"
            )
        stacked[name] = np.stack(values)
    return as_pytree(with_parameters(policies[0], stacked))


def _flatten(policy: Any) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
    own = parameters(policy)
    return [(jax.tree_util.GetAttrKey(name), value) for name, value in own.items()], tuple(own)


def _unflatten(kind: type, names: tuple[str, ...], leaves: Sequence[Any]) -> Any:
    return with_parameters(object.__new__(kind), dict(zip(names, leaves, strict=True)))


_registered: set[type] = set()
