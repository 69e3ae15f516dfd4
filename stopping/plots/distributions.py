"""Distributions of the tokens of traces and runs."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stopping.plots.panels import COLOURS, LABEL_POINTS, panel, panels

if TYPE_CHECKING:
    from sims import Result
    from stopping.calibration import Fit
    from stopping.traces import TraceLog

_NUM_BINS = 40
_NUM_DRAWN = 2**17  # traces, for the distribution of a model
_CLASSES = ("right", "wrong")
_LINES = ("-", "--")
_TOKENS = {"total_tokens": "total tokens", "latency_tokens": "latency, tokens"}


def lengths(log: "TraceLog") -> Figure:
    """Draw histograms of the lengths of right and wrong traces, where correctness is known."""
    figure, axes = panel("tokens of a trace", "traces")
    _by_class(axes, log)
    axes.legend(frameon=False, fontsize=LABEL_POINTS)
    return figure


def fitted(fit: "Fit", log: "TraceLog") -> Figure:
    """Draw histograms of the lengths of right and wrong traces, with the fitted distribution.

    The distribution is that of all of the model's problems together, from 2^17 drawn traces, cut at the cap as the log's are.

    Args:
        fit: of a model that draws traces.
        log: the one it was fitted on, or another of the same kind; the curves are scaled to its number of traces.
    """
    figure, axes = panel("tokens of a trace", "traces")
    edges, num_judged = _by_class(axes, log, fill=True)
    drawn = _draw(fit.model)
    for name, chosen, colour, line in zip(_CLASSES, (drawn.right, ~drawn.right), COLOURS, _LINES, strict=False):
        share = np.histogram(drawn.length_tokens[chosen], edges)[0] / chosen.size
        axes.stairs(num_judged * share, edges, color=colour, linestyle=line, linewidth=1.3, label=f"{name}, the model")
    axes.legend(frameon=False, fontsize=LABEL_POINTS)
    return figure


def outcomes(result: "Result") -> Figure:
    """Draw the total tokens and the latency of each unit; the line is their mean, the band one standard error of it.

    Where a problem has neither, its utility.
    """
    names = {name: text for name, text in _TOKENS.items() if name in result.values} or {"utility": "utility"}
    figure, parts = panels(len(names), size=(3.6 * len(names), 3.0))
    for axes, (name, text) in zip(parts, names.items(), strict=True):
        mean, error = result.estimates[name].mean, result.estimates[name].standard_error
        axes.hist(result.values[name], _NUM_BINS, color="0.8")
        axes.axvspan(mean - error, mean + error, color=COLOURS[0], alpha=0.3, linewidth=0)
        axes.axvline(mean, color=COLOURS[0], linewidth=1)
        axes.set(xlabel=text, ylabel="units")
        axes.set_title(f"mean {result.estimates[name]}", fontsize=LABEL_POINTS, loc="right")
    figure.suptitle(result.title, fontsize=LABEL_POINTS)
    return figure


def _by_class(axes: Axes, log: "TraceLog", *, fill: bool = False) -> tuple[np.ndarray, int]:
    """Draw histograms by correctness; return the bins and the number of traces of known correctness."""
    judged = log.present & log.correct_known
    edges = np.linspace(0, log.length_tokens[judged].max() + 1, _NUM_BINS + 1)  # a trace at the cap is in the last bin
    for name, chosen, colour, line in zip(_CLASSES, (log.correct, ~log.correct), COLOURS, _LINES, strict=False):
        style = {"alpha": 0.25} if fill else {"histtype": "step", "linestyle": line, "linewidth": 1.3}
        axes.hist(log.length_tokens[judged & chosen], edges.tolist(), color=colour, label=name, **style)
    return edges, int(judged.sum())


def _draw(model: Any) -> Any:
    """Draw traces of random problems, one each."""
    keys = jax.random.split(jax.random.key(0), _NUM_DRAWN)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:, 0], jax.jit(jax.vmap(lambda key: model.draw(key, 1)[1]))(keys))
