"""The drawing of a result, by its type."""

from functools import singledispatch
from typing import Any

from matplotlib.figure import Figure


@singledispatch
def draw(result: Any, *args: Any, **options: Any) -> Figure:
    """Draw a result by the drawing that is registered for its type (`draw.register(MyResult, my_drawing)`).

    Raises:
        TypeError: if none is.
    """
    raise TypeError(f"plot: nothing draws a {type(result).__name__}; register a function: stopping.plots.draw.register")
