"""Monte Carlo: the only place that batches worlds."""

from sims.comparison import Comparison, Row, compare
from sims.estimates import Estimate
from sims.first_finish import first_finish
from sims.precision import PrecisionNotReached
from sims.replay import play_rules, replay, replay_worlds
from sims.results import Result, difference
from sims.simulate import draw, simulate

__all__ = [
    "Comparison",
    "Estimate",
    "PrecisionNotReached",
    "Result",
    "Row",
    "compare",
    "difference",
    "draw",
    "first_finish",
    "play_rules",
    "replay",
    "replay_worlds",
    "simulate",
]
