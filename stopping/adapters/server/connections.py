"""Connections to one server.

The connection pool of httpx searches all connections for every request, and closes expired ones only on the next request. With
hundreds of concurrent requests, these wait for the search, and for servers that hold a thread per open connection (llama.cpp).
"""

import asyncio
from collections.abc import AsyncIterator

import httpx


class Connections(httpx.AsyncBaseTransport):
    """A transport over single connections: a request takes the one used last, or opens a new one.

    Args:
        keep_seconds: the time after which an unused connection is closed.
    """

    def __init__(self, keep_seconds: float) -> None:
        self._keep_seconds, self._limits = keep_seconds, httpx.Limits(max_connections=1, keepalive_expiry=keep_seconds)
        self._context = httpx.create_ssl_context()  # read once
        self._unused: dict[httpx.AsyncHTTPTransport, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; its connection is reused once the response has been read to its end."""
        transport = self._take()
        try:
            response = await transport.handle_async_request(request)
        except BaseException:
            self._close(transport)
            raise
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)
        response.stream = _Lent(self, transport, stream)
        return response

    async def aclose(self) -> None:
        """Close the unused connections."""
        for transport in list(self._unused):
            self._expire(transport)
        await asyncio.gather(*self._closing)

    def _take(self) -> httpx.AsyncHTTPTransport:
        if not self._unused:
            return httpx.AsyncHTTPTransport(verify=self._context, limits=self._limits)
        transport, timer = self._unused.popitem()
        timer.cancel()
        return transport

    def _give(self, transport: httpx.AsyncHTTPTransport) -> None:
        self._unused[transport] = asyncio.get_running_loop().call_later(self._keep_seconds, self._expire, transport)

    def _expire(self, transport: httpx.AsyncHTTPTransport) -> None:
        self._unused.pop(transport).cancel()
        self._close(transport)

    def _close(self, transport: httpx.AsyncHTTPTransport) -> None:
        self._closing.add(task := asyncio.create_task(transport.aclose()))
        task.add_done_callback(self._closing.discard)


class _Lent(httpx.AsyncByteStream):
    """The bytes of a response; the connection is returned if all were read."""

    def __init__(self, owner: Connections, transport: httpx.AsyncHTTPTransport, stream: httpx.AsyncByteStream) -> None:
        self._owner, self._stream, self._is_whole = owner, stream, False
        self._lent: httpx.AsyncHTTPTransport | None = transport

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part
        self._is_whole = True

    async def aclose(self) -> None:
        lent, self._lent = self._lent, None
        let_go = self._owner._close
        try:
            await self._stream.aclose()
            if self._is_whole:
                let_go = self._owner._give
        finally:
            if lent is not None:
                let_go(lent)
