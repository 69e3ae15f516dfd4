"""Families of rules by the problem's class: each registers its own, and a custom problem has its fixed rules at least."""

from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

from stopping.policies import Policy
from stopping.problems import Replayable

Families = Mapping[str, Sequence[Policy]]


@singledispatch
def families_of(problem: Replayable, worlds: Any) -> Families:
    """Return the rules that are searched for a problem, by family: one class each, over a grid of its parameters.

    For a problem that nobody has registered families for, its fixed rules alone. Register others by
    `families_of.register(MyProblem, my_families)`.

    Args:
        problem: says what there may be.
        worlds: stacked; thresholds are read off them.
    """
    fixed = problem.fixed_rules(worlds)
    return {type(fixed[0]).__name__: fixed}


@singledispatch
def fitted_families(problem: Replayable, worlds: Any) -> Families:
    """Return the families that are fitted to the worlds; none unless the problem's class has registered some."""
    return {}
