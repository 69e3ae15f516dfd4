"""Rules in rows, with the value or the loss of each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stopping.plots.panels import COLOURS, LABEL_POINTS, panels

if TYPE_CHECKING:
    from sims import Estimate
    from stopping.solvers import Solution
    from stopping.tuning import Certification


def solution(found: "Solution") -> Figure:
    """Draw the value of the best rule of each family; lines: the best fixed rule, and the upper bounds.

    Error bars, and bands about the bounds, are one standard error. The rule to use is filled.
    """
    members = sorted(found.family.values(), key=lambda member: member.value.mean)
    figure, axes = _ladder(
        [str(member.policy) for member in members],
        [member.value for member in members],
        [member.policy == found.policy for member in members],
        unit=1,
    )
    lines = {
        "best fixed rule": (found.best_fixed.value, "0.4", "-"),
        "bound: clairvoyant": (found.clairvoyant, COLOURS[1], ":"),
    }
    if found.upper_bound is not None:
        lines["bound: answers seen beforehand"] = (found.upper_bound, COLOURS[2], "--")
    for name, (value, colour, line) in lines.items():
        axes.axvline(value.mean, color=colour, linestyle=line, linewidth=1, label=name, zorder=0)
    for value, *_ in list(lines.values())[1:]:
        error = value.standard_error
        axes.axvspan(value.mean - error, value.mean + error, color="0.9", linewidth=0, zorder=-1)
    axes.set_xlabel("utility: right answers less costs")
    figure.legend(frameon=False, fontsize=LABEL_POINTS, loc="outside upper right", ncols=3)
    return figure


def certification(found: "Certification") -> Figure:
    """Draw the loss of each rule in the order of testing, from above, with one standard error; a tick is its upper bound.

    Certified rules are filled. The dashed line is the limit.
    """
    ones = found.certificates[::-1]
    figure, axes = _ladder(
        [f"{one.policy}, {one.grade.name.lower()}" for one in ones],
        [one.mean_loss for one in ones],
        [one in found.certified for one in ones],
        unit=0.01,
    )
    axes.plot(
        [100 * one.loss_bound for one in ones], range(len(ones)), color=COLOURS[1], linestyle="none", marker="|",
        markersize=8, label=f"bound of one rule's loss at {100 * ones[0].confidence:g} %",
    )  # fmt: skip
    axes.axvline(100 * ones[0].max_loss, color="0.6", linewidth=0.8, linestyle="--", label="limit")
    axes.set_xlabel(
        f"loss of {'accuracy' if ones[0].risk == 'accuracy' else 'agreement'} against {ones[0].reference}, points"
    )
    figure.legend(frameon=False, fontsize=LABEL_POINTS, loc="outside upper right", ncols=2)
    return figure


def _ladder(
    names: Sequence[str], values: Sequence["Estimate"], filled: Sequence[bool], unit: float
) -> tuple[Figure, Axes]:
    """Draw one row per rule, from below, with error bars; the figure grows with the rows."""
    figure, (axes,) = panels(size=(7.2, 1.1 + 0.25 * len(names)))
    for row, (value, fill) in enumerate(zip(values, filled, strict=True)):
        axes.errorbar(
            value.mean / unit, row, xerr=value.standard_error / unit, color=COLOURS[0], marker="o", markersize=5.5,
            markerfacecolor=COLOURS[0] if fill else "white", elinewidth=1, capsize=2, linestyle="none", zorder=3,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", color="0.93", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes
