"""A budget of tokens."""

from typing import Any

from stopping.policies.actions import Action, Kind
from stopping.policies.protocol import at_least, policy


@policy(signals=("elapsed_tokens",), kinds=(Kind.CONTINUE, Kind.STOP))
class TokenBudget:
    """Stop at the first decision point at or after `max_tokens` on one trace's clock, and answer with what is there.

    The loop that runs the policy continues where stopping would leave no answer.
    """

    max_tokens: int

    def __post_init__(self) -> None:
        at_least(self, "max_tokens", 1)

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> tuple[()]:
        """Return the empty state."""
        return ()

    def step(self, xp: Any, state: tuple[()], observation: Any) -> tuple[tuple[()], Action]:
        """Stop once the clock has reached the budget."""
        stop = observation.elapsed_tokens >= self.max_tokens
        return state, Action(stop, 0)
