"""Repeating requests that failed for a reason that may pass."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from stopping.adapters.server.client import Upstream, UpstreamError

NUM_RETRIES = 4
FIRST_WAIT_SECONDS = 0.25  # doubled at every retry
_PASSING = (408, 425, 429)  # statuses that another try may avoid

Answer = TypeVar("Answer")


class ServerGone(UpstreamError):
    """The server no longer answers."""


async def retried(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Return the result of a request, tried up to five times with about four seconds of waiting in all.

    Raises:
        UpstreamError: the error of the last try, or the first that another try cannot avoid.
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
    """Return whether another try may succeed."""
    return error.status is None or error.status >= 500 or error.status in _PASSING


async def raise_if_gone(upstream: Upstream, error: Exception) -> None:
    """Check, after a request failed, that the server still answers.

    Raises:
        ServerGone: if it does not.
    """
    if isinstance(error, UpstreamError) and is_passing(error):
        try:
            await upstream.get("/v1/models")
        except UpstreamError:
            raise ServerGone(f"{upstream.base_url} no longer answers: {error}") from error
