"""Closed forms and quadratures: accuracy, latency and cost of rules without simulation."""

from stopping.makespan.parallel import Curve, first_finish_curve, majority_curve

__all__ = ["Curve", "first_finish_curve", "majority_curve"]
