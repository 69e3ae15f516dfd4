"""Shared by all pictures: size, type, colours, and curves with errors.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which the colour-blind can tell apart; type is black.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from sims import Estimate

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LABEL_POINTS = 8  # size of the type
SINGLE, WIDE = (4.8, 3.2), (7.2, 4.8)  # inches


def panels(num_panels: int = 1, size: tuple[float, float] = SINGLE) -> tuple[Figure, list[Axes]]:
    """Return a figure that needs no window, and its panels, side by side."""
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    found = [figure.add_subplot(1, num_panels, index) for index in range(1, num_panels + 1)]
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=LABEL_POINTS)
    return figure, found


def panel(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """Return a figure of one panel."""
    figure, (axes,) = panels()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def curve(axes: Axes, places: Sequence[float], shares: Sequence["Estimate"], style: int, name: str) -> None:
    """Draw shares in %, with error bars of one standard error."""
    heights, errors = ([100 * getattr(share, part) for share in shares] for part in ("mean", "standard_error"))
    axes.errorbar(
        places, heights, errors, color=COLOURS[style], marker=MARKERS[style], markersize=4, linewidth=1, capsize=2,
        linestyle=("-", "--")[style], label=name,
    )  # fmt: skip
