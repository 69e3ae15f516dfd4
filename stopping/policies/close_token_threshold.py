"""A threshold on the model's own probability of closing its thought."""

from typing import Any

from stopping.policies.actions import Action, Kind
from stopping.policies.protocol import at_least, finite, policy


@policy(signals=("elapsed_tokens", "log_close_prob"), kinds=(Kind.CONTINUE, Kind.STOP))
class CloseTokenThreshold:
    """Stop when the log-probability of closing the thought is high, or is still low late on.

    At `answer_log_prob` or above the model is nearly done, so answer now. From `patience_tokens` on, `give_up_log_prob` or below
    means that it is far from done and more thought is unlikely to help, so answer now too. Needs no probe.

    Adapted from the hazard of the closing token (Making Small Language Models Efficient Reasoners, arXiv 2505.07961, in which
    it is scaled and not thresholded); the second threshold is ours.
    """

    answer_log_prob: float
    give_up_log_prob: float
    patience_tokens: int

    def __post_init__(self) -> None:
        finite(self, "answer_log_prob")
        finite(self, "give_up_log_prob")
        at_least(self, "patience_tokens", 0)

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> tuple[()]:
        """Return the empty state."""
        return ()

    def score(self, xp: Any, state: tuple[()], observation: Any) -> Any:
        """How far the nearer of the thresholds in force has been passed."""
        done = observation.log_close_prob - self.answer_log_prob
        stuck = self.give_up_log_prob - observation.log_close_prob
        return xp.where(observation.elapsed_tokens >= self.patience_tokens, xp.maximum(done, stuck), done)

    def step(self, xp: Any, state: tuple[()], observation: Any) -> tuple[tuple[()], Action]:
        """Stop beyond either threshold."""
        return state, Action(self.score(xp, state, observation) >= 0, 0)
