"""Closed forms: how long it takes and what it is worth, without simulation."""

from stopping.makespan.parallel import Curve, first_finish_curve, majority_curve

__all__ = ["Curve", "first_finish_curve", "majority_curve"]
