"""Self-consistency with a fixed number of samples."""

from typing import Any

from stopping.policies.actions import LAUNCH, Action, Kind
from stopping.policies.policy import at_least, policy


@policy(
    signals=("num_launched", "num_running"),
    kinds=(Kind.CONTINUE, Kind.STOP, Kind.LAUNCH),
)
class FixedSamples:
    """Launch `num_samples` traces, or as many as the problem has, wait for all, return the answer with most votes.

    Reference: Wang et al., Self-Consistency Improves Chain of Thought Reasoning (ICLR 2023).
    """

    num_samples: int

    def __post_init__(self) -> None:
        at_least(self, "num_samples", 1)

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> tuple[()]:
        """Return the empty state."""
        return ()

    def step(self, xp: Any, state: tuple[()], observation: Any) -> tuple[tuple[()], Action]:
        """Launch what is missing whenever nothing runs; stop when nothing is missing."""
        missing = self.num_samples - observation.num_launched
        idle = observation.num_running <= 0
        launch = xp.logical_and(idle, missing > 0)
        return state, Action(xp.where(launch, LAUNCH, idle), launch * missing)  # idle otherwise: stop
