"""A streamed answer that lets go of what it came from, however it ends."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from stopping.adapters.proxy.clients import ClientStalled

MOST_WAITING = 256  # parts, before what they come from has to wait for the client


class Streamed(StreamingResponse):
    """A stream with an end of its own: a generator that never began, or that a client left, runs no `finally` by itself.

    Parts that come while others are being sent are sent together: a busy proxy, or a slow client, then costs fewer writes.

    Args:
        parts: what is sent.
        close: is awaited after the last part, or as soon as the client has gone; told whether the client stayed. One that stayed
            without reading is counted by whoever cut its connection.
        more: as of `StreamingResponse`.
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
        except Exception as error:  # not the client's doing
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
        """Send it."""
        failed: Exception | None = None
        is_stalled = False
        try:
            async with anyio.create_task_group() as both:  # not `Task.cancel`, which leaves connections half closed
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
