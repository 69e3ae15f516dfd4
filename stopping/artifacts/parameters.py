"""A policy's parameters as JSON and tensors, and back."""

from typing import Any

import numpy as np
import safetensors.numpy

from stopping.artifacts.error import ArtifactError
from stopping.artifacts.files import POLICY, WEIGHTS
from stopping.artifacts.schema import MAX_INLINE_VALUES, DataType, InlineArray, TensorReference
from stopping.policies import parameters

_DATA_TYPES = DataType.__args__  # type: ignore[attr-defined]


def encode(policy: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the parameters as JSON values, and the arrays of more than 4096 values.

    Raises:
        ArtifactError: for a parameter that is neither a number nor an array of numbers, or is not finite.
    """
    values: dict[str, Any] = {}
    tensors: dict[str, np.ndarray] = {}
    for name, value in parameters(policy).items():
        if isinstance(value, np.generic):
            value = value.item()
        if hasattr(value, "__array__"):
            value = np.ascontiguousarray(value).reshape(np.shape(value))
            _check(name, value)
            description = {"dtype": value.dtype.name, "shape": list(value.shape)}
            if value.size > MAX_INLINE_VALUES:
                tensors[name] = value
                values[name] = {"tensor": name, **description}
            else:
                values[name] = {**description, "values": value.ravel().tolist()}
        elif isinstance(value, bool | int | float):
            values[name] = value
        else:
            raise ArtifactError(POLICY, f"parameters.{name}", f"expected a number or an array, got {value!r}")
    return values, tensors


def decode(given: dict[str, Any], weights: bytes | None) -> dict[str, Any]:
    """Return the parameters from their validated JSON values and the content of `weights.safetensors`.

    Raises:
        ArtifactError: if the tensors are not exactly those referred to, or not finite.
    """
    tensors = {} if weights is None else _tensors(weights)
    used = {name: value for name, value in given.items() if isinstance(value, TensorReference)}
    if weights is not None and not used:
        raise ArtifactError(WEIGHTS, "", "no parameter refers to this file")
    if unknown := tensors.keys() - {value.tensor for value in used.values()}:
        raise ArtifactError(WEIGHTS, min(unknown), "no parameter refers to this tensor")
    return {name: _decoded(name, value, tensors) for name, value in given.items()}


def _decoded(name: str, value: Any, tensors: dict[str, np.ndarray]) -> Any:
    if isinstance(value, InlineArray):
        return value.array()
    if not isinstance(value, TensorReference):
        return value
    if value.tensor not in tensors:
        raise ArtifactError(WEIGHTS, value.tensor, f"the tensor of parameter {name!r} is missing")
    tensor = tensors[value.tensor]
    if (tensor.dtype.name, list(tensor.shape)) != (value.dtype, value.shape):
        expected, got = f"{value.dtype} {value.shape}", f"{tensor.dtype.name} {list(tensor.shape)}"
        raise ArtifactError(WEIGHTS, value.tensor, f"expected {expected}, got {got}")
    _check(name, tensor)
    return tensor


def _tensors(weights: bytes) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load(weights)
    except Exception as error:  # a parser of others, fed with anything: whatever it raises is a bad file
        raise ArtifactError(WEIGHTS, "", f"not a valid safetensors file: {error}") from None


def _check(name: str, array: np.ndarray) -> None:
    field = f"parameters.{name}"
    if array.dtype.name not in _DATA_TYPES:
        raise ArtifactError(POLICY, field, f"expected a dtype of {', '.join(_DATA_TYPES)}, got {array.dtype.name}")
    if not np.isfinite(array).all():
        raise ArtifactError(POLICY, field, "expected finite numbers")
