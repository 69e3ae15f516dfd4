"""Requests tried again, where another try may fare better."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from stopping.adapters.server.client import Upstream, UpstreamError

NUM_RETRIES = 4
FIRST_WAIT_SECONDS = 0.25  # doubled at every retry
_PASSING = (408, 425, 429)  # statuses that another try may not meet

Answer = TypeVar("Answer")


class ServerGone(UpstreamError):
    """The server no longer answers."""


async def retried(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Return what a request gives, tried up to five times within some four seconds of waiting.

    Raises:
        UpstreamError: of the last try, or the first that no other can mend.
    """
    for retry in range(NUM_RETRIES):
        try:
            return await ask()
        except UpstreamError as error:
            if not is_passing(error):
                raise
        await asyncio.sleep(FIRST_WAIT_SECONDS * 2**retry)
    return await ask()


def is_passing(error: UpstreamError) -> bool:
    """Whether another try may fare better."""
    return error.status is None or error.status >= 500 or error.status in _PASSING


async def raise_if_gone(upstream: Upstream, error: Exception) -> None:
    """Tell a server that is gone from a request that fails on one that is there.

    Raises:
        ServerGone: if the server no longer answers at all.
    """
    if isinstance(error, UpstreamError) and is_passing(error):
        try:
            await upstream.get("/v1/models")
        except UpstreamError:
            raise ServerGone(f"{upstream.base_url} no longer answers: {error}") from error
