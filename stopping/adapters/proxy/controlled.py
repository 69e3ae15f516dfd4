"""One request whose thought is closed by order: for what a thought in pieces cannot keep to, on a server that takes orders.

The request is handed on as it is, its answer as it comes; only log-probabilities are asked for where the policy reads them, and
taken out again where the client did not ask. From the order to the closing the thought goes on: that is its lag. In the holdout
and the shadow the policy is asked all the same, and no order is given; drift is not tested on these, as their answers are of
another form than those of the log.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio
import httpx
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from stopping.adapters.proxy.accounts import Account
from stopping.adapters.proxy.answers import account_of
from stopping.adapters.proxy.config import ServedPolicy
from stopping.adapters.proxy.forwarder import Forwarder
from stopping.adapters.proxy.piecewise import Count
from stopping.adapters.server.client import REFUSALS, End, UpstreamError, lines_of
from stopping.adapters.server.protocol import Choice, Token, document_of, tokens_of
from stopping.adapters.server.thought_result import ThoughtResult

CONTROL = "/v1/chat/completions/control"
ORDER_SECONDS = 5.0  # waited for the reply to an order, and the client with it
TOP_BY_DEFAULT = 20  # likeliest tokens that llama.cpp sends with log-probabilities where the client does not say


class ControlledCompletion:
    """A streamed conversation whose thought a policy may have closed.

    Args:
        served: the policy.
        forwarder: hands the request on.
        body: of the request.
        cap: the most tokens of the trace.
        account: of the request; where its treatment is not `policed`, the policy is asked and nothing is closed.
        count: takes the result when it is over.
    """

    def __init__(
        self, served: ServedPolicy, forwarder: Forwarder, body: dict[str, Any], cap: int, account: Account, count: Count
    ) -> None:  # fmt: skip
        self.served, self.forwarder, self.body, self.account = served, forwarder, body, account
        self.count, self.result, self.started = count, ThoughtResult(), time.monotonic()
        self.thinker, self.id = served.thinker.capped(cap), ""
        said = body.get("top_logprobs")
        self.num_top = 0  # likeliest tokens as the client gets them; with none it gets no log-probabilities, either
        if body.get("logprobs"):
            self.num_top = said if isinstance(said, int) else TOP_BY_DEFAULT
        self.is_policed = account.treatment == "policed"
        self.lines: list[bytes] = []

    async def streamed(self, request: Request) -> Response:
        """The server's answer as it comes."""
        asked = {**self.body, **({"reasoning_control": True} if self.is_policed else {})}
        if self.served.reads_log_probs:
            # by llama.cpp's own name for them: by the protocol's it refuses them with tools
            name = "top_logprobs" if self.body.get("logprobs") else "n_probs"
            asked[name] = max(self.num_top, self.thinker.num_top or 1)
        response = await self.forwarder.send(request, msgspec.json.encode(asked), is_stream=True)
        if response.status_code in REFUSALS and asked != self.body:  # as the client asked, then, and nobody is asked
            await response.aclose()
            return await self.forwarder.hand_on(request, msgspec.json.encode(self.body))
        if response.status_code >= 400:
            return self.forwarder.relayed(response, response.aiter_raw())

        return self.forwarder.relayed(response, self._lines(response), self._count)

    def _count(self) -> None:
        self.account.expected_saved = self.served.expected_saving(self.result)
        self.count(self.served, self.result, self.account, time.monotonic() - self.started)

    async def _lines(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """The server's lines as they come, while the policy looks on."""
        order = self._order if self.is_policed else None
        async with (
            aclosing(self._tokens(lines_of(response.aiter_bytes()))) as tokens,
            aclosing(self.thinker.follow(tokens, order, self.result)) as parts,
        ):
            async for _ in parts:
                if self.lines:
                    yield self._taken()
            async for _ in tokens:  # beyond the end, or the cap: nobody is asked any more
                if self.lines:
                    yield self._taken()
        yield self._taken()

    def _taken(self) -> bytes:
        together = b"".join(self.lines)
        self.lines.clear()
        return together

    async def _tokens(self, lines: AsyncIterator[bytes]) -> AsyncGenerator[Token | End, None]:
        """The trace's tokens, and its end; lines for the client are laid aside."""
        async for line in lines:
            tokens: list[Token | End] = []
            if line.startswith(b"data:") and line[5:].lstrip().startswith(b"{"):
                try:
                    end = line[len(line.rstrip(b"\r")) :]
                    line, tokens = self._read(line[5:])
                    line += end
                except (ValueError, AttributeError, TypeError):
                    pass  # what cannot be read is the client's to see
            self.lines.append(line + b"\n")
            for token in tokens:
                yield token
        yield End("length")  # of a stream that ends without saying why: it was cut there

    def _read(self, data: bytes) -> tuple[bytes, list[Token | End]]:
        """Return a chunk as the client gets it, and its tokens; what it says of usage is known after the end."""
        tokens: list[Token | End] = []
        document = document_of(data)
        self.id = document.get("id") or self.id
        for choice in document.get("choices") or ():
            read = msgspec.convert(choice, Choice)
            called = (choice.get("delta") or {}).get("tool_calls")
            tokens += tokens_of(read) or ([Token("")] if called else [])  # a call, too, is an answer
            tokens += [End(read.finish_reason)] if read.finish_reason else []
            self._trim(choice)
        if isinstance(document.get("usage"), dict) and self.is_policed:
            saved = self.served.expected_saving(self.result)
            document["usage"]["stopping"] = account_of(self.served.identity, self.result, saved)
        return b"data: " + msgspec.json.encode(document), tokens

    def _trim(self, choice: dict[str, Any]) -> None:
        """Leave of log-probabilities what the client asked for."""
        if not self.num_top:
            choice.pop("logprobs", None)
            return
        for entry in (choice.get("logprobs") or {}).get("content") or ():
            entry["top_logprobs"] = entry.get("top_logprobs", [])[: self.num_top]

    async def _order(self) -> None:
        """Close the thought.

        Raises:
            UpstreamError: if the server says that it did not; the thought then goes on.
            TimeoutError: if it does not say so in time.
        """
        with anyio.fail_after(ORDER_SECONDS):
            found = await self.forwarder.upstream.post(CONTROL, {"id": self.id, "action": "reasoning_end"})
        if not found.get("success"):
            raise UpstreamError(f"{CONTROL}: {found}")
