"""First Finish Search."""

from typing import Any

from stopping.policies.actions import Action, Kind
from stopping.policies.protocol import at_least, policy


@policy(signals=("num_answers",), kinds=(Kind.CONTINUE, Kind.STOP))
class FirstFinish:
    """Stop when `num_answers` traces have ended with an answer; return the answer with most votes among them.

    A trace without an answer (cut at the cap, or unparsed) never counts as finished.

    Reference: Agarwal et al., First Finish Search (arXiv 2505.18149); with several finishers, FFS-k@N of The Art of
    Scaling Test-Time Compute (arXiv 2512.02008).
    """

    num_answers: int = 1

    def __post_init__(self) -> None:
        at_least(self, "num_answers", 1)

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> tuple[()]:
        """Return the empty state."""
        return ()

    def step(self, xp: Any, state: tuple[()], observation: Any) -> tuple[tuple[()], Action]:
        """Stop once enough answers have come."""
        stop = observation.num_answers >= self.num_answers
        return state, Action(stop, 0)
