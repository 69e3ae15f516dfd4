"""A proxy that fails on purpose: it breaks off, delays or corrupts the answers of a real server."""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stopping.adapters.proxy.streams import Streamed
from stopping.adapters.server.client import KEEP_SECONDS
from tests.stopping.adapters.in_front import InFront

GARBAGE = (
    "{not json",
    "[17]",
    '{"choices":[{"text":"x","logprobs":{"content":[{}]}}]}',
    '{"choices":3}',
    '{"error":{"code":500}}',
)


@dataclass
class Fault:
    """A fault in some completions.

    Attributes:
        kind: `kill` (the connection), `end` (without a finish reason), `slow`, `drop` (log-probabilities and ids), a status as
            a number, or the bytes sent instead of a chunk.
        after: the number of chunks sent before the fault.
        which: the indices of the completions with the fault; None for all.
    """

    kind: str
    after: int = 0
    which: tuple[int, ...] | None = None


class Faulty(InFront):
    """The state of the faulty server, which tests set.

    Attributes:
        fault: the fault; None for none.
        seen: the number of completions requested since the fault was set.
    """

    limits = httpx.Limits(keepalive_expiry=KEEP_SECONDS)

    def __init__(self, url: str) -> None:
        self.to, self.fault, self.seen = url, None, 0

    def set(self, *fault: Any, **named: Any) -> None:
        self.fault, self.seen = Fault(*fault, **named) if fault else None, 0

    async def handle(self, request: Request) -> Response:
        body, fault = await request.body(), None
        if request.url.path.endswith("/completions"):
            number, self.seen = self.seen, self.seen + 1
            fault = self.fault
            if fault is not None and fault.which is not None and number not in fault.which:
                fault = None
        if fault is not None and fault.kind.isdigit():
            return JSONResponse(
                {"error": {"message": "on purpose", "type": "fault", "code": int(fault.kind)}}, int(fault.kind)
            )
        sent = self.client.build_request(request.method, request.url.path, content=body)
        response = await self.client.send(sent, stream=True)

        async def close(_: bool) -> None:
            await response.aclose()

        return Streamed(
            self._spoilt(response, fault),
            close,
            response.status_code,
            {"content-type": response.headers["content-type"]},
        )

    async def _spoilt(self, response: httpx.Response, fault: Fault | None) -> AsyncGenerator[bytes, None]:
        if fault is None:
            async for part in response.aiter_raw():
                yield part
            return
        came = 0
        async for line in response.aiter_lines():
            is_chunk = line.startswith("data:")
            if is_chunk and came >= fault.after:
                if fault.kind == "kill":
                    raise ConnectionAbortedError("on purpose")
                if fault.kind == "end":
                    return
                if fault.kind == "slow":
                    await asyncio.sleep(60)
                elif fault.kind == "drop":
                    line = without_log_probs(line)
                elif came == fault.after:
                    line = f"data: {fault.kind}"
            came += is_chunk
            yield line.encode() + b"\n"


def without_log_probs(line: str) -> str:
    """A chunk without the log-probabilities and ids that were requested."""
    data = line[5:].strip()
    if data == "[DONE]":
        return line
    document = json.loads(data)
    for choice in document.get("choices") or ():
        choice.pop("logprobs", None)
        choice.pop("token_ids", None)
    return "data: " + json.dumps(document)
