"""Traces that nobody continues piece by piece: one that is there already, and one that comes as a single stream."""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from stopping.adapters.server.client import End
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
    """A trace that comes as one stream, whose thought is closed by order."""

    def __init__(
        self,
        thinker: "Thinker",
        tokens: AsyncIterator[Token | End],
        order: Callable[[], Awaitable[None]],
        run: ThoughtRun,
    ) -> None:
        super().__init__(thinker, [], {}, run)
        self.tokens, self.order = tokens, order
        self.waiting: deque[Token] = deque()

    async def _piece(self) -> AsyncGenerator[Token, None]:
        while True:
            if not self.waiting:
                token = await anext(self.tokens)
                if isinstance(token, End):
                    self.ending = token.reason
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
        kinds, _ = self.rows.ask(self._seen(), [0])
        if kinds[0] == Kind.STOP and self._room() < self.by.markup.answer_tokens:
            self.rows.put_off(0)
        elif kinds[0] == Kind.STOP:
            run.would_stop_at = position
            await self.order()
            run.stopped = True
        return None
