"""The array functions a policy may use, on plain Python numbers, NumPy, JAX and torch (tensors on the CPU).

A policy is written once against these names and runs on every backend. Reductions act on the last axis.

    where(mask, a, b)                        elementwise; both sides are evaluated: clip first
    log exp log1p expm1 sqrt floor           elementwise
    minimum maximum                          of two
    logical_and logical_or logical_not       on booleans (`&`, `|` and `~` mean other things on plain Python numbers);
                                             `logical_not` of a count: is it 0
    take(values, index)                      values[..., index]; `values` is a table [K] or has `index`'s leading axes
    put(values, index, new)                  a copy of values [..., K] with values[..., index] = new, of the same dtype
    sum max argmax                           over the last axis; of equals, argmax gives the first (int32)
    matmul(a, b)                             a [..., K] times b [K, M]
    full(shape, value)                       for `init` only: int32, float32 or bool by the type of `value`

An index is in 0, ..., K - 1: beyond that the backends differ, so clip first.
"""

import math
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

Backend = Literal["python", "numpy", "jax", "torch"]

NAMES = (
    "where log exp log1p expm1 sqrt minimum maximum floor logical_and logical_or logical_not take put "
    "sum max argmax matmul full"
).split()


def namespace(backend: Backend) -> Any:
    """Return the functions of this module for one backend.

    Raises:
        ValueError: for an unknown backend.
        ImportError: if the backend's library is not installed.
    """
    if backend not in _BUILDERS:
        raise ValueError(f"backend: expected one of {', '.join(_BUILDERS)}, got {backend!r}")
    if backend not in _built:
        _built[backend] = _BUILDERS[backend]()
    return _built[backend]


def _python() -> SimpleNamespace:
    def put(values: tuple[Any, ...], index: int, new: Any) -> tuple[Any, ...]:
        return (*values[:index], new, *values[index + 1 :])

    def matmul(a: tuple[float, ...], b: tuple[tuple[float, ...], ...]) -> tuple[float, ...]:
        return tuple(math.fsum(x * y for x, y in zip(a, column, strict=True)) for column in zip(*b, strict=True))

    def full(shape: tuple[int, ...], value: Any) -> Any:
        return value if not shape else tuple(full(shape[1:], value) for _ in range(shape[0]))

    return SimpleNamespace(
        where=lambda mask, a, b: a if mask else b,
        log=math.log, exp=math.exp, log1p=math.log1p, expm1=math.expm1, sqrt=math.sqrt,
        minimum=min, maximum=max, floor=math.floor,
        logical_and=lambda a, b: a and b, logical_or=lambda a, b: a or b, logical_not=lambda a: not a,
        take=lambda values, index: values[index], put=put,
        sum=sum, max=max, argmax=lambda values: values.index(max(values)), matmul=matmul, full=full,
    )  # fmt: skip


def _like_numpy(xp: Any, axis: dict[str, int], take: Any, put: Any, full: Any) -> SimpleNamespace:
    def over_last_axis(reduce: Any) -> Any:
        return lambda values: reduce(values, **axis)

    return SimpleNamespace(
        where=xp.where, log=xp.log, exp=xp.exp, log1p=xp.log1p, expm1=xp.expm1, sqrt=xp.sqrt,
        minimum=xp.minimum, maximum=xp.maximum, floor=xp.floor,
        logical_and=xp.logical_and, logical_or=xp.logical_or, logical_not=xp.logical_not,
        take=take, put=put, matmul=xp.matmul, full=full,
        sum=over_last_axis(xp.sum), max=over_last_axis(xp.amax),
        argmax=lambda values: xp.argmax(values, axis=-1).astype(np.int32),
    )  # fmt: skip


def _numpy() -> SimpleNamespace:
    return _like_numpy(np, {"axis": -1}, *_indexing(np), lambda shape, value: np.full(shape, value, _dtype(value)))


def _jax() -> SimpleNamespace:
    import jax.numpy as jnp

    return _like_numpy(jnp, {"axis": -1}, *_indexing(jnp), lambda shape, value: jnp.full(shape, value, _dtype(value)))


def _indexing(xp: Any) -> tuple[Any, Any]:
    def take(values: Any, index: Any) -> Any:
        if values.ndim == 1:
            return values.take(index, mode="clip")  # the fastest
        return xp.take_along_axis(values, index[..., None], axis=-1)[..., 0]

    def put(values: Any, index: Any, new: Any) -> Any:
        here = xp.arange(values.shape[-1]) == xp.asarray(index)[..., None]
        return xp.where(here, xp.asarray(new, values.dtype)[..., None], values)

    return take, put


def _torch() -> SimpleNamespace:
    import torch

    def over_numbers(function: Any) -> Any:  # torch wants tensors where the others also take Python numbers
        return lambda *values: function(*map(torch.as_tensor, values))

    def take(values: Any, index: Any) -> Any:
        if values.ndim == 1:
            return values[index.long()]
        return torch.take_along_dim(values, index.long()[..., None], dim=-1)[..., 0]

    def put(values: Any, index: Any, new: Any) -> Any:
        here = torch.arange(values.shape[-1]) == torch.as_tensor(index)[..., None]
        return torch.where(here, torch.as_tensor(new, dtype=values.dtype)[..., None], values)

    def full(shape: tuple[int, ...], value: Any) -> Any:
        return torch.full(shape, value, dtype=getattr(torch, np.dtype(_dtype(value)).name))

    functions = _like_numpy(torch, {"dim": -1}, take, put, full)
    for name in "log exp log1p expm1 sqrt floor minimum maximum logical_and logical_or logical_not".split():
        setattr(functions, name, over_numbers(getattr(torch, name)))
    functions.where = lambda mask, a, b: torch.where(torch.as_tensor(mask), a, b)
    functions.argmax = lambda values: torch.argmax(values, dim=-1).to(torch.int32)
    return functions


def _dtype(value: Any) -> type:
    name = str(getattr(value, "dtype", type(value).__name__))  # a number, or one as an array of any backend
    return np.bool_ if "bool" in name else np.int32 if "int" in name else np.float32


_BUILDERS = {"python": _python, "numpy": _numpy, "jax": _jax, "torch": _torch}
_built: dict[str, SimpleNamespace] = {}
