"""Certificates of what a rule loses against the reference rule: by proof, by data, or none.

    loss of a problem = [the reference's answer is right] - [the rule's is]      labels: accuracy
                      = [the two answers differ]                                no labels: disagreement

on the same world, averaged over its orders. If a log does not hold what the rule asks for, the loss has its largest value.
Rules are tested in an order fixed beforehand, each at the full level, up to the first that fails: the probability that any
certified rule loses more than the limit is then at most 1 - confidence, for any number of rules (fixed sequence testing, as
in Learn then Test). The test is that of `betting`.

References:
    Angelopoulos, Bates, Candes, Jordan and Lei, "Learn then Test: Calibrating Predictive Algorithms to Achieve Risk
    Control" (2021), section 2; Maurer, Hothorn and Lehmacher on fixed sequences (1995). `theory_notes/03_certification.md`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

import jax
import numpy as np

import sims
from sims import Estimate
from sims.plotted import Plotted
from stopping.policies import Policy
from stopping.problems import Replayable
from stopping.solvers import Member
from stopping.traces import Log
from stopping.tuning.betting import SHARES, STAKES, p_values, problems_floor, risk_of, upper_bounds
from stopping.tuning.played import Played, play

NUM_WORLDS = 4096  # drawn to sort the family of a solution
MOST_NEEDED = 10**7  # problems; beyond, the capital is taken not to grow

Risk = Literal["accuracy", "disagreement"]


class Grade(Enum):
    """What a certificate is based on."""

    PROOF = "by proof: it returns the reference's answer in every world, and loses nothing"
    DATA = "by data: the loss is below the limit, at the confidence asked for"
    NONE = "not certified: the data do not rule the limit out; record as many problems as `num_needed` says, or a safer rule"


@dataclass(frozen=True)
class Certificate:
    """What is known of the loss of one rule.

    Attributes:
        policy: the rule.
        grade: what the certificate is based on.
        risk: what is lost: accuracy, or agreement with the reference's answers, whose loss is always at least as large.
        reference: the rule that the loss is measured against.
        max_loss: the limit.
        confidence: of the certificate, for all rules certified together.
        mean_loss: paired, over the problems of the log.
        loss_bound: upper confidence bound on the mean loss, for this rule alone.
        p_value: of "the loss is the limit or more"; None for a proof, which needs no test.
        num_problems: number of problems in the test.
        num_needed: number of problems on which a rule with such losses would be certified, if it failed; None if no number
            would be enough because its losses are not below the limit, and if it did not fail.
        reached: whether the rule was tested: all rules before it were certified.
        assumptions: of the certificate, in words.
    """

    policy: Policy
    grade: Grade
    risk: Risk
    reference: Policy
    max_loss: float
    confidence: float
    mean_loss: Estimate
    loss_bound: float
    p_value: float | None
    num_problems: int
    num_needed: int | None
    reached: bool
    assumptions: tuple[str, ...]

    @property
    def statement(self) -> str:
        """The certificate as a sentence."""
        lost = "accuracy" if self.risk == "accuracy" else "agreement"
        limit = f"{self.max_loss:.3g} of {lost} against {self.reference}"
        if self.grade is Grade.PROOF:
            return f"loses nothing against {self.reference}: it returns the same answer, always"
        if self.grade is Grade.DATA:
            return (
                f"loses less than {limit}, with confidence {self.confidence:.6g} (p = {self.p_value:.2g} on "
                f"{self.num_problems:,} problems; by itself at most {self.loss_bound:.2g})"
            )
        if not self.reached:
            return f"not certified to lose less than {limit}: a rule before it failed"
        needed = (
            f"about {self.num_needed:,} problems to certify on are needed, and there were {self.num_problems:,}"
            if self.num_needed
            else "no number of problems like these would do, as its loss is not clearly below the limit"
        )
        return f"not certified to lose less than {limit}: {needed} (it lost {self.mean_loss})"

    def summary(self) -> dict[str, Any]:
        """Return the certificate as in a saved policy, for `save_policy(..., certificate=...)`."""
        return {
            "grade": self.grade.name.lower(),
            "statement": self.statement,
            "source": "theory_notes/03_certification.md",
            "risk": self.risk,
            "max_accuracy_drop": self.max_loss,
            "confidence": self.confidence,
            "num_problems": self.num_problems,
            **({"num_problems_needed": self.num_needed} if self.num_needed else {}),
        }


@dataclass(frozen=True, repr=False)
class Certification(Plotted):
    """The certificates of rules, in the order in which they were tested."""

    certificates: tuple[Certificate, ...]

    @property
    def certified(self) -> tuple[Certificate, ...]:
        """The certificates by proof or data."""
        return tuple(one for one in self.certificates if one.grade is not Grade.NONE)

    @property
    def certificate(self) -> Certificate | None:
        """The certificate of the last rule certified by data, else of the last by proof; None if there is neither."""
        best = tuple(one for one in self.certified if one.grade is Grade.DATA) or self.certified
        return best[-1] if best else None

    @property
    def policy(self) -> Any:
        """The rule of `certificate`; the reference, which loses nothing, if no rule is certified."""
        return self.certificates[0].reference if self.certificate is None else self.certificate.policy

    def summary(self) -> dict[str, Any]:
        """Return title and figures of `certificate` as plain numbers, for the evidence in a saved policy."""
        chosen = self.certificate
        losses = {} if chosen is None else {f"{chosen.risk}_loss": chosen.mean_loss.as_dict()}
        known = {name: figure for name, figure in losses.items() if figure["standard_error"] is not None}
        what = "no rule certified" if chosen is None else f"{chosen.policy} {chosen.statement}"
        return {"title": f"certification: {what}", "figures": known}

    def __repr__(self) -> str:
        lines = [f"  {one.grade.name:5}  {one.policy} {one.statement}" for one in self.certificates]
        return "\n".join([f"Certification, {len(self.certified)} of {len(lines)} rules certified:", *lines])


def certify(
    problem: Replayable,
    policies: Sequence[Policy] | Mapping[str, Member],
    log: Log,
    *,
    max_loss: float,
    confidence: float = 0.95,
    reference: Policy | None = None,
    num_orders: int = 1,
    seed: int = 0,
) -> Certification:
    """Certify which rules lose less than `max_loss` against the reference rule.

    Args:
        problem: what rules are played in.
        policies: in the order of testing, which must not depend on the problems of this log (`order_by_risk` on another part
            of the data gives one); or the `family` of a solution, which is sorted by loss in worlds of the problem's model.
        log: problems on which neither the rules nor their order were chosen. If the correctness of some traces is unknown,
            agreement with the reference's answers is certified.
        max_loss: the limit, between 0 and 1.
        confidence: that no rule certified by data loses as much as the limit.
        reference: the rule in use now; by default the log's own (`problem.reference_rule(log)`).
        num_orders: number of orders of a problem's samples over which its loss is averaged; 1 for the order logged.
        seed: of those orders, and of the order in which problems are tested; chosen before any certificate is seen.

    Raises:
        PolicyMismatch: if a policy needs a signal, an action or more traces than the problem has.
        ValueError: for no policies, numbers outside (0, 1), a family without a model, or a log that does not hold what the
            reference asks for, whose checkpoints look ahead or whose traces were cut by a live policy.
    """
    reference = problem.reference_rule(log) if reference is None else reference
    problems_floor(max_loss, confidence)  # refuses invalid numbers before any work
    refuse_informative(log)
    rules = _in_order(policies, problem, reference)
    if not rules:
        raise ValueError("policies: expected at least one, got none")
    played = play_log(problem, rules, log, reference, num_orders=num_orders, seed=seed)
    limits = {"max_loss": max_loss, "confidence": confidence}
    return certified(played, testing_order(log, seed), risk_of_log(log), num_orders=num_orders, **limits)


def certified(
    played: Played, order: np.ndarray, risk: Risk, *, max_loss: float, confidence: float, num_orders: int
) -> Certification:
    """Return certificates of rules that have been played, in their order; see `certify`.

    Args:
        played: the reference, then the rules.
        order: of the problems, int `[problems]`; it must not depend on their losses.
        risk: what is lost.
        max_loss: the limit.
        confidence: of the certificate.
        num_orders: over which losses were averaged, for the assumptions.
    """
    reference, *rules = played.policies
    losses = np.take(played.loss[1:], order, axis=1)
    proven = np.array([is_proven(played.problem, policy, reference) for policy in rules])
    p_value, bound = p_values(losses, max_loss), upper_bounds(losses, confidence)
    needed = _needed(losses, max_loss, confidence)
    passed = np.cumprod(proven | (p_value <= risk_of(confidence))).astype(bool)
    reached = np.r_[True, passed[:-1]]
    certificates = []
    for index, policy in enumerate(rules):
        grade = Grade.PROOF if proven[index] else Grade.DATA if passed[index] else Grade.NONE
        tested = grade is not Grade.PROOF
        failed = tested and p_value[index] > risk_of(confidence)
        certificates.append(
            Certificate(
                policy,
                grade,
                risk=risk,
                reference=reference,
                max_loss=max_loss,
                confidence=confidence,
                mean_loss=Estimate.of(losses[index]) if tested else Estimate(0.0, 0.0, len(order)),
                loss_bound=float(bound[index]) if tested else 0.0,
                p_value=float(p_value[index]) if tested else None,
                num_problems=len(order),
                num_needed=int(needed[index]) or None if failed else None,
                reached=bool(reached[index]) or not tested,
                assumptions=_assumptions(grade, risk, reference, num_orders),
            )
        )
    return Certification(tuple(certificates))


def order_by_risk(
    problem: Replayable,
    policies: Sequence[Policy],
    log: Log,
    *,
    confidence: float = 0.95,
    reference: Policy | None = None,
    num_orders: int = 1,
    seed: int = 0,
) -> tuple[Policy, ...]:
    """Return rules sorted by the upper confidence bound on their loss on this log, the safest first.

    Rules that lose nothing by proof come first; equal bounds are sorted by mean loss. The log must not have problems on which
    `certify` will test the rules.

    Args and errors as in `certify`.
    """
    reference = problem.reference_rule(log) if reference is None else reference
    refuse_informative(log)
    played = play_log(problem, policies, log, reference, num_orders=num_orders, seed=seed)
    return sorted_by_risk(played, testing_order(log, seed), confidence)


def sorted_by_risk(played: Played, order: np.ndarray, confidence: float = 0.95) -> tuple[Policy, ...]:
    """Return the rules that have been played, the safest first; see `order_by_risk`."""
    reference, *rules = played.policies
    losses = np.take(played.loss[1:], order, axis=1)
    proven = [is_proven(played.problem, policy, reference) for policy in rules]
    return _sorted(rules, proven, upper_bounds(losses, confidence), losses.mean(axis=1))


def play_log(
    problem: Replayable,
    policies: Sequence[Policy],
    log: Log,
    reference: Policy,
    *,
    num_orders: int = 1,
    seed: int = 0,
) -> Played:
    """Play rules on a log; losses are of agreement if the correctness of some traces is unknown.

    Args, and errors, as `certify`.
    """
    judged = risk_of_log(log) == "accuracy"
    unjudged = {} if judged else {"judged": False}
    worlds = problem.worlds(log, num_orders=num_orders, seed=seed, **unjudged)
    return play(problem, reference, policies, worlds, judged=judged)


def losses_on(
    problem: Replayable,
    policies: Sequence[Policy],
    log: Log,
    reference: Policy,
    *,
    num_orders: int = 1,
    seed: int = 0,
) -> np.ndarray:
    """Return the loss of each rule on each of a log's problems, in the order of testing: `[policies, problems]`.

    Args, and errors, as `certify`.
    """
    played = play_log(problem, policies, log, reference, num_orders=num_orders, seed=seed)
    return np.take(played.loss[1:], testing_order(log, seed), axis=1)


def testing_order(log: Log, seed: int) -> np.ndarray:
    """Return the order in which the problems of a log are tested, which depends on their names and the seed alone."""
    order: np.ndarray = np.argsort(np.array(log.problem_ids))[np.random.default_rng(seed).permutation(log.num_problems)]
    return order


def orders_averaged(problem: Replayable, log: Log, num_orders: int) -> int:
    """Return over how many orders of a problem's samples a loss is averaged: 1 if their order has no effect."""
    return num_orders if log.num_samples > 1 and problem.has_orders else 1


