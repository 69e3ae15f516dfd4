"""When does returning the first of several answers help, and when does it hurt?

Of a problem's traces, all started at once, the first to finish gives the answer. Its accuracy depends on two numbers: the shift,
which is the mean log-length of wrong traces less that of right ones, and the ratio of the dispersions of their log-lengths. What
matters is which traces are early. With equal dispersions, earlier answers are more likely to be right wherever wrong traces are
longer, and more traces help. Where wrong traces are more dispersed, the earliest of many is a wrong one, however much longer
wrong traces are on average: a few traces may help, but ever more hurt in the end, and the shift that is needed grows with their
number. Where wrong traces are less dispersed, first finish helps even if they are somewhat shorter
(`theory_notes/01_first_finish.md`, claims 2 and 3).

Accuracies and costs are integrals (`stopping.makespan`), exact to about 1e-6; some cells of the map are checked by simulation.
The probability of a right answer is Beta distributed, traces have no cap, and ties of votes are broken at random.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.optimize import brentq

import sims
from sims.estimates import Estimate
from sims.studies import Part, exact
from stopping.makespan import first_finish_curve, majority_curve
from stopping.models import Answers, LengthCorrectness
from stopping.plots import COLOURS, MARKERS
from stopping.policies import FirstFinish, FixedSamples, Policy
from stopping.problems import Sampling

SEED = 0
COUNTS = (4, 16)  # traces
CHANCES = (1.5, 1.0)  # parameters of the Beta distribution of right answers, of mean .6
ANSWERS = Answers(0.1, 1.0)  # which wrong ones agree
EFFECT, SCALE_RIGHT = 9.0, 0.4  # of log-length; the median is 8,100 tokens
SHIFTS, RATIOS = (-0.4, 0.8), (0.5, 2.0)  # ends of the map
NUM_CELLS = 41  # along each side
TOLD = (0.7, 1.0, 1.25, 1.5, 2.0)  # ratios shown in the table
CHECKED = ((0.4, 1.0), (0.4, 2.0), (0.0, 2.0), (0.0, 0.5), (-0.3, 1.4), (0.7, 1.4))  # shifts and ratios
NUM_REPLICAS = 2**17  # of each cell checked
SHIFT = 0.4  # for the picture of many traces: wrong traces are half as long again
MANY = (1, 2, 4, 8, 16, 32, 64)
CURVES = (first_finish_curve, majority_curve)
QUESTIONS = {
    "accuracy": "Accuracy of the first to finish less that of a single trace, by shift and ratio of dispersions.",
    "cost": "What the first to finish saves against the vote of as many: tokens of all traces, and latency.",
    "many": f"The first of ever more traces, at a shift of {SHIFT:g}.",
}  # of the parts


def run(num_cells: int = NUM_CELLS, num_replicas: int = NUM_REPLICAS) -> dict[str, Part]:
    """Run the study.

    Args:
        num_cells: of the map, along each side.
        num_replicas: worlds of each check.
    """
    shifts, ratios = np.linspace(*SHIFTS, num_cells), np.geomspace(*RATIOS, num_cells)
    early, vote = (
        np.array([[curves(curve, shift, ratio, (1, *COUNTS)) for shift in shifts] for ratio in ratios])
        for curve in CURVES
    )  # [ratios, shifts, accuracy latency tokens, counts]
    single, more = early[..., :1], early[..., 1:]
    gain, beyond_vote = 100 * (more - single)[:, :, 0], 100 * (more - vote[..., 1:])[:, :, 0]
    saved = 100 * (1 - more / vote[..., 1:])[:, :, 1:]
    accuracy = (
        {"accuracy of a single trace, %": exact(100 * single[0, 0, 0, 0])} | _thresholds() | _checks(num_replicas)
    )
    return {
        "accuracy": Part(QUESTIONS["accuracy"], accuracy, _accuracies(shifts, ratios, gain, beyond_vote)),
        "cost": Part(QUESTIONS["cost"], _costs(), _savings(shifts, ratios, saved)),
        "many": Part(QUESTIONS["many"], _of_many(num_replicas), _many()),
    }


def model(shift: float, ratio: float) -> LengthCorrectness:
    """Return the model of a new problem at this place of the map."""
    return LengthCorrectness(*CHANCES, EFFECT, 0.0, shift, SCALE_RIGHT, ratio * SCALE_RIGHT, answers=ANSWERS)


def curves(curve: Callable[..., Any], shift: float, ratio: float, counts: Sequence[int]) -> np.ndarray:
    """Return accuracy, latency and tokens by number of traces, `[3, counts]`."""
    found: np.ndarray = np.stack(curve(model(shift, ratio), counts))[:, 0]
    return found


def both_of(shift: float, ratio: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return accuracy, latency and tokens of the first of `count` traces and of their vote, `[3]` each; for `COUNTS` and 1."""
    counts = (1, *COUNTS)  # always all: one compiled program
    first, vote = (curves(curve, shift, ratio, counts)[:, counts.index(count)] for curve in CURVES)
    return first, vote


