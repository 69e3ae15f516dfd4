"""Pictures, for print: each is a matplotlib `Figure`, and what `.plot()` of a result returns."""

from stopping.plots.distributions import fitted, lengths, outcomes
from stopping.plots.forced_answers import confidence, forced_answers
from stopping.plots.frontiers import frontier, tuning
from stopping.plots.ladders import certification, solution
from stopping.plots.panels import COLOURS, MARKERS

__all__ = [
    "COLOURS",
    "MARKERS",
    "certification",
    "confidence",
    "fitted",
    "forced_answers",
    "frontier",
    "lengths",
    "outcomes",
    "solution",
    "tuning",
]
