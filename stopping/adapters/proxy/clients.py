"""Protection from slow clients: turns, time limits on sending a body and on reading an answer."""

import asyncio

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Send

PART_BYTES = 64 * 1024  # the size of the parts of an answer, each of which has its own time limit
TURN = "stopping.turn"  # where a request's scope holds its turn


class ClientStalled(ClientDisconnect):
    """The client did not read its answer in time, and its connection has been closed."""


class BodyTooLarge(Exception):
    """The body exceeds the maximum size."""


class Turn:
    """One request's turn on the server, taken at most once; the code that creates it must give it back.

    Args:
        turns: as many turns as the server has slots; None without a limit.
    """

    def __init__(self, turns: asyncio.Semaphore | None) -> None:
        self._turns, self._is_held = turns, False

    async def take(self) -> None:
        """Wait for the turn."""
        if self._turns is not None and not self._is_held:
            await self._turns.acquire()
            self._is_held = True

    def give_back(self) -> None:
        """Release the turn for the next request."""
        if self._turns is not None and self._is_held:
            self._is_held = False
            self._turns.release()


async def body_of(request: Request, most_bytes: int, seconds: float) -> bytes:
    """Return the body of a request.

    Raises:
        BodyTooLarge: if it exceeds the maximum size.
        TimeoutError: if it is not complete in time.
        ClientDisconnect: if the client leaves before that.
    """
    parts, size = [], 0
    with anyio.fail_after(seconds):
        async for part in request.stream():
            size += len(part)
            if size > most_bytes:
                raise BodyTooLarge
            parts.append(part)
    return b"".join(parts)


def limited(send: Send, seconds: float) -> Send:
    """Return a `send` that waits at most `seconds` for the client to read each part of its answer.

    After that it aborts the connection, as an orderly close would also wait for the client, and raises `ClientStalled`.
    """

    async def in_time(message: Message) -> None:
        try:
            with anyio.fail_after(seconds):
                await send(message)
        except TimeoutError:
            _cut(send)
            raise ClientStalled from None

    async def sent(message: Message) -> None:
        body = message.get("body", b"")
        for start in range(0, len(body) - PART_BYTES, PART_BYTES):
            await in_time({**message, "body": body[start : start + PART_BYTES], "more_body": True})
        if len(body) > PART_BYTES:
            message = {**message, "body": body[(len(body) - 1) // PART_BYTES * PART_BYTES :]}
        await in_time(message)

    return sent


def _cut(send: Send) -> None:
    """Abort the connection of `send`, if it is accessible (as uvicorn's is); otherwise the web server closes it."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    abort = getattr(transport, "abort", None)  # by name, as every event loop has its own class of transports
    if abort is not None:
        abort()
