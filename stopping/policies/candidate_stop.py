"""Stopping at the k-th result that a trace puts forward."""

from typing import Any

from stopping.policies.actions import Action, Kind
from stopping.policies.protocol import at_least, policy


@policy(signals=("num_candidates",), kinds=(Kind.CONTINUE, Kind.STOP))
class CandidateStop:
    """Stop at the first decision point at which the trace has put forward `num_candidates` results. Costs no probe.

    As published, but with one number for all problems (in the paper it is 1 or 3, by a classifier of the question). The log and
    the server define what counts as a candidate. `models.AnswerChain` gives the optimal number.

    Reference: First Try Matters: Revisiting the Role of Reflection in Reasoning Models (arXiv 2510.08308).
    """

    num_candidates: int

    def __post_init__(self) -> None:
        at_least(self, "num_candidates", 1)

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> tuple[()]:
        """Return the empty state."""
        return ()

    def step(self, xp: Any, state: tuple[()], observation: Any) -> tuple[tuple[()], Action]:
        """Stop once there are enough."""
        return state, Action(observation.num_candidates >= self.num_candidates, 0)
