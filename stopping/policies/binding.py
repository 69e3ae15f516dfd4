"""A policy bound to a backend: parameters cast once, functions looked up once."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from stopping.policies.actions import Action
from stopping.policies.namespace import Backend, namespace
from stopping.policies.protocol import parameters, with_parameters

_INT8, _INT32 = np.dtype(np.int8), np.dtype(np.int32)
_INT32_END = 2**31


class Bound:
    """A policy on one backend.

    Attributes:
        init: `init(batch_shape=()) -> state`.
        step: `step(state, observation) -> (state, Action)`; on array backends `kind` is int8 and `amount` int32,
            both of the batch's shape; on plain Python both are plain numbers.

    A policy whose state has arrays is computed by NumPy on plain Python too, with numbers in and numbers out.
    """

    __slots__ = ("_where", "backend", "init", "policy", "step")

    def __init__(self, policy: Any, backend: Backend) -> None:
        xp = namespace(backend)
        own = with_parameters(policy, {name: _cast(value, backend) for name, value in parameters(policy).items()})
        own_step, typed = own.step, _TYPED[backend]

        def init(batch_shape: tuple[int, ...] = ()) -> Any:
            return own.init(xp, batch_shape)

        def step(state: Any, observation: Any) -> tuple[Any, Action]:
            state, action = own_step(xp, state, observation)
            return state, typed(*action)

        def step_plain(state: Any, observation: Any) -> tuple[Any, Action]:
            return own_step(xp, state, observation)

        self.policy, self.backend, self._where = policy, backend, xp.where
        self.init: Any = init
        self.step: Any = step_plain if backend == "python" else step
        if backend == "python" and any(isinstance(leaf, tuple) for leaf in init()):
            on_arrays = Bound(policy, "numpy")
            self.init, self.step = on_arrays.init, _on_numbers(policy, on_arrays.step)

    def recycle(self, state: Any, mask: Any) -> Any:
        """Return the state with the rows in `mask` (bool, the batch's shape) as before their first decision point."""
        if isinstance(state, tuple):
            if self.backend == "python":
                return self.init() if mask else state
            fresh = self.init(tuple(mask.shape))
            leaves = [self._fresh_rows(mask, new, old) for new, old in zip(fresh, state, strict=True)]
            return type(state)(*leaves) if hasattr(state, "_fields") else tuple(leaves)
        raise TypeError(f"state: expected a (named) tuple, got {type(state).__name__}")

    def _fresh_rows(self, mask: Any, new: Any, old: Any) -> Any:
        return self._where(mask.reshape(tuple(mask.shape) + (1,) * (old.ndim - mask.ndim)), new, old)


def bind(policy: Any, backend: Backend) -> Bound:
    """Return the policy on a backend: `python` (plain numbers, one row), `numpy`, `jax` or `torch` (CPU tensors)."""
    return Bound(policy, backend)


def _on_numbers(
    policy: Any, step: Callable[[Any, Any], tuple[Any, Action]]
) -> Callable[[Any, Any], tuple[Any, Action]]:
    def step_numbers(state: Any, observation: Any) -> tuple[Any, Action]:
        signals = {name: np.asarray(getattr(observation, name)) for name in policy.signals}
        types = {"i": _INT32, "f": np.dtype(np.float32)}
        seen = {name: value.astype(types.get(value.dtype.kind, value.dtype)) for name, value in signals.items()}
        state, action = step(state, SimpleNamespace(**seen))
        return state, Action(int(action.kind), int(action.amount))

    return step_numbers


def _cast(value: Any, backend: Backend) -> Any:
    """Cast a parameter. A count becomes an int32 array: a Python number makes each NumPy operation twice as slow."""
    if backend == "python":
        return _nested_tuple(value.tolist()) if isinstance(value, np.ndarray) else value
    if type(value) is int and -_INT32_END <= value < _INT32_END:
        value = np.array(value, np.int32)
    if not isinstance(value, np.ndarray) or backend == "numpy":
        return value
    if backend == "jax":
        import jax.numpy as jnp

        return jnp.asarray(value)
    import torch

    tensor = torch.as_tensor(value.copy())
    return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor  # as in JAX


def _nested_tuple(value: Any) -> Any:
    return tuple(_nested_tuple(item) for item in value) if isinstance(value, list) else value


def _typed_numpy(kind: Any, amount: Any) -> Action:
    kind = np.asarray(kind).astype(_INT8)
    amounts = np.empty(kind.shape, _INT32)
    amounts[...] = amount
    return Action(kind, amounts)


def _typed_jax(kind: Any, amount: Any) -> Action:
    import jax.numpy as jnp

    kind = jnp.asarray(kind, jnp.int8)
    return Action(kind, jnp.broadcast_to(jnp.asarray(amount, jnp.int32), kind.shape))


def _typed_torch(kind: Any, amount: Any) -> Action:
    import torch

    kind = torch.as_tensor(kind).to(torch.int8)
    return Action(kind, torch.as_tensor(amount).to(torch.int32).broadcast_to(kind.shape))


_TYPED: dict[str, Any] = {"python": Action, "numpy": _typed_numpy, "jax": _typed_jax, "torch": _typed_torch}
