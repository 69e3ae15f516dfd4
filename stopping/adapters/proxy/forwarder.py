"""Requests that are handed on as they are, and those whose answers are watched on the way."""

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
from stopping.adapters.server.protocol import Choice, Token, document_of, tokens_of

# Of one connection, not of the message; and what the client library sets itself.
HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailers", "transfer-encoding", "upgrade",
    "host", "content-length", "accept-encoding", "content-encoding", "x-stopping-policy",
}  # fmt: skip


@dataclass
class ObservedAnswer:
    """An answer on its way: its tokens, why it ended, how long it took."""

    tokens: list[Token] = field(default_factory=list)
    reason: str = ""
    seconds: float = 0.0


class Forwarder:
    """Hands requests on.

    Args:
        upstream: to which.
        metrics: counts what goes wrong.
        answer_seconds: to wait for an answer that is not streamed; a client that leaves ends the wait.
        hand_on_key: whether the client's key is the server's.
    """

    def __init__(self, upstream: Upstream, metrics: Metrics, answer_seconds: float, hand_on_key: bool) -> None:
        self.upstream, self.metrics, self.answer_seconds = upstream, metrics, answer_seconds
        self.hand_on_key = hand_on_key and "authorization" not in upstream.client.headers

    async def hand_on(self, request: Request, body: bytes) -> Response:
        """Answer with what the server answers, byte for byte."""
        return self.relayed(response := await self.send(request, body), response.aiter_raw())

    async def observed(
        self, request: Request, body: dict[str, Any], num_top: int | None, when_done: Callable[[ObservedAnswer], None]
    ) -> Response:
        """The same, and tell what was seen: the server is asked for log-probabilities, which the client does not get.

        Where it refuses them, it is asked as the client asked, and nothing is seen.
        """
        is_chat = request.url.path.endswith("/chat/completions")
        wanted: dict[str, Any] = {"return_token_ids": True}
        if num_top is not None:
            wanted |= {"logprobs": True, "top_logprobs": max(num_top, 1)} if is_chat else {"logprobs": max(num_top, 1)}
        response = await self.send(request, msgspec.json.encode({**body, **wanted}))
        if response.status_code >= 400 and response.status_code not in (401, 403, 429):
            await response.aclose()
            return await self.hand_on(request, msgspec.json.encode(body))
        if response.status_code >= 400:
            return self.relayed(response, response.aiter_raw())
        seen, start = ObservedAnswer(), time.monotonic()
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
            return Response(document, response.status_code, headers_of(response))

        def closed() -> None:
            seen.seconds = time.monotonic() - start
            if seen.reason:
                when_done(seen)

        return self.relayed(response, _watched_lines(response, seen), closed)

    async def send(self, request: Request, body: bytes, *, is_stream: bool = False) -> httpx.Response:
        """Send a request on, with its own headers; `is_stream`: the answer is one, so that silence is not waited for.

        Raises:
            UpstreamError: if no answer begins.
        """
        headers = {name: value for name, value in request.headers.items() if name not in HOP}
        if not self.hand_on_key:
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
        """Hand the parts on as they come; `closed` is called at the end, whether all did or not."""

        async def counted() -> AsyncGenerator[bytes, None]:
            try:
                async for part in parts:
                    yield part
            except httpx.HTTPError:
                self.metrics.faults.labels("upstream_failed").inc()
                raise  # breaks the connection off, as the server did

        async def close(is_done: bool) -> None:
            await response.aclose()
            if not is_done:
                self.metrics.faults.labels("client_gone").inc()
            closed()

        return Streamed(counted(), close, response.status_code, headers_of(response))


async def _watched_lines(response: httpx.Response, seen: ObservedAnswer) -> AsyncGenerator[bytes, None]:
    async for line in lines_of(response.aiter_bytes()):
        data = line[5:].strip() if line.startswith(b"data:") else b""
        if data and data != b"[DONE]":
            line = b"data: " + _watched(data, seen) + line[len(line.rstrip(b"\r")) :]
        yield line + b"\n"


def _watched(raw: bytes, seen: ObservedAnswer) -> bytes:
    """Take the tokens of a document or a chunk; return it without what the client did not ask for."""
    try:
        document = document_of(raw)
        for choice in document.get("choices") or ():
            read = msgspec.convert(choice, Choice)
            seen.tokens += tokens_of(read)
            seen.reason = read.finish_reason or seen.reason
            _without(choice, is_vllm="token_ids" in choice)
        if "prompt_token_ids" in document:
            document["prompt_token_ids"] = None
    except (ValueError, AttributeError, TypeError):
        return raw
    return msgspec.json.encode(document)


def _without(choice: dict[str, Any], *, is_vllm: bool) -> None:
    """Take out of a choice what was not asked for, as the server alone leaves it out: vLLM has null there."""
    for name in ("logprobs", "token_ids", "prompt_token_ids"):
        if name in choice and (is_vllm or (name == "logprobs" and "text" in choice)):
            choice[name] = None
        else:
            choice.pop(name, None)


def headers_of(response: httpx.Response) -> dict[str, str]:
    """Return the headers of an answer that are its own, not the connection's."""
    return {name: value for name, value in response.headers.items() if name not in HOP}
