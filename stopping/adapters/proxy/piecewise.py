"""A completion whose thought is generated in pieces, so that a policy may stop it between two of them."""

import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import msgspec
from starlette.responses import JSONResponse, Response

from stopping.adapters.proxy.accounts import Account
from stopping.adapters.proxy.answers import Answer
from stopping.adapters.proxy.config import ServedPolicy, sampling_of
from stopping.adapters.proxy.metrics import Metrics
from stopping.adapters.proxy.streams import Streamed
from stopping.adapters.server.client import UpstreamError
from stopping.adapters.server.thinking import stream
from stopping.adapters.server.thought_result import ThoughtResult

log = logging.getLogger("stopping.proxy")
EVENT = {"cache-control": "no-cache", "x-accel-buffering": "no"}

Count = Callable[[ServedPolicy, ThoughtResult, Account, float], None]


class PiecewiseCompletion:
    """A thought that a policy may stop, and its answer.

    Args:
        served: the policy.
        answer: the format of the answer.
        body: the body of the request.
        prompt: the token ids of the prompt.
        cap: the maximum length of the trace.
        account: the account of the request.
        metrics: counts faults.
        count: called with the result when it is complete.
    """

    def __init__(
        self,
        served: ServedPolicy,
        answer: Answer,
        body: dict[str, Any],
        prompt: list[int],
        cap: int,
        account: Account,
        metrics: Metrics,
        count: Count,
    ) -> None:
        self.served, self.answer, self.body, self.prompt, self.account = served, answer, body, prompt, account
        self.metrics, self.count, self.result, self.started = metrics, count, ThoughtResult(), time.monotonic()
        settings = replace(served.settings, cap_tokens=cap)
        self.parts = stream(settings, prompt, sampling_of(body), self.result)

    async def whole(self) -> Response:
        """Return the answer as one document."""
        try:
            async with aclosing(self.parts):
                async for _ in self.parts:
                    pass
        finally:
            self._count()
        return JSONResponse(self.answer.whole(self.result, self._usage()))

    async def streamed(self) -> Response:
        """Return the answer as a stream; it begins with the first token, so that a refusal can still have its own status."""
        try:
            first = await anext(self.parts, None)
        except BaseException:
            try:
                await self.parts.aclose()
            finally:
                self._count()
            raise
        return Streamed(self._events(first), self._close, media_type="text/event-stream", headers=EVENT)

    async def _events(self, first: Any) -> AsyncGenerator[bytes, None]:
        answer = self.answer
        for chunk in answer.first():
            yield _event(chunk)
        try:
            if first is not None:
                for chunk in answer.piece(*first):
                    yield _event(chunk)
            async for part in self.parts:
                for chunk in answer.piece(*part):
                    yield _event(chunk)
        except UpstreamError as error:
            self.metrics.faults.labels("upstream_failed").inc()
            log.warning("the server failed during an answer: %s", error)
            yield _event({"error": {"message": str(error), "type": "upstream_failed", "code": 502}})
            return
        yield _event(answer.last(self.result))
        if (self.body.get("stream_options") or {}).get("include_usage"):
            yield _event(answer.usage_chunk(self._usage()))
        yield b"data: [DONE]\n\n"

    async def _close(self, is_done: bool) -> None:
        await self.parts.aclose()
        if not is_done:
            self.metrics.faults.labels("client_gone").inc()
        self._count()

    def _count(self) -> None:
        self.account.expected_saved = self.served.expected_saving(self.result)
        self.count(self.served, self.result, self.account, time.monotonic() - self.started)

    def _usage(self) -> dict[str, Any]:
        return self.answer.usage(self.result, len(self.prompt), self.served.expected_saving(self.result))


def _event(document: Any) -> bytes:
    return b"data: " + msgspec.json.encode(document) + b"\n\n"
