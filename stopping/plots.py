"""Pictures, for print: told apart by shape as well as by colour, labelled where they stand.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which the colour-blind can tell apart.
"""

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

if TYPE_CHECKING:
    from sims import Comparison

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LABEL_POINTS = 8  # size of the type
_RADII_POINTS = (7, 12, 18, 26, 36, 48, 62, 80, 100)  # how far from its point a label is tried
_ANGLES = np.deg2rad([0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200, 70, 110, 250, 290])
_LEADER_POINTS = 12  # farther labels are joined to their points
_CLEAR_POINTS = 4  # around a point, kept free of labels


def frontier(comparison: "Comparison", *, names: Sequence[str] | None = None) -> Figure:
    """Draw accuracy against total tokens, with error bars of one standard error.

    The grey line joins the rules that no other beats in both.

    Args:
        comparison: rules on one log.
        names: of the rules, in its order; by default what the command line calls them.
    """
    from stopping.cli.rules import name_of

    rows = comparison.rows
    names = [name_of(row.policy) for row in rows] if names is None else names
    tokens, accuracy = ([getattr(row.result, name) for row in rows] for name in ("total_tokens", "correct"))
    unit = 1000 if max(estimate.mean for estimate in tokens) >= 10_000 else 1
    x, x_error = (np.array([getattr(e, part) for e in tokens]) / unit for part in ("mean", "standard_error"))
    y, y_error = (np.array([getattr(e, part) for e in accuracy]) * 100 for part in ("mean", "standard_error"))
    x_error, y_error = (np.where(np.isfinite(error), error, 0) for error in (x_error, y_error))

    figure = Figure(figsize=(7.2, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    best = _undominated(x, y)
    axes.plot(x[best], y[best], color="0.75", linewidth=1.2, zorder=1)
    style = cycle(zip(COLOURS, MARKERS, strict=True))
    styles = {kind: next(style) for kind in dict.fromkeys(type(row.policy).__name__ for row in rows)}
    for index, row in enumerate(rows):
        colour, marker = styles[type(row.policy).__name__]
        axes.errorbar(
            x[index], y[index], xerr=x_error[index], yerr=y_error[index], color=colour, marker=marker,
            markersize=5.5, elinewidth=0.6, capsize=0, alpha=0.85, zorder=3,
            markeredgecolor="black" if row is comparison.rows[0] else colour,
        )  # fmt: skip
    axes.set_xlabel("total tokens a problem" + (", thousands" if unit > 1 else ""))
    axes.set_ylabel("accuracy, %")
    axes.margins(x=0.12, y=0.2)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_LABEL_POINTS)
    shown = [name.removeprefix("VoteTable.") for name in names]
    shown[0] += " (reference)"
    colours = [styles[type(row.policy).__name__][0] for row in rows]
    figure.canvas.draw()
    figure.set_layout_engine("none")  # labels are placed for this layout
    _label(axes, np.column_stack([x, y]), np.column_stack([x_error, y_error]), shown, colours)
    return figure


def _undominated(x: np.ndarray, y: np.ndarray) -> list[int]:
    """Indices of the points with none to the left at least as high, from left to right."""
    kept: list[int] = []
    for index in np.lexsort((-y, x)):
        if not kept or y[index] > y[kept[-1]]:
            kept.append(int(index))
    return kept


def _label(axes: Axes, points: np.ndarray, bars: np.ndarray, names: Sequence[str], colours: Sequence[str]) -> None:
    """Put each name near its point, where it covers no point, no other name and few bars; far ones get a line.

    Limits and layout are final by now; `points` and `bars` are centres and standard errors in data units, `[rules, 2]`.
    """
    scale = axes.figure.dpi / 72  # pixels a point
    pixels = axes.transData.transform(points)
    reach = axes.transData.transform(points + bars) - pixels
    clear = _CLEAR_POINTS * scale
    taken = [_around(at, clear, clear) for at in pixels]
    crossed = [
        _around(at, *size) for at, (x, y) in zip(pixels, reach, strict=True) for size in ((x, scale), (scale, y))
    ]
    inside = axes.get_window_extent()
    distance = np.linalg.norm(pixels[:, None] - pixels[None], axis=-1) + np.diag(np.full(len(pixels), np.inf))
    for index in np.argsort(-distance.min(axis=1, initial=np.inf)):  # the crowded ones last: they may go far
        label = axes.annotate(
            names[index], points[index], (0, 0), textcoords="offset points", fontsize=_LABEL_POINTS,
            color=colours[index], zorder=4, gid="label", path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip
        size = label.get_window_extent()

        def cost(place: tuple[np.ndarray, str, str], at: np.ndarray = pixels[index], size: Bbox = size) -> float:
            offset, across, up = place
            box = _box(at + offset * scale, across, up, size.width, size.height)
            outside = box.width * box.height - _overlap(box, inside)
            covered = sum(_overlap(box, other) for other in taken)
            crossing = sum(_overlap(box, bar) for bar in crossed)
            far = np.hypot(*offset) / _RADII_POINTS[-1] * box.width * box.height
            return float(20 * (outside + covered) + 4 * crossing + 0.5 * far)

        offset, across, up = min(_places(), key=cost)
        label.set_position(tuple(offset))
        label.set(horizontalalignment=across, verticalalignment=up)
        box = _box(pixels[index] + offset * scale, across, up, size.width, size.height)
        if np.hypot(*offset) > _LEADER_POINTS:
            end = axes.transData.inverted().transform(np.clip(pixels[index], box.min, box.max))
            axes.plot(*np.stack([points[index], end], axis=1), color=colours[index], linewidth=0.4, zorder=2)
        taken.append(box)


def _places() -> Iterator[tuple[np.ndarray, str, str]]:
    """Offsets in points, near ones first, and how the text is aligned there."""
    for radius in _RADII_POINTS:
        for angle in _ANGLES:
            right, up = np.round([np.cos(angle), np.sin(angle)], 6)
            horizontal = "left" if right > 0 else "right" if right < 0 else "center"
            vertical = "bottom" if up > 0 else "top" if up < 0 else "center"
            yield radius * np.array([right, up]), horizontal, vertical


def _box(at: np.ndarray, horizontal: str, vertical: str, width: float, height: float) -> Bbox:
    left = {"left": 0.0, "center": -width / 2, "right": -width}[horizontal]
    bottom = {"bottom": 0.0, "center": -height / 2, "top": -height}[vertical]
    corner = at + np.array([left, bottom])
    return Bbox([corner, corner + np.array([width, height])])


def _around(at: np.ndarray, half_width: float, half_height: float) -> Bbox:
    half = np.array([half_width, half_height])
    return Bbox([at - half, at + half])


def _overlap(one: Bbox, other: Bbox) -> float:
    both = Bbox.intersection(one, other)
    return 0.0 if both is None else float(both.width * both.height)
