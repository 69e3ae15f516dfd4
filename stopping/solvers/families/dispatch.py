"""Rules by the class of a problem: those that are searched, those fitted to worlds, and those compared by default.

Each is a generic function. A problem's class registers its own; any other problem gets its fixed rules.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import singledispatch
from typing import Any

from stopping.policies import Policy
from stopping.problems import Replayable

Families = Mapping[str, Sequence[Policy]]

QUARTERS = (1, 2, 3)  # of a family's grid, at which it is represented


@singledispatch
def families_of(problem: Replayable, worlds: Any) -> Families:
    """Return the rules that are searched for a problem, by family: one class each, over a grid of its parameters.

    The default is the problem's fixed rules alone. Register others by `families_of.register(MyProblem, my_families)`.

    Args:
        problem: says which rules are possible.
        worlds: stacked; thresholds are quantiles of what they hold.
    """
    fixed = problem.fixed_rules(worlds)
    return {type(fixed[0]).__name__: fixed}


@singledispatch
def fitted_families(problem: Replayable, worlds: Any) -> Families:
    """Return the families that are fitted to the worlds; none unless the problem's class has registered some."""
    return {}


@singledispatch
def default_rules(problem: Replayable, worlds: Any) -> list[Policy]:
    """Return the rules that are compared on a log's worlds where the user names none: a few of each family."""
    return a_few_of_each(families_of(problem, worlds))


def a_few_of_each(families: Families) -> list[Policy]:
    """Return the members at the quarters of each family's grid."""
    return distinct(members[len(members) * part // 4] for members in families.values() for part in QUARTERS)


def distinct(rules: Iterable[Policy]) -> list[Policy]:
    """Return the rules in order, without repetition."""
    return list(dict.fromkeys(rules))
