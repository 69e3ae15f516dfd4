"""Agreement of probed answers."""

from typing import Any, NamedTuple

from stopping.policies.actions import Action, Kind
from stopping.policies.decisions import NO_ANSWER
from stopping.policies.probing import agreeing, probe_or_stop
from stopping.policies.protocol import at_least, policy


class AgreementState(NamedTuple):
    """The run of equal answers.

    Attributes:
        last_probe_tokens: where the last probe was, 0 before the first; int32 `[...]`.
        last_answer: what it gave; int32 `[...]`.
        num_agreeing: how many of the last probes gave it, in a row; int32 `[...]`.
    """

    last_probe_tokens: Any
    last_answer: Any
    num_agreeing: Any


@policy(signals=("elapsed_tokens", "probed", "probed_answer"), kinds=(Kind.CONTINUE, Kind.STOP, Kind.PROBE))
class AnswerAgreement:
    """Force an answer every `interval_tokens`; stop when the last `num_agreeing` of them are the same.

    Adapted: Certaindex uses the share of the most frequent of the last answers, and leaves out those with hesitant words.

    Reference: Fu et al., Efficiently Scaling LLM Reasoning with Certaindex (arXiv 2412.20993).
    """

    num_agreeing: int
    interval_tokens: int

    def __post_init__(self) -> None:
        at_least(self, "num_agreeing", 1)
        at_least(self, "interval_tokens", 1)

    def init(self, xp: Any, batch_shape: tuple[int, ...]) -> AgreementState:
        """Return the state before the first probe."""
        return AgreementState(xp.full(batch_shape, 0), xp.full(batch_shape, NO_ANSWER), xp.full(batch_shape, 0))

    def step(self, xp: Any, state: AgreementState, observation: Any) -> tuple[AgreementState, Action]:
        """Count the answer in; probe when due, stop when enough agree."""
        run = agreeing(xp, state, observation)
        last, action = probe_or_stop(
            xp, state.last_probe_tokens, observation, self.interval_tokens, run >= self.num_agreeing
        )
        answer = xp.where(observation.probed, observation.probed_answer, state.last_answer)
        return AgreementState(last, answer, run), action
