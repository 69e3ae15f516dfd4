"""The result of one chain of thought on a server."""

from dataclasses import dataclass, field

from stopping.policies import ThinkingObservation
from stopping.policies.rows import TakenDecision


@dataclass
class ThoughtResult:
    """The result of one thought, and its cost.

    Attributes:
        ids: token ids of the trace: the thought, the closing tag and the answer.
        thought_tokens: tokens before the thought was closed; all tokens if it never was.
        thought, answer: their texts.
        text: the whole text, including tags.
        reason: why the trace ended: `stop`, or `length` for a cap.
        stopped: whether the policy stopped it.
        would_stop_at: the number of tokens at which the policy asked to stop and could have stopped; None if never.
        would_answer: the answer there, including its prefix.
        num_too_long: stops that were put off because the forced answer did not end within `Markup.answer_tokens`.
        last_seen: the observation at the last decision point, before any probe, as plain numbers.
        probe_tokens: tokens generated for answers that were not returned.
        discarded_tokens: tokens generated and thrown away.
        prompt_tokens: prompt tokens read by all requests, without those that the server had cached.
        num_requests: requests sent.
        num_resumed: how often the server failed during the trace, which was then resumed from the tokens so far.
        decisions: the policy's decisions, in order.
        failure: why the policy failed; the thought then continued without it. Empty if it did not.
        order_failure: why an order did not close the thought, which then ended by itself. Empty if none failed.
    """

    ids: list[int] = field(default_factory=list)
    thought_tokens: int = 0
    thought: str = ""
    answer: str = ""
    text: str = ""
    reason: str = ""
    stopped: bool = False
    would_stop_at: int | None = None
    would_answer: str = ""
    num_too_long: int = 0
    last_seen: ThinkingObservation | None = None
    probe_tokens: int = 0
    discarded_tokens: int = 0
    prompt_tokens: int = 0
    num_requests: int = 0
    num_resumed: int = 0
    decisions: list[TakenDecision] = field(default_factory=list)
    failure: str = ""
    order_failure: str = ""

    @property
    def lag_tokens(self) -> int:
        """Tokens of thought generated after the stop was requested: none if the model was waiting."""
        return self.thought_tokens - self.would_stop_at if self.stopped and self.would_stop_at is not None else 0

    @property
    def total_tokens(self) -> int:
        """All tokens generated for this thought."""
        return len(self.ids) + self.probe_tokens + self.discarded_tokens
