"""Requests that are handed on as they are, and those whose answers are watched on the way."""

import json
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from stopping.adapters.proxy.metrics import Metrics
from stopping.adapters.server.client import Token, Upstream, UpstreamError, tokens_of

# Of one connection, not of the message; and what the client library sets itself.
HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailers", "transfer-encoding", "upgrade",
    "host", "content-length", "accept-encoding", "content-encoding", "x-stopping-policy",
}  # fmt: skip


@dataclass
class Seen:
    """An answer on its way: its tokens, why it ended, how long it took."""

    tokens: list[Token] = field(default_factory=list)
    reason: str = ""
    seconds: float = 0.0


class Passing:
    """Hands requests on.

    Args:
        upstream: to which.
        metrics: counts what goes wrong.
    """

    def __init__(self, upstream: Upstream, metrics: Metrics) -> None:
        self.upstream, self.metrics = upstream, metrics

    async def hand_on(self, request: Request, body: bytes) -> Response:
        """Answer with what the server answers, byte for byte."""
        response = await self._sent(request, body)
        return StreamingResponse(self._raw(response), response.status_code, _headers(response))

    async def observed(
        self, request: Request, body: dict[str, Any], num_top: int, when_done: Callable[[Seen], None]
    ) -> Response:
        """The same, and tell what was seen: the server is asked for log-probabilities, which the client does not get."""
        is_chat = request.url.path.endswith("/chat/completions")
        wanted = {"logprobs": True, "top_logprobs": max(num_top, 1)} if is_chat else {"logprobs": max(num_top, 1)}
        asked = json.dumps({**body, **wanted, "return_token_ids": True}).encode()
        response = await self._sent(request, asked)
        if response.status_code >= 400:
            return StreamingResponse(self._raw(response), response.status_code, _headers(response))
        seen, start = Seen(), time.monotonic()
        if not body.get("stream"):
            try:
                raw = await response.aread()
            except httpx.HTTPError as error:
                raise UpstreamError(f"{request.url.path}: {type(error).__name__}: {error}") from error
            finally:
                await response.aclose()
            document = _watched(raw, seen)
            seen.seconds = time.monotonic() - start
            when_done(seen)
            return Response(document, response.status_code, _headers(response))
        return StreamingResponse(
            self._watched_lines(response, seen, start, when_done), response.status_code, _headers(response)
        )

    async def _sent(self, request: Request, body: bytes) -> httpx.Response:
        headers = {name: value for name, value in request.headers.items() if name not in HOP}
        if "authorization" in self.upstream.client.headers:
            headers.pop("authorization", None)
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        sent = self.upstream.client.build_request(
            request.method, path, content=body, headers={**headers, "accept-encoding": "identity"}
        )
        try:
            return await self.upstream.client.send(sent, stream=True)
        except httpx.HTTPError as error:
            raise UpstreamError(f"{path}: {type(error).__name__}: {error}") from error

    async def _raw(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        is_done = False
        try:
            async for part in response.aiter_raw():
                yield part
            is_done = True
        except httpx.HTTPError:
            is_done = True
            self.metrics.faults.labels("upstream_failed").inc()
            raise
        finally:
            await response.aclose()
            if not is_done:
                self.metrics.faults.labels("client_gone").inc()

    async def _watched_lines(
        self, response: httpx.Response, seen: Seen, start: float, when_done: Callable[[Seen], None]
    ) -> AsyncGenerator[bytes, None]:
        is_done = False
        try:
            async for line in response.aiter_lines():
                data = line[5:].strip() if line.startswith("data:") else ""
                if data and data != "[DONE]":
                    line = "data: " + _watched(data.encode(), seen).decode()
                yield line.encode() + b"\n"
            is_done = True
        except httpx.HTTPError:
            is_done = True
            self.metrics.faults.labels("upstream_failed").inc()
            raise
        finally:
            await response.aclose()
            if not is_done:
                self.metrics.faults.labels("client_gone").inc()
            elif seen.reason:
                seen.seconds = time.monotonic() - start
                when_done(seen)


def _watched(raw: bytes, seen: Seen) -> bytes:
    """Take the tokens of a document or a chunk; return it without what the client did not ask for."""
    try:
        document = json.loads(raw)
        choices = document.get("choices") or ()
        for choice in choices:
            seen.tokens += tokens_of(choice)
            seen.reason = choice.get("finish_reason") or seen.reason
            choice.pop("token_ids", None)
            if "text" in choice:  # where it stands in every choice
                choice["logprobs"] = None
            else:
                choice.pop("logprobs", None)
    except (ValueError, AttributeError, TypeError, KeyError):
        return raw
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _headers(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name not in HOP}
