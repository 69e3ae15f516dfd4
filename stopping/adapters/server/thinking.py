"""Chains of thought on a server, stopped by a policy.

`think` generates a thought piece by piece, each piece continuing from the tokens so far. Between two pieces the model waits, so a
stop has no lag and costs no token: the policy is asked, it may look at an answer forced at the current position, and then either
the next piece is requested or the thought is closed. This works on every server that takes prompts of token ids; a server that
caches prefixes reads each token once. `follow` watches one long stream instead, and `replay` a trace that is already complete.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from stopping.adapters.server.client import End
from stopping.adapters.server.protocol import Token
from stopping.adapters.server.thought import Part, Thought
from stopping.adapters.server.thought_result import ThoughtResult
from stopping.adapters.server.thought_settings import ThoughtSettings
from stopping.adapters.server.thought_sources import FollowedThought, RecordedThought


async def think(
    settings: ThoughtSettings, prompt_ids: Sequence[int], sampling: Mapping[str, Any] | None = None
) -> ThoughtResult:
    """Return the result of one thought and its answer; the arguments are those of `stream`."""
    result = ThoughtResult()
    await _exhaust(stream(settings, prompt_ids, sampling, result))
    return result


def stream(
    settings: ThoughtSettings, prompt_ids: Sequence[int], sampling: Mapping[str, Any] | None, result: ThoughtResult
) -> AsyncGenerator[Part, None]:
    """Generate one thought and its answer; yields each token with the part of the trace that it belongs to.

    Args:
        settings: the policy and the server.
        prompt_ids: the prompt, up to where the thought begins.
        sampling: sampling parameters of the request; a `seed` is advanced by the number of tokens so far.
        result: filled in as tokens arrive.

    Raises:
        UpstreamError: if the server refuses or breaks off.
    """
    return Thought(settings, list(prompt_ids), dict(sampling or {}), result).parts()


def follow(
    settings: ThoughtSettings,
    tokens: AsyncIterator[Token | End],
    order: Callable[[], Awaitable[None]] | None,
    result: ThoughtResult,
) -> AsyncGenerator[Part, None]:
    """Watch a trace that arrives as one stream, and have its thought closed when the policy asks for it.

    Tokens between the request and the closing tag are lag. Answers cannot be forced here, so the policy must not probe.

    Args:
        settings: the policy and the server.
        tokens: the tokens of the trace, without tags; the last item is an `End`.
        order: closes the thought; None to ask the policy without closing anything.
        result: filled in as tokens arrive.
    """
    return FollowedThought(settings, tokens, order, result).parts()


async def replay(
    settings: ThoughtSettings, prompt_ids: Sequence[int], tokens: Sequence[Token], reason: str
) -> ThoughtResult:
    """Return what the policy would have done on a complete trace, forcing the answers that it wants to see.

    Args:
        settings: the policy and the server.
        prompt_ids: the prompt, up to where the thought begins.
        tokens: the tokens of the trace.
        reason: why the trace ended.

    Raises:
        UpstreamError: if an answer cannot be forced.
    """
    result = ThoughtResult()
    await _exhaust(RecordedThought(settings, list(prompt_ids), result, tokens, reason).parts())
    return result


async def _exhaust(parts: AsyncGenerator[Part, None]) -> None:
    async with aclosing(parts):
        async for _ in parts:
            pass
