"""What a rule costs against the reference rule, certified: by proof, by data, or not.

    loss of a problem = [the reference's answer is right] - [the rule's is]      labels: accuracy
                      = [the two answers differ]                                no labels: disagreement

on the same world, averaged over its orders; where a log does not hold what the rule asks for, the loss is the worst there
is. Rules are tested one after another in an order fixed beforehand, each at the full level, up to the first that fails:
the chance that any rule certified loses more than the limit is then 1 - confidence at most, however many there are (fixed
sequence testing, as in Learn then Test). The test is `betting`'s.

References:
    Angelopoulos, Bates, Candes, Jordan and Lei, "Learn then Test: Calibrating Predictive Algorithms to Achieve Risk
    Control" (2021), section 2; Maurer, Hothorn and Lehmacher on fixed sequences (1995). `theory_notes/03_certification.md`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

import sims
from sims import Estimate
from stopping.calibration.betting import SHARES, STAKES, p_values, problems_floor, risk_of, upper_bounds
from stopping.solvers import Member
from stopping.traces import TraceLog

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_WORLDS = 4096  # drawn to put a solution's family in order
MOST_NEEDED = 10**7  # problems: where more are needed, the capital is said not to grow

Risk = Literal["accuracy", "disagreement"]


class Grade(Enum):
    """What a certificate stands on."""

    PROOF = "by proof: it returns the reference's answer in every world, and loses nothing"
    DATA = "by data: the loss is below the limit, at the confidence asked for"
    NONE = "not certified: the data do not rule the limit out; record as many problems as `num_needed` says, or a safer rule"


@dataclass(frozen=True)
class Certificate:
    """What is known of one rule's loss.

    Attributes:
        policy: the rule.
        grade: what the certificate stands on.
        risk: what is lost: accuracy, or agreement with the reference's answers (always the larger of the two).
        reference: the rule that it is lost against.
        max_drop: the limit.
        confidence: of the certificate, for all rules certified together.
        mean_loss: over the problems of the log, paired.
        loss_bound: upper confidence bound on the mean loss, for this rule alone.
        p_value: of "the loss is the limit or more"; None for a proof, which needs no test.
        num_problems: that were tested on.
        num_needed: problems to certify on that a rule with such losses needs, where it failed; None where no number would do,
            as its losses are not below the limit, and where nothing failed.
        reached: whether its turn came: all rules before it were certified.
        assumptions: in words.
    """

    policy: Any
    grade: Grade
    risk: Risk
    reference: Any
    max_drop: float
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
        """The certificate in a sentence."""
        lost = "accuracy" if self.risk == "accuracy" else "agreement"
        limit = f"{self.max_drop:.3g} of {lost} against {self.reference}"
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
        """Return the certificate as a saved policy holds it: what `save(..., certificate=...)` takes."""
        return {
            "grade": self.grade.name.lower(),
            "statement": self.statement,
            "source": "theory_notes/03_certification.md",
            "risk": self.risk,
            "max_accuracy_drop": self.max_drop,
            "confidence": self.confidence,
            "num_problems": self.num_problems,
            **({"num_problems_needed": self.num_needed} if self.num_needed else {}),
        }


@dataclass(frozen=True, repr=False)
class Certification:
    """The certificates of rules, in the order in which they were tested."""

    certificates: tuple[Certificate, ...]

    @property
    def certified(self) -> tuple[Certificate, ...]:
        """Those by proof or data."""
        return tuple(one for one in self.certificates if one.grade is not Grade.NONE)

    @property
    def certificate(self) -> Certificate | None:
        """The most daring rule's: the last certified by data, else the last by proof; None where there is neither."""
        best = tuple(one for one in self.certified if one.grade is Grade.DATA) or self.certified
        return best[-1] if best else None

    @property
    def policy(self) -> Any:
        """The most daring rule certified; the reference, which loses nothing, where none is."""
        return self.certificates[0].reference if self.certificate is None else self.certificate.policy

    def summary(self) -> dict[str, Any]:
        """Return title and figures of `certificate` in plain numbers, as an artifact's evidence."""
        chosen = self.certificate
        losses = {} if chosen is None else {f"{chosen.risk}_loss": chosen.mean_loss.as_dict()}
        known = {name: figure for name, figure in losses.items() if figure["standard_error"] is not None}
        what = "no rule certified" if chosen is None else f"{chosen.policy} {chosen.statement}"
        return {"title": f"certification: {what}", "figures": known}

    def plot(self) -> "Figure":
        """Draw the loss of each rule beside the limit; see `stopping.plots.certification`."""
        from stopping.plots import certification

        return certification(self)

    def __repr__(self) -> str:
        lines = [f"  {one.grade.name:5}  {one.policy} {one.statement}" for one in self.certificates]
        return "\n".join([f"Certification, {len(self.certified)} of {len(lines)} rules certified:", *lines])


