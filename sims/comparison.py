"""Paired comparison of rules on one log, also at equal cost.

A rule that costs more than another and is right more often is not necessarily better: a coin tossed for each problem mixes two
fixed rules (n samples, a budget), and such a mixture can have any cost between theirs. So each rule is also compared with the
best mixture of the same average cost:

    accuracy of the rule - [(1 - w) accuracy of one fixed rule + w accuracy of another],    w: their mean cost is the rule's

The two fixed rules are neighbours on the concave hull of accuracy against cost. They are found on the same problems, which
biases the comparison in the mixture's favour, if at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sims.estimates import Estimate
from sims.log_replay import play_rules, replay_worlds
from sims.plotted import Plotted
from sims.results import Result, difference
from stopping.policies import Policy
from stopping.problems import Replayable
from stopping.problems.problem import costs_of, worth_of
from stopping.traces import TraceLog


@dataclass(frozen=True)
class Row:
    """One rule on the log.

    Attributes:
        policy: the rule.
        result: its outcomes.
        against_reference: each component less the reference rule's, in the component's unit, paired by problem. With
            unsupported problems, `correct` and costs are lower bounds, as in the result.
        at_equal: by cost component, the rule's worth (accuracy, say) less that of the best mixture of fixed rules with the same
            mean cost, paired by problem. There is no entry where no fixed rule is as cheap, or where the rule has unsupported
            problems.
    """

    policy: Any
    result: Result
    against_reference: dict[str, Estimate]
    at_equal: dict[str, Estimate]


@dataclass(frozen=True, repr=False)
class Comparison(Plotted):
    """Rules on one log.

    Attributes:
        rows: one for each rule in the order given, after the reference rule.
        problem: that the rules were played in.
    """

    rows: tuple[Row, ...]
    problem: Replayable

    def __repr__(self) -> str:
        names = [str(row.policy) for row in self.rows]
        width = max(map(len, names))
        shown = (worth_of(self.problem), *costs_of(self.problem))
        lines = [
            f"  {name:{width}}  " + ", ".join(f"{part} {row.result.estimates[part]}" for part in shown)
            for name, row in zip(names, self.rows, strict=True)
        ]
        return "\n".join([f"Comparison of {len(lines)} rules, the first is the reference:", *lines])


def compare(
    problem: Replayable,
    policies: Sequence[Policy],
    log: TraceLog,
    *,
    reference: Policy | None = None,
    num_orders: int = 1,
    seed: int = 0,
) -> Comparison:
    """Replay rules on one log, all through the same worlds.

    Args:
        problem: its model is not used.
        policies: the rules, published or user-defined.
        log: one whose answers are all labelled right or wrong.
        reference: what they are compared with; by default the log's own (`problem.reference_rule(log)`).
        num_orders: as in `replay`.
        seed: as in `replay`.

    Raises:
        PolicyMismatch: if a policy needs a signal, an action or more traces than the problem has.
        ValueError: if a trace's correctness is not known, the log is too short for the reference rule, or `num_orders` is
            not a whole number >= 1.
    """
    reference = problem.reference_rule(log) if reference is None else reference
    worlds = problem.worlds(log, num_orders=num_orders, seed=seed)
    base = replay_worlds(problem, reference, worlds)
    if base.num_unsupported:
        share = base.num_unsupported / log.num_problems
        raise ValueError(
            f"reference {reference}: expected as many logged traces as it takes, got fewer in {share:.1%} of the problems; "
            f"the fewest is {int(log.samples_per_problem.min())}"
        )
    rules = [reference, *(policy for policy in policies if policy != reference)]
    results = [base if policy is reference else replay_worlds(problem, policy, worlds) for policy in rules]
    fixed = _fixed_rules(problem, worlds)
    return Comparison(
        tuple(
            Row(policy, result, difference(result, base), _at_equal(problem, result, fixed))
            for policy, result in zip(rules, results, strict=True)
        ),
        problem,
    )


def _fixed_rules(problem: Replayable, worlds: Any) -> dict[str, np.ndarray]:
    """Return worth and costs, `[rules, problems]`, of the fixed rules that the log supports on every problem."""
    names = (worth_of(problem), *costs_of(problem), "unsupported")
    played = play_rules(problem, problem.fixed_rules(worlds), worlds, names)
    held = ~played.pop("unsupported").any(axis=(1, 2))
    return {name: values[held].mean(axis=2, dtype=np.float64) for name, values in played.items()}


def _at_equal(problem: Replayable, result: Result, fixed: dict[str, np.ndarray]) -> dict[str, Estimate]:
    if result.num_unsupported or not len(fixed[worth := worth_of(problem)]):
        return {}
    own = result.values
    found = {name: at_equal_cost(own[worth], own[name], fixed[worth], fixed[name]) for name in costs_of(problem)}
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def at_equal_cost(
    correct: np.ndarray, cost: np.ndarray, fixed_correct: np.ndarray, fixed_cost: np.ndarray
) -> Estimate | None:
    """Return a rule's accuracy less that of the best mixture of two fixed rules of no larger mean cost; None if all cost more.

    The weight w is estimated from the same problems, and its error is included (delta method): with s the slope of accuracy
    against cost between the two, the estimate is the mean of

        correct - (1 - w) correct_1 - w correct_2 - s [cost - (1 - w) cost_1 - w cost_2]

    Args:
        correct: of the rule, `[problems]`.
        cost: of the rule, `[problems]`.
        fixed_correct: of the fixed rules, `[rules, problems]`.
        fixed_cost: of the fixed rules, `[rules, problems]`.
    """
    x, y, goal = fixed_cost.mean(axis=1), fixed_correct.mean(axis=1), cost.mean()
    hull = _concave_hull(x, y)
    below = [index for index in hull if x[index] <= goal]
    if not below:
        return None
    low, *above = hull[len(below) - 1 :][:2]
    if not above:  # the rule costs more than the best fixed rule, which is then the comparison
        return Estimate.of(correct - fixed_correct[low])
    high = above[0]
    share = (goal - x[low]) / (x[high] - x[low])
    slope = (y[high] - y[low]) / (x[high] - x[low])
    mixed = [(1 - share) * values[low] + share * values[high] for values in (fixed_correct, fixed_cost)]
    return Estimate.of(correct - mixed[0] - slope * (cost - mixed[1]))


def _concave_hull(x: np.ndarray, y: np.ndarray) -> list[int]:
    """Return the indices of the upper concave hull from left to right, while y increases."""
    hull: list[int] = []
    for index in np.lexsort((-y, x)).tolist():
        if hull and y[index] <= y[hull[-1]]:
            continue
        while len(hull) > 1 and _is_below(hull[-1], hull[-2], index, x, y):
            hull.pop()
        hull.append(index)
    return hull


def _is_below(middle: int, left: int, right: int, x: np.ndarray, y: np.ndarray) -> bool:
    rise, run = y[right] - y[left], x[right] - x[left]
    return bool((y[middle] - y[left]) * run <= rise * (x[middle] - x[left]))
