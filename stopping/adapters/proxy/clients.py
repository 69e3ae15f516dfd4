"""What a client may keep others waiting with: its turn, a body that it sends slowly, an answer that it does not read."""

import asyncio

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Send

PART_BYTES = 64 * 1024  # of an answer: each part has the time limit to itself
TURN = "stopping.turn"  # where a request's scope holds its turn


class ClientStalled(ClientDisconnect):
    """The client did not read its answer in time; its connection has been cut."""


class BodyTooLarge(Exception):
    """The body has more bytes than are allowed."""


class Turn:
    """One request's turn before the server. It is taken at most once; whoever made it gives it back.

    Args:
        turns: as many as the server works on at once; None where there is no limit.
    """

    def __init__(self, turns: asyncio.Semaphore | None) -> None:
        self._turns, self._is_held = turns, False

    async def take(self) -> None:
        """Wait for the turn."""
        if self._turns is not None and not self._is_held:
            await self._turns.acquire()
            self._is_held = True

    def give_back(self) -> None:
        """Let the next request have it."""
        if self._turns is not None and self._is_held:
            self._is_held = False
            self._turns.release()


async def body_of(request: Request, most_bytes: int, seconds: float) -> bytes:
    """Read the whole body of a request.

    Raises:
        BodyTooLarge: if it has more bytes.
        TimeoutError: if it is not whole in time.
        ClientDisconnect: if the client leaves before.
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
    """Return a `send` that waits for a client to read its answer, but not for longer than so many seconds a part.

    It raises `ClientStalled` when the time is over, and cuts the connection: a polite end would wait for the client too.
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
    """Cut the connection behind `send`, where it shows one (uvicorn's does); elsewhere the server ends it as it can."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    abort = getattr(transport, "abort", None)  # by name: every event loop has its own class of transports
    if abort is not None:
        abort()
