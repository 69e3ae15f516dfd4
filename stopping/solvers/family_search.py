"""The best rule of each family on common worlds, and bounds on the utility of any rule.

Rules are chosen on one set of worlds and scored on another, so that scores are not biased by the choice. An adaptive rule
is returned only if on the choosing set it beats the best fixed one by more than two standard errors of their paired
difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key
from rich.progress import Progress

from sims import Estimate, draw
from sims.engine import BLOCK, FAMILY_BLOCK, blocks_of, evaluate, play_family
from sims.plotted import Plotted
from stopping.policies import Policy, parameters
from stopping.problems import Problem, Replayable, admit, stack
from stopping.solvers.families import Families, families_of


class Status(Enum):
    """The result of the search; the value says what to do."""

    ADAPTIVE = "an adaptive rule beats the best fixed one by more than two standard errors: use it"
    FIXED = "no adaptive rule beats the best fixed one by two standard errors: keep the fixed one"


@dataclass(frozen=True)
class Member:
    """The best rule of one family.

    Attributes:
        policy: the rule.
        value: its mean utility on the scoring worlds.
        gain: the same less the best fixed rule's, paired.
    """

    policy: Policy
    value: Estimate
    gain: Estimate


@dataclass(frozen=True, repr=False)
class Solution(Plotted):
    """What `solve` found. Values are mean utilities on the scoring worlds.

    Attributes:
        policy: the rule to use.
        value: its value.
        upper_bound: on the mean utility of every rule that sees lengths and answers, but not which is right; None for a problem
            without such a bound (`relaxation`).
        clairvoyant: the mean utility of one who knows everything beforehand.
        best_fixed, best_scalar: the best fixed rule, the best rule with a single threshold; None where no family has one.
        family: the best of each family, by name.
        status: which of the two cases of `Status` holds.
    """

    policy: Policy
    value: Estimate
    upper_bound: Estimate | None
    clairvoyant: Estimate
    best_fixed: Member
    best_scalar: Member | None
    family: dict[str, Member]
    status: Status

    def __repr__(self) -> str:
        fixed, scalar = self.best_fixed, self.best_scalar
        more = (
            "" if scalar is None else f"; best scalar: {scalar.policy}, {scalar.value}, {scalar.gain} more than fixed"
        )
        bound = "" if self.upper_bound is None else f"no rule exceeds {self.upper_bound}, "
        return "\n".join(
            [
                f"Solution: {self.policy}, value {self.value}; {self.status.value}",
                f"  best fixed rule: {fixed.policy}, {fixed.value}{more}",
                f"  {bound}a clairvoyant reaches {self.clairvoyant}",
            ]
        )


@dataclass(frozen=True)
class FamilySearch:
    """The best rule of each family of a problem, chosen on drawn worlds and scored on others.

    Attributes:
        num_worlds: to choose on, and as many to score on.
        rules: what is searched instead of the problem's families.
    """

    num_worlds: int = 4 * BLOCK
    rules: Families | None = None

    def solve(self, problem: Replayable, key: Key[Array, ""], *, progress: bool = False) -> Solution:
        """Find the best rule; see `solve`."""
        choosing, scoring = (draw(child, problem, self.num_worlds) for child in jr.split(key))
        plain = problem.fixed_rules(choosing)
        fixed = type(plain[0]).__name__
        searched = {fixed: plain, **(families_of(problem, choosing) if self.rules is None else self.rules)}
        chosen: dict[str, Policy] = {}
        utility: dict[str, np.ndarray] = {}
        scores: dict[str, np.ndarray] = {}
        with Progress(disable=not progress, transient=True) as bar:
            for name, policies in bar.track(searched.items(), description="solving"):
                for policy in policies:
                    admit(problem, policy)
                values = utilities(problem, policies, choosing)
                index = int(np.argmax(values.mean(axis=1)))
                chosen[name], utility[name] = policies[index], values[index]
                scores[name] = utilities(problem, policies, scoring)[index]
        means = {name: float(values.mean()) for name, values in utility.items()}
        best = max(means, key=means.__getitem__)
        gain = Estimate.of(utility[best] - utility[fixed])
        adaptive = best != fixed and gain.mean > 2 * gain.standard_error
        family = {
            name: Member(chosen[name], Estimate.of(scores[name]), Estimate.of(scores[name] - scores[fixed]))
            for name in searched
        }
        scalar = [name for name, policy in chosen.items() if name != fixed and _is_scalar(policy)]
        winner = family[best if adaptive else fixed]
        return Solution(
            policy=winner.policy,
            value=winner.value,
            upper_bound=reachable(problem, scoring) if hasattr(problem, "relaxation") else None,
            clairvoyant=clairvoyant(problem, scoring),
            best_fixed=family[fixed],
            best_scalar=family[max(scalar, key=means.__getitem__)] if scalar else None,
            family=family,
            status=Status.ADAPTIVE if adaptive else Status.FIXED,
        )


def _is_scalar(policy: Policy) -> bool:
    """Return whether a rule has one threshold alone."""
    return [np.ndim(value) for value in parameters(policy).values()] == [0]


def utilities(problem: Problem, policies: Sequence[Policy], worlds: Any) -> Float[np.ndarray, "policies worlds"]:
    """Play each policy, all of one class, through stacked worlds."""
    stacked, axes = stack(policies)
    parts = [
        np.asarray(play_family(problem, stacked, axes, block).utility, np.float64)[:, :count]
        for _, count, block in blocks_of(worlds, FAMILY_BLOCK)
    ]
    return np.concatenate(parts, axis=1)


def clairvoyant(problem: Problem, worlds: Any) -> Estimate:
    """Return the mean of hindsight: exact knowledge of which traces are right, before any has started."""
    return Estimate.of(evaluate(problem, "hindsight", worlds).utility)


def reachable(problem: Problem, worlds: Any) -> Estimate:
    """Return an upper bound on the value of every rule: all that a rule could ever see is known at the start and free.

    An information relaxation (Brown, Smith and Sun, Information Relaxations and Duality in Stochastic Dynamic Programs,
    2010) without penalty: valid, and loose by the cost of observing.
    """
    return Estimate.of(evaluate(problem, "relaxation", worlds))
