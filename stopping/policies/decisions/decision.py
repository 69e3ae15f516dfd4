"""What each kind of decision shows a policy and lets it do.

A decision needs no JAX: problems, artifacts and adapters share it. A new one is a file in this folder that calls `register`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from stopping.policies.actions import Kind

NO_ANSWER = -1  # in the place of an answer's label

Asked = Literal["trace_end", "token", "checkpoint", "attempt_end"]
Stream = list[Any]  # of observations of one kind

NUM_STREAMS, NUM_STEPS = 16, 12  # of random observations
MOST, MOST_TOKENS = 24, 2**14


@dataclass(frozen=True, eq=False)
class Decision:
    """A kind of decision.

    Attributes:
        name: one word.
        observation: the named tuple that a policy sees.
        kinds: the actions that may be asked for.
        asked: when a policy is asked.
        dtypes: NumPy types of the observation's fields; those that are not named are int32.
        streams: a function from a policy and a seed to streams of observations that show how it decides, from which golden
            vectors are made; None for random ones.
    """

    name: str
    observation: type
    kinds: tuple[Kind, ...]
    asked: Asked = "trace_end"
    dtypes: Mapping[str, type] = field(default_factory=dict)
    streams: Callable[..., list[Stream]] | None = None

    @property
    def signals(self) -> tuple[str, ...]:
        """The names of the observation's fields."""
        return tuple(self.observation._fields)  # type: ignore[attr-defined]

    def dtype_of(self, signal: str) -> type:
        """Return the NumPy type of an observation's field."""
        return self.dtypes.get(signal, np.int32)

    def examples(self, policy: Any, seed: int = 0) -> list[Stream]:
        """Return streams of observations that show how a policy decides."""
        if self.streams is not None:
            return self.streams(policy, seed)
        rng = np.random.default_rng(seed)
        return [[self._random(rng) for _ in range(NUM_STEPS)] for _ in range(NUM_STREAMS)]

    def _random(self, rng: np.random.Generator) -> Any:
        """Return an observation of random numbers: labels and counts below `MOST`, tokens below `MOST_TOKENS`."""
        values: list[Any] = []
        for signal in self.signals:
            dtype, most = self.dtype_of(signal), MOST_TOKENS if signal.endswith("_tokens") else MOST
            is_float = np.dtype(dtype).kind == "f"
            values.append(np.asarray(rng.normal() if is_float else rng.integers(0, most)).astype(dtype))
        return self.observation(*values)


_registered: dict[str, Decision] = {}


def register(decision: Decision) -> Decision:
    """Make a decision known by its name, and to `decision_of`; returns it.

    Raises:
        ValueError: if another observation goes by this name already.
    """
    known = _registered.get(decision.name)
    if known is not None and known.observation.__qualname__ != decision.observation.__qualname__:
        raise ValueError(f"decision {decision.name!r}: the name is taken by {known.observation.__name__}")
    _registered[decision.name] = decision
    return decision


def registered_decisions() -> dict[str, Decision]:
    """Return the decisions by name, in the order in which they were registered."""
    return dict(_registered)


def decision_of(policy: Any) -> Decision:
    """Return the decision that a policy takes: the first registered whose observation has all its signals.

    Raises:
        TypeError: if none has.
    """
    for decision in _registered.values():
        if set(policy.signals) <= set(decision.signals):
            return decision
    raise TypeError(f"{type(policy).__name__}: no observation has all of {', '.join(policy.signals)}")


def decision_with(observation: type) -> Decision:
    """Return the decision that shows this observation.

    Raises:
        KeyError: if none is registered.
    """
    for decision in _registered.values():
        if decision.observation is observation:
            return decision
    raise KeyError(f"no decision shows {observation.__name__}; known: {', '.join(_registered)}")


class MissingSignal(ValueError):
    """A policy reads a signal that the engine, or the caller, does not give."""


def require_signals(decision: Decision, policy: Any, signals: Collection[str], kinds: Collection[Kind]) -> None:
    """Refuse, before the first token, a policy that an engine cannot run.

    Args:
        decision: what the policy would be shown.
        policy: what is to run.
        signals: the observation's fields that can be had.
        kinds: the actions that can be carried out.

    Raises:
        MissingSignal: naming the signals it reads that cannot be had, and those that can.
        ValueError: if it may ask for another action.
    """
    name, fields = type(policy).__name__, decision.signals
    if missing := [signal for signal in policy.signals if signal not in fields or signal not in signals]:
        there = ", ".join(signal for signal in fields if signal in signals)
        raise MissingSignal(f"{name} reads {', '.join(missing)}; what can be had here is {there}")
    if illegal := [kind.name for kind in policy.kinds if kind not in kinds]:
        legal = ", ".join(kind.name for kind in kinds)
        raise ValueError(f"{name} may ask for {', '.join(illegal)}; expected {legal} alone")
