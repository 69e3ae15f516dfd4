"""A policy from a problem."""

from stopping.solvers.families import sampling_families
from stopping.solvers.solve import Member, Solution, Status, clairvoyant, reachable, solve

__all__ = ["Member", "Solution", "Status", "clairvoyant", "reachable", "sampling_families", "solve"]
