"""Forwarding requests unchanged, or while observing their answers."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from stopping.adapters.proxy.metrics import Metrics
from stopping.adapters.proxy.streams import Streamed
from stopping.adapters.server.client import Upstream, UpstreamError, lines_of
from stopping.adapters.server.protocol import Token, content_of_document, document_of

# Headers of a connection rather than of a message, and those that the client library sets itself.
HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailers", "transfer-encoding", "upgrade",
    "host", "content-length", "accept-encoding", "content-encoding", "x-stopping-policy",
}  # fmt: skip


@dataclass
class ObservedAnswer:
    """An answer that passed through: its tokens, its finish reason, and its duration."""

    tokens: list[Token] = field(default_factory=list)
    reason: str = ""
    seconds: float = 0.0


class Forwarder:
    """Forwards requests to a server.

    Args:
        upstream: the server.
        metrics: counts faults.
        answer_seconds: how long to wait for an answer that is not streamed; the wait ends when the client leaves.
        forward_key: whether the client's API key is that of the server.
    """

    def __init__(self, upstream: Upstream, metrics: Metrics, answer_seconds: float, forward_key: bool) -> None:
        self.upstream, self.metrics, self.answer_seconds = upstream, metrics, answer_seconds
        self.forward_key = forward_key and "authorization" not in upstream.client.headers

    async def forward(self, request: Request, body: bytes) -> Response:
        """Return the server's answer, byte for byte."""
        return self.relayed(response := await self.send(request, body), response.aiter_raw())

    async def observed(
        self, request: Request, body: dict[str, Any], num_top: int | None, when_done: Callable[[ObservedAnswer], None]
    ) -> Response:
        """Return the server's answer, and pass the answer observed to `when_done`.

        The server is asked for log-probabilities, which are removed for the client. If it refuses them, the request is forwarded
        unchanged, and nothing is observed.
        """
        is_chat = request.url.path.endswith("/chat/completions")
        wanted: dict[str, Any] = {"return_token_ids": True}
        if num_top is not None:
            wanted |= {"logprobs": True, "top_logprobs": max(num_top, 1)} if is_chat else {"logprobs": max(num_top, 1)}
        response = await self.send(request, msgspec.json.encode({**body, **wanted}))
        if response.status_code >= 400 and response.status_code not in (401, 403, 429):
            await response.aclose()
            return await self.forward(request, msgspec.json.encode(body))
        if response.status_code >= 400:
            return self.relayed(response, response.aiter_raw())
        answer, start = ObservedAnswer(), time.monotonic()
        if not body.get("stream"):
            try:
                raw = await response.aread()
            except httpx.HTTPError as error:
                raise UpstreamError(f"{request.url.path}: {type(error).__name__}: {error}") from error
            finally:
                await response.aclose()
            document = _observed(raw, answer)
            answer.seconds = time.monotonic() - start
            when_done(answer)
            return Response(document, response.status_code, headers_of(response))

        def closed() -> None:
            answer.seconds = time.monotonic() - start
            if answer.reason:
                when_done(answer)

        return self.relayed(response, _observed_lines(response, answer), closed)

    async def send(self, request: Request, body: bytes, *, is_stream: bool = False) -> httpx.Response:
        """Send a request with its own headers; a long silence is an error if the answer `is_stream`.

        Raises:
            UpstreamError: if no answer begins.
        """
        headers = {name: value for name, value in request.headers.items() if name not in HOP}
        if not self.forward_key:
            headers.pop("authorization", None)
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        seconds = self.upstream.timeout_seconds
        sent = self.upstream.client.build_request(
            request.method, path, content=body, headers={**headers, "accept-encoding": "identity"},
            timeout=httpx.Timeout(seconds, read=seconds if is_stream else max(seconds, self.answer_seconds)),
        )  # fmt: skip
        try:
            return await self.upstream.send(sent, stream=True)
        except httpx.HTTPError as error:
            raise UpstreamError(f"{path}: {type(error).__name__}: {error}") from error

    def relayed(
        self, response: httpx.Response, parts: AsyncIterator[bytes], closed: Callable[[], None] = lambda: None
    ) -> Response:
        """Return the parts as they arrive; `closed` is called at the end, even if not all arrived."""

        async def counted() -> AsyncGenerator[bytes, None]:
            try:
                async for part in parts:
                    yield part
            except httpx.HTTPError:
                self.metrics.faults.labels("upstream_failed").inc()
                raise  # closes the connection, as the server did

        async def close(is_done: bool) -> None:
            await response.aclose()
            if not is_done:
                self.metrics.faults.labels("client_gone").inc()
            closed()

        return Streamed(counted(), close, response.status_code, headers_of(response))


async def _observed_lines(response: httpx.Response, answer: ObservedAnswer) -> AsyncGenerator[bytes, None]:
    async for line in lines_of(response.aiter_bytes()):
        data = line[5:].strip() if line.startswith(b"data:") else b""
        if data and data != b"[DONE]":
            line = b"data: " + _observed(data, answer) + line[len(line.rstrip(b"\r")) :]
        yield line + b"\n"


def _observed(raw: bytes, answer: ObservedAnswer) -> bytes:
    """Note the tokens of a document or a chunk; return it without what the client did not request."""
    try:
        document = document_of(raw)
        content = content_of_document(document)
        for choice in document.get("choices") or ():
            _without(choice, is_vllm="token_ids" in choice)
        answer.tokens += content.tokens
        answer.reason = content.reason or answer.reason
        if "prompt_token_ids" in document:
            document["prompt_token_ids"] = None
    except (ValueError, AttributeError, TypeError):
        return raw
    return msgspec.json.encode(document)


def _without(choice: dict[str, Any], *, is_vllm: bool) -> None:
    """Remove from a choice what the client did not request; vLLM has null in its place."""
    for name in ("logprobs", "token_ids", "prompt_token_ids"):
        if name in choice and (is_vllm or (name == "logprobs" and "text" in choice)):
            choice[name] = None
        else:
            choice.pop(name, None)


def headers_of(response: httpx.Response) -> dict[str, str]:
    """Return the headers of an answer, without those of the connection."""
    return {name: value for name, value in response.headers.items() if name not in HOP}
