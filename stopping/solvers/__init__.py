"""Solvers: a policy from a problem."""

from stopping.solvers.chain_induction import induced_point, one_step_point
from stopping.solvers.count_induction import CountSolution, Tally, VoteDistribution, count_induction, count_value
from stopping.solvers.families import default_rules, families, sampling_families, thinking_families
from stopping.solvers.family_search import FamilySearch, Member, Solution, Status, clairvoyant, reachable
from stopping.solvers.fitted_value import exit_values, fitted_value
from stopping.solvers.posterior_vote import posterior_vote
from stopping.solvers.solve import Solver, solve

__all__ = [
    "CountSolution",
    "FamilySearch",
    "Member",
    "Solution",
    "Solver",
    "Status",
    "Tally",
    "VoteDistribution",
    "clairvoyant",
    "count_induction",
    "count_value",
    "default_rules",
    "exit_values",
    "families",
    "fitted_value",
    "induced_point",
    "one_step_point",
    "posterior_vote",
    "reachable",
    "sampling_families",
    "solve",
    "thinking_families",
]
