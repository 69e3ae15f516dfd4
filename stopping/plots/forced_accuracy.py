"""Accuracy of forced answers, by position and by confidence."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from stopping.plots.panels import LABEL_POINTS, curve, panel

if TYPE_CHECKING:
    from stopping.calibration.forced_answers import Group


def forced_answers(groups: Sequence["Group"]) -> Figure:
    """Draw the accuracy of forced answers by position, with the final accuracy of the same traces.

    Args:
        groups: by position, as `by_position` finds them; at least one.
    """
    figure, axes = panel("tokens thought so far", "right, %")
    centres = [group.centre for group in groups]
    curve(axes, centres, [group.right for group in groups], 0, "forced there")
    curve(axes, centres, [group.final for group in groups], 1, "the same traces, left alone")
    axes.legend(frameon=False, fontsize=LABEL_POINTS)
    return figure


def confidence(groups: Sequence["Group"]) -> Figure:
    """Draw the accuracy of forced answers by their probability under the model, and how many have that probability.

    Args:
        groups: by confidence, as `by_confidence` finds them; at least one.
    """
    figure, axes = panel("probability given to the answer, %", "right, %")
    centres = [100 * group.centre for group in groups]
    axes.bar(centres, [100 * group.share for group in groups], width=3, color="0.85", label="share of the answers")
    axes.plot([0, 100], [0, 100], color="0.6", linewidth=0.8, linestyle="--", label="as it should be")
    curve(axes, centres, [group.right for group in groups], 0, "right")
    axes.set(xlim=(0, 102), ylim=(0, 102))
    axes.legend(frameon=False, fontsize=LABEL_POINTS, loc="upper left")
    return figure
