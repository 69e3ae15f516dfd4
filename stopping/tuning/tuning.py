"""Tuning: from a log to a certified rule that saves tokens, or to the advice not to bother.

The log is split by problem. On the first part every member of every family of rules is played. Rules that lose nothing by proof
are tested in any case; of the others, those that are Pareto-optimal in loss and saving (and seem to lose less than the limit).
They are sorted by risk, and the order is frozen. On the second part they are certified in that order, and their savings are
tested for significance. On the third, which was not used for anything else, the rules are measured.

A rule is chosen only if it is certified and its saving, net of probes and discarded tokens, is significant. An adaptive rule
must also save more than the best certified fixed rule, and more than fixed rules that lose as much, by two standard errors of
the paired differences on the second part, on which neither was chosen.

Reference: Laufer-Goldshtein, Fisch, Barzilay and Jaakkola, "Efficiently Controlling Multiple Risks with Pareto Testing" (ICLR
2023): a frontier found on one part of the data, tested along a fixed sequence on another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from sims import Estimate
from sims.plotted import Plotted
from sims.rounding import in_points, plus_minus
from stopping.policies import Policy
from stopping.problems import Replayable
from stopping.problems.problem import costs_of
from stopping.solvers.families import Families, families_of, fitted_families
from stopping.traces import Log, split
from stopping.traces.splits import FRACTIONS
from stopping.tuning.betting import problems_floor
from stopping.tuning.certification import (
    Certificate,
    Certification,
    Grade,
    certified,
    is_proven,
    orders_averaged,
    play_log,
    refuse_informative,
    risk_of_log,
    sorted_by_risk,
    testing_order,
)
from stopping.tuning.measurement import Measured, measure
from stopping.tuning.planning import problems_of_log
from stopping.tuning.played import Played, play

NUM_ORDERS = 16  # orders of a problem's samples over which losses and savings are averaged
MOST_TESTED = 24  # rules of the frontier, spread evenly over their savings
ERRORS = 2.0  # standard errors that a saving must exceed
WHAT_CAN_BE = "What can be: the saving of one who knows all answers beforehand, and is right wherever the rule is."
REACHABLE = (
    "Reachable: the saving of the best rules fitted to the signals of all other problems, which may lose as much as the limit; "
    "from below, an estimate of what these signals allow."
)


@dataclass(frozen=True)
class Tested:
    """A rule of the frontier, with its certificate and its figures on the test part."""

    policy: Policy
    family: str
    certificate: Certificate
    measured: Measured


@dataclass(frozen=True)
class Tuning(Plotted):
    """The result of `tune`.

    Attributes:
        problem: in which rules were played.
        reference, reference_measured: the rule in use now, and its figures on the test part.
        tested: the rules of the frontier, in the order of testing.
        best_fixed: the certified fixed rule that saves most; None if none is certified.
        chosen: the rule to use; None to keep the reference.
        num_problems: numbers of problems of the three parts.
        num_tried: number of members of all families.
        num_orders: number of orders of each problem's samples over which figures are averaged.
        advice: what to do, in one or two sentences.
    """

    problem: Replayable
    reference: Policy
    reference_measured: Measured
    tested: tuple[Tested, ...]
    best_fixed: Tested | None
    chosen: Tested | None
    num_problems: tuple[int, int, int]
    num_tried: int
    num_orders: int
    advice: str

    @property
    def certification(self) -> Certification:
        """The certificates of the rules tested."""
        return Certification(tuple(rule.certificate for rule in self.tested))

    def __repr__(self) -> str:
        return f"Tuning({self.num_tried} rules tried, {len(self.tested)} tested; {self.advice})"


def tune(
    problem: Replayable,
    log: Log,
    *,
    max_loss: float,
    confidence: float = 0.95,
    reference: Policy | None = None,
    rules: Sequence[Policy] = (),
    families: Families | None = None,
    num_orders: int = NUM_ORDERS,
    seed: int = 0,
) -> Tuning:
    """Find the rule that saves most of those whose loss is certified to be below a limit.

    Args:
        problem: what is decided; its model is not used. Savings are at its prices, or in tokens if all prices are 0.
        log: with known correctness; for a thinking problem, with checkpoints on every problem.
        max_loss: the limit, between 0 and 1.
        confidence: of the certificate.
        reference: the rule in use now; by default the log's own.
        rules: user-defined rules, which are tested in any case.
        families: tried instead of the library's families.
        num_orders: number of random orders of a problem's samples over which its loss and its saving are averaged; not used
            if each problem has one sample, or a single trace is played.
        seed: of the split, of those orders and of the order of testing.

    Raises:
        LogError: for a log too short to be split.
        PolicyMismatch: for a user-defined rule that the problem does not admit.
        ValueError: as `certify`.
    """
    parts = split(log, FRACTIONS, seed=seed)
    fit_part, certify_part, test_part = parts
    reference = problem.reference_rule(log) if reference is None else reference
    problems_floor(max_loss, confidence)  # refuses invalid numbers before any work
    refuse_informative(log)
    num_orders = orders_averaged(problem, log, num_orders)
    choosing = problem.worlds(fit_part, num_orders=num_orders, seed=seed)
    known = families_of(problem, choosing) if families is None else families
    tried = [(name, policy) for name, members in known.items() for policy in members if policy != reference]
    tried += [(type(policy).__name__, policy) for policy in rules]
    chosen_on = play(problem, reference, [policy for _, policy in tried], choosing)
    losses, savings = chosen_on.loss[1:].copy(), chosen_on.saving[1:].copy()
    if families is None:
        for name, crossed in _crossed(problem, reference, choosing).items():
            rows = [index for index, (_, policy) in enumerate(tried) if any(policy is one for one in known[name])]
            losses[rows], savings[rows] = crossed
    fixed_family = type(problem.fixed_rules(choosing)[0]).__name__
    proven = [is_proven(problem, policy, reference) for _, policy in tried]
    frontier = _frontier(tried, proven, losses, savings, max_loss, fixed_family)
    own = [(type(policy).__name__, policy) for policy in rules]
    frontier += [rule for rule in own if rule not in frontier]  # the user asked for them
    order = sorted_by_risk(chosen_on.take([policy for _, policy in frontier]), testing_order(fit_part, seed))
    certified_on = play_log(problem, order, certify_part, reference, num_orders=num_orders, seed=seed)
    certification = certified(
        certified_on,
        testing_order(certify_part, seed),
        risk_of_log(certify_part),
        max_loss=max_loss,
        confidence=confidence,
        num_orders=num_orders,
    )
    family_of = {policy: name for name, policy in frontier}
    others = log.take(np.flatnonzero(~np.isin(log.problem_ids, test_part.problem_ids)))
    test_worlds = problem.worlds(test_part, num_orders=num_orders, seed=seed)
    other_worlds = problem.worlds(others, num_orders=num_orders, seed=seed)
    reachable = _reachable_tokens(problem, reference, other_worlds, test_worlds, max_loss)
    measured = measure(play(problem, reference, order, test_worlds), reachable)
    tested = tuple(
        Tested(one.policy, family_of[one.policy], one, figures)
        for one, figures in zip(certification.certificates, measured[1:], strict=True)
    )
    best_fixed, chosen = _choose(certified_on, tested, fixed_family)
    return Tuning(
        problem=problem,
        reference=reference,
        reference_measured=measured[0],
        tested=tested,
        best_fixed=best_fixed,
        chosen=chosen,
        num_problems=(fit_part.num_problems, certify_part.num_problems, test_part.num_problems),
        num_tried=len(tried),
        num_orders=num_orders,
        advice=_advice(reference, tested, best_fixed, chosen),
    )


def _reachable_tokens(
    problem: Replayable, reference: Policy, worlds: Any, test_worlds: Any, limit: float
) -> float | None:
    """Return the mean tokens that the best fitted rule saves in the test worlds; None if there is none, or it saves nothing.

    It is fitted and chosen on all other problems. A random choice between two rules is a rule too, so that the loss equals the
    limit for any grid of prices. It needs no certificate because it is not used: it shows what is left to gain.
    """
    fitted = [policy for members in fitted_families(problem, worlds).values() for policy in members]
    if not fitted:
        return None
    found = play(problem, reference, fitted, worlds)
    loss, saving = found.loss.mean(axis=1), found.saving.mean(axis=1)
    first, second, coin = _mixture(loss, saving, limit)
    pair = [found.policies[first], found.policies[second]]
    tokens = play(problem, reference, pair, test_worlds).mean(costs_of(problem)[0])
    saved = tokens[0] - (1 - coin) * tokens[1] - coin * tokens[2]
    return float(saved.mean()) if _exceeds(saved) else None


def _mixture(loss: np.ndarray, saving: np.ndarray, limit: float) -> tuple[int, int, float]:
    """Return the best mixture of two rules with a mean loss of at most the limit: the two, and the probability of the second.

    One of the rules must lose no more than the limit.
    """
    safe = np.flatnonzero(loss <= limit)
    least, reached = loss[safe, None], np.maximum(loss, limit)
    share = np.divide(limit - least, reached - least, out=np.ones((len(safe), len(loss))), where=reached > least)
    first, second = np.unravel_index(np.argmax((1 - share) * saving[safe, None] + share * saving), share.shape)
    return int(safe[first]), int(second), float(share[first, second])


def _crossed(problem: Replayable, reference: Policy, worlds: Any) -> dict[str, np.ndarray]:
    """Return loss and saving of the fitted families on each problem, `[2, members, problems]`.

    Each half of the problems is played by rules fitted to the other half (cross-fitting): on the problems that they were fitted
    to, rules look better than they are and would remove others from the frontier.
    """
    half = np.arange(len(worlds.problem)) % 2
    found: dict[str, np.ndarray] = {}
    for part in (0, 1):
        here, other = (jax.tree.map(lambda leaf: np.asarray(leaf)[half == which], worlds) for which in (part, 1 - part))  # noqa: B023
        for name, members in fitted_families(problem, other).items():
            played = play(problem, reference, members, here)
            grid = found.setdefault(name, np.zeros((2, len(members), len(half))))
            grid[..., half == part] = played.loss[1:], played.saving[1:]
    return found


def _frontier(
    tried: list[tuple[str, Policy]],
    proven: Sequence[bool],
    losses: np.ndarray,
    savings: np.ndarray,
    limit: float,
    fixed_family: str,
) -> list[tuple[str, Policy]]:
    """Return the rules to test: the Pareto-optimal ones that lose less than the limit and save something on the first part.

    There are at most `MOST_TESTED` of them. To these are added, for each family, the rule that saves most of those that lose
    nothing by proof, which needs no test. If there is no rule at all, the one that loses least is returned, so that there is
    something to show.
    """
    loss = losses.mean(axis=1) + losses.std(axis=1) / np.sqrt(losses.shape[1])
    saving = savings.mean(axis=1)
    hopeful = [index for index in np.lexsort((loss, -saving)) if losses[index].mean() <= limit and saving[index] > 0]
    kept: list[int] = []
    for index in hopeful:  # from the largest saving down: a rule that saves less must lose less
        if not kept or loss[index] < loss[kept[-1]]:
            kept.append(int(index))
    if len(kept) > MOST_TESTED:
        levels = np.linspace(saving[kept[-1]], saving[kept[0]], MOST_TESTED)
        kept = sorted({min(kept, key=lambda index: abs(saving[index] - level)) for level in levels})
    fixed = [int(index) for index in hopeful if tried[index][0] == fixed_family]
    kept += [
        index for index in fixed[:1] if index not in kept
    ]  # the one that saves most: adaptive rules are compared with it
    best_proven = {
        tried[index][0]: int(index)
        for index in np.argsort(saving, kind="stable")
        if proven[index] and saving[index] > 0
    }
    kept += [index for index in best_proven.values() if index not in kept]
    return [tried[index] for index in kept or [int(np.argmin(losses.mean(axis=1)))]]


def _choose(played: Played, tested: Sequence[Tested], fixed_family: str) -> tuple[Tested | None, Tested | None]:
    """Return the certified fixed rule that saves most, and the rule to use; None if there is none.

    `played` has the tested rules on the part of the log that certified them.
    """
    certified = [rule for rule in tested if rule.certificate.grade is not Grade.NONE]
    if not certified:
        return None, None
    rows = played.rows([rule.policy for rule in certified])
    plain = np.r_[0, played.rows([rule.policy for rule in tested if rule.family == fixed_family])].astype(int)
    losses, savings = played.loss[rows], played.saving[rows]
    plain_losses, plain_savings = played.loss[plain], played.saving[plain]
    by_saving = np.argsort(-savings.mean(axis=1), kind="stable")
    best_fixed = next((index for index in by_saving if certified[index].family == fixed_family), None)

    def is_worth_it(index: int) -> bool:
        rule = certified[index]
        if not (_exceeds(savings[index]) and rule.measured.saving_cost.mean > 0):
            return False
        if rule.family == fixed_family or best_fixed is None:
            return True
        if not _exceeds(savings[index] - savings[best_fixed]):
            return False
        is_proven = (
            rule.certificate.grade is Grade.PROOF
        )  # a proof needs no comparison with the estimated losses of fixed rules
        return is_proven or _is_above(losses[index], savings[index], plain_losses, plain_savings)

    # only the one that saves most, the best fixed one and those by proof: a search among all would need a correction
    looked_at = [
        index
        for index in by_saving
        if index in (by_saving[0], best_fixed) or certified[index].certificate.grade is Grade.PROOF
    ]
    chosen = next((index for index in looked_at if is_worth_it(index)), None)
    return tuple(None if index is None else certified[index] for index in (best_fixed, chosen))  # type: ignore[return-value]


def _is_above(loss: np.ndarray, saving: np.ndarray, losses: np.ndarray, savings: np.ndarray) -> bool:
    """Return whether a rule saves more than the mixture of fixed rules that loses as much, by two standard errors.

    A rule that stops at random saves an amount between those of two budgets, and adapts to nothing. `losses` and `savings` are
    those of the reference and the fixed rules; a difference in loss is valued at the slope of their frontier.
    """
    plain, spared = losses.mean(axis=1), savings.mean(axis=1)
    first, second, coin = _mixture(plain, spared, max(float(loss.mean()), 0.0))
    slope = (spared[second] - spared[first]) / (plain[second] - plain[first]) if 0 < coin < 1 else 0.0
    lost = loss - (1 - coin) * losses[first] - coin * losses[second]
    saved = saving - (1 - coin) * savings[first] - coin * savings[second]
    return _exceeds(saved - slope * lost)


def _exceeds(values: np.ndarray) -> bool:
    estimate = Estimate.of(values)
    return estimate.mean > ERRORS * estimate.standard_error and estimate.mean > 0


def _advice(reference: Policy, tested: Sequence[Tested], best_fixed: Tested | None, chosen: Tested | None) -> str:
    if chosen is None:
        if any(rule.certificate.grade is not Grade.NONE for rule in tested):
            return f"Do not bother: no rule that is certified has a significant saving; keep {reference}."
        return f"Do not bother: no rule could be certified; keep {reference}.{_what_more_would_do(tested, 0.0)}"
    if chosen is best_fixed:
        return f"Do not bother with an adaptive rule: use the fixed {chosen.policy}: {_what_it_does(chosen)}."
    if chosen.certificate.grade is not Grade.PROOF:
        return f"Use {chosen.policy}: {_what_it_does(chosen)}."
    by_proof = f"it gives the answer of {reference} in every case, by proof, and {_what_it_does(chosen)}"
    return f"Use {chosen.policy}: {by_proof}.{_what_more_would_do(tested, chosen.measured.saving_share.mean)}"


def _what_it_does(rule: Tested) -> str:
    """Return what a rule saves on the test part and, without a proof, how it changes accuracy."""
    figures = rule.measured
    saved = f"saves {plus_minus(figures.saving_share, 0.01)} % of the tokens"
    if figures.saving_share.mean <= 0:  # seconds may have a price, too
        more = plus_minus(figures.saving_share, -0.01)
        saved = f"costs {plus_minus(figures.saving_cost)} of a right answer less, with {more} % more tokens"
    if rule.certificate.grade is Grade.PROOF:
        return f"{saved} on the test part"
    change = in_points(figures.accuracy_change.mean, figures.accuracy_interval)
    return f"on the test part it {saved} and changes accuracy by {change} points"


def _what_more_would_do(tested: Sequence[Tested], share: float) -> str:
    """Return how large a log might certify the first rule that failed and saves more than this share; empty if none might."""
    for rule in tested:
        if (number := rule.certificate.num_needed) and rule.measured.saving_share.mean > share:
            saved = f"which saved {plus_minus(rule.measured.saving_share, 0.01)} % of the tokens on the test part"
            return f" A log of about {problems_of_log(number):,} problems might certify {rule.policy}, {saved}."
    return ""
