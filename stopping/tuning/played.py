"""Rules played through the worlds of one part of a log: the loss, the cost and the outcome of each on every problem."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

import sims
from stopping.policies import Policy
from stopping.problems import Replayable
from stopping.problems.problem import names_of


@dataclass(frozen=True, eq=False)
class Played:
    """Outcomes of rules, the reference first, averaged over the orders of each problem; `[1 + rules, problems]` each.

    Attributes:
        problem: in which they were played.
        policies: the reference, then the rules.
        worlds: with leading axes `[problems, orders]`.
        loss: against the reference, from -1 to 1; without labels, the share of orders in which answers differ.
        cost: at the problem's prices, in tokens if it has none.
        values: the components of outcomes by name, `[1 + rules, problems, orders]`.
    """

    problem: Replayable
    policies: tuple[Policy, ...]
    worlds: Any
    loss: np.ndarray
    cost: np.ndarray
    values: dict[str, np.ndarray]

    @property
    def saving(self) -> np.ndarray:
        """The cost of the reference minus that of each rule, on each problem."""
        return self.cost[:1] - self.cost

    def rows(self, policies: Sequence[Policy]) -> np.ndarray:
        """Return the rows of these rules.

        Raises:
            ValueError: for a rule that was not played.
        """
        return np.array([self.policies.index(policy) for policy in policies], int)

    def take(self, policies: Sequence[Policy]) -> "Played":
        """Return the outcomes of the reference and of these rules alone."""
        rows = np.r_[0, self.rows(policies)].astype(int)
        values = {name: each[rows] for name, each in self.values.items()}
        return Played(
            self.problem,
            tuple(self.policies[row] for row in rows),
            self.worlds,
            self.loss[rows],
            self.cost[rows],
            values,
        )

    def mean(self, name: str) -> np.ndarray:
        """Return the means of a component over the orders of each problem, `[1 + rules, problems]`."""
        mean: np.ndarray = self.values[name].mean(axis=2, dtype=np.float64)
        return mean


def play(
    problem: Replayable, reference: Policy, policies: Sequence[Policy], worlds: Any, *, judged: bool = True
) -> Played:
    """Play a reference rule and others through worlds with leading axes `[problems, orders]`.

    Args:
        problem: what they are played in.
        reference: the rule that others are measured against.
        policies: the rules.
        worlds: of one part of a log.
        judged: False if it is not known which answers are right.

    Raises:
        PolicyMismatch: if a policy needs a signal, an action or more traces than the problem has.
        ValueError: if the worlds do not hold what the reference asks for.
    """
    rules = (reference, *policies)
    names = _fields_of(problem, reference, worlds)
    values = sims.play_rules(problem, rules, worlds, names)
    if short := int(values["unsupported"][0].any(axis=1).sum()):
        raise ValueError(
            f"reference {reference}: expected a log that holds what it asks for, got {short} problems without"
        )
    outcome, base = _Outcome(values), _Outcome({name: each[:1] for name, each in values.items()})
    loss, cost = problem.loss(outcome, base, judged), problem.cost(outcome)
    kept = {name: values[name] for name in names_of(problem)}
    loss, cost = (np.asarray(each, np.float64).mean(axis=2) for each in (loss, cost))
    return Played(problem, rules, worlds, loss, cost, kept)


class _Outcome:
    """The components of an outcome as attributes."""

    def __init__(self, values: dict[str, np.ndarray]) -> None:
        self.__dict__.update(values)


def _fields_of(problem: Replayable, policy: Policy, worlds: Any) -> tuple[str, ...]:
    """Return the names of the fields of an outcome."""
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf)[2:], np.asarray(leaf).dtype), worlds)
    outcome: Any = jax.eval_shape(lambda world: problem.play(world, policy), one)
    return tuple(outcome._fields)
