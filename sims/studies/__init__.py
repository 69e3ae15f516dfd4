"""Studies: questions put to the library by name, each answered with a table and pictures that can be made again."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from sims.estimates import Estimate
from stopping.plots import COLOURS, MARKERS


class Part(NamedTuple):
    """One question, a table `rows[name] = Estimate` and a picture."""

    question: str
    rows: dict[str, Estimate]
    figure: Figure


def exact(value: float) -> Estimate:
    """A figure without chance in it, of a formula or an integral; to three decimals, which single precision is good for."""
    return Estimate(round(float(value), 3) + 0.0, 0.0, 1)


def crossing(places: Sequence[float] | np.ndarray, means: np.ndarray, errors: np.ndarray) -> tuple[float, float] | None:
    """Where a curve falls to 0 for good, and the standard error of that; None if it never is above, or still is at the end.

    Between two places it is taken for a straight line. The error is the curve's over its slope (delta method).
    """
    above = np.flatnonzero(means > 0)
    if not above.size or above[-1] == len(places) - 1:
        return None
    first, second = above[-1], above[-1] + 1
    share = means[first] / (means[first] - means[second])
    slope = (means[second] - means[first]) / (places[second] - places[first])
    error = (1 - share) * errors[first] + share * errors[second]  # the two go together: at most this
    return float(places[first] + share * (places[second] - places[first])), float(error / abs(slope))


def curves_by_size(
    panels: Mapping[str, Mapping[str, Sequence[Estimate]]], sizes: Sequence[int], across: str, up: str, width: float
) -> Figure:
    """A panel for each title, a curve with errors for each name, over logs of so many problems; `width` in inches."""
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
