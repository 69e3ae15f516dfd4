"""Substitution: a fixed rule in place of a policy, for engines that support only that, and what it loses.

As in `stopping.tuning.tuning`, the log is split by problem. On the first part the cheapest of the fixed rules that are right
as often as the policy is picked. On the second it is certified to the policy's limit, as a single rule. On the third, which
was not used for anything else, both are played on the same worlds and compared.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

import sims
from sims import Estimate, Result
from stopping.policies import Policy
from stopping.problems import Replayable
from stopping.problems.problem import costs_of, worth_of
from stopping.traces import Log, split
from stopping.traces.splits import FRACTIONS
from stopping.tuning.certification import Certificate, certify


@dataclass(frozen=True)
class Substitution:
    """A fixed rule in place of a policy.

    Attributes:
        rule: the fixed rule.
        policy_result, rule_result: on the test part.
        loss: the components of the rule minus those of the policy, paired by problem.
        tokens_share: the change in tokens as a share of the policy's.
        certificate: of the rule, for the policy's limit; None if none was asked for.
        num_problems: numbers of problems of the three parts.
    """

    rule: Any
    policy_result: Result
    rule_result: Result
    loss: dict[str, Estimate]
    tokens_share: Estimate
    certificate: Certificate | None
    num_problems: tuple[int, int, int]


def substitute(
    problem: Replayable,
    native_problem: Replayable,
    policy: Policy,
    log: Log,
    *,
    rule: Policy | None = None,
    reference: Policy | None = None,
    max_loss: float | None = None,
    confidence: float | None = None,
    seed: int = 0,
) -> Substitution:
    """Pick a fixed rule to substitute for a policy, and measure what that loses.

    Args:
        problem: in which the policy is played.
        native_problem: in which the rule is played on the same worlds, as the engine plays it: without a lag, for example.
        policy: any policy that the problem admits.
        log: with known correctness; for a thinking problem, with checkpoints on every problem.
        rule: the fixed rule, if it is known.
        reference: the rule that accuracy is certified against; by default the log's own.
        max_loss: the policy's certified limit; None to certify nothing.
        confidence: of the certificate; .95 if not given.
        seed: of the split. It must be that of the tuning, so that the policy was not chosen on the test part.

    Raises:
        LogError: for a log too short to be split.
        PolicyMismatch: if the policy reads what the log does not hold.
        ValueError: as `sims.replay` and `certify`, or if both rules ask for more than the log holds.
    """
    parts = pick_part, certify_part, test_part = split(log, FRACTIONS, seed=seed)
    if rule is None:
        rule = _cheapest_as_accurate(policy, problem, native_problem, problem.worlds(pick_part))
    certificate = None
    if max_loss is not None:
        found = certify(
            native_problem, [rule], certify_part,
            max_loss=max_loss, confidence=confidence or 0.95, reference=reference, seed=seed,
        )  # fmt: skip
        certificate = found.certificates[0]
    worlds = problem.worlds(test_part)
    policy_result = sims.replay_worlds(problem, policy, worlds)
    rule_result = sims.replay_worlds(native_problem, rule, worlds)
    loss = sims.difference(rule_result, policy_result)
    tokens = [result.values[costs_of(problem)[0]] for result in (rule_result, policy_result)]
    return Substitution(
        rule=rule,
        policy_result=policy_result,
        rule_result=rule_result,
        loss=loss,
        tokens_share=Estimate.ratio(tokens[0] - tokens[1], tokens[1]),
        certificate=certificate,
        num_problems=tuple(part.num_problems for part in parts),  # type: ignore[arg-type]
    )


def _cheapest_as_accurate(policy: Policy, problem: Replayable, native_problem: Replayable, worlds: Any) -> Any:
    """Return the fixed rule with fewest tokens of those right as often as the policy; if there is none, the most accurate."""
    rules = native_problem.fixed_rules(worlds)
    names = worth, _ = worth_of(problem), costs_of(problem)[0]
    aim = sims.replay_worlds(problem, policy, worlds).estimates[worth].mean
    played = sims.play_rules(native_problem, rules, worlds, names)
    accuracy, tokens = (played[name].mean(axis=(1, 2), dtype=np.float64) for name in names)
    enough = accuracy >= min(aim, accuracy.max())
    return rules[int(np.argmin(np.where(enough, tokens, np.inf)))]
