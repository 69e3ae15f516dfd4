"""Traces that nobody continues piece by piece: one that is there already, and one that comes as a single stream."""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from stopping.adapters.server.client import End, UpstreamError
from stopping.adapters.server.protocol import Token
from stopping.adapters.server.thought import Thought
from stopping.adapters.server.thought_run import ThoughtRun
from stopping.policies import Kind

if TYPE_CHECKING:
    from stopping.adapters.server.thinking import Thinker


class RecordedThought(Thought):
    """A trace that is there already."""

    def __init__(
        self, thinker: "Thinker", prompt_ids: list[int], run: ThoughtRun, tokens: Sequence[Token], reason: str
    ) -> None:
        super().__init__(thinker, prompt_ids, {}, run)
        self.is_observed, self.left, self.how = True, deque(tokens), reason

    async def _piece(self) -> AsyncGenerator[Token, None]:
        while self.left:
            if self._waits():
                if self.by.peeks:
                    self.ahead.append(self.left.popleft())
                break
            yield self.left.popleft()
        self.ending = "" if self.left else self.how


class FollowedThought(Thought):
    """A trace that comes as one stream, whose thought is closed by order, or, without one, only looked at."""

    def __init__(
        self,
        thinker: "Thinker",
        tokens: AsyncIterator[Token | End],
        order: Callable[[], Awaitable[None]] | None,
        run: ThoughtRun,
    ) -> None:
        super().__init__(thinker, [], {}, run)
        self.tokens, self.order, self.is_observed = tokens, order, order is None
        self.waiting: deque[Token] = deque()

    async def _piece(self) -> AsyncGenerator[Token, None]:
        while True:
            if not self.waiting:
                token = await anext(self.tokens)
                if isinstance(token, End):
                    self._end(token.reason)
                    return
                self._place(token)
            token = self.waiting.popleft()
            if self._waits():
                if self.by.peeks:
                    self.ahead.append(token)
                else:
                    self.waiting.appendleft(token)
                return
            yield token

    def _end(self, reason: str) -> None:
        self.ending = reason
        if self.run.stopped and not self.is_closed and reason != "tool_calls":  # a call, too, is an answer
            self.run.stopped, self.run.order_failure = False, "no answer came after the order"

    def _place(self, token: Token) -> None:
        """Tell the thought from the answer, and put the tag between them where the server leaves it out."""
        if not self.run.ids and not self.ahead:
            self.is_open, self.is_closed = token.reasoning, not token.reasoning
        elif self.is_open and not self.is_closed and not token.reasoning and token.id not in self.by.markup.close_ids:
            size = len(self.by.markup.close_ids)
            self.waiting.extend(Token(text, number, reasoning=True) for text, number in self.by.markup.tags[:size])
        self.waiting.append(token)

    async def _decide(self) -> list[Token] | None:
        run, position = self.run, len(self.run.ids)
        observation = self._seen()
        if run.would_stop_at is not None:
            return None
        kinds, _ = self.rows.ask(observation, [0])
        if kinds[0] != Kind.STOP:
            return None
        if self._room() < self.by.markup.answer_tokens:
            self.rows.put_off(0)
            return None
        run.would_stop_at = position
        if self.order is not None:
            try:
                await self.order()
                run.stopped = True
            except (UpstreamError, TimeoutError) as error:
                run.order_failure = f"{type(error).__name__}: {error}"
        return None
