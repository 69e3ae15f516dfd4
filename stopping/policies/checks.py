"""Numbers that a caller gives, checked."""

from typing import Any

import numpy as np

INT32_MAX = 2**31 - 1  # observations are int32, and array backends refuse to mix them with larger numbers


def whole_number(name: str, value: Any, least: int, most: int = INT32_MAX) -> int:
    """Return the number, Python's or NumPy's, as an int.

    Raises:
        ValueError: naming it, if it is not whole, below `least` or above `most`.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise ValueError(f"{name}: expected a whole number >= {least} and <= {most:,}, got {value!r}")
    return int(value)
