"""Pictures, for print: rules are told apart by shape as well as by colour, and named where they stand.

Colours are those of Okabe and Ito (Color Universal Design, 2008), which the colour-blind can tell apart; type is black.
"""

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

if TYPE_CHECKING:
    from sims import Comparison, Estimate
    from stopping.calibration import Tuning
    from stopping.calibration.forced_answers import Group
    from stopping.traces import TraceLog

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_NUM_BINS = 40  # of lengths
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
    figures = [(row.result.total_tokens, row.result.correct) for row in rows]
    unit = 1000 if max(tokens.mean for tokens, _ in figures) >= 10_000 else 1
    points = [
        _Point(*figure, name, type(row.policy).__name__, index == 0)
        for index, (figure, name, row) in enumerate(zip(figures, shown, rows, strict=True))
    ]
    figure, axes = _scatter(points, (unit, 0.01), fewer_is_better=True)
    axes.set_xlabel("total tokens a problem" + (", thousands" if unit > 1 else ""))
    axes.set_ylabel("accuracy, %")
    axes.set_xlim(left=max(0, axes.get_xlim()[0]))
    return _labelled(figure, axes, points, (unit, 0.01), fewer_is_better=True)


def tuning(found: "Tuning", live: tuple["Estimate", "Estimate"] | None = None) -> Figure:
    """Draw what the rules that `tune` tested save and cost on the test part, against the reference, which is at 0.

    Certified rules are filled; the best fixed rule and the one chosen are named. The dashed line is the limit.

    Args:
        found: by `tune`.
        live: of the rule chosen, in a live run: the share of tokens saved, and the change of accuracy.
    """
    from stopping.calibration import Grade
    from stopping.cli.rules import name_of

    named = {rule: name_of(rule.policy) for rule in (found.best_fixed, found.chosen) if rule is not None}
    if found.chosen is not None:
        named[found.chosen] += " (chosen)"
    points = [
        _Point(
            rule.measured.saving_share, rule.measured.accuracy_change, named.get(rule, ""), type(rule.policy).__name__,
            rule.certificate.grade is not Grade.NONE,
        )
        for rule in found.tested
    ]  # fmt: skip
    if live is not None:
        points.append(_Point(*live, "the same, live", "live", True))
    figure, axes = _scatter(points, (0.01, 0.01), fewer_is_better=False)
    axes.set(xlabel=f"tokens saved against {name_of(found.reference)}, %", ylabel="change of accuracy, points")
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    axes.axhline(-100 * found.tested[0].certificate.max_drop, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    axes.legend(frameon=False, fontsize=_LABEL_POINTS, loc="lower left")
    return _labelled(figure, axes, points, (0.01, 0.01), fewer_is_better=False)


def lengths(log: "TraceLog") -> Figure:
    """Draw how long right and wrong traces are, of those whose correctness is known."""
    figure, axes = _panel("tokens of a trace", "traces")
    judged = log.present & log.correct_known
    edges = np.linspace(0, log.length_tokens[judged].max(), _NUM_BINS + 1).tolist()
    classes = {"right": judged & log.correct, "wrong": judged & ~log.correct}
    for (name, chosen), colour, line in zip(classes.items(), COLOURS, ("-", "--"), strict=False):
        axes.hist(
            log.length_tokens[chosen], edges, histtype="step", color=colour, linestyle=line, linewidth=1.3, label=name
        )
    axes.legend(frameon=False, fontsize=_LABEL_POINTS)
    return figure


def forced_answers(groups: Sequence["Group"]) -> Figure:
    """Draw how often answers forced on the way are right, beside what the same traces answer if they are left alone.

    Args:
        groups: by position, as `by_position` finds them; at least one.
    """
    figure, axes = _panel("tokens thought so far", "right, %")
    centres = [group.centre for group in groups]
    _curve(axes, centres, [group.right for group in groups], 0, "forced there")
    _curve(axes, centres, [group.final for group in groups], 1, "the same traces, left alone")
    axes.legend(frameon=False, fontsize=_LABEL_POINTS)
    return figure


def confidence(groups: Sequence["Group"]) -> Figure:
    """Draw how often forced answers are right by the probability that the model gave them, and how many are where.

    Args:
        groups: by confidence, as `by_confidence` finds them; at least one.
    """
    figure, axes = _panel("probability given to the answer, %", "right, %")
    centres = [100 * group.centre for group in groups]
    axes.bar(centres, [100 * group.share for group in groups], width=3, color="0.85", label="share of the answers")
    axes.plot([0, 100], [0, 100], color="0.6", linewidth=0.8, linestyle="--", label="as it should be")
    _curve(axes, centres, [group.right for group in groups], 0, "right")
    axes.set(xlim=(0, 102), ylim=(0, 102))
    axes.legend(frameon=False, fontsize=_LABEL_POINTS, loc="upper left")
    return figure


def _panel(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.8, 3.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_LABEL_POINTS)
    return figure, axes


def _curve(axes: Axes, places: Sequence[float], shares: Sequence["Estimate"], style: int, name: str) -> None:
    """Shares in %, with error bars of one standard error."""
    heights, errors = ([100 * getattr(share, part) for share in shares] for part in ("mean", "standard_error"))
    axes.errorbar(
        places, heights, errors, color=COLOURS[style], marker=MARKERS[style], markersize=4, linewidth=1, capsize=2,
        linestyle=("-", "--")[style], label=name,
    )  # fmt: skip


class _Point(NamedTuple):
    """A rule in the plane; one without a name is told by shape and colour alone."""

    x: "Estimate"
    y: "Estimate"
    name: str
    kind: str
    filled: bool


Units = tuple[float, float]


def _means_and_errors(points: Sequence[_Point], units: Units) -> tuple[np.ndarray, np.ndarray]:
    means = np.array([[point.x.mean, point.y.mean] for point in points]) / units
    errors = np.array([[point.x.standard_error, point.y.standard_error] for point in points]) / units
    return means, np.where(np.isfinite(errors), errors, 0)


def _scatter(points: Sequence[_Point], units: Units, *, fewer_is_better: bool) -> tuple[Figure, Axes]:
    """The points with their errors, and the line of those that no other beats in both."""
    means, errors = _means_and_errors(points, units)
    line = _best(means, fewer_is_better)
    figure = Figure(figsize=(7.2, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(*line.T, color="0.75", linewidth=1.2, zorder=1)
    style = cycle(zip(COLOURS, MARKERS, strict=True))
    styles = {kind: next(style) for kind in dict.fromkeys(point.kind for point in points)}
    seen: set[str] = set()
    for point, mean, error in zip(points, means, errors, strict=True):
        colour, marker = styles[point.kind]
        axes.errorbar(*mean, *error[::-1], color=colour, elinewidth=0.6, alpha=0.6, zorder=2)
        axes.plot(
            *mean, color=colour, marker=marker, markersize=5.5, markeredgewidth=1.2, zorder=3, linestyle="none",
            markerfacecolor=colour if point.filled else "none", label=None if point.kind in seen else point.kind,
        )  # fmt: skip
        seen.add(point.kind)
    num_problems = points[0].y.num_independent
    axes.set_title(f"± one standard error over {num_problems:,} problems", fontsize=_LABEL_POINTS, loc="right")
    axes.margins(x=0.12, y=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_LABEL_POINTS)
    return figure, axes


def _labelled(figure: Figure, axes: Axes, points: Sequence[_Point], units: Units, *, fewer_is_better: bool) -> Figure:
    """The figure with the names where there is room, its layout and limits now final."""
    means, errors = _means_and_errors(points, units)
    line = _best(means, fewer_is_better)
    figure.canvas.draw()
    figure.set_layout_engine("none")  # labels are placed for this layout
    axes.autoscale(False)  # and these limits, whatever leaders are drawn
    reach = errors[:, None] * np.eye(2)  # [rules, axes, 2]
    bars = np.stack([means[:, None] - reach, means[:, None] + reach], axis=2).reshape(-1, 2, 2)
    named = np.array([bool(point.name) for point in points])
    marks = np.repeat(means[~named][:, None], 2, axis=1)
    if named.any():
        ink = np.concatenate([bars, np.stack([line[:-1], line[1:]], axis=1), marks])
        _label(axes, means[named], [point.name for point in points if point.name], ink)
    return figure


def _best(means: np.ndarray, fewer_is_better: bool) -> np.ndarray:
    """The points that no other beats in both, along the line."""
    line: np.ndarray = means[_undominated(means[:, 0] * (1 if fewer_is_better else -1), means[:, 1])]
    return line


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
