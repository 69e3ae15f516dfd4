"""What came of one chain of thought on a server."""

from dataclasses import dataclass, field

from stopping.policies import ThinkingObservation
from stopping.policies.rows import TakenDecision


@dataclass
class ThoughtResult:
    """What came of one thought, and what it cost.

    Attributes:
        ids: of the tokens of the trace: its thought, the closing tag and the answer.
        thought_tokens: before the thought was closed; all, if it never was.
        thought, answer: their texts.
        text: of all of it, tags included.
        reason: why it ended: `stop`, or `length` for a cap.
        stopped: by the policy.
        would_stop_at: tokens after which the policy asked to stop, and could have been; None if never.
        would_answer: what it would have answered there, prefix included.
        num_too_long: stops that were put off because the forced answer did not end within `Markup.answer_tokens`.
        last_seen: what there was to see at the last decision point, before any probe, as plain numbers.
        probe_tokens: generated for answers that were not given.
        discarded_tokens: generated and thrown away.
        prompt_tokens: read, again and again, less those that the server had cached.
        num_requests: sent.
        num_resumed: times that the server failed amid the trace, which went on from the tokens there were.
        decisions: of the policy, in order.
        failure: why the policy was not asked any more, where it failed; the thought went on without it.
        order_failure: why an order did not close the thought, which then ended by itself.
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
        """Tokens of thought that came after the stop was asked for: none where the model stood still meanwhile."""
        return self.thought_tokens - self.would_stop_at if self.stopped and self.would_stop_at is not None else 0

    @property
    def total_tokens(self) -> int:
        """All tokens generated for it."""
        return len(self.ids) + self.probe_tokens + self.discarded_tokens