def pays_from(ratio: float, count: int, rival_count: int) -> float:
    """Return the shift above which the first of `count` traces is right more often than the vote of `rival_count`."""

    def gain(shift: float) -> float:
        return float(both_of(shift, ratio, count)[0][0] - both_of(shift, ratio, rival_count)[1][0])

    return float(brentq(gain, -2.0, 3.0, xtol=1e-4))


def _thresholds() -> dict[str, Estimate]:
    return {
        f"the first of {count}, dispersions {ratio:g}: right more often than {rival} from a shift of": exact(
            pays_from(ratio, count, rival_count)
        )
        for count in COUNTS
        for ratio in TOLD
        for rival, rival_count in (("a single trace", 1), (f"the vote of {count}", count))
    }


def _costs() -> dict[str, Estimate]:
    rows = {}
    for count in COUNTS:
        for ratio in TOLD:
            first, vote = both_of(SHIFT, ratio, count)
            start = f"the first of {count}, shift {SHIFT:g}, dispersions {ratio:g}"
            rows[f"{start}: accuracy less the vote's, points"] = exact(100 * (first - vote)[0])
            rows[f"{start}: tokens saved, %"] = exact(100 * (1 - first / vote)[2])
            rows[f"{start}: latency saved, %"] = exact(100 * (1 - first / vote)[1])
    return rows


def _of_many(num_replicas: int) -> dict[str, Estimate]:
    rows, most = {}, MANY[-1]
    for place, ratio in enumerate(TOLD):
        accuracy = curves(first_finish_curve, SHIFT, ratio, MANY)[0]
        rows[f"dispersions {ratio:g}: best number of traces, of 1 to {most}"] = exact(MANY[int(accuracy.argmax())])
        rows[f"dispersions {ratio:g}: accuracy of the first of {most}, %"] = exact(100 * accuracy[-1])
        drawn = sims.first_finish(
            jax.random.key(SEED + place), model(SHIFT, ratio), most, num_replicas=num_replicas
        ).correct
        rows[f"dispersions {ratio:g}: the same, simulated, %"] = Estimate(
            100 * drawn.mean, 100 * drawn.standard_error, drawn.num_independent
        )
    return rows


def _checks(num_replicas: int) -> dict[str, Estimate]:
    """Return the largest discrepancy from simulation: accuracy and costs of the first to finish, costs of the vote."""
    rows = {}
    for count in COUNTS:
        away = []
        for place, (shift, ratio) in enumerate(CHECKED):
            rules: list[Policy] = [FirstFinish(1), FixedSamples(count)]
            problem = Sampling(count, model=model(shift, ratio))
            grid = sims.sweep(jax.random.key(SEED + place), problem, rules, num_replicas=num_replicas)
            names = ("correct", "latency_tokens", "total_tokens")
            for column, told in enumerate(both_of(shift, ratio, count)):
                for name, value in list(zip(names, told, strict=True))[column:]:  # in play, ties of votes go by arrival
                    drawn = grid.estimate(name, column)
                    away.append(abs(drawn.mean - value) / drawn.standard_error)
        rows[f"{count} traces: largest of {len(away)} discrepancies from simulation, standard errors"] = Estimate(
            float(max(away)), 0.0, num_replicas
        )
    return rows