def risk_of_log(log: Log) -> Risk:
    """Return what can be certified on a log: accuracy if all samples are judged, else agreement with the reference."""
    return "accuracy" if log.all_judged else "disagreement"


def _in_order(
    policies: Sequence[Policy] | Mapping[str, Member], problem: Replayable, reference: Policy
) -> Sequence[Policy]:
    if not isinstance(policies, Mapping):
        return list(policies)
    rules = [member.policy for member in policies.values()]
    if getattr(problem, "model", None) is None:
        raise ValueError(
            "policies: a family is sorted by the problem's model, and there is none; "
            "give a list in the order of testing, as order_by_risk does on another part of the log"
        )
    drawn = sims.draw(jax.random.key(0), problem, NUM_WORLDS)
    worlds = jax.tree.map(lambda leaf: np.asarray(leaf)[:, None], drawn)
    loss = play(problem, reference, rules, worlds).loss[1:].mean(axis=1)
    return _sorted(rules, [is_proven(problem, policy, reference) for policy in rules], loss, loss)


def _sorted(
    policies: Sequence[Policy], proven: Sequence[bool], bound: np.ndarray, loss: np.ndarray
) -> tuple[Policy, ...]:
    order = np.lexsort((loss, bound, np.logical_not(proven)))
    return tuple(policies[index] for index in order)


