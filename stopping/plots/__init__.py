"""Pictures, for print: each is a matplotlib `Figure`, and what `.plot()` of a result returns."""

from sims import Comparison, Result
from stopping.calibration import Fit
from stopping.plots.dispatch import draw
from stopping.plots.distributions import fitted, lengths, outcomes
from stopping.plots.forced_accuracy import confidence, forced_answers
from stopping.plots.frontiers import frontier, tuning
from stopping.plots.ladders import certification, solution
from stopping.plots.panels import COLOURS, MARKERS
from stopping.solvers import Solution
from stopping.tuning import Certification, Tuning

draw.register(Certification, certification)
draw.register(Comparison, frontier)
draw.register(Fit, fitted)
draw.register(Result, outcomes)
draw.register(Solution, solution)
draw.register(Tuning, tuning)

__all__ = [
    "COLOURS",
    "MARKERS",
    "certification",
    "confidence",
    "draw",
    "fitted",
    "forced_answers",
    "frontier",
    "lengths",
    "outcomes",
    "solution",
    "tuning",
]
