"""A streamed answer that lets go of what it came from, however it ends."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Streamed(StreamingResponse):
    """A stream with an end of its own: a generator that never began, or that a client left, runs no `finally` by itself.

    Args:
        parts: what is sent.
        close: is awaited after the last part, or as soon as the client has gone; told whether all was sent.
        more: as of `StreamingResponse`.
    """

    def __init__(
        self, parts: AsyncGenerator[bytes, None], close: Callable[[bool], Awaitable[None]], *more: Any, **named: Any
    ) -> None:
        self._parts, self._close, self._is_done = parts, close, False
        self._sent = self._until_done()
        super().__init__(self._sent, *more, **named)

    async def _until_done(self) -> AsyncGenerator[bytes, None]:
        try:
            async for part in self._parts:
                yield part
        except Exception:  # not the client's doing
            self._is_done = True
            raise
        self._is_done = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        except ClientDisconnect:
            pass
        finally:
            await self._sent.aclose()
            await self._parts.aclose()
            await self._close(self._is_done)
