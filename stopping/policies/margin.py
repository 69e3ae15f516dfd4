"""Stopping at a lead of some votes."""

from typing import Any

from stopping.policies.actions import Action, Kind
from stopping.policies.protocol import at_least, policy


@policy(signals=("leader_votes", "runner_up_votes"), kinds=(Kind.CONTINUE, Kind.STOP))
class Margin:
    """Stop when the leading answer is `votes` votes ahead of the runner-up.

    With two answers this is Wald's sequential probability ratio test of which one is the more frequent
    (Wald, Sequential Tests of Statistical Hypotheses, 1945): the posterior odds depend on the lead alone.
    """

    votes: int

    def __post_init__(self) -> None:
        at_least(self, "votes", 1)

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> tuple[()]:
        """Return the empty state."""
        return ()

    def step(self, xp: Any, state: tuple[()], observation: Any) -> tuple[tuple[()], Action]:
        """Stop once the lead is large enough."""
        stop = observation.leader_votes - observation.runner_up_votes >= self.votes
        return state, Action(stop, 0)
