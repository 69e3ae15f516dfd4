"""The families of rules that are searched, a file a decision."""

from stopping.solvers.families.dispatch import Families, default_rules, distinct, families_of, fitted_families
from stopping.solvers.families.sampling import sampling_families
from stopping.solvers.families.thinking import thinking_families

__all__ = [
    "Families",
    "default_rules",
    "distinct",
    "families_of",
    "fitted_families",
    "sampling_families",
    "thinking_families",
]