def _accuracies(shifts: np.ndarray, ratios: np.ndarray, gain: np.ndarray, beyond_vote: np.ndarray) -> Figure:
    """Plot the gain as colour; where first finish hurts, hatched too, so that it can be distinguished in grey."""
    figure, panels = _maps()
    most = 10 * np.ceil(np.abs(gain).max() / 10)
    levels = np.arange(-most, most + 1, 5)
    colours = LinearSegmentedColormap.from_list("gain", [COLOURS[1], "white", COLOURS[0]])
    for index, (axes, count) in enumerate(zip(panels, COUNTS, strict=True)):
        filled = axes.contourf(shifts, ratios, gain[..., index], levels, cmap=colours)
        axes.contourf(shifts, ratios, gain[..., index], [-most, 0], colors="none", hatches=["////"])
        axes.contour(shifts, ratios, gain[..., index], [0], colors="black", linewidths=1.8)
        axes.contour(shifts, ratios, beyond_vote[..., index], [0], colors="black", linewidths=1.2, linestyles="--")
        axes.set_title(f"the first of {count}", fontsize=8)
    bar = figure.colorbar(filled, ax=panels, shrink=0.9, ticks=levels[::2], format="%g")
    bar.set_label("accuracy less a single trace's, points", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    handles = [
        Line2D([], [], color="black", linewidth=1.8, label="as good as a single trace"),
        Line2D([], [], color="black", linewidth=1.2, linestyle="--", label="as good as the vote of as many"),
        Patch(facecolor="white", edgecolor="black", hatch="////", linewidth=0.5, label="hurts"),
    ]
    figure.legend(handles=handles, frameon=False, fontsize=8, ncols=3, loc="outside upper center")
    return figure


def _savings(shifts: np.ndarray, ratios: np.ndarray, saved: np.ndarray) -> Figure:
    figure, panels = _maps()
    levels = np.arange(10 * (saved[:, :, 1].min() // 10), saved[:, :, 1].max() + 5, 5)
    for index, (axes, count) in enumerate(zip(panels, COUNTS, strict=True)):
        filled = axes.contourf(shifts, ratios, saved[:, :, 1, index], levels, cmap="Blues")
        lines = axes.contour(shifts, ratios, saved[:, :, 0, index], colors="black", linewidths=0.8)
        axes.clabel(lines, fontsize=7, fmt="%g %%")
        axes.set_title(f"the first of {count}", fontsize=8)
    bar = figure.colorbar(filled, ax=panels, shrink=0.9)
    bar.set_label("tokens saved against the vote, %", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    line = Line2D([], [], color="black", linewidth=0.8, label="latency saved against the vote")
    figure.legend(handles=[line], frameon=False, fontsize=8, loc="outside upper center")
    return figure


def _maps() -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(7.2, 3.4), dpi=150, layout="constrained")
    panels = list(figure.subplots(1, len(COUNTS), sharey=True, squeeze=False)[0])
    for axes in panels:
        axes.set(yscale="log", xlabel="shift of wrong traces' log-length")
        axes.set_yticks([0.5, 0.7, 1.0, 1.4, 2.0], ["0.5", "0.7", "1", "1.4", "2"])
        axes.minorticks_off()
        axes.xaxis.label.set_fontsize(8)
        axes.tick_params(labelsize=7)
    panels[0].set_ylabel("dispersion of wrong over right", fontsize=8)
    return figure, panels


def _many() -> Figure:
    figure = Figure(figsize=(4.8, 3.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    for index, ratio in enumerate(TOLD):
        accuracy = 100 * curves(first_finish_curve, SHIFT, ratio, MANY)[0]
        axes.plot(
            MANY, accuracy, color=COLOURS[index], marker=MARKERS[index], markersize=4, linewidth=1, label=f"{ratio:g}"
        )
    axes.set(xscale="log", xlabel="traces", ylabel="accuracy of the first to finish, %")
    axes.set_xticks(MANY, [str(number) for number in MANY])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.legend(frameon=False, fontsize=8, title="dispersion of\nwrong over right", title_fontsize=8)
    return figure
