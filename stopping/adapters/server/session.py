"""A policy on a server, in one call."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from stopping.adapters.server import thinking
from stopping.adapters.server.capabilities import (
    Capabilities,
    require_continuation,
    tokens_of_chat,
    tokens_of_text,
)
from stopping.adapters.server.client import Upstream
from stopping.adapters.server.examination import examine
from stopping.adapters.server.markup import read_markup
from stopping.adapters.server.thought import Part
from stopping.adapters.server.thought_result import ThoughtResult
from stopping.adapters.server.thought_settings import NO_CAP, ThoughtSettings
from stopping.artifacts.loading import policy_and_interval

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Session:
    """A policy for the thoughts of one server; made by `connect`.

    A prompt is a text, a list of token ids, or the messages of a chat.

    Attributes:
        capabilities: what the server can do.
        settings: the policy, the server's client and the model's markup.
    """

    capabilities: Capabilities
    settings: ThoughtSettings

    async def think(self, prompt: Prompt, **sampling: Any) -> ThoughtResult:
        """Return the result of one thought and its answer.

        Args:
            prompt: the prompt.
            **sampling: sampling parameters of the request: `temperature`, `seed`, ...

        Raises:
            UpstreamError: if the server refuses or breaks off.
        """
        return await thinking.think(self.settings, await self._prompt_ids(prompt), sampling)

    async def stream(self, prompt: Prompt, result: ThoughtResult, **sampling: Any) -> AsyncGenerator[Part, None]:
        """Yield the tokens of one thought and its answer, each with its part of the trace, and fill in `result`; as `think`."""
        parts = thinking.stream(self.settings, await self._prompt_ids(prompt), sampling, result)
        try:
            async for part in parts:
                yield part
        finally:
            await parts.aclose()

    async def _prompt_ids(self, prompt: Prompt) -> list[int]:
        upstream, tokenizer = self.settings.upstream, self.settings.tokenizer
        if isinstance(prompt, str):
            return await tokens_of_text(upstream, prompt, tokenizer)
        if prompt and isinstance(prompt[0], Mapping):
            return await tokens_of_chat(upstream, [dict(message) for message in prompt], tokenizer)  # type: ignore[arg-type]
        return [int(number) for number in prompt]  # type: ignore[arg-type]


@asynccontextmanager
async def connect(
    url: str,
    policy: Any,
    *,
    every_tokens: int | None = None,
    cap_tokens: int = NO_CAP,
    num_top: int = 20,
    model: str = "",
    api_key: str = "",
    **markup: Any,
) -> AsyncIterator[Session]:
    """Connect to a server of the OpenAI protocol, and open a session of a policy that stops its thoughts.

        async with connect("http://localhost:8080", "policy/") as session:
            result = await session.think([{"role": "user", "content": "..."}], temperature=0.6)

    Args:
        url: the server's address, with or without `/v1`.
        policy: a policy that reads `ThinkingObservation`, its artifact, or its directory.
        every_tokens: the number of tokens between decision points; by default the artifact's.
        cap_tokens: the maximum length of a trace; by default only the server's context limits it.
        num_top: how many top log-probabilities to request with each token, where the policy needs them.
        model: the model's name on the server; by default the first that it lists.
        api_key: sent as a bearer token if not empty.
        **markup: how the model writes, as in `read_markup`: `open`, `close`, `answer_prefix`, `answer_of`, ...

    Raises:
        UpstreamError: if the server does not answer.
        Unsupported, MissingSignal: naming what the policy needs and the server lacks.
        ValueError: if the policy is not for thinking, or its interval is unknown.
    """
    policy, every_tokens = policy_and_interval(policy, every_tokens)
    async with Upstream(url, model, api_key) as upstream:
        capabilities = await examine(upstream, num_top=num_top, measure=False)
        require_continuation(capabilities, "a thought cannot be continued")
        marks = await read_markup(upstream, capabilities, **markup)
        limits: dict[str, Any] = {"every_tokens": every_tokens, "cap_tokens": cap_tokens}
        yield Session(capabilities, ThoughtSettings.of(upstream, capabilities, marks, policy, **limits))
