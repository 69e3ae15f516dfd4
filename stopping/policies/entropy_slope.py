"""Stopping when the likelihood of the probed answer no longer grows."""

from typing import Any, NamedTuple

from stopping.policies.actions import Action, Kind
from stopping.policies.probing import probe_or_stop
from stopping.policies.protocol import at_least, finite, policy


class SlopeState(NamedTuple):
    """What the last probe was.

    Attributes:
        last_probe_tokens: where it was, 0 before the first; int32 `[...]`.
        last_log_prob: its answer's mean log-probability; float `[...]`.
        num_flat: how many of the last probes have gained too little, in a row; -1 before the first probe; int32 `[...]`.
    """

    last_probe_tokens: Any
    last_log_prob: Any
    num_flat: Any


@policy(signals=("elapsed_tokens", "probed", "answer_mean_log_prob"), kinds=(Kind.CONTINUE, Kind.STOP, Kind.PROBE))
class EntropySlope:
    """Force an answer every `interval_tokens`; stop when, `patience` probes in a row, it became hardly less surprising.

    "Hardly": its mean log-probability grew by at most `max_gain` since the probe before.

    Idea only: the paper follows the entropy of the true answer, which no server knows, along finished traces.

    Reference: Measuring Reasoning Utility in LLMs via Conditional Entropy Reduction (arXiv 2508.20395).
    """

    max_gain: float
    patience: int
    interval_tokens: int

    def __post_init__(self) -> None:
        finite(self, "max_gain")
        at_least(self, "patience", 1)
        at_least(self, "interval_tokens", 1)

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> SlopeState:
        """Return the state before the first probe."""
        return SlopeState(xp.full(batch_shape, 0), xp.full(batch_shape, 0.0), xp.full(batch_shape, -1))

    def score(self, xp: Any, state: SlopeState, observation: Any) -> Any:
        """How far the gain since the last probe is below the limit; 1 where there is none."""
        compared = xp.logical_and(observation.probed, state.num_flat >= 0)
        return xp.where(compared, self.max_gain - (observation.answer_mean_log_prob - state.last_log_prob), 1.0)

    def step(self, xp: Any, state: SlopeState, observation: Any) -> tuple[SlopeState, Action]:
        """Compare with the last probe; probe when due, stop when flat for long enough."""
        is_flat = self.score(xp, state, observation) >= 0
        num_flat = xp.where(xp.logical_and(is_flat, state.num_flat >= 0), state.num_flat + 1, 0)
        num_flat = xp.where(observation.probed, num_flat, state.num_flat)
        last_log_prob = xp.where(observation.probed, observation.answer_mean_log_prob, state.last_log_prob)
        last, action = probe_or_stop(
            xp, state.last_probe_tokens, observation, self.interval_tokens, num_flat >= self.patience
        )
        return SlopeState(last, last_log_prob, num_flat), action
