"""A threshold on the confidence in a probed answer."""

from typing import Any, NamedTuple

from stopping.policies.actions import Action, Kind
from stopping.policies.probing import probe_or_stop
from stopping.policies.protocol import at_least, finite, policy


class ProbeState(NamedTuple):
    """Where the last probe was, 0 before the first; int32 `[...]`."""

    last_probe_tokens: Any


@policy(signals=("elapsed_tokens", "probed", "answer_mean_log_prob"), kinds=(Kind.CONTINUE, Kind.STOP, Kind.PROBE))
class ConfidenceExit:
    """Force an answer every `interval_tokens`; stop when the mean log-probability of its tokens is at least a threshold.

    Adapted: the paper probes at words such as "Wait" and thresholds the geometric mean of the answer tokens' probabilities,
    the exponential of our score; here probes are on a token grid, and the threshold comes from a log.

    Reference: Yang et al., Dynamic Early Exit in Reasoning Models (DEER, arXiv 2504.15895).
    """

    min_log_prob: float
    interval_tokens: int

    def __post_init__(self) -> None:
        finite(self, "min_log_prob")
        at_least(self, "interval_tokens", 1)

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> ProbeState:
        """Return the state before the first probe."""
        return ProbeState(xp.full(batch_shape, 0))

    def score(self, xp: Any, state: ProbeState, observation: Any) -> Any:
        """How far the answer is above the threshold; 1 where none was probed."""
        return xp.where(observation.probed, observation.answer_mean_log_prob - self.min_log_prob, 1.0)

    def step(self, xp: Any, state: ProbeState, observation: Any) -> tuple[ProbeState, Action]:
        """Probe when due; stop when sure."""
        sure = self.score(xp, state, observation) >= 0
        last, action = probe_or_stop(xp, state.last_probe_tokens, observation, self.interval_tokens, sure)
        return ProbeState(last), action
