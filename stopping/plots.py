"""Pictures, for print: rules are told apart by shape as well as by colour, and named where they stand.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which the colour-blind can tell apart; type is black.
"""

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

if TYPE_CHECKING:
    from sims import Comparison, Estimate
    from stopping.calibration import Tuning

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LABEL_POINTS = 8  # size of the type
_RADII_POINTS = (7, 12, 18, 26, 36, 48, 62, 80, 100)  # how far from its point a label is tried
_LEADER_POINTS = 12  # farther labels are joined to their points
_CLEAR_POINTS = 4  # around a point, kept free of labels
_NUM_SWEEPS = 8  # over all labels, each put where it is best among the others
_HIT = 20  # cost of covering a point or another label, or of lying outside


def frontier(comparison: "Comparison", names: Sequence[str]) -> Figure:
    """Draw accuracy against total tokens, with error bars of one standard error.

    The grey line joins the rules that no other beats in both; the reference rule is filled.

    Args:
        comparison: rules on one log.
        names: of the rules, in its order.
    """
    rows = comparison.rows
    shown = [name.removeprefix("VoteTable.") for name in names]
    shown[0] += " (reference)"
    return _frontier(
        [(row.result.total_tokens, row.result.correct) for row in rows],
        [type(row.policy).__name__ for row in rows],
        shown,
        filled=[index == 0 for index in range(len(rows))],
    )


def tuning(found: "Tuning", live: tuple["Estimate", "Estimate"] | None = None) -> Figure:
    """Draw the rules that `tune` tested, on the test part: accuracy against tokens. Certified ones are filled.

    The reference, the best fixed rule and the one chosen are named.

    Args:
        found: by `tune`.
        live: tokens and accuracy of the rule chosen, in a live run.
    """
    from stopping.calibration import Grade
    from stopping.cli.rules import name_of

    named = {rule: name_of(rule.policy) for rule in (found.best_fixed, found.chosen) if rule is not None}
    if found.chosen is not None:
        named[found.chosen] += " (chosen)"
    points = [
        (type(found.reference).__name__, f"{name_of(found.reference)} (reference)", found.reference_measured, True),
        *(
            (type(rule.policy).__name__, named.get(rule, ""), rule.measured, rule.certificate.grade is not Grade.NONE)
            for rule in found.tested
        ),
    ]
    kinds, names, measured, filled = map(list, zip(*points, strict=True))
    figures = [(one.total_tokens, one.accuracy) for one in measured]
    if live is not None:
        kinds, names, figures, filled = (
            [*kinds, "live"],
            [*names, "the one chosen, live"],
            [*figures, live],
            [*filled, True],
        )
    return _frontier(figures, kinds, names, filled)


