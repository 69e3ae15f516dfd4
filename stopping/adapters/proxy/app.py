"""The proxy as a Starlette application: what a request goes through."""

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from stopping.adapters.proxy.accounts import Account, Accounts
from stopping.adapters.proxy.answers import ChatAnswer, TextAnswer
from stopping.adapters.proxy.metrics import Metrics
from stopping.adapters.proxy.ordered import Ordered
from stopping.adapters.proxy.passing import Passing, Seen
from stopping.adapters.proxy.policed import Policed
from stopping.adapters.proxy.serving import HEADER, Served, Serving, cap_of
from stopping.adapters.server.capabilities import tokens_of_chat, tokens_of_text
from stopping.adapters.server.client import REFUSALS, UpstreamError
from stopping.adapters.server.protocol import Token
from stopping.adapters.server.thought_run import ThoughtRun

log = logging.getLogger("stopping.proxy")
OWN_PATHS = ("/healthz", "/metrics")
COMPLETIONS = ("/v1/chat/completions", "/v1/completions")
LOOK_SECONDS = 0.1  # between looks whether a client is still there


class Refused(Exception):
    """A request that is answered with an error of ours."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


def build(serving: Serving, accounts: Accounts | None = None) -> Starlette:
    """Return the application.

    Args:
        serving: the server, the policies, the limits.
        accounts: where a line on each request goes; None for nowhere.
    """
    proxy = _Proxy(serving, accounts or Accounts(None))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await proxy.finish()

    routes = [
        *(Route(path, handle) for path, handle in zip(OWN_PATHS, (proxy.health, proxy.show_metrics), strict=True)),
        *(Route(path, proxy.guarded(proxy.complete), methods=["POST"]) for path in COMPLETIONS),
        Route("/{path:path}", proxy.guarded(proxy.hand_on), methods=["GET", "POST", "DELETE"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, middleware=[Middleware(_Counted, proxy=proxy)])
    app.state.proxy = proxy
    return app


class _Counted:
    """Counts the requests under way, from the first byte of each to the last of its answer, and has completions take turns.

    A thought in pieces would lose its slot on the server, and what that holds of it, between any two of them to requests that
    wait there. So they wait here: as many have their turn as the server has slots.
    """

    def __init__(self, app: ASGIApp, proxy: "_Proxy") -> None:
        self.app, self.proxy = app, proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OWN_PATHS:
            await self.app(scope, receive, send)
            return
        proxy = self.proxy
        if proxy.running >= (most := proxy.serving.max_streams):
            proxy.metrics.faults.labels("too_many").inc()
            refused = _error(429, "too_many", f"{most} requests are under way, the most allowed; try again")
            await refused(scope, receive, send)
            return
        proxy.running += 1
        proxy.metrics.running.set(proxy.running)
        try:
            async with proxy.turns if scope["path"] in COMPLETIONS else nullcontext():
                await self.app(scope, receive, send)
        finally:
            proxy.running -= 1
            proxy.metrics.running.set(proxy.running)


class _Proxy:
    """The requests of one application."""

    def __init__(self, serving: Serving, accounts: Accounts) -> None:
        self.serving, self.metrics, self.accounts = serving, Metrics(), accounts
        self.passing = Passing(serving.upstream, self.metrics, serving.answer_seconds, not serving.api_key)
        self.running, num_slots = 0, serving.capabilities.num_slots
        self.turns: AbstractAsyncContextManager[Any] = asyncio.Semaphore(num_slots) if num_slots else nullcontext()
        self._show_drift()
        self.background: set[asyncio.Task[None]] = set()
        self.late: set[str] = set()  # policies of which stops were put off because answers were too long

    async def health(self, _: Request) -> Response:
        """Whether the server answers."""
        try:
            await self.serving.upstream.get("/v1/models")
        except UpstreamError as error:
            return JSONResponse({"status": "upstream failed", "error": str(error)}, 503)
        policies = {name: served.identity for name, served in self.serving.policies.items()}
        return JSONResponse({"status": "ok", "policies": policies, "shadow": self.serving.shadow})

    async def show_metrics(self, _: Request) -> Response:
        """All counters."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    def guarded(self, handle: Callable[[Request, bytes], Awaitable[Response]]) -> Callable:
        """Check the key, the size and the number of requests; answer refusals; end what no client waits for any more."""

        async def guarded(request: Request) -> Response:
            try:
                self._check(request)
                return await self._unless_gone(request, handle(request, await self._body(request)))
            except Refused as error:
                self.metrics.faults.labels(error.kind).inc()
                return _error(error.status, error.kind, str(error))
            except UpstreamError as error:
                return self._failed(error)

        return guarded

    def _check(self, request: Request) -> None:
        key = self.serving.api_key
        if key and not hmac.compare_digest(request.headers.get("authorization", "").encode(), f"Bearer {key}".encode()):
            raise Refused(401, "bad_request", "expected the proxy's API key as a bearer token")

    async def _unless_gone(self, request: Request, answer: Awaitable[Response]) -> Response:
        found: Response | Exception = Response(status_code=499)

        async def look() -> None:
            while not await request.is_disconnected():
                await anyio.sleep(LOOK_SECONDS)
            self.metrics.faults.labels("client_gone").inc()
            both.cancel_scope.cancel()

        async with anyio.create_task_group() as both:  # not `Task.cancel`, which leaves connections half closed
            both.start_soon(look)
            try:
                found = await answer
            except Exception as error:
                found = error
            both.cancel_scope.cancel()
        if isinstance(found, Exception):
            raise found
        return found

    async def _body(self, request: Request) -> bytes:
        most, parts, size = self.serving.max_body_bytes, [], 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise Refused(413, "bad_request", f"expected a body of at most {most:,} bytes")
            parts.append(part)
        return b"".join(parts)

    async def hand_on(self, request: Request, raw: bytes) -> Response:
        """Whatever else the server answers: handed on as it is."""
        return await self.passing.hand_on(request, raw)

    async def complete(self, request: Request, raw: bytes) -> Response:
        """A completion: by a policy, or handed on."""
        try:
            body = json.loads(raw)
            if not isinstance(body, dict):
                raise ValueError(f"expected an object, got {type(body).__name__}")
        except ValueError as error:
            raise Refused(400, "bad_request", f"the body: {error}") from None
        try:
            served, reason, by_order = self.serving.choose(body, request.headers.get(HEADER))
        except KeyError as error:
            known = ", ".join(self.serving.policies) or "none"
            raise Refused(400, "bad_request", f"{HEADER}: no policy {error}; there are: {known}") from None
        treatment = reason or ("shadow" if self.serving.shadow else "policed")
        account = Account(served.identity if served else None, self.serving.holdout, treatment, by_order=by_order)
        if served is None or (treatment != "policed" and not by_order):
            return await self._unpoliced(request, raw, body, served, reason, account)
        is_chat = request.url.path.endswith("/chat/completions")
        try:
            cap = cap_of(body, self.serving.cap_tokens)
            if by_order:
                account.problem = msgspec.json.encode(body["messages"])
                ordered = Ordered(served, self.passing, body, cap, account, self.count)
                self.metrics.requests.labels(treatment).inc()
                return await ordered.streamed(request)
            prompt = await self._prompt(body, is_chat)
        except ValueError as error:
            if treatment != "policed":
                return await self.passing.hand_on(request, raw)  # the server's to refuse
            raise Refused(400, "bad_request", str(error)) from None
        except UpstreamError as error:
            if error.status is None:
                raise
            # what the server does not tokenise it may still answer, or refuse in its own words
            self.metrics.faults.labels("policy_failed").inc()
            return await self._unpoliced(request, raw, body, None, "not tokenised", account)
        account.problem = prompt
        kind = ChatAnswer if is_chat else TextAnswer
        answer = kind(str(body.get("model", "")), self.serving.reasoning_field, served.identity)
        self.metrics.requests.labels("policed").inc()
        work = Policed(served, answer, body, prompt, cap, account, self.metrics, self.count)
        try:
            return await (work.streamed() if body.get("stream") else work.whole())
        except UpstreamError as error:
            if error.status not in REFUSALS or work.run.ids:
                raise
            # refused before the first token: the client's own request may be answered, or is refused in the server's own words
            self.metrics.faults.labels("upstream_refused").inc()
            return await self.passing.hand_on(request, raw)

    async def _prompt(self, body: dict[str, Any], is_chat: bool) -> list[int]:
        upstream, tokenizer = self.serving.upstream, self.serving.capabilities.tokenizer
        if is_chat:
            if not isinstance(messages := body.get("messages"), list):
                raise ValueError(f"messages: expected a list, got {messages!r:.80}")
            return await tokens_of_chat(upstream, messages, tokenizer)
        prompt = body.get("prompt")
        if isinstance(prompt, str):
            return await tokens_of_text(upstream, prompt, tokenizer)
        if isinstance(prompt, list) and prompt and all(isinstance(each, int) for each in prompt):
            return list(prompt)
        raise ValueError(f"prompt: expected a text or a list of token ids, got {prompt!r:.80}")

    async def _unpoliced(
        self, request: Request, raw: bytes, body: dict[str, Any], served: Served | None, reason: str, account: Account
    ) -> Response:
        treatment = reason if reason == "holdout" else "unpoliced" if reason else "shadow"
        account.treatment = treatment
        self.metrics.requests.labels(treatment).inc()
        if treatment == "unpoliced":
            self.metrics.unpoliced.labels(reason).inc()
        if served is None or treatment == "unpoliced":
            return await self.passing.hand_on(request, raw)

        def look_later(seen: Seen) -> None:
            task = asyncio.create_task(self._look(served, body, seen, account, request.url.path))
            self.background.add(task)
            task.add_done_callback(self.background.discard)

        return await self.passing.observed(request, body, served.thinker.num_top, look_later)

    async def _look(self, served: Served, body: dict[str, Any], seen: Seen, account: Account, path: str) -> None:
        """Ask the policy, after the answer, what it would have done."""
        try:
            account.problem = prompt = await self._prompt(body, path.endswith("/chat/completions"))
            thinker = served.thinker.capped(cap_of(body, self.serving.cap_tokens))
            run = await thinker.replay(prompt, self._with_close(seen.tokens), seen.reason)
        except Exception as error:
            self.metrics.faults.labels("policy_failed").inc()
            log.warning("shadow: %s: %s", type(error).__name__, error)
            return
        self.count(served, run, account, seen.seconds)
        if served.watch is not None:
            served.watch.see(run, self.serving.markup.answer_of)
            self._show_drift()

    def _show_drift(self) -> None:
        for name, served in self.serving.policies.items():
            if served.watch is not None:
                self.metrics.drift.labels(name).set(served.watch.p_value)
                self.metrics.alarm.labels(name).set(served.watch.alarm)

    def _with_close(self, tokens: list[Token]) -> list[Token]:
        """Tokens with the closing tag between thought and answer, where a server that parts them leaves it out."""
        markup = self.serving.markup
        first = next((place for place, token in enumerate(tokens) if not token.reasoning), len(tokens))
        if first in (0, len(tokens)) or any(token.id == markup.close_ids[-1] for token in tokens):
            return tokens
        tag = (Token(text, number) for text, number in markup.tags[: len(markup.close_ids)])
        return [*tokens[:first], *tag, *tokens[first:]]

    def count(self, served: Served, run: ThoughtRun, account: Account, seconds: float) -> None:
        """Put a run into the counters and, unless it was left or broke off, the log."""
        treatment, name, metrics = account.treatment, served.name, self.metrics
        for use, number in (("trace", len(run.ids)), ("probe", run.probe_tokens), ("discarded", run.discarded_tokens)):
            metrics.tokens.labels(use).inc(number)
        metrics.faults.labels("upstream_resumed").inc(run.num_resumed)
        if run.stopped:
            metrics.stops.labels(name).inc()
            metrics.saved.labels(name).inc(max(account.expected_saved or 0.0, 0.0))
        elif run.would_stop_at is not None:
            metrics.would_stop.labels(name).inc()
        self._count_put_off(served, run)
        if run.failure:
            metrics.faults.labels("policy_failed").inc()
            log.warning("policy %s failed: %s", served.identity, run.failure)
        if run.order_failure:
            metrics.faults.labels("order_failed").inc()
            log.warning("a thought was not closed by order: %s", run.order_failure)
        if run.reason:
            metrics.positions.labels(treatment).observe(run.thought_tokens)
            metrics.seconds.labels(treatment).observe(seconds)
            self.accounts.write(account, run, self.serving.markup.answer_of)

    def _count_put_off(self, served: Served, run: ThoughtRun) -> None:
        num_late, num_all = run.num_too_long, sum(decision.put_off for decision in run.decisions)
        for reason, number in (("no answer", num_all - num_late), ("answer too long", num_late)):
            self.metrics.put_off.labels(served.name, reason).inc(number)
        if num_late and served.name not in self.late:  # said once: from then on the counter tells
            self.late.add(served.name)
            log.warning(
                "policy %s asked to stop, and the thought went on: the answer did not end within %d tokens. If this model's "
                "answers are longer, record, tune and serve with a larger --answer-tokens",
                served.identity, self.serving.markup.answer_tokens,
            )  # fmt: skip

    def _failed(self, error: UpstreamError) -> Response:
        """The server's own refusal, in its own words; or that it failed."""
        kind = "upstream_failed" if error.status is None or error.status >= 500 else "upstream_refused"
        self.metrics.faults.labels(kind).inc()
        if error.status is not None and error.body:
            return Response(error.body, error.status, media_type="application/json")
        return _error(502, kind, str(error))

    async def finish(self) -> None:
        """Let what is under way in the background end."""
        if self.background:
            await asyncio.wait(self.background, timeout=10)
        for task in self.background:
            task.cancel()
        self.accounts.close()
        for served in self.serving.policies.values():
            if served.watch is not None:
                served.watch.save()


def _error(status: int, kind: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status)
