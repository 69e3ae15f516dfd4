"""The protocol of problems: worlds, and the play of a policy through one.

    draw(key)            all the randomness of one replica, independent of any policy
    play(world, policy)  the outcome of a policy in a world: the only place with dynamics, prices and lag
    hindsight(world)     the outcome of one who knows the world beforehand

*Simulating* is drawing worlds and playing them; *replaying* is playing the worlds that a log holds. Both are done for many worlds
at once by `sims`. Everything else (solvers, certificates, tuning, comparison, the command line) knows a problem by this protocol.

Optional members, used where a problem has them:

    from_uniforms, num_uniforms    a world as a function of uniform numbers, for `sims.variance`
    relaxation(world)              a second upper bound, for `solve`
    native                         the same problem as an engine's own settings play it, for `stopping export`
    answer (of an outcome)         the label of the answer given, by which a server notices that its traffic has changed
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from stopping.policies import Decision, Policy
from stopping.traces import Log


@dataclass(frozen=True)
class Component:
    """A component of an outcome that has a mean.

    Attributes:
        name: of the outcome's field.
        label: the title in tables and pictures, with the unit.
        unit: what figures are divided by when they are shown.
        role: `worth` for the objective, `cost` for a resource, `fact` for anything else. Rules are compared by worth at equal
            cost.
    """

    name: str
    label: str
    unit: float = 1.0
    role: Literal["worth", "cost", "fact"] = "fact"


UTILITY = Component("utility", "utility")
CORRECT = Component("correct", "accuracy, %", 0.01, "worth")
TOTAL_TOKENS = Component("total_tokens", "total tokens", 1.0, "cost")
LATENCY_TOKENS = Component("latency_tokens", "latency, tokens", 1.0, "cost")
LATENCY_SECONDS = Component("latency_seconds", "latency, seconds")


@runtime_checkable
class Problem(Protocol):
    """A decision problem: what a policy may do, its outcome, and what that is worth.

    Attributes:
        decision: what a policy sees, and may ask for.
        components: of an outcome, those that have a mean, in the order in which they are shown; `utility` is one of them. An
            outcome has `unsupported` besides: whether the policy went past what a log holds.
    """

    decision: ClassVar[Decision]
    components: ClassVar[tuple[Component, ...]]

    def draw(self, key: Any) -> NamedTuple:
        """Return a world: a named tuple of arrays of fixed shapes, with the index of its `problem`, which no policy sees."""

    def play(self, world: Any, policy: Policy) -> NamedTuple:
        """Return the outcome of a policy in a world: `utility`, the other components, and `unsupported`; `[]` each."""

    def hindsight(self, world: Any) -> NamedTuple:
        """Return the outcome of one who knows the world beforehand. No policy has a larger utility, in any world."""

    def loss(self, outcome: Any, reference: Any, judged: bool = True) -> Any:
        """Return what an outcome loses against the reference rule's in the same world, from -1 to 1; elementwise.

        Where a log does not hold what the policy asked for, it is the largest possible.

        Args:
            outcome: of a policy, arrays `[...]`.
            reference: of the reference rule, of the same shape.
            judged: False where it is not known which answers are right: the loss is then that answers differ.
        """

    def cost(self, outcome: Any) -> Any:
        """Return what an outcome cost, in units of a right answer; in tokens where nothing has a price; elementwise."""

    def lossless(self, policy: Policy, reference: Policy) -> bool:
        """Return whether a policy loses nothing against the reference in any world: a proof, without data."""


@runtime_checkable
class Replayable(Problem, Protocol):
    """A problem whose worlds a log can hold. Each problem says which type of `Log` it reads.

    Attributes:
        has_orders: whether outcomes depend on the order of a problem's samples, so that averaging over orders makes sense.
    """

    has_orders: ClassVar[bool]

    def worlds(self, log: Any, *, num_orders: int = 1, seed: int = 0, judged: bool = True) -> Any:
        """Return the worlds a log holds, with leading axes `[problems, orders]`.

        Args:
            log: what was logged, of the type that this problem reads.
            num_orders: 1 for the order logged, more for so many random ones, where the problem `has_orders`.
            seed: of the orders.
            judged: False where it is not known which answers are right.

        Raises:
            ValueError: naming what the log lacks.
        """

    def log(self, worlds: Any) -> Log:
        """Return worlds `[problems]` as a log, from which `worlds` gives them back bit for bit."""

    def reference_rule(self, log: Any) -> Policy:
        """Return the rule by which the log's answers were produced."""

    def fixed_rules(self, worlds: Any) -> Sequence[Policy]:
        """Return the rules that do not adapt, of one class, with which all others are compared."""

    def priced(self, price_per_token: float) -> "Replayable":
        """Return the same problem at another price of a token."""

    def interval_tokens(self, log: Any) -> int | None:
        """Return the tokens between two decision points of a log's worlds; None where there is no such grid."""


def names_of(problem: Problem) -> tuple[str, ...]:
    """Return the names of a problem's components, and of `unsupported`."""
    return (*(component.name for component in problem.components), "unsupported")


def costs_of(problem: Problem) -> tuple[str, ...]:
    """Return the names of the components by whose amount rules are compared at equal cost."""
    return tuple(component.name for component in problem.components if component.role == "cost")


def worth_of(problem: Problem) -> str:
    """Return the name of the component that is the objective; `utility` where the problem names none."""
    return next((component.name for component in problem.components if component.role == "worth"), UTILITY.name)
