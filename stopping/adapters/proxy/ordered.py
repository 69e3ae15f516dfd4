"""One request whose thought is closed by order: for what a thought in pieces cannot keep to, on a server that takes orders.

The request is handed on as it is, its answer as it comes; only log-probabilities are asked for where the policy reads them, and
taken out again where the client did not ask. From the order to the closing the thought goes on: that is its lag.
"""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import httpx
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from stopping.adapters.proxy.accounts import Account
from stopping.adapters.proxy.answers import account_of
from stopping.adapters.proxy.metrics import Metrics
from stopping.adapters.proxy.passing import Passing, headers_of
from stopping.adapters.proxy.serving import Served
from stopping.adapters.proxy.streams import Streamed
from stopping.adapters.server.client import End, UpstreamError, lines_of
from stopping.adapters.server.protocol import Choice, Token, tokens_of
from stopping.adapters.server.thought_run import ThoughtRun

log = logging.getLogger("stopping.proxy")
CONTROL = "/v1/chat/completions/control"
Count = Callable[[Served, ThoughtRun, Account, float], None]


class Ordered:
    """A streamed conversation whose thought a policy may have closed.

    Args:
        served: the policy.
        passing: hands the request on.
        body: of the request.
        cap: the most tokens of the trace.
        account: of the request.
        metrics: counts what goes wrong.
        count: takes the run when it is over.
    """

    def __init__(
        self, served: Served, passing: Passing, body: dict[str, Any], cap: int, account: Account, metrics: Metrics, count: Count
    ) -> None:  # fmt: skip
        self.served, self.passing, self.body, self.account = served, passing, body, account
        self.metrics, self.count, self.run, self.started = metrics, count, ThoughtRun(), time.monotonic()
        self.thinker, self.id = served.thinker.capped(cap), ""
        self.num_top = int(body.get("top_logprobs") or 0) if body.get("logprobs") else None  # as the client wants them
        self.lines: list[bytes] = []

    async def streamed(self, request: Request) -> Response:
        """The server's answer as it comes."""
        asked = {**self.body, "reasoning_control": True}
        if self.served.reads_log_probs:
            asked |= {"logprobs": True, "top_logprobs": max(self.num_top or 0, self.thinker.num_top, 1)}
        response = await self.passing.send(request, msgspec.json.encode(asked), is_stream=True)
        if response.status_code >= 400:
            return self.passing.relayed(response, response.aiter_raw())

        async def close(is_done: bool) -> None:
            await response.aclose()
            if not is_done:
                self.metrics.faults.labels("client_gone").inc()
            self.account.expected_saved = self.served.expected_saving(self.run)
            self.count(self.served, self.run, self.account, time.monotonic() - self.started)

        return Streamed(self._events(response), close, response.status_code, headers_of(response))

    async def _events(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        tokens = self._tokens(lines_of(response.aiter_bytes()))
        try:
            async with aclosing(self.thinker.follow(tokens, self._order, self.run)) as parts:
                async for _ in parts:
                    if self.lines:
                        yield self._taken()
                async for _ in tokens:  # none any more, but what the server says at the end
                    pass
            yield self._taken()
        except httpx.HTTPError:
            self.metrics.faults.labels("upstream_failed").inc()
            raise  # breaks the connection off, as the server did
        finally:
            await tokens.aclose()

    def _taken(self) -> bytes:
        together = b"".join(self.lines)
        self.lines.clear()
        return together

    async def _tokens(self, lines: AsyncIterator[bytes]) -> AsyncGenerator[Token | End, None]:
        """The trace's tokens, and its end; lines for the client are laid aside."""
        reason = "length"  # of a stream that ends without saying why: it was cut there
        async for line in lines:
            tokens: list[Token] = []
            if line.startswith(b"data: {"):
                try:
                    line, tokens, reason = self._read(line[5:], reason)
                except (ValueError, AttributeError, TypeError):
                    pass  # what cannot be read is the client's to see
            self.lines.append(line + b"\n")
            for token in tokens:
                yield token
        yield End(reason)

    def _read(self, data: bytes, reason: str) -> tuple[bytes, list[Token], str]:
        """Return a chunk as the client gets it, its tokens, and why the trace has ended by now."""
        document, tokens = msgspec.json.decode(data), []
        self.id = document.get("id") or self.id
        for choice in document.get("choices") or ():
            read = msgspec.convert(choice, Choice)
            tokens += tokens_of(read)
            reason = read.finish_reason or reason
            self._trim(choice)
        if document.get("usage"):
            saved = self.served.expected_saving(self.run)
            document["usage"]["stopping"] = account_of(self.served.identity, self.run, saved)
        return b"data: " + msgspec.json.encode(document), tokens, reason

    def _trim(self, choice: dict[str, Any]) -> None:
        """Leave of log-probabilities what the client asked for."""
        if self.num_top is None:
            choice.pop("logprobs", None)
            return
        for entry in (choice.get("logprobs") or {}).get("content") or ():
            entry["top_logprobs"] = entry.get("top_logprobs", [])[: self.num_top]

    async def _order(self) -> None:
        """Close the thought.

        Raises:
            UpstreamError: if the server says that it did not; the thought then goes on.
        """
        found = await self.passing.upstream.post(CONTROL, {"id": self.id, "action": "reasoning_end"})
        if not found.get("success"):
            raise UpstreamError(f"{CONTROL}: {found}")
