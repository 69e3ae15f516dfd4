"""Results that draw themselves."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Plotted:
    """A result with a picture: its drawing is found by its type, in `stopping.plots`, when it is asked for."""

    def plot(self, *args: Any, **options: Any) -> "Figure":
        """Draw the result; the arguments are those of its drawing in `stopping.plots`.

        Raises:
            TypeError: if nothing there draws results of this type.
        """
        figure: Figure = importlib.import_module("stopping.plots").draw(self, *args, **options)
        return figure
