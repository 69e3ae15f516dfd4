"""Cost and worth of rules. They differ in shape as well as in colour, and are named at their points."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stopping.plots.labels import put_labels
from stopping.plots.panels import COLOURS, LABEL_POINTS, MARKERS, WIDE, panels
from stopping.problems.problem import worth_of

if TYPE_CHECKING:
    from sims import Comparison, Estimate
    from stopping.tuning import Tuning

LIVE = "live"  # the kind of a point that no log has: it is not on the line
LONGEST_NAME = 32  # in a picture; beyond, the class will do


def frontier(comparison: "Comparison", names: Sequence[str] | None = None, *, against: str | None = None) -> Figure:
    """Draw the worth of rules against a cost, with error bars of one standard error.

    The grey line joins the rules that are Pareto-optimal; the reference rule is filled.

    Args:
        comparison: rules on one log.
        names: of the rules, in its order; their own texts if not given.
        against: a cost of the problem by name; the first if not given.

    Raises:
        ValueError: for another cost.
    """
    components = {component.name: component for component in comparison.problem.components}
    costs = [name for name, component in components.items() if component.role == "cost"]
    if (against := against or costs[0]) not in costs:
        raise ValueError(f"against: expected one of {', '.join(costs)}, got {against!r}")
    cost, worth = components[against], components[worth_of(comparison.problem)]
    rows = comparison.rows
    shown = [name.removeprefix("VoteTable.") for name in names or [str(row.policy) for row in rows]]
    shown[0] += " (reference)"
    figures = [(row.result.estimates[against], row.result.estimates[worth.name]) for row in rows]
    thousands = max(each.mean for each, _ in figures) / cost.unit >= 10_000
    units = cost.unit * (1000 if thousands else 1), worth.unit
    points = [
        _Point(*figure, name, type(row.policy).__name__, index == 0)
        for index, (figure, name, row) in enumerate(zip(figures, shown, rows, strict=True))
    ]
    figure, axes = _scatter(points, units, fewer_is_better=True)
    axes.set_xlabel(cost.label + (", thousands" if thousands else ""))
    axes.set_ylabel(worth.label)
    axes.set_xlim(left=max(0, axes.get_xlim()[0]))
    return _labelled(figure, axes, points, units, fewer_is_better=True)


def tuning(found: "Tuning", live: tuple["Estimate", "Estimate"] | None = None) -> Figure:
    """Draw savings and losses of the rules that `tune` tested, on the test part, against the reference, which is at 0.

    Certified rules are filled; the best fixed rule and the one chosen are named. The dashed line is the limit.

    Args:
        found: by `tune`.
        live: of the rule chosen, in a live run: the share of tokens saved, and the change of accuracy.
    """
    from stopping.tuning import Grade

    named = {rule: str(rule.policy) for rule in (found.best_fixed, found.chosen) if rule is not None}
    if (chosen := found.chosen) is not None:
        long = len(named[chosen]) > LONGEST_NAME
        named[chosen] = f"{type(chosen.policy).__name__ if long else named[chosen]} (chosen)"
    points = [
        _Point(
            rule.measured.saving_share, rule.measured.accuracy_change, named.get(rule, ""), type(rule.policy).__name__,
            rule.certificate.grade is not Grade.NONE,
        )
        for rule in found.tested
    ]  # fmt: skip
    if live is not None:
        points.append(_Point(*live, f"the same, live on {live[0].num_independent:,}", LIVE, True))
    figure, axes = _scatter(points, (0.01, 0.01), fewer_is_better=False)
    axes.set(xlabel=f"tokens saved against {found.reference}, %", ylabel="change of accuracy, points")
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    axes.axhline(-100 * found.tested[0].certificate.max_loss, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    figure.legend(frameon=False, fontsize=LABEL_POINTS, loc="outside lower center", ncols=4)
    return _labelled(figure, axes, points, (0.01, 0.01), fewer_is_better=False)


class _Point(NamedTuple):
    """A rule in the plane; without a name, it is identified by shape and colour."""

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
    """Draw the points with their errors, and the line of the Pareto-optimal ones."""
    means, errors = _means_and_errors(points, units)
    line = _best(points, means, fewer_is_better)
    figure, (axes,) = panels(size=WIDE)
    axes.plot(*line.T, color="0.75", linewidth=1.2, zorder=1)
    kinds = dict.fromkeys(point.kind for point in points)
    size = len(COLOURS)  # of markers too; in the next round each colour has another marker
    styles = {kind: (COLOURS[i % size], MARKERS[(i + i // size) % size]) for i, kind in enumerate(kinds)}
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
    axes.set_title(f"± one standard error over {num_problems:,} problems", fontsize=LABEL_POINTS, loc="right")
    axes.margins(x=0.12, y=0.2)
    return figure, axes


def _labelled(figure: Figure, axes: Axes, points: Sequence[_Point], units: Units, *, fewer_is_better: bool) -> Figure:
    """Return the figure with names where there is room; its layout and limits are then final."""
    means, errors = _means_and_errors(points, units)
    line = _best(points, means, fewer_is_better)
    figure.canvas.draw()
    figure.set_layout_engine("none")  # labels are placed for this layout
    axes.autoscale(False)  # and these limits, whatever leaders are drawn
    reach = errors[:, None] * np.eye(2)  # [rules, axes, 2]
    bars = np.stack([means[:, None] - reach, means[:, None] + reach], axis=2).reshape(-1, 2, 2)
    named = np.array([bool(point.name) for point in points])
    marks = np.repeat(means[~named][:, None], 2, axis=1)
    if named.any():
        ink = np.concatenate([bars, np.stack([line[:-1], line[1:]], axis=1), marks])
        put_labels(axes, means[named], [point.name for point in points if point.name], ink)
    return figure


def _best(points: Sequence[_Point], means: np.ndarray, fewer_is_better: bool) -> np.ndarray:
    """Return the Pareto-optimal points, from left to right."""
    means = means[[point.kind != LIVE for point in points]]
    line: np.ndarray = means[_undominated(means[:, 0] * (1 if fewer_is_better else -1), means[:, 1])]
    return line


def _undominated(x: np.ndarray, y: np.ndarray) -> list[int]:
    """Return the indices of the points with none to the left at least as high, from left to right."""
    kept: list[int] = []
    for index in np.lexsort((-y, x)):
        if not kept or y[index] > y[kept[-1]]:
            kept.append(int(index))
    return kept
