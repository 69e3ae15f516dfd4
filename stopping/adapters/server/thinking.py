"""One chain of thought on a server, stopped by a policy: generated piece by piece, each continuing from the tokens so far.

Between two pieces the model stands still, so a stop has no lag and costs no token: the policy is asked, may look at an answer
forced from where the thought stands, and either the next piece is asked for or the thought is closed there. Every server that
takes prompts of token ids can do that; one that caches prefixes reads each token once.
"""

import copy
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from stopping.adapters.server.client import End, Upstream
from stopping.adapters.server.markup import Markup
from stopping.adapters.server.protocol import Token
from stopping.adapters.server.thought import Part, Thought
from stopping.adapters.server.thought_result import ThoughtResult
from stopping.adapters.server.thought_sources import FollowedThought, RecordedThought


class Thinker:
    """A policy on the thoughts of one server.

    Args:
        upstream: the server.
        markup: of its model.
        policy: reads a `ThinkingObservation`; None to let every thought end by itself.
        every_tokens: between decision points.
        cap_tokens: the most that a trace may have.
        num_top: of the likeliest tokens asked for with each token, where the policy reads what needs them; None for no
            log-probabilities at all, to a server that refuses them.
        tokenizer: of the server, as `Capabilities` has it.
    """

    def __init__(
        self,
        upstream: Upstream,
        markup: Markup,
        policy: Any,
        *,
        every_tokens: int,
        cap_tokens: int,
        num_top: int | None = 20,
        tokenizer: str = "llama.cpp",
    ) -> None:
        self.upstream, self.markup, self.policy = upstream, markup, policy
        self.every_tokens, self.cap_tokens, self.tokenizer = every_tokens, cap_tokens, tokenizer
        signals = () if policy is None else policy.signals
        self.peeks = "log_close_prob" in signals
        reads_top = self.peeks or "mean_entropy" in signals
        self.num_top = num_top if reads_top or num_top is None else 0

    def follow(
        self, tokens: AsyncIterator[Token | End], order: Callable[[], Awaitable[None]] | None, result: ThoughtResult
    ) -> AsyncGenerator[Part, None]:
        """Follow a trace that comes as one stream, and have its thought closed from outside when the policy asks for it.

        What comes between the asking and the closing is lag. Answers cannot be forced here: a policy that probes is not for this.

        Args:
            tokens: of the trace, without tags; an `End` comes last.
            order: closes the thought; None to ask the policy and close nothing.
            result: is filled in on the way.
        """
        return FollowedThought(self, tokens, order, result).parts()

    def capped(self, cap_tokens: int) -> "Thinker":
        """Return the same with another cap."""
        other = copy.copy(self)
        other.cap_tokens = cap_tokens
        return other

    async def replay(self, prompt_ids: list[int], tokens: Sequence[Token], reason: str) -> ThoughtResult:
        """Ask the policy about a trace that is there already, and force the answers it wants to see; nothing is stopped.

        Args:
            prompt_ids: up to where the thought begins.
            tokens: of the trace.
            reason: why it ended.

        Raises:
            UpstreamError: if an answer cannot be forced.
        """
        result = ThoughtResult()
        async with aclosing(RecordedThought(self, list(prompt_ids), result, tokens, reason).parts()) as parts:
            async for _ in parts:
                pass
        return result

    async def run(self, prompt_ids: list[int], settings: Mapping[str, Any] | None = None) -> ThoughtResult:
        """Think to the end; arguments as of `stream`."""
        result = ThoughtResult()
        async with aclosing(self.stream(prompt_ids, settings, result)) as tokens:
            async for _ in tokens:
                pass
        return result

    def stream(
        self, prompt_ids: list[int], settings: Mapping[str, Any] | None, result: ThoughtResult
    ) -> AsyncGenerator[Part, None]:
        """Think, and yield the trace's tokens as they come, each with the part it belongs to.

        Args:
            prompt_ids: up to where the thought begins.
            settings: of the sampling; a `seed` is moved on by the tokens so far.
            result: is filled in on the way.

        Raises:
            UpstreamError: if the server refuses or breaks off.
        """
        return Thought(self, list(prompt_ids), dict(settings or {}), result).parts()
