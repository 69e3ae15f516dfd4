"""Confidence over a window of tokens."""

from typing import Any

from stopping.policies.actions import Action, Kind
from stopping.policies.protocol import at_least, finite, policy


@policy(signals=("elapsed_tokens", "mean_log_prob"), kinds=(Kind.CONTINUE, Kind.STOP))
class WindowedConfidence:
    """From `patience_tokens` on, stop when the mean log-probability of the last window's tokens falls to a threshold.

    Tokens of low probability suggest that the search has failed. Needs no probe.

    Adapted: DeepConf takes the mean over the top candidates of each token, drops such traces out of a vote, and warms its
    threshold up on the first of them; here one trace answers at once, and the threshold comes from a log.

    Reference: Fu et al., Deep Think with Confidence (arXiv 2508.15260).
    """

    max_log_prob: float
    patience_tokens: int

    def __post_init__(self) -> None:
        finite(self, "max_log_prob")
        at_least(self, "patience_tokens", 0)

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> tuple[()]:
        """Return the empty state."""
        return ()

    def score(self, xp: Any, state: tuple[()], observation: Any) -> Any:
        """How far the window is below the threshold; -1 before the patience is over."""
        late = observation.elapsed_tokens >= self.patience_tokens
        return xp.where(late, self.max_log_prob - observation.mean_log_prob, -1.0)

    def step(self, xp: Any, state: tuple[()], observation: Any) -> tuple[tuple[()], Action]:
        """Stop at the threshold."""
        return state, Action(self.score(xp, state, observation) >= 0, 0)
