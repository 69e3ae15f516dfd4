"""A completion whose thought is closed by an order: for requests that pieces do not support, on a server that accepts orders.

The request is forwarded as it is, and its answer as it arrives. Log-probabilities are requested if the policy reads them, and
removed again if the client did not request them. The thought continues from the order until it is closed: that is its lag. In the
holdout and in shadow mode the policy is asked, but no order is given. Drift is not tested on these requests, because their
answers have a different form from those of the log.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
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
from stopping.adapters.server.protocol import Token, content_of_document, document_of
from stopping.adapters.server.thinking import follow
from stopping.adapters.server.thought_result import ThoughtResult

CONTROL = "/v1/chat/completions/control"
ORDER_SECONDS = 5.0  # time limit for the reply to an order, for which the client waits, too
TOP_BY_DEFAULT = 20  # top log-probabilities that llama.cpp sends if the client does not specify a number


class ControlledCompletion:
    """A streamed chat whose thought a policy may close by an order.

    Args:
        served: the policy.
        forwarder: forwards the request.
        body: the body of the request.
        cap: the maximum length of the trace.
        account: the account of the request; unless its treatment is `policed`, the policy is asked but no order is given.
        count: called with the result when it is complete.
    """

    def __init__(
        self, served: ServedPolicy, forwarder: Forwarder, body: dict[str, Any], cap: int, account: Account, count: Count
    ) -> None:  # fmt: skip
        self.served, self.forwarder, self.body, self.account = served, forwarder, body, account
        self.count, self.result, self.started = count, ThoughtResult(), time.monotonic()
        self.settings, self.id = replace(served.settings, cap_tokens=cap), ""
        said = body.get("top_logprobs")
        self.num_top = 0  # top log-probabilities for the client; if 0, it gets no log-probabilities at all
        if body.get("logprobs"):
            self.num_top = said if isinstance(said, int) else TOP_BY_DEFAULT
        self.is_policed = account.treatment == "policed"
        self.lines: list[bytes] = []

    async def streamed(self, request: Request) -> Response:
        """Return the server's answer as it arrives."""
        asked = {**self.body, **({"reasoning_control": True} if self.is_policed else {})}
        if self.served.reads_log_probs:
            # llama.cpp refuses the protocol's name together with tools
            name = "top_logprobs" if self.body.get("logprobs") else "n_probs"
            asked[name] = max(self.num_top, self.settings.asked_top or 1)
        response = await self.forwarder.send(request, msgspec.json.encode(asked), is_stream=True)
        if response.status_code in REFUSALS and asked != self.body:  # forwarded unchanged, without the policy
            await response.aclose()
            return await self.forwarder.forward(request, msgspec.json.encode(self.body))
        if response.status_code >= 400:
            return self.forwarder.relayed(response, response.aiter_raw())

        return self.forwarder.relayed(response, self._lines(response), self._count)

    def _count(self) -> None:
        self.account.expected_saved = self.served.expected_saving(self.result)
        self.count(self.served, self.result, self.account, time.monotonic() - self.started)

    async def _lines(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        """Yield the server's lines as they arrive, while the policy observes them."""
        order = self._order if self.is_policed else None
        async with (
            aclosing(self._tokens(lines_of(response.aiter_bytes()))) as tokens,
            aclosing(follow(self.settings, tokens, order, self.result)) as parts,
        ):
            async for _ in parts:
                if self.lines:
                    yield self._taken()
            async for _ in tokens:  # beyond the end, or the cap, the policy is not asked
                if self.lines:
                    yield self._taken()
        yield self._taken()

    def _taken(self) -> bytes:
        together = b"".join(self.lines)
        self.lines.clear()
        return together

    async def _tokens(self, lines: AsyncIterator[bytes]) -> AsyncGenerator[Token | End, None]:
        """Yield the tokens of the trace, and its end; lines for the client are collected."""
        async for line in lines:
            tokens: list[Token | End] = []
            if line.startswith(b"data:") and line[5:].lstrip().startswith(b"{"):
                try:
                    end = line[len(line.rstrip(b"\r")) :]
                    line, tokens = self._read(line[5:])
                    line += end
                except (ValueError, AttributeError, TypeError):
                    pass  # the client gets what cannot be parsed
            self.lines.append(line + b"\n")
            for token in tokens:
                yield token
        yield End("length")  # a stream without a finish reason was cut off

    def _read(self, data: bytes) -> tuple[bytes, list[Token | End]]:
        """Return a chunk as the client gets it, with the policy's usage added, and its tokens."""
        document = document_of(data)
        content = content_of_document(document)
        self.id = document.get("id") or self.id
        tokens: list[Token | End] = [*content.tokens]
        if content.calls_tool and not tokens:  # a call is an answer, too
            tokens.append(Token(""))
        if content.reason:
            tokens.append(End(content.reason))
        for choice in document.get("choices") or ():
            self._trim(choice)
        if isinstance(document.get("usage"), dict) and self.is_policed:
            saved = self.served.expected_saving(self.result)
            document["usage"]["stopping"] = account_of(self.served.identity, self.result, saved)
        return b"data: " + msgspec.json.encode(document), tokens

    def _trim(self, choice: dict[str, Any]) -> None:
        """Reduce log-probabilities to those that the client requested."""
        if not self.num_top:
            choice.pop("logprobs", None)
            return
        for entry in (choice.get("logprobs") or {}).get("content") or ():
            entry["top_logprobs"] = entry.get("top_logprobs", [])[: self.num_top]

    async def _order(self) -> None:
        """Order the server to close the thought.

        Raises:
            UpstreamError: if the server reports a failure; the thought then continues.
            TimeoutError: if it does not reply in time.
        """
        with anyio.fail_after(ORDER_SECONDS):
            found = await self.forwarder.upstream.post(CONTROL, {"id": self.id, "action": "reasoning_end"})
        if not found.get("success"):
            raise UpstreamError(f"{CONTROL}: {found}")
