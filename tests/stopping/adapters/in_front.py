"""A server in front of another, run in a thread."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Self

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


class InFront(ABC):
    """Hands each request to `handle`, which has a client of the server behind.

    Attributes:
        limits: of the client's connections.
        to: the address of the server behind.
        url: the address, while it runs.
        client: of the server behind, while it runs.
    """

    limits: ClassVar[httpx.Limits] = httpx.Limits(max_keepalive_connections=0)
    to: str
    url: str = ""
    client: httpx.AsyncClient

    @abstractmethod
    async def handle(self, request: Request) -> Response: ...

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Run until the context ends."""
        server: uvicorn.Server
        is_up = threading.Event()

        async def main() -> None:
            nonlocal server
            async with httpx.AsyncClient(base_url=self.to, timeout=60, limits=self.limits) as self.client:
                app = Starlette(routes=[Route("/{path:path}", self.handle, methods=["GET", "POST"])])
                server = uvicorn.Server(
                    uvicorn.Config(app, port=0, log_config=None, access_log=False, timeout_graceful_shutdown=1)
                )
                task = asyncio.create_task(server.serve())
                while not server.started:
                    await asyncio.sleep(0.01)
                self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
                is_up.set()
                await task

        thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
        thread.start()
        assert is_up.wait(20)
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join(20)
