"""Policies in JAX: checked against the problem, and as pytrees, so that a grid of them is one policy mapped over."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stopping.policies import Decision, Kind, bind
from stopping.policies.protocol import parameters, with_parameters
from stopping.problems.problem import Problem

PROBE_STEPS, PROBE_ROWS = 4, 64


class PolicyMismatch(ValueError):
    """A policy asks for a signal, an action or a number of traces that the problem does not have, or it did not declare."""


def admit(problem: Problem, policy: Any) -> None:
    """Refuse a policy that the problem cannot run.

    Its declarations are compared with the problem's decision. It is then run on a few random observations, on NumPy, which have
    only the signals that it declares, and may ask only for the actions that it declares.

    Raises:
        PolicyMismatch: naming the policy, what it asks for and what there is.
    """
    name, there = type(policy).__name__, problem.decision.signals
    if missing := [signal for signal in policy.signals if signal not in there]:
        raise PolicyMismatch(f"{name} reads {', '.join(missing)}; {type(problem).__name__} shows {', '.join(there)}")
    if illegal := [kind.name for kind in policy.kinds if kind not in problem.decision.kinds]:
        legal = ", ".join(kind.name for kind in problem.decision.kinds)
        raise PolicyMismatch(f"{name} may ask for {', '.join(illegal)}; {type(problem).__name__} allows {legal}")
    asked, offered = getattr(policy, "max_traces", 0), getattr(problem, "num_traces", 0)
    if asked > offered:
        raise PolicyMismatch(f"{name} launches up to {asked} traces; {type(problem).__name__} offers {offered}")
    bound, rng, kinds = bind(policy, "numpy"), np.random.default_rng(0), set[int]()
    state = bound.init((PROBE_ROWS,))
    with np.errstate(all="ignore"):  # signals drawn one by one need not go together
        for _ in range(PROBE_STEPS):
            state, action = bound.step(state, _Declared(policy, problem.decision, rng, max(offered, 1)))
            kinds |= set(np.ravel(action.kind).tolist())
    if undeclared := sorted(kinds - set(policy.kinds)):
        shown = ", ".join(Kind(kind).name if kind in set(Kind) else str(kind) for kind in undeclared)
        raise PolicyMismatch(f"{name} asks for {shown}; its kinds are {', '.join(kind.name for kind in policy.kinds)}")


class _Declared:
    """An observation of the signals that a policy declares: random numbers of their types, labels below `num_labels`."""

    def __init__(self, policy: Any, decision: Decision, rng: np.random.Generator, num_labels: int) -> None:
        self._policy = policy
        for signal in policy.signals:
            most = 2**14 if signal.endswith("_tokens") else num_labels
            dtype = decision.dtype_of(signal)
            value = rng.normal(-1, 1, PROBE_ROWS) if dtype is np.float32 else rng.integers(0, most, PROBE_ROWS)
            setattr(self, signal, value.astype(dtype))

    def __getattr__(self, signal: str) -> Any:
        name, declared = type(self._policy).__name__, ", ".join(self._policy.signals) or "none"
        raise PolicyMismatch(f"{name} reads {signal}; its signals are {declared}")


def as_pytree(policy: Any) -> Any:
    """Return the policy with its parameters as JAX arrays, its class registered as a pytree."""
    kind = type(policy)
    if kind not in _registered:
        jax.tree_util.register_pytree_with_keys(
            kind, _flatten, lambda names, leaves: _unflatten(kind, names, tuple(leaves))
        )
        _registered.add(kind)
    return with_parameters(policy, {name: jnp.asarray(value) for name, value in parameters(policy).items()})


def stack(policies: Sequence[Any]) -> tuple[Any, Any]:
    """Return many policies of one class as one, and its `in_axes` for `jax.vmap`.

    The first parameter, and every other in which they differ, gets a new first axis, which is mapped over. What depends on the
    rest alone is computed once for all policies.

    Raises:
        ValueError: if the classes, or the shapes of a parameter, differ.
    """
    kinds = {type(policy) for policy in policies}
    if len(kinds) != 1:
        raise ValueError(f"policies: expected one class, got {sorted(kind.__name__ for kind in kinds)}")
    stacked: dict[str, Any] = {}
    axes: dict[str, int | None] = {}
    for name in parameters(policies[0]):
        values = [np.asarray(getattr(policy, name)) for policy in policies]
        if len({value.shape for value in values}) != 1:
            raise ValueError(
                f"{kinds.pop().__name__}.{name}: expected one shape, got {[value.shape for value in values]}"
            )
        shared = bool(axes) and all(np.array_equal(values[0], value) for value in values[1:])
        stacked[name], axes[name] = (values[0], None) if shared else (np.stack(values), 0)
    policy = as_pytree(with_parameters(policies[0], stacked))
    return policy, with_parameters(policy, axes)


def _flatten(policy: Any) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
    own = parameters(policy)
    return [(jax.tree_util.GetAttrKey(name), value) for name, value in own.items()], tuple(own)


def _unflatten(kind: type, names: tuple[str, ...], leaves: Sequence[Any]) -> Any:
    return with_parameters(object.__new__(kind), dict(zip(names, leaves, strict=True)))


_registered: set[type] = set()
