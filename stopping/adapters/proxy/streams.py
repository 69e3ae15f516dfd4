"""A streamed answer that releases its source, however it ends."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from stopping.adapters.proxy.clients import ClientStalled

MOST_WAITING = 256  # parts waiting to be sent, before their source has to wait for the client


class Streamed(StreamingResponse):
    """A streaming response that always closes its source: an unstarted or abandoned generator does not run its `finally`.

    Parts that arrive while others are being sent are sent together, which saves writes on a busy proxy or to a slow client.

    Args:
        parts: the parts to send.
        close: awaited after the last part, or as soon as the client has gone; its argument is whether the client stayed. A client
            that stayed without reading also counts as having stayed.
        more: further arguments of `StreamingResponse`.
    """

    def __init__(
        self, parts: AsyncGenerator[bytes, None], close: Callable[[bool], Awaitable[None]], *more: Any, **named: Any
    ) -> None:
        self._parts, self._close, self._is_done = parts, close, False
        self._waiting: list[bytes] = []
        self._came, self._room = asyncio.Event(), asyncio.Event()
        self._failed: Exception | None = None
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
        except Exception as error:  # not caused by the client
            self._failed = error
        self._is_done = True
        self._came.set()

    async def _together(self) -> AsyncGenerator[bytes, None]:
        while not self._is_done or self._waiting:
            await self._came.wait()
            self._came.clear()
            if self._waiting:
                together = b"".join(self._waiting)
                self._waiting.clear()
                self._room.set()
                yield together
        if self._failed:
            raise self._failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        failed: Exception | None = None
        is_stalled = False
        try:
            async with anyio.create_task_group() as both:  # `Task.cancel` would leave connections half closed
                both.start_soon(self._take)
                try:
                    await super().__call__(scope, receive, send)
                except ClientStalled as error:
                    failed, is_stalled = error, True
                except ClientDisconnect:
                    pass
                except Exception as error:
                    failed = error
                both.cancel_scope.cancel()
        finally:
            await self._sent.aclose()
            await self._parts.aclose()
            await self._close(is_stalled or (self._is_done and not self._waiting))
        if failed:
            raise failed
