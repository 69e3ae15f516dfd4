"""Any rules on one log, paired."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sims.estimates import Estimate
from sims.replay import replay_worlds
from sims.results import Result, difference
from stopping.traces import TraceLog


@dataclass(frozen=True)
class Row:
    """One rule on the log.

    Attributes:
        policy: the rule.
        result: its outcomes.
        against_reference: each component less the reference rule's, paired by problem. With unsupported problems it is, as
            is the result, at least so much in `correct` and costs.
    """

    policy: Any
    result: Result
    against_reference: dict[str, Estimate]


@dataclass(frozen=True)
class Comparison:
    """Rules on one log: `rows` in the order given, the reference rule first."""

    rows: tuple[Row, ...]


def compare(
    problem: Any, log: TraceLog, policies: Sequence[Any], *, reference: Any = None, num_orders: int = 1, seed: int = 0
) -> Comparison:
    """Replay rules, published or the user's own, on one log: the same worlds for all.

    Args:
        problem: its model is not used.
        log: with known correctness.
        policies: the rules.
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
    rows = [Row(policy, result, difference(result, base)) for policy, result in zip(rules, results, strict=True)]
    return Comparison(tuple(rows))
