"""Checks of the parameters of models."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def require(holds: Callable[..., Any], expected: str, **parameters: Any) -> None:
    """Refuse parameters for which a condition, elementwise on their arrays in the order given, does not hold.

    Inside a compiled function values are not known, and nothing is checked.

    Raises:
        ValueError: naming the parameters, what was expected and the first values for which it does not hold.
    """
    if any(isinstance(parameter, jax.core.Tracer) for parameter in parameters.values()):
        return
    arrays = np.broadcast_arrays(*(np.asarray(parameter, float) for parameter in parameters.values()))
    wrong = ~np.asarray(holds(*arrays), bool)
    if wrong.any():
        got = ", ".join(f"{array[wrong][0]:g}" for array in arrays)
        raise ValueError(f"{', '.join(parameters)}: expected {expected}, got {got}")
