"""A policy from a problem."""

from stopping.solvers.chain_induction import induced_point, one_step_point
from stopping.solvers.families import sampling_families
from stopping.solvers.solve import Member, Solution, Status, clairvoyant, reachable, solve
from stopping.solvers.thinking_families import thinking_families

__all__ = [
    "Member",
    "Solution",
    "Status",
    "clairvoyant",
    "induced_point",
    "one_step_point",
    "reachable",
    "sampling_families",
    "solve",
    "thinking_families",
]