def certify(
    policies: Sequence[Any] | Mapping[str, Member],
    log: TraceLog,
    problem: Any,
    *,
    max_accuracy_drop: float,
    confidence: float = 0.95,
    reference: Any = None,
    num_orders: int = 1,
    seed: int = 0,
) -> Certification:
    """Certify which rules lose less than `max_accuracy_drop` against the reference rule.

    Args:
        policies: in the order of testing, which no problem of this log may have had a say in (`order_by_risk` on another
            part of the data); or a solution's `family`, which is put in order by its loss in worlds of the problem's model.
        log: problems that neither the rules nor their order were chosen on. Where correctness is not known of all traces,
            what is certified is agreement with the reference's answers.
        problem: what rules are played in. One with `same_answers(policy, reference)` says which rules need no data.
        max_accuracy_drop: the limit, between 0 and 1.
        confidence: that no rule certified by data loses so much.
        reference: the rule in use now; by default the log's own (`problem.reference_rule(log)`).
        num_orders: of a problem's traces that its loss is averaged over; 1 for the order logged.
        seed: of those orders, and of the order in which problems are looked at; chosen before any certificate is seen.

    Raises:
        PolicyMismatch: if a policy needs a signal, an action or more traces than the problem has.
        ValueError: for no policies, numbers outside (0, 1), a log that does not hold what the reference asks for, whose
            checkpoints look ahead or whose traces were cut by a live policy, or a family without a model.
    """
    reference = problem.reference_rule(log) if reference is None else reference
    problems_floor(max_accuracy_drop, confidence)  # refuses numbers that cannot be, before any work
    _refuse_informative(log)
    rules = _in_order(policies, problem, reference)
    if not rules:
        raise ValueError("policies: expected at least one, got none")
    risk = _risk(log)
    losses = losses_on(log, rules, problem, reference, num_orders=num_orders, seed=seed)
    proven = np.array([is_proven(problem, policy, reference) for policy in rules])
    p_value, bound = p_values(losses, max_accuracy_drop), upper_bounds(losses, confidence)
    needed = _needed(losses, max_accuracy_drop, confidence)
    passed = np.cumprod(proven | (p_value <= risk_of(confidence))).astype(bool)
    reached = np.r_[True, passed[:-1]]
    common = {"risk": risk, "reference": reference, "max_drop": max_accuracy_drop, "confidence": confidence}
    certificates = []
    for index, policy in enumerate(rules):
        grade = Grade.PROOF if proven[index] else Grade.DATA if passed[index] else Grade.NONE
        tested = grade is not Grade.PROOF
        failed = tested and p_value[index] > risk_of(confidence)
        certificates.append(
            Certificate(
                policy,
                grade,
                **common,
                mean_loss=Estimate.of(losses[index]) if tested else Estimate(0.0, 0.0, log.num_problems),
                loss_bound=float(bound[index]) if tested else 0.0,
                p_value=float(p_value[index]) if tested else None,
                num_problems=log.num_problems,
                num_needed=int(needed[index]) or None if failed else None,
                reached=bool(reached[index]) or not tested,
                assumptions=_assumptions(grade, risk, reference, num_orders),
            )
        )
    return Certification(tuple(certificates))


def order_by_risk(
    policies: Sequence[Any],
    log: TraceLog,
    problem: Any,
    *,
    confidence: float = 0.95,
    reference: Any = None,
    num_orders: int = 1,
    seed: int = 0,
) -> tuple[Any, ...]:
    """Put rules in order, the safest first, by the upper bound of each one's loss on this log.

    Rules that lose nothing by proof come first; of equal bounds, the smaller mean loss. The order is frozen by what it was
    found on: give a log with none of the problems that `certify` will see.

    Args and errors as in `certify`.
    """
    reference = problem.reference_rule(log) if reference is None else reference
    _refuse_informative(log)
    losses = losses_on(log, policies, problem, reference, num_orders=num_orders, seed=seed)
    proven = [is_proven(problem, policy, reference) for policy in policies]
    return _sorted(policies, proven, upper_bounds(losses, confidence), losses.mean(axis=1))


def losses_of(policies: Sequence[Any], problem: Any, reference: Any, worlds: Any, risk: Risk) -> np.ndarray:
    """The loss of each rule against the reference on each problem, `[policies, problems]`, averaged over its orders.

    Args:
        policies: the rules.
        problem: what they are played in; its outcomes have `unsupported`, and `correct` or `answer`.
        reference: the rule they are measured against.
        worlds: with leading axes `[problems, orders]`.
        risk: what is lost.

    Raises:
        PolicyMismatch: if a policy needs a signal, an action or more traces than the problem has.
        ValueError: if the worlds do not hold what the reference asks for.
    """
    component = "correct" if risk == "accuracy" else "answer"
    played = sims.play_rules(problem, [reference, *policies], worlds, (component, "unsupported"))
    unsupported = played["unsupported"]
    if short := int(unsupported[0].any(axis=1).sum()):
        raise ValueError(
            f"reference {reference}: expected a log that holds what it asks for, got {short} problems without"
        )
    values = played[component]
    if risk == "accuracy":  # an unsupported rule has no answer, and is wrong
        loss = values[:1].astype(np.int8) - values[1:]
    else:
        loss = (values[1:] != values[:1]) | unsupported[1:]
    mean: np.ndarray = loss.mean(axis=2, dtype=np.float64)
    return mean


