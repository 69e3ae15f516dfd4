"""The best rule of each family on common worlds, and the bounds on what any rule could do.

Rules are chosen on one set of worlds and scored on another, so a score is not flattered by the choice. An adaptive rule
is returned only if on the choosing set it beats the best fixed one by more than two standard errors of their paired
difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key
from rich.progress import Progress

from sims import Estimate, draw
from sims.engine import BLOCK, FAMILY_BLOCK, blocks_of, evaluate, play_family
from stopping.problems import Sampling, admit, stack
from stopping.solvers.families import FIXED, SCALAR, sampling_families

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Status(Enum):
    """What came of the search; the value says what to do."""

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

    policy: Any
    value: Estimate
    gain: Estimate


@dataclass(frozen=True, repr=False)
class Solution:
    """What `solve` found. Values are mean utilities on the scoring worlds.

    Attributes:
        policy: the rule to use.
        value: its value.
        upper_bound: no rule that sees lengths and answers, but not which is right, does better (in mean).
        clairvoyant: nor does one that knows all.
        best_fixed, best_scalar: the best fixed rule, the best rule with a single threshold.
        family: the best of each family, by name.
        status: which of the two cases of `Status` holds.
    """

    policy: Any
    value: Estimate
    upper_bound: Estimate
    clairvoyant: Estimate
    best_fixed: Member
    best_scalar: Member
    family: dict[str, Member]
    status: Status

    def plot(self) -> "Figure":
        """Draw the best rule of each family between the best fixed one and the bounds; see `stopping.plots.solution`."""
        from stopping.plots import solution

        return solution(self)

    def __repr__(self) -> str:
        fixed = self.best_fixed
        return "\n".join(
            [
                f"Solution: {self.policy}, value {self.value}; {self.status.value}",
                f"  best fixed rule: {fixed.policy}, {fixed.value}; best scalar: {self.best_scalar.policy}, "
                f"{self.best_scalar.value}, {self.best_scalar.gain} more than fixed",
                f"  no rule exceeds {self.upper_bound}, nor a clairvoyant {self.clairvoyant}",
            ]
        )


def solve(
    problem: Sampling, key: Key[Array, ""] | None = None, *, num_worlds: int = 4 * BLOCK, progress: bool = False
) -> Solution:
    """Find the best rule for a sampling problem among `sampling_families`.

    Args:
        problem: with a model.
        key: of the worlds; `jax.random.key(0)` if not given.
        num_worlds: to choose on, and as many to score on.
        progress: show a bar.

    Raises:
        ValueError: if the problem has no model.
    """
    choosing, scoring = (draw(child, problem, num_worlds) for child in jr.split(jr.key(0) if key is None else key))
    families = sampling_families(problem, choosing)
    chosen: dict[str, Any] = {}
    utility: dict[str, np.ndarray] = {}
    scores: dict[str, np.ndarray] = {}
    with Progress(disable=not progress, transient=True) as bar:
        for name, policies in bar.track(families.items(), description="solving"):
            for policy in policies:
                admit(problem, policy)
            values = utilities(problem, policies, choosing)
            index = int(np.argmax(values.mean(axis=1)))
            chosen[name], utility[name] = policies[index], values[index]
            scores[name] = utilities(problem, policies, scoring)[index]
    means = {name: float(values.mean()) for name, values in utility.items()}
    best = max(means, key=means.__getitem__)
    gain = Estimate.of(utility[best] - utility[FIXED])
    adaptive = best != FIXED and gain.mean > 2 * gain.standard_error
    family = {
        name: Member(chosen[name], Estimate.of(scores[name]), Estimate.of(scores[name] - scores[FIXED]))
        for name in families
    }
    winner = family[best if adaptive else FIXED]
    return Solution(
        policy=winner.policy,
        value=winner.value,
        upper_bound=reachable(problem, scoring),
        clairvoyant=clairvoyant(problem, scoring),
        best_fixed=family[FIXED],
        best_scalar=family[max(SCALAR, key=means.__getitem__)],
        family=family,
        status=Status.ADAPTIVE if adaptive else Status.FIXED,
    )


def utilities(problem: Any, policies: Sequence[Any], worlds: Any) -> Float[np.ndarray, "policies worlds"]:
    """Play each policy, all of one class, through stacked worlds."""
    stacked, axes = stack(policies)
    parts = [
        np.asarray(play_family(problem, stacked, axes, block).utility, np.float64)[:, :count]
        for _, count, block in blocks_of(worlds, FAMILY_BLOCK)
    ]
    return np.concatenate(parts, axis=1)


def clairvoyant(problem: Any, worlds: Any) -> Estimate:
    """The mean of hindsight: exact knowledge of which traces are right, before any has started."""
    return Estimate.of(evaluate(problem, "hindsight", worlds).utility)


def reachable(problem: Any, worlds: Any) -> Estimate:
    """An upper bound on every rule: all that a rule could ever see is known at the start and free, what is right not.

    An information relaxation (Brown, Smith and Sun, Information Relaxations and Duality in Stochastic Dynamic Programs,
    2010) without penalty: valid, and loose by what it costs to see.
    """
    return Estimate.of(evaluate(problem, "relaxation", worlds))