def is_proven(problem: Replayable, policy: Policy, reference: Policy) -> bool:
    """Return whether a rule is proven to lose nothing in any world."""
    return bool(policy == reference or problem.lossless(policy, reference))


def refuse_informative(log: Log) -> None:
    """Refuse a log whose censoring is informative: what another rule would have done cannot be replayed on it."""
    if reason := log.informative_censoring:
        raise ValueError(
            f"log: expected samples that ran to their end, got {reason}; record with the policy in the shadow"
        )


def _needed(losses: np.ndarray, limit: float, confidence: float) -> np.ndarray:
    """Return on how many problems with losses like these each rule would be certified; 0 if its capital does not grow."""
    with np.errstate(divide="ignore"):  # a stake of 1 and a loss of 1
        gains = (limit - losses) / (1 - limit)
        growth = np.stack([np.log1p(np.maximum(stake * gains, -1)).mean(axis=1) for stake in STAKES])
    goal, low, high = -math.log(risk_of(confidence)), np.zeros(len(losses), int), np.full(len(losses), 2 * MOST_NEEDED)
    while (high - low > 1).any():  # the capital is convex: it may fall at first, and then only rises
        middle = (low + high) // 2
        enough = np.logaddexp.reduce(np.log(SHARES)[:, None] + middle * growth) >= goal
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(high <= MOST_NEEDED, high, 0)


def _assumptions(grade: Grade, risk: Risk, reference: Policy, num_orders: int) -> tuple[str, ...]:
    if grade is Grade.PROOF:
        return (f"the reference is {reference}, and answers are counted as the problem counts them",)
    return (
        "the problems are independent draws from those to come: no question twice, none of another kind later",
        "neither the rules nor their order were chosen on these problems",
        "traces were logged whole: no policy stopped them",
        f"the reference is {reference}, "
        + ("and labels are right" if risk == "accuracy" else "and no labels are used"),
        "the traces of a problem in the order logged"
        if num_orders == 1
        else f"the traces of a problem in {num_orders} random orders, averaged",
    )
