"""Any rules on one log, paired."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sims.estimates import Estimate
from sims.replay import replay_worlds
from sims.results import Result, difference
from stopping.policies import FixedSamples
from stopping.traces import TraceLog


@dataclass(frozen=True)
class Row:
    """One rule on the log.

    Attributes:
        policy: the rule.
        result: its outcomes.
        against_reference: each component less the reference rule's, paired by problem.
    """

    policy: Any
    result: Result
    against_reference: dict[str, Estimate]


@dataclass(frozen=True)
class Comparison:
    """Rules on one log: `rows` in the order given, the reference rule first."""

    reference: Any
    rows: tuple[Row, ...]


def compare(
    problem: Any, log: TraceLog, policies: Sequence[Any], *, reference: Any = None, num_orders: int = 1, seed: int = 0
) -> Comparison:
    """Replay rules, published or the user's own, on one log: the same worlds for all.

    Args:
        problem: its model is not used.
        log: with known correctness.
        policies: the rules.
        reference: what they are compared with; by default all the traces a problem may get, and their vote.
        num_orders: as in `replay`.
        seed: as in `replay`.

    Raises:
        PolicyMismatch: if a policy needs a signal or an action the problem lacks.
        ValueError: if a trace's correctness is not known.
    """
    reference = FixedSamples(problem.num_traces) if reference is None else reference
    worlds = problem.worlds(log, num_orders=num_orders, seed=seed)
    base = replay_worlds(problem, reference, worlds)
    rules = [reference, *(policy for policy in policies if policy != reference)]
    results = [base if policy is reference else replay_worlds(problem, policy, worlds) for policy in rules]
    rows = [Row(policy, result, difference(result, base)) for policy, result in zip(rules, results, strict=True)]
    return Comparison(reference, tuple(rows))
