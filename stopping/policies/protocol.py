"""What a policy is: a frozen dataclass of numbers and arrays with `init` and `step`, known by its class name."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, dataclass_transform, runtime_checkable

import numpy as np

from stopping.policies.actions import Action, Kind
from stopping.policies.checks import whole_number


@runtime_checkable
class Policy(Protocol):
    """When to stop, written once for every array backend.

    `init` and `step` are pure, elementwise over leading axes, and use arithmetic, comparisons and the functions of
    `stopping.policies.namespace` alone. A policy whose decision depends on a float also has
    `score(xp, state, observation) -> score - threshold`, so that ties are distinguished from disagreement: on a scale
    (log odds, a probability, a ratio) on which 1e-5 is a tie. One that launches a known number of traces says so in
    `max_traces`: a problem that offers fewer refuses it.
    """

    if not TYPE_CHECKING:  # set by the decorator `policy`, which type checkers do not follow
        signals: ClassVar[tuple[str, ...]]  # the observation's fields that `step` reads
        kinds: ClassVar[tuple[Kind, ...]]  # the actions it may ask for

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> Any:
        """Return the state before the first decision point."""

    def step(self, xp: Any, state: Any, observation: Any) -> tuple[Any, Action]:
        """Return the next state and the action at this decision point."""


Class = TypeVar("Class", bound=type)

_registry: dict[str, type] = {}
OURS = "stopping.policies."
MOST_CHARACTERS, MOST_NUMBERS = 200, 2  # beyond, a name is shortened to so many numbers


@dataclass_transform(frozen_default=True)
def policy(*, signals: Iterable[str], kinds: Iterable[Kind]) -> Callable[[Class], Class]:
    """Make a class a policy: a frozen dataclass, compared by value, found by its name when a policy is loaded.

    Its text, unless the class writes its own, is the short name that tables, pictures and commands use: `Margin(3)`.

    Args:
        signals: the fields of the observation that `step` reads.
        kinds: the actions it may ask for.

    Raises:
        TypeError: if the class lacks `init` or `step`.
        ValueError: if another class has this name already.
    """

    def decorate(cls: Class) -> Class:
        for method in ("init", "step"):
            if not callable(getattr(cls, method, None)):
                raise TypeError(f"policy {cls.__name__}: expected a method {method!r}, got none")
        known = _registry.get(cls.__name__)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"policy {cls.__name__}: the name is taken by {known.__module__}.{known.__qualname__}")
        cls.__eq__, cls.__hash__ = _equal, _hash  # type: ignore[method-assign, assignment]
        if "__str__" not in vars(cls):
            cls.__str__ = short_name  # type: ignore[method-assign, assignment]
        cls.signals, cls.kinds = tuple(signals), tuple(Kind(kind) for kind in kinds)  # type: ignore[attr-defined]
        _registry[cls.__name__] = dataclass(frozen=True, eq=False)(cls)
        return cls

    return decorate


def registered(name: str) -> type:
    """Return the policy class of this name.

    Raises:
        KeyError: if no class of this name has been defined; the message lists those that have.
    """
    if name not in _registry:
        raise KeyError(f"no policy is called {name!r}; known: {', '.join(sorted(_registry))}")
    return _registry[name]


def parameters(policy: Any) -> dict[str, Any]:
    """Return the policy's parameters by name, in order."""
    return {field.name: getattr(policy, field.name) for field in fields(policy)}


def with_parameters(policy: Any, values: dict[str, Any]) -> Any:
    """Return the same policy with other values, unchecked: they may be another backend's arrays, or tracers."""
    new = object.__new__(type(policy))
    for name, value in values.items():
        object.__setattr__(new, name, value)
    return new


def short_name(policy: Any) -> str:
    """Return `Class(parameters)`, after `module:` for a custom class that can be imported.

    A policy with long tables is named by its single numbers: `PosteriorVote(threshold=0.9, least_hope=0.02, ...)`.
    """
    cls, own = type(policy), parameters(policy)
    values = ", ".join(_literal(value) for value in own.values())
    if len(values) > MOST_CHARACTERS:
        numbers = [f"{name}={_literal(value)}" for name, value in own.items() if np.ndim(value) == 0]
        values = ", ".join([*numbers[:MOST_NUMBERS], "..."])
    module = "" if cls.__module__.startswith((OURS, "__main__")) else f"{cls.__module__}:"
    return f"{module}{cls.__name__}({values})"


def _literal(value: Any) -> str:
    return repr(np.asarray(value).tolist())


def table(policy: Any, name: str, dtype: type, num_axes: int = 1) -> np.ndarray:
    """Replace a parameter by its own read-only array of so many axes, from `__post_init__`.

    Raises:
        ValueError: if it is not a non-empty list of finite numbers, or an integer `dtype` cannot hold them.
    """
    given = getattr(policy, name)
    try:
        asked = np.asarray(given)
    except ValueError:  # lists of unequal lengths
        asked = np.array(None)
    fits = asked.dtype.kind in "iuf" and asked.ndim == num_axes and asked.size > 0 and np.isfinite(asked).all()
    if fits and np.dtype(dtype).kind == "i":
        limits = np.iinfo(dtype)
        fits = ((asked >= limits.min) & (asked <= limits.max) & (asked == np.floor(asked))).all()
    if not fits:
        kind = np.dtype(dtype).name
        raise ValueError(f"{type(policy).__name__}.{name}: expected a non-empty list of {kind} numbers, got {given!r}")
    values: np.ndarray = np.array(asked, dtype=dtype)
    values.setflags(write=False)
    object.__setattr__(policy, name, values)
    return values


def at_least(policy: Any, name: str, least: int) -> None:
    """Refuse a whole-number parameter below `least` or beyond int32, from `__post_init__`.

    Raises:
        ValueError: if it is not such a whole number.
    """
    object.__setattr__(policy, name, whole_number(f"{type(policy).__name__}.{name}", getattr(policy, name), least))


def finite(policy: Any, name: str) -> None:
    """Refuse a parameter that is not a finite number, from `__post_init__`.

    Raises:
        ValueError: if it is not.
    """
    value = getattr(policy, name)
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
        raise ValueError(f"{type(policy).__name__}.{name}: expected a finite number, got {value!r}")
    object.__setattr__(policy, name, float(value))


def _equal(self: Any, other: Any) -> bool:
    if type(self) is not type(other):
        return NotImplemented
    return all(np.array_equal(a, b) for a, b in zip(parameters(self).values(), parameters(other).values(), strict=True))


def _hash(self: Any) -> int:
    return hash((type(self).__name__, *(_hashable(np.asarray(value).tolist()) for value in parameters(self).values())))


def _hashable(value: Any) -> Any:  # by value, as `==` compares: 1 and 1.0, 0.0 and -0.0, int32 and int64 are equal
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
