"""The proxy as a Starlette application."""

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stopping.adapters.proxy.accounts import Account, Accounts
from stopping.adapters.proxy.answers import ChatAnswer, TextAnswer
from stopping.adapters.proxy.clients import TURN, BodyTooLarge, ClientStalled, Turn, body_of, limited
from stopping.adapters.proxy.config import HEADER, ProxyConfig, ServedPolicy, cap_of
from stopping.adapters.proxy.controlled import ControlledCompletion
from stopping.adapters.proxy.forwarder import Forwarder, ObservedAnswer
from stopping.adapters.proxy.metrics import Metrics
from stopping.adapters.proxy.piecewise import PiecewiseCompletion
from stopping.adapters.server.capabilities import tokens_of_chat, tokens_of_text
from stopping.adapters.server.client import UpstreamError
from stopping.adapters.server.protocol import Token
from stopping.adapters.server.room import refuses
from stopping.adapters.server.thinking import replay
from stopping.adapters.server.thought_result import ThoughtResult

log = logging.getLogger("stopping.proxy")
OWN_PATHS = ("/healthz", "/metrics")
COMPLETIONS = ("/v1/chat/completions", "/v1/completions")
POLL_SECONDS = 0.1  # between checks of whether a client is still connected


class Refused(Exception):
    """A request that the proxy refuses with an error."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


def build(config: ProxyConfig, accounts: Accounts | None = None) -> Starlette:
    """Return the application.

    Args:
        config: the server, the policies and the limits.
        accounts: writes a line for each request; None to write none.
    """
    proxy = _Proxy(config, accounts or Accounts(None))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await proxy.finish()

    routes = [
        *(Route(path, handle) for path, handle in zip(OWN_PATHS, (proxy.health, proxy.show_metrics), strict=True)),
        *(Route(path, proxy.guarded(proxy.complete), methods=["POST"]) for path in COMPLETIONS),
        *(Route(path, proxy.guarded(proxy.forward), methods=["OPTIONS"]) for path in COMPLETIONS),
        Route(
            "/{path:path}", proxy.guarded(proxy.forward), methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
        ),
    ]
    return _Counted(proxy, routes=routes, lifespan=lifespan)


class _Counted(Starlette):
    """Counts the requests under way, from their first byte to the last byte of their answer, and returns their turns.

    Between two pieces, a thought could lose its slot on the server, and the slot's cache, to requests waiting there. Completions
    therefore wait in the proxy for one of as many turns as the server has slots. A request takes its turn once its key is checked
    and its body is read, and keeps it until its answer is sent.
    """

    def __init__(self, proxy: "_Proxy", **settings: Any) -> None:
        super().__init__(**settings)
        self.proxy = proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        proxy, send = self.proxy, limited(send, self.proxy.config.stall_seconds)
        is_counted = scope["path"] not in OWN_PATHS
        if is_counted and proxy.running >= (most := proxy.config.max_streams):
            proxy.metrics.faults.labels("too_many").inc()
            refused = _error(429, "too_many", f"{most} requests are under way, the most allowed; try again")
            await refused(scope, receive, send)
            return
        scope[TURN] = turn = Turn(proxy.turns if scope["path"] in COMPLETIONS else None)
        proxy.count_running(is_counted)
        try:
            await super().__call__(scope, receive, send)
        except ClientStalled:
            log.warning("a client did not read its answer for %g s and is disconnected", proxy.config.stall_seconds)
            proxy.metrics.faults.labels("client_stalled").inc()
            await asyncio.sleep(0)  # so that the web server notices that the connection is gone
        finally:
            turn.give_back()
            proxy.count_running(-is_counted)


class _Proxy:
    """The requests of one application."""

    def __init__(self, config: ProxyConfig, accounts: Accounts) -> None:
        self.config, self.metrics, self.accounts = config, Metrics(), accounts
        self.forwarder = Forwarder(config.upstream, self.metrics, config.answer_seconds, not config.api_key)
        self.running, num_slots = 0, config.capabilities.num_slots
        self.turns = asyncio.Semaphore(num_slots) if num_slots else None
        self._show_drift()
        self.background: set[asyncio.Task[None]] = set()
        self.late: set[str] = set()  # policies whose stops were put off because of long answers

    def count_running(self, more: int) -> None:
        """Count a request that begins or ends."""
        self.running += more
        self.metrics.running.set(self.running)

    async def health(self, _: Request) -> Response:
        """Return whether the server answers."""
        try:
            await self.config.upstream.get("/v1/models")
        except UpstreamError as error:
            return JSONResponse({"status": "upstream failed", "error": str(error)}, 503)
        policies = {name: served.identity for name, served in self.config.policies.items()}
        return JSONResponse({"status": "ok", "policies": policies, "shadow": self.config.shadow})

    async def show_metrics(self, _: Request) -> Response:
        """Return all counters."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    def guarded(self, handle: Callable[[Request, bytes], Awaitable[Response]]) -> Callable:
        """Return a handler that checks the key, reads the body, takes a turn, and cancels requests whose client has left."""

        async def guarded(request: Request) -> Response:
            try:
                self._check(request)
                return await self._unless_gone(request, in_turn(request, await self._body(request)))
            except Refused as error:
                self.metrics.faults.labels(error.kind).inc()
                return _error(error.status, error.kind, str(error))
            except UpstreamError as error:
                return self._failed(error)
            except ClientDisconnect:  # while sending its body
                self.metrics.faults.labels("client_gone").inc()
                return Response(status_code=499)

        async def in_turn(request: Request, raw: bytes) -> Response:
            await request.scope[TURN].take()
            return await handle(request, raw)

        return guarded

    def _check(self, request: Request) -> None:
        key = self.config.api_key
        if key and not hmac.compare_digest(request.headers.get("authorization", "").encode(), f"Bearer {key}".encode()):
            raise Refused(401, "bad_request", "expected the proxy's API key as a bearer token")

    async def _unless_gone(self, request: Request, answer: Awaitable[Response]) -> Response:
        found: Response | Exception = Response(status_code=499)

        async def poll() -> None:
            while not await request.is_disconnected():
                await anyio.sleep(POLL_SECONDS)
            self.metrics.faults.labels("client_gone").inc()
            both.cancel_scope.cancel()

        async with anyio.create_task_group() as both:  # `Task.cancel` would leave connections half closed
            both.start_soon(poll)
            try:
                found = await answer
            except Exception as error:
                found = error
            both.cancel_scope.cancel()
        if isinstance(found, Exception):
            raise found
        return found

    async def _body(self, request: Request) -> bytes:
        most, seconds = self.config.max_body_bytes, self.config.body_seconds
        try:
            return await body_of(request, most, seconds)
        except BodyTooLarge:
            raise Refused(413, "bad_request", f"expected a body of at most {most:,} bytes") from None
        except TimeoutError:
            raise Refused(408, "body_late", f"expected the whole body within {seconds:g} s") from None

    async def forward(self, request: Request, raw: bytes) -> Response:
        """Forward any other request unchanged."""
        return await self.forwarder.forward(request, raw)

    async def complete(self, request: Request, raw: bytes) -> Response:
        """Answer a completion, with a policy or forwarded unchanged."""
        try:
            body = json.loads(raw)
            if not isinstance(body, dict):
                raise ValueError(f"expected an object, got {type(body).__name__}")
        except ValueError as error:
            raise Refused(400, "bad_request", f"the body: {error}") from None
        try:
            served, reason, by_order = self.config.choose(body, request.headers.get(HEADER))
        except KeyError as error:
            known = ", ".join(self.config.policies) or "none"
            raise Refused(400, "bad_request", f"{HEADER}: no policy {error}; there are: {known}") from None
        treatment = reason or ("shadow" if self.config.shadow else "policed")
        account = Account(served.identity if served else None, self.config.holdout, treatment, by_order=by_order)
        if served is None or (treatment != "policed" and not by_order):
            return await self._unpoliced(request, raw, body, served, reason, account)
        is_chat = request.url.path.endswith("/chat/completions")
        try:
            cap = cap_of(body, self.config.cap_tokens)
            if by_order:
                account.problem = msgspec.json.encode(body["messages"])
                ordered = ControlledCompletion(served, self.forwarder, body, cap, account, self.count)
                self.metrics.requests.labels(treatment).inc()
                return await ordered.streamed(request)
            prompt = await self._prompt(body, is_chat)
            cap = self.config.cap(body, prompt)
        except ValueError:  # a form unknown here, which the server may answer or refuse
            return await self._unpoliced(request, raw, body, None, "form", account)
        except UpstreamError as error:
            if error.status is None:
                raise
            # the server may still answer what it does not tokenise, or refuse it in its own words
            self.metrics.faults.labels("policy_failed").inc()
            return await self._unpoliced(request, raw, body, None, "not tokenised", account)
        account.problem = prompt
        kind = ChatAnswer if is_chat else TextAnswer
        answer = kind(str(body.get("model", "")), self.config.reasoning_field, served.identity)
        self.metrics.requests.labels("policed").inc()
        work = PiecewiseCompletion(served, answer, body, prompt, cap, account, self.metrics, self.count)
        try:
            return await (work.streamed() if body.get("stream") else work.whole())
        except UpstreamError as error:
            if not refuses(error) or work.result.ids:
                raise
            # refused before the first token: the client's own request may still be answered, or is refused in the server's words
            self.metrics.faults.labels("upstream_refused").inc()
            return await self.forwarder.forward(request, raw)

    async def _prompt(self, body: dict[str, Any], is_chat: bool) -> list[int]:
        upstream, tokenizer = self.config.upstream, self.config.capabilities.tokenizer
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
        self,
        request: Request,
        raw: bytes,
        body: dict[str, Any],
        served: ServedPolicy | None,
        reason: str,
        account: Account,
    ) -> Response:
        treatment = reason if reason == "holdout" else "unpoliced" if reason else "shadow"
        account.treatment = treatment
        self.metrics.requests.labels(treatment).inc()
        if treatment == "unpoliced":
            self.metrics.unpoliced.labels(reason).inc()
        if served is None or treatment == "unpoliced":
            return await self.forwarder.forward(request, raw)

        def ask_later(answer: ObservedAnswer) -> None:
            task = asyncio.create_task(self._ask(served, body, answer, account, request.url.path))
            self.background.add(task)
            task.add_done_callback(self.background.discard)

        return await self.forwarder.observed(request, body, served.settings.asked_top, ask_later)

    async def _ask(
        self, served: ServedPolicy, body: dict[str, Any], answer: ObservedAnswer, account: Account, path: str
    ) -> None:
        """Ask the policy, after the answer, what it would have done."""
        try:
            account.problem = prompt = await self._prompt(body, path.endswith("/chat/completions"))
            settings = replace(served.settings, cap_tokens=self.config.cap(body, prompt))
            result = await replay(settings, prompt, self._with_close(answer.tokens), answer.reason)
        except Exception as error:
            self.metrics.faults.labels("policy_failed").inc()
            log.warning("shadow: %s: %s", type(error).__name__, error)
            return
        self.count(served, result, account, answer.seconds)
        if served.watch is not None:
            served.watch.see(result, self.config.markup.answer_of)
            self._show_drift()

    def _show_drift(self) -> None:
        for name, served in self.config.policies.items():
            if served.watch is not None:
                self.metrics.drift.labels(name).set(served.watch.p_value)
                self.metrics.alarm.labels(name).set(served.watch.alarm)

    def _with_close(self, tokens: list[Token]) -> list[Token]:
        """Tokens with the closing tag between thought and answer, if the server separates them and omits the tag."""
        markup = self.config.markup
        first = next((place for place, token in enumerate(tokens) if not token.reasoning), len(tokens))
        if first in (0, len(tokens)) or any(token.id == markup.close_ids[-1] for token in tokens):
            return tokens
        tag = (Token(text, number) for text, number in markup.tags[: len(markup.close_ids)])
        return [*tokens[:first], *tag, *tokens[first:]]

    def count(self, served: ServedPolicy, result: ThoughtResult, account: Account, seconds: float) -> None:
        """Count a result and, unless the client left or the server broke off, log it."""
        treatment, name, metrics = account.treatment, served.name, self.metrics
        for use, number in (
            ("trace", len(result.ids)),
            ("probe", result.probe_tokens),
            ("discarded", result.discarded_tokens),
        ):
            metrics.tokens.labels(use).inc(number)
        metrics.faults.labels("upstream_resumed").inc(result.num_resumed)
        if result.stopped:
            metrics.stops.labels(name).inc()
            metrics.saved.labels(name).inc(max(account.expected_saved or 0.0, 0.0))
        elif result.would_stop_at is not None:
            metrics.would_stop.labels(name).inc()
        self._count_put_off(served, result)
        if result.failure:
            metrics.faults.labels("policy_failed").inc()
            log.warning("policy %s failed: %s", served.identity, result.failure)
        if result.order_failure:
            metrics.faults.labels("order_failed").inc()
            log.warning("an order did not close a thought: %s", result.order_failure)
        if result.reason:
            metrics.positions.labels(treatment).observe(result.thought_tokens)
            metrics.seconds.labels(treatment).observe(seconds)
            if not self.accounts.write(account, result, self.config.markup.answer_of):
                metrics.faults.labels("account_lost").inc()

    def _count_put_off(self, served: ServedPolicy, result: ThoughtResult) -> None:
        num_late, num_all = result.num_too_long, sum(decision.put_off for decision in result.decisions)
        for reason, number in (("no answer", num_all - num_late), ("answer too long", num_late)):
            self.metrics.put_off.labels(served.name, reason).inc(number)
        if num_late and served.name not in self.late:  # logged once per policy; the counter has them all
            self.late.add(served.name)
            log.warning(
                "policy %s asked to stop, but the thought continued because the answer did not end within %d tokens. If this "
                "model's answers are longer, record, tune and serve with a larger --answer-tokens",
                served.identity, self.config.markup.answer_tokens,
            )  # fmt: skip

    def _failed(self, error: UpstreamError) -> Response:
        """Return the server's own refusal, or an error if it failed."""
        kind = "upstream_failed" if error.status is None or error.status >= 500 else "upstream_refused"
        self.metrics.faults.labels(kind).inc()
        if error.status is not None and error.body:
            return Response(error.body, error.status, media_type="application/json")
        return _error(502, kind, str(error))

    async def finish(self) -> None:
        """Wait for background tasks, and save the state of drift tests."""
        if self.background:
            await asyncio.wait(self.background, timeout=10)
        for task in self.background:
            task.cancel()
        self.accounts.close()
        for served in self.config.policies.values():
            if served.watch is not None:
                try:
                    served.watch.save()
                except OSError as error:
                    log.warning("the state of a drift test could not be saved: %s", error)


def _error(status: int, kind: str, message: str) -> JSONResponse:
    headers = {"connection": "close"} if status == 408 else None  # do not wait for the rest of the body
    return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status, headers)