def losses_on(
    log: TraceLog, policies: Sequence[Any], problem: Any, reference: Any, *, num_orders: int = 1, seed: int = 0
) -> np.ndarray:
    """The loss of each rule on each of a log's problems, in an order that hangs on their names and the seed alone.

    Args, and errors, as `losses_of` and `certify`.
    """
    risk = _risk(log)
    unjudged = {} if risk == "accuracy" else {"judged": False}
    worlds = problem.worlds(log, num_orders=num_orders, seed=seed, **unjudged)
    order = np.argsort(np.array(log.problem_ids))[np.random.default_rng(seed).permutation(log.num_problems)]
    return np.take(losses_of(policies, problem, reference, worlds, risk), order, axis=1)


def orders_averaged(problem: Any, log: TraceLog, num_orders: int) -> int:
    """Return over how many orders of a problem's samples a loss is averaged: 1 where their order plays no part."""
    return num_orders if log.num_samples > 1 and getattr(problem, "has_orders", False) else 1


def _risk(log: TraceLog) -> Risk:
    return "accuracy" if log.correct_known[log.present].all() else "disagreement"


def _in_order(policies: Sequence[Any] | Mapping[str, Member], problem: Any, reference: Any) -> Sequence[Any]:
    if not isinstance(policies, Mapping):
        return list(policies)
    rules = [member.policy for member in policies.values()]
    if getattr(problem, "model", None) is None:
        raise ValueError(
            "policies: a family is put in order by the problem's model, and there is none; "
            "give a list in the order of testing, as order_by_risk does on another part of the log"
        )
    drawn = sims.draw(jax.random.key(0), problem, NUM_WORLDS)
    worlds = jax.tree.map(lambda leaf: np.asarray(leaf)[:, None], drawn)
    loss = losses_of(rules, problem, reference, worlds, "accuracy").mean(axis=1)
    return _sorted(rules, [is_proven(problem, policy, reference) for policy in rules], loss, loss)


def _sorted(policies: Sequence[Any], proven: Sequence[bool], bound: np.ndarray, loss: np.ndarray) -> tuple[Any, ...]:
    order = np.lexsort((loss, bound, np.logical_not(proven)))
    return tuple(policies[index] for index in order)


def is_proven(problem: Any, policy: Any, reference: Any) -> bool:
    """Return whether a rule gives the reference's answer in every world, which needs no data."""
    same_answers = getattr(problem, "same_answers", None)
    return bool(policy == reference or (same_answers is not None and same_answers(policy, reference)))


def _refuse_informative(log: TraceLog) -> None:
    """Refuse a log from which what a rule would have done cannot be told."""
    if log.live is not None:
        stop = log.live.would_stop_at
        cut = int((log.present & (stop >= 0) & (log.length_tokens <= stop)).sum())
        if cut:
            raise ValueError(
                f"log: expected traces that ran to their end, got {cut} that end where a live policy stopped them; "
                "record with the policy in the shadow"
            )


def _needed(losses: np.ndarray, limit: float, confidence: float) -> np.ndarray:
    """Problems with which each rule's capital is worth enough, had it gone on as on these losses; 0 if it does not grow."""
    with np.errstate(divide="ignore"):  # a stake of 1 on a loss of 1
        gains = (limit - losses) / (1 - limit)
        growth = np.stack([np.log1p(np.maximum(stake * gains, -1)).mean(axis=1) for stake in STAKES])
    goal, low, high = -math.log(risk_of(confidence)), np.zeros(len(losses), int), np.full(len(losses), 2 * MOST_NEEDED)
    while (high - low > 1).any():  # it may fall at first, and never falls again once it has risen (it is convex)
        middle = (low + high) // 2
        enough = np.logaddexp.reduce(np.log(SHARES)[:, None] + middle * growth) >= goal
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(high <= MOST_NEEDED, high, 0)


def _assumptions(grade: Grade, risk: Risk, reference: Any, num_orders: int) -> tuple[str, ...]:
    if grade is Grade.PROOF:
        return (f"the reference is {reference}, and answers are counted as the problem counts them",)
    return (
        "the problems are independent draws from those to come: no question twice, none of another kind later",
        "neither the rules nor their order were chosen on these problems",
        "traces were logged whole: no policy's own stops",
        f"the reference is {reference}, "
        + ("and labels are right" if risk == "accuracy" else "and no labels are used"),
        "the traces of a problem in the order logged"
        if num_orders == 1
        else f"the traces of a problem in {num_orders} random orders, averaged",
    )
