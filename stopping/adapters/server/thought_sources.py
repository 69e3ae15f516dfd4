"""Traces that are not generated piece by piece: complete ones, and those that arrive as a single stream."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from stopping.adapters.server.client import End, UpstreamError
from stopping.adapters.server.protocol import Token
from stopping.adapters.server.thought import Thought
from stopping.adapters.server.thought_result import ThoughtResult
from stopping.adapters.server.thought_settings import ThoughtSettings
from stopping.policies import Kind


class ExternalThought(Thought, ABC):
    """A trace whose tokens come from elsewhere; `left` holds those that have arrived and are not consumed yet."""

    left: deque[Token]

    @abstractmethod
    async def _more(self) -> bool:
        """Add tokens to `left`; if there are none, note why the trace ended and return False."""

    async def _piece(self) -> AsyncGenerator[Token, None]:
        while self.left or await self._more():
            if self._waits():
                if self.settings.peeks:
                    self.ahead.append(self.left.popleft())
                return
            yield self.left.popleft()


class RecordedThought(ExternalThought):
    """A complete trace."""

    def __init__(
        self,
        settings: ThoughtSettings,
        prompt_ids: list[int],
        result: ThoughtResult,
        tokens: Sequence[Token],
        reason: str,
    ) -> None:
        super().__init__(settings, prompt_ids, {}, result)
        self.is_observed, self.left, self.reason = True, deque(tokens), reason

    async def _more(self) -> bool:
        self.ending = self.reason
        return False


class FollowedThought(ExternalThought):
    """A trace that arrives as one stream; its thought is closed by an order, or only observed if there is no order."""

    def __init__(
        self,
        settings: ThoughtSettings,
        tokens: AsyncIterator[Token | End],
        order: Callable[[], Awaitable[None]] | None,
        result: ThoughtResult,
    ) -> None:
        super().__init__(settings, [], {}, result)
        self.tokens, self.order, self.is_observed = tokens, order, order is None
        self.left = deque()

    async def _more(self) -> bool:
        token = await anext(self.tokens)
        if isinstance(token, End):
            self._end(token.reason)
            return False
        self._place(token)
        return True

    def _end(self, reason: str) -> None:
        self.ending = reason
        if self.result.stopped and not self.is_closed:
            self.result.stopped, self.result.order_failure = False, "no answer came after the order"

    def _place(self, token: Token) -> None:
        """Separate the thought from the answer, inserting the closing tag where the server omits it."""
        close_ids = self.settings.markup.close_ids
        if not self.result.ids and not self.ahead:
            self.is_open, self.is_closed = token.reasoning, not token.reasoning
        elif self.is_open and not self.is_closed and not token.reasoning and token.id not in close_ids:
            tag = self.settings.markup.tags[: len(close_ids)]
            self.left.extend(Token(text, number, reasoning=True) for text, number in tag)
        self.left.append(token)

    async def _decide(self, observation: Any) -> list[Token] | None:
        if self._asks(observation) != Kind.STOP:
            return None
        if self._room() < self.settings.markup.answer_tokens:
            self.rows.put_off(0)
            return None
        self.result.would_stop_at = len(self.result.ids)
        if self.order is not None:
            try:
                await self.order()
                self.result.stopped = True
            except (UpstreamError, TimeoutError) as error:
                self.result.order_failure = f"{type(error).__name__}: {error}"
        return None
