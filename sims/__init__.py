"""Monte Carlo simulation of policies, replay on logs, and comparison; the only package that batches worlds."""

from sims.bands import Band
from sims.comparison import Comparison, Row
from sims.estimates import Estimate
from sims.first_finish_search import first_finish
from sims.grids import Search, Sweep, search, sweep
from sims.log_replay import play_rules, replay, replay_worlds
from sims.precision import PrecisionNotReached
from sims.results import Result, difference
from sims.simulation import draw, simulate

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
