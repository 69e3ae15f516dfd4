"""Monte Carlo: the only place that batches worlds."""

from sims.bands import Band
from sims.comparison import Comparison, Row
from sims.estimates import Estimate
from sims.first_finish import first_finish
from sims.precision import PrecisionNotReached
from sims.replay import play_rules, replay, replay_worlds
from sims.results import Result, difference
from sims.simulate import draw, simulate
from sims.sweep import Search, Sweep, search, sweep

__all__ = [
    "Band",
    "Comparison",
    "Estimate",
    "PrecisionNotReached",
    "Result",
    "Row",
    "Search",
    "Sweep",
    "difference",
    "draw",
    "first_finish",
    "play_rules",
    "replay",
    "replay_worlds",
    "search",
    "simulate",
    "sweep",
]
