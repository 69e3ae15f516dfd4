"""Studies: named, reproducible experiments; each answers a question with tables and figures."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from sims.estimates import Estimate
from stopping.plots import COLOURS, MARKERS
from stopping.tuning import Prediction

COMPONENTS = {"saving_share": "tokens saved, %", "accuracy_change": "change of accuracy, points"}  # of a prediction


class Part(NamedTuple):
    """One part of a study.

    Attributes:
        question: that it answers, or what it shows.
        rows: the table, an estimate by row name; the unit is in the name.
        figure: the same figures, plotted.
    """

    question: str
    rows: dict[str, Estimate]
    figure: Figure


def exact(value: float) -> Estimate:
    """Return an exact figure, from a formula, an integral or a count, rounded to three decimals because of float32."""
    return Estimate(round(float(value), 3) + 0.0, 0.0, 1)


def crossing(places: Sequence[float] | np.ndarray, means: np.ndarray, errors: np.ndarray) -> tuple[float, float] | None:
    """Return where a curve finally falls to 0, and the standard error; None if it is never above 0, or still is at the end.

    The curve is interpolated linearly. The error is the curve's over its slope (delta method).
    """
    above = np.flatnonzero(means > 0)
    if not above.size or above[-1] == len(places) - 1:
        return None
    first, second = above[-1], above[-1] + 1
    share = means[first] / (means[first] - means[second])
    slope = (means[second] - means[first]) / (places[second] - places[first])
    error = (1 - share) * errors[first] + share * errors[second]  # an upper bound, for perfectly correlated errors
    return float(places[first] + share * (places[second] - places[first])), float(error / abs(slope))


def curves_by_size(
    panels: Mapping[str, Mapping[str, Sequence[Estimate]]], sizes: Sequence[int], across: str, up: str, width: float
) -> Figure:
    """Plot curves with errors against the number of problems in a log, a panel for each title; `width` in inches."""
    figure = Figure(figsize=(width, 3.0), dpi=150, layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for index, (name, estimates) in enumerate(curves.items()):
            heights, errors = ([getattr(each, part) for each in estimates] for part in ("mean", "standard_error"))
            beside = np.array(sizes) * 1.06 ** (index - (len(curves) - 1) / 2)
            axes.errorbar(
                beside, heights, errors, color=COLOURS[index], marker=MARKERS[index], linewidth=1, markersize=4,
                capsize=2, label=name,
            )  # fmt: skip
        axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
        axes.set(xscale="log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.set_title(title, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
    figure.supxlabel(across, fontsize=8)
    figure.supylabel(up, fontsize=8)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, ncols=len(labels), loc="outside upper center")
    return figure


def predicted_and_observed(pairs: Mapping[str, Mapping[str, Sequence[tuple[Prediction, Estimate]]]]) -> Figure:
    """Plot observed shares against predicted ones, in hundredths: a panel for each title, a marker for each group in it."""
    figure = Figure(figsize=(7.2, 3.6), dpi=150, layout="constrained")
    for axes, (title, groups) in zip(figure.subplots(1, len(pairs)), pairs.items(), strict=True):
        for index, (name, found) in enumerate(groups.items()):
            predicted = 100 * np.array([prediction for prediction, _ in found])
            observed = 100 * np.array([(estimate.mean, estimate.standard_error) for _, estimate in found])
            axes.errorbar(
                predicted[:, 0], observed[:, 0], observed[:, 1], np.abs(predicted[:, 1:] - predicted[:, :1]).T,
                color=COLOURS[index], marker=MARKERS[index], markersize=4, linestyle="none", elinewidth=0.6, label=name,
            )  # fmt: skip
        low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
        axes.axline((0, 0), slope=1, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
        axes.set(xlim=(min(low), max(high)), ylim=(min(low), max(high)), aspect="equal")
        axes.set_xlabel(f"{title}, predicted (95 %)", fontsize=8)
        axes.set_ylabel("observed (± one standard error)", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    axes.legend(frameon=False, fontsize=8)
    return figure
