"""Solvers: a policy from a problem."""

from stopping.solvers.chain_induction import induced_point, one_step_point
from stopping.solvers.families import default_rules, families_of, sampling_families, thinking_families
from stopping.solvers.family_search import FamilySearch, Member, Solution, Status, clairvoyant, reachable
from stopping.solvers.induction_on_counts import CountSolution, Tally, VoteDistribution, count_induction, count_value
from stopping.solvers.posterior_tables import posterior_vote
from stopping.solvers.solver import Solver, solve
from stopping.solvers.value_regression import exit_values, fitted_value

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
    "families_of",
    "fitted_value",
    "induced_point",
    "one_step_point",
    "posterior_vote",
    "reachable",
    "sampling_families",
    "solve",
    "thinking_families",
]
