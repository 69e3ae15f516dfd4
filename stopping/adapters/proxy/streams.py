"""A streamed answer that lets go of what it came from, however it ends."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

MOST_WAITING = 256  # parts, before what they come from has to wait for the client


class Streamed(StreamingResponse):
    """A stream with an end of its own: a generator that never began, or that a client left, runs no `finally` by itself.

    Parts that come while others are being sent are sent together: a busy proxy, or a slow client, then costs fewer writes.

    Args:
        parts: what is sent.
        close: is awaited after the last part, or as soon as the client has gone; told whether all was sent.
        more: as of `StreamingResponse`.
    """

    def __init__(
        self, parts: AsyncGenerator[bytes, None], close: Callable[[bool], Awaitable[None]], *more: Any, **named: Any
    ) -> None:
        self._parts, self._close, self._is_done = parts, close, False
        self._waiting: list[bytes] = []
        self._came, self._room = asyncio.Event(), asyncio.Event()
        self._sent = self._together()
        super().__init__(self._sent, *more, **named)

    async def _take(self) -> None:
        try:
            async for part in self._parts:
                self._waiting.append(part)
                self._came.set()
                if len(self._waiting) >= MOST_WAITING:
                    self._room.clear()
                    await self._room.wait()
        except Exception:  # not the client's doing
            self._is_done = True
            raise
        self._is_done = True

    async def _together(self) -> AsyncGenerator[bytes, None]:
        while self._waiting or not self._taking.done():
            await self._came.wait()
            self._came.clear()
            if self._waiting:
                together = b"".join(self._waiting)
                self._waiting.clear()
                self._room.set()
                yield together
        self._taking.result()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        self._taking = asyncio.create_task(self._take())
        self._taking.add_done_callback(lambda _: self._came.set())
        try:
            await super().__call__(scope, receive, send)
        except ClientDisconnect:
            pass
        finally:
            self._taking.cancel()
            await asyncio.gather(self._taking, return_exceptions=True)
            await self._sent.aclose()
            await self._parts.aclose()
            await self._close(self._is_done and not self._waiting)
