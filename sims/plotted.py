"""Results that draw themselves."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Plotted:
    """A result that can be plotted; `stopping.plots` has the function for its type, and is imported on the first call."""

    def plot(self, *args: Any, **options: Any) -> "Figure":
        """Plot the result; arguments are passed to its plotting function in `stopping.plots`.

        Raises:
            TypeError: if no plotting function is registered for results of this type.
        """
        figure: Figure = importlib.import_module("stopping.plots").draw(self, *args, **options)
        return figure
