"""Self-consistency with a fixed number of samples."""

from typing import Any

from stopping.policies.actions import LAUNCH, Action, Kind
from stopping.policies.protocol import at_least, policy


@policy(
    signals=("num_launched", "num_running"),
    kinds=(Kind.CONTINUE, Kind.STOP, Kind.LAUNCH),
)
class FixedSamples:
    """Launch `num_samples` traces, wait for all, return the answer with most votes.

    Reference: Wang et al., Self-Consistency Improves Chain of Thought Reasoning (ICLR 2023).
    """

    num_samples: int

    def __post_init__(self) -> None:
        at_least(self, "num_samples", 1)

    @property
    def max_traces(self) -> int:
        """The most traces it launches: a problem that offers fewer refuses it."""
        return self.num_samples

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> tuple[()]:
        """Return the empty state."""
        return ()

    def step(self, xp: Any, state: tuple[()], observation: Any) -> tuple[tuple[()], Action]:
        """Launch what is missing whenever nothing runs; stop when nothing is missing."""
        missing = self.num_samples - observation.num_launched
        idle = xp.logical_not(observation.num_running)
        launch = xp.logical_and(idle, observation.num_launched < self.num_samples)
        return state, Action(xp.where(launch, LAUNCH, idle), launch * missing)  # idle otherwise: stop