def _frontier(
    figures: Sequence[tuple["Estimate", "Estimate"]], kinds: Sequence[str], names: Sequence[str], filled: Sequence[bool]
) -> Figure:
    """Accuracy against tokens, one point a rule; rules without a name are told by shape and colour alone."""
    unit = 1000 if max(tokens.mean for tokens, _ in figures) >= 10_000 else 1
    points = np.array([[figure.mean for figure in pair] for pair in figures]) * (1 / unit, 100)
    errors = np.array([[figure.standard_error for figure in pair] for pair in figures]) * (1 / unit, 100)
    errors = np.where(np.isfinite(errors), errors, 0)
    line = points[_undominated(*points.T)]

    figure = Figure(figsize=(7.2, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(*line.T, color="0.75", linewidth=1.2, zorder=1)
    style = cycle(zip(COLOURS, MARKERS, strict=True))
    styles = {kind: next(style) for kind in dict.fromkeys(kinds)}
    seen: set[str] = set()
    for kind, point, error, is_filled in zip(kinds, points, errors, filled, strict=True):
        colour, marker = styles[kind]
        axes.errorbar(*point, *error[::-1], color=colour, elinewidth=0.6, alpha=0.6, zorder=2)
        axes.plot(
            *point, color=colour, marker=marker, markersize=5.5, markeredgewidth=1.2, zorder=3, linestyle="none",
            markerfacecolor=colour if is_filled else "none", label=None if kind in seen else kind,
        )  # fmt: skip
        seen.add(kind)
    axes.set_xlabel("total tokens a problem" + (", thousands" if unit > 1 else ""))
    axes.set_ylabel("accuracy, %")
    num_problems = figures[0][1].num_independent
    axes.set_title(f"± one standard error over {num_problems:,} problems", fontsize=_LABEL_POINTS, loc="right")
    if not all(names):
        axes.legend(frameon=False, fontsize=_LABEL_POINTS, loc="lower right")
    axes.margins(x=0.12, y=0.2)
    axes.set_xlim(left=max(0, axes.get_xlim()[0]))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_LABEL_POINTS)
    figure.canvas.draw()
    figure.set_layout_engine("none")  # labels are placed for this layout
    axes.autoscale(False)  # and these limits, whatever leaders are drawn
    reach = errors[:, None] * np.eye(2)  # [rules, axes, 2]
    bars = np.stack([points[:, None] - reach, points[:, None] + reach], axis=2).reshape(-1, 2, 2)
    is_named = np.array([bool(name) for name in names])
    marks = np.stack([points[~is_named]] * 2, axis=1)
    ink = np.concatenate([bars, np.stack([line[:-1], line[1:]], axis=1), marks])
    _label(axes, points[is_named], [name for name in names if name], ink)
    return figure


def _undominated(x: np.ndarray, y: np.ndarray) -> list[int]:
    """Indices of the points with none to the left at least as high, from left to right."""
    kept: list[int] = []
    for index in np.lexsort((-y, x)):
        if not kept or y[index] > y[kept[-1]]:
            kept.append(int(index))
    return kept


def _label(axes: Axes, points: np.ndarray, names: Sequence[str], lines: np.ndarray) -> None:
    """Put each name near its point, away from other points and names and from lines; far ones get a leader.

    Limits and layout are final by now; `points` [rules, 2] and `lines` [lines, ends, 2] are in data units.
    """
    scale = axes.figure.dpi / 72  # pixels a point
    near = _CLEAR_POINTS * scale
    pixels = axes.transData.transform(points)
    ends = axes.transData.transform(lines.reshape(-1, 2)).reshape(lines.shape)
    ink = np.concatenate([np.linspace(one, two, int(abs(one - two).max() / 2) + 2) for one, two in ends])
    texts = [
        axes.annotate(
            name, point, (0, 0), textcoords="offset points", fontsize=_LABEL_POINTS, color="0.1", zorder=4,
            verticalalignment="bottom", gid="label", path_effects=[withStroke(linewidth=1.5, foreground="white")],
        )
        for name, point in zip(names, points, strict=True)
    ]  # fmt: skip
    offsets = _offsets() * scale
    sizes = np.array([text.get_window_extent().size for text in texts])[:, None] + scale  # and room between two
    low = pixels[:, None] + offsets - sizes * (1 - np.sign(np.round(offsets, 6))) / 2  # [rules, places, 2]
    high = low + sizes
    inside = axes.get_window_extent()
    distance = np.hypot(*offsets.T) / scale
    joined = distance > _LEADER_POINTS
    leaders = pixels[:, None, None] + offsets[:, None] * (joined[:, None] * np.linspace(0, 1, 24))[..., None]

    cost = distance / 25 + 0.05 * _count(ink, low, high)
    cost += _HIT * ((low < inside.min) | (high > inside.max)).any(axis=-1)
    cost += _HIT * _count(pixels, low - near, high + near)
    whose = np.where(joined, _CLEAR_POINTS, distance + _CLEAR_POINTS)[:, None] * scale
    cost += 5 * (_count(pixels, low - whose, high + whose) - ~joined)  # other points it could be taken to name
    everyone, place = np.arange(len(names)), cost.argmin(axis=1).tolist()
    for index in range(len(names)):  # a leader should pass no other point
        beside = pixels[everyone != index][:, None]
        cost[index] += 3 * (_count(leaders[index], beside - near, beside + near) > 0).sum(axis=0)
    for _ in range(_NUM_SWEEPS):
        for index in range(len(names)):
            others = everyone != index
            boxes = [side[everyone, place][others, None] for side in (low, high)]  # [others, 1, 2]
            covered = _overlap(low[index], high[index], *boxes).sum(axis=0) / sizes[index].prod()
            crossed = (_count(leaders[index], *boxes) > 0).sum(axis=0)
            crossed += _count(leaders[everyone, place][others].reshape(-1, 2), low[index], high[index])
            place[index] = int(np.argmin(cost[index] + _HIT * covered + 3 * crossed))
    for index, text in enumerate(texts):
        text.set_position((low[index, place[index]] - pixels[index]) / scale)
        if joined[place[index]]:
            leader = axes.transData.inverted().transform(leaders[index, place[index]])
            axes.plot(*leader[[0, -1]].T, color="0.3", linewidth=0.5, zorder=2.5, gid="leader")


def _offsets() -> np.ndarray:
    """From a point to the nearest corner or edge of its label, in points: `[places, 2]`, near ones first.

    Far ones keep off the directions of error bars, for which their leaders could be taken.
    """
    angles = np.deg2rad([0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200, 70, 110, 250, 290])
    around = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return np.concatenate([radius * (around if radius <= _LEADER_POINTS else around[4:]) for radius in _RADII_POINTS])


def _count(points: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How many of the points `[..., points, 2]` lie in each box `[..., 2]`."""
    low, high = low[..., None, :], high[..., None, :]
    return ((points >= low) & (points <= high)).all(axis=-1).sum(axis=-1)


def _overlap(low: np.ndarray, high: np.ndarray, other_low: np.ndarray, other_high: np.ndarray) -> np.ndarray:
    """The area common to two boxes `[..., 2]`."""
    return np.maximum(np.minimum(high, other_high) - np.maximum(low, other_low), 0).prod(axis=-1)
