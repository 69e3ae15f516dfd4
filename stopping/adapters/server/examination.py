"""Finding out what a server can do for a policy, and what each signal costs in speed.

Everything is tried with short requests: a feature counts only if it had its effect, not if it was accepted.
"""

import asyncio
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from stopping.adapters.server.capabilities import MISSING_MASS, Capabilities, tokens_of_text
from stopping.adapters.server.client import Completion, End, Upstream, UpstreamError
from stopping.adapters.server.protocol import Token, content_of

# Prompts to try in turn: a tokeniser may know few characters, and a model may end a text at once.
TEXTS = ("The quick brown fox", "3 4 5>60", "the quick brown fox", "1 2 3 4", "a b c d", "ABCD", "0123", "hello")
IDS = (1, 2, 3)  # tokens that every vocabulary has; the model's continuation is a text that the tokeniser knows
NOT_A_TEXT = (401, 403, 404, 429)  # refusals that do not concern the text
NOT_THERE = (404, 405, 501)  # the address does not exist
LONG_TOKENS = 160  # maximum length of the prompt that shows whether prompts are cached
MEASURED_TOKENS = 64
ROUNDS = 3
CONTROL_TRIES, MOST_CONTROL_TRIES = 3, 30  # minimum, and maximum within CONTROL_SECONDS
CONTROL_SECONDS = 5.0
IDLE_WITHIN_SECONDS = 5.0
FEWER_TOP = (5, 1)  # requested where more are refused: the older protocol allows five
# Bias against the closing tag, so that only an order ends a thought; an infinite bias would prevent the order, too.
NEVER_DRAWN = -100.0
TEMPLATE_TOKENS = 16  # reserved for what a chat template adds to a text
RUNNING = ("vllm:num_requests_running", "llamacpp:requests_processing")

_T = TypeVar("_T")


async def examine(
    upstream: Upstream, *, num_top: int = 20, close: str = "</think>", measure: bool = True
) -> Capabilities:
    """Return what a server can do, found by asking it; this takes a second or two on a fast server.

    Args:
        upstream: the server.
        num_top: how many top log-probabilities to request with each token; if the server refuses so many, fewer are requested.
        close: the tag that ends a thought, used to test whether an order closes one.
        measure: whether to measure speeds, and how soon a cancelled request is gone; this takes a few hundred tokens.

    Raises:
        UpstreamError: if the server completes no prompt at all.
    """
    text, plain = await _probe(upstream)
    found: dict[str, Any] = {"model": upstream.model, "asked_top": num_top, "usage": plain.end.num_tokens is not None}
    shown = None
    for asked in (num_top, *(fewer for fewer in FEWER_TOP if fewer < num_top)):
        if shown is None:
            shown = await _or_none(lambda: upstream.complete(text, 4, num_top=asked, temperature=0))  # noqa: B023
    if shown is not None and shown.tokens:
        found["log_probs"] = any(token.log_prob is not None for token in shown.tokens)  # some may be unknown
        found["num_top"] = min(len(token.top) for token in shown.tokens)
        # a token with an unknown log-probability does not show that tokens are missing
        whole = [_mass(token) > 1 - MISSING_MASS for token in shown.tokens]
        unknown = [any(p is None for _, _, p in token.top) for token in shown.tokens]
        found["full_distribution"] = any(whole) and all(map(max, whole, unknown))
    # ids may come without log-probabilities or only with them
    found["token_ids"] = any(tried is not None and _has_ids(tried) for tried in (plain, shown))
    found |= await _limits(upstream)
    found["tokenizer"] = await _tokenizer(upstream, (text, *TEXTS))
    found |= await _prompts(upstream, text, found["tokenizer"], found["context_tokens"])
    found["num_choices"] = await _has_choices(upstream, text)
    asking = _Asking(upstream, text, plain.end.num_prompt_tokens or len(text), found["context_tokens"])
    found |= await _or_none(lambda: _control_tried(asking, close, found["tokenizer"])) or {}
    if measure:
        found["idle_seconds"] = await _unless_refused(lambda: _idle_seconds(asking))
        found |= await _speeds(asking, found.get("log_probs", False), found.get("num_top", 0))
    return Capabilities(**found)


async def _or_none(ask: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await ask()
    except UpstreamError:
        return None


async def _unless_refused(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Return None if the server refuses.

    Raises:
        UpstreamError: if the server fails in another way.
    """
    try:
        return await ask()
    except UpstreamError as error:
        if _is_refusal(error):
            return None
        raise


def _is_refusal(error: UpstreamError) -> bool:
    """Whether the server refused the content of the request; another text, or fewer tokens, may then work."""
    return error.status not in NOT_A_TEXT and (error.status is not None or bool(error.body))


async def _probe(upstream: Upstream) -> tuple[str, Completion]:
    """Find a text that the server completes, and its completion, preferably one with tokens.

    Raises:
        UpstreamError: if it completes none.
    """
    empty, refusal = None, None
    for most, text in itertools.product((8, 1), (*TEXTS, "")):
        try:
            asked = text or (await upstream.complete(IDS, most, temperature=0)).text
            found = await upstream.complete(asked, most, temperature=0)
        except UpstreamError as error:
            if not _is_refusal(error):
                raise
            refusal = refusal or error
            continue
        if found.tokens:
            return asked, found
        empty = empty or (asked, found)
    if empty is not None:
        return empty
    assert refusal is not None
    raise refusal


async def _fitting(ask: Callable[[int], Awaitable[_T]], most: int) -> _T:
    """Request `most` tokens, and half as many whenever the server refuses.

    Raises:
        UpstreamError: if the server refuses even one token.
    """
    while True:
        try:
            return await ask(most)
        except UpstreamError as error:
            if most <= 1 or not _is_refusal(error):
                raise
        most //= 2


@dataclass(frozen=True)
class _Asking:
    """A request for completions of some length.

    Attributes:
        upstream: the server.
        text: a text that it completes.
        num_text_tokens: the length of the text.
        context_tokens: the server's context length; None if unknown.
    """

    upstream: Upstream
    text: str
    num_text_tokens: int
    context_tokens: int | None

    def most(self, wanted: int) -> int:
        """Return how many of the wanted tokens fit into the context."""
        if self.context_tokens is None:
            return wanted
        return max(min(wanted, self.context_tokens - self.num_text_tokens - TEMPLATE_TOKENS), 1)


async def _limits(upstream: Upstream) -> dict[str, int | None]:
    """Return the number of slots and the context length, as far as the server reports them."""
    properties = await _or_none(lambda: upstream.get("/props"))
    slots = properties.get("total_slots") if isinstance(properties, dict) else None
    is_count = isinstance(slots, int) and not isinstance(slots, bool) and slots > 0
    return {"num_slots": slots if is_count else None, "context_tokens": await upstream.context_tokens()}


def _mass(token: Token) -> float:
    """The total probability of the top tokens whose log-probability is known."""
    return sum(math.exp(log_prob) for _, _, log_prob in token.top if log_prob is not None)


def _has_ids(completion: Completion) -> bool:
    return bool(completion.tokens) and all(token.id is not None for token in completion.tokens)


async def _tokenizer(upstream: Upstream, texts: Sequence[str]) -> str:
    """Return which `/tokenize` the server has: llama.cpp's takes `content`, vLLM's takes `prompt` or `messages`.

    A tokeniser that knows few characters may refuse a text, or return no token; then another text is tried.
    """
    for text in dict.fromkeys(texts):
        for name, body in (("llama.cpp", {"content": text}), ("vllm", {"model": upstream.model, "prompt": text})):
            try:
                found = await upstream.post("/tokenize", body)
            except UpstreamError as error:
                if error.status in (None, *NOT_THERE):
                    return ""
                continue
            if isinstance(found, dict) and found.get("tokens"):
                return name
    return ""


async def _prompts(upstream: Upstream, text: str, tokenizer: str, context_tokens: int | None) -> dict[str, bool]:
    """Return whether prompts may be token ids, and whether they are cached."""
    ids: list[int] = (
        await _or_none(lambda: tokens_of_text(upstream, text * 8, tokenizer)) if tokenizer else None
    ) or []
    if not ids:
        return {}
    ids = ids[: min(LONG_TOKENS, (context_tokens or 2 * LONG_TOKENS) // 2)]
    while (first := await _or_none(lambda: upstream.complete(ids, 4, temperature=0))) is None and len(ids) > 8:  # noqa: B023
        ids = ids[: len(ids) // 2]  # the context length is unknown
    again = await _or_none(lambda: upstream.complete([*ids, ids[0]], 4, temperature=0))
    is_cached = again is not None and (again.end.num_cached_tokens or 0) >= len(ids) // 2
    return {"prompt_ids": first is not None, "prefix_cache": is_cached}


async def _has_choices(upstream: Upstream, text: str) -> bool:
    body = {"model": upstream.model, "prompt": text, "max_tokens": 1, "n": 2}
    found = await _or_none(lambda: upstream.post("/v1/completions", body))
    return isinstance(found, dict) and len(found.get("choices") or ()) == 2


async def _control_tried(asking: _Asking, close: str, tokenizer: str) -> dict[str, Any]:
    """Repeat `_control` until it is decisive: on a busy machine the thought may end before the order arrives."""
    upstream, most = asking.upstream, asking.most(4 * MEASURED_TOKENS)
    close_ids = await tokens_of_text(upstream, close, tokenizer, start=False) if tokenizer and close else []
    if not close_ids:
        return {}
    start = time.monotonic()
    for tried in range(MOST_CONTROL_TRIES):
        if tried >= CONTROL_TRIES and time.monotonic() - start > CONTROL_SECONDS:
            break
        if (found := await _fitting(lambda most: _control(asking, close_ids[0], most), most)) is not None:
            return found
    return {}


async def _control(asking: _Asking, close_id: int, most: int) -> dict[str, Any] | None:
    """Request a thought that does not close by itself, order it closed, and see whether an answer follows.

    The result is empty if the server has no such order or the model does not think, and None if the test was not decisive because
    the thought was over before the order arrived. A reply of success is not enough: it only says that the order reached a
    request, and is also sent for chat templates not known to think.

    Raises:
        UpstreamError: if the request is refused.
    """
    upstream, is_begun = asking.upstream, False
    settings: dict[str, Any] = {"reasoning_control": True, "max_tokens": most, "temperature": 1.0}
    settings |= {"logit_bias": [[close_id, NEVER_DRAWN]], "ignore_eos": True}
    body = {"model": upstream.model, "messages": [{"role": "user", "content": asking.text}], **settings}
    ordered_in: float | None = None
    lag_tokens = 0
    try:
        async with aclosing(upstream.events("/v1/chat/completions", body)) as events:
            async for chunk in events:
                is_begun = True
                tokens = content_of(chunk.choices).tokens
                is_thought = any(token.reasoning for token in tokens)
                is_answer = any(token.text and not token.reasoning for token in tokens)
                if ordered_in is None and is_thought:
                    start = time.monotonic()
                    order = {"id": chunk.id, "action": "reasoning_end"}
                    if not (await upstream.post("/v1/chat/completions/control", order)).get("success"):
                        return None
                    ordered_in = time.monotonic() - start
                elif ordered_in is not None and is_answer:
                    return {"control": True, "control_seconds": ordered_in, "control_lag_tokens": lag_tokens}
                elif is_answer:
                    return {}
                else:
                    lag_tokens += is_thought
    except UpstreamError:
        if not is_begun:
            raise
        return {}
    except ValueError:  # an inconsistent chunk
        return {}
    return None


async def is_idle(upstream: Upstream) -> bool | None:
    """Return whether the server has no request running; None if it does not say (llama.cpp's `/slots`, or `/metrics`)."""
    slots = await _or_none(lambda: upstream.get("/slots"))
    if isinstance(slots, list):
        return not any(slot.get("is_processing") for slot in slots)
    try:
        response = await upstream.client.get("/metrics")
    except httpx.HTTPError:
        return None
    if response.status_code != 200:
        return None
    running = [line.split()[-1] for line in response.text.splitlines() if line.startswith(RUNNING)]
    return all(float(number) == 0 for number in running) if running else None


async def _idle_seconds(asking: _Asking) -> float | None:
    upstream = asking.upstream

    async def some(most: int) -> None:
        settings: dict[str, Any] = {"temperature": 1.0, "ignore_eos": True}
        async with aclosing(upstream.stream(asking.text, most, **settings)) as pieces:
            seen = 0
            async for _ in pieces:
                seen += 1
                if seen >= 8:
                    break

    await _fitting(some, asking.most(16 * MEASURED_TOKENS))
    start = time.monotonic()
    while time.monotonic() - start < IDLE_WITHIN_SECONDS:
        idle = await is_idle(upstream)
        if idle is None:
            return None
        if idle:
            return time.monotonic() - start
        await asyncio.sleep(0.001)
    return None


async def _speeds(asking: _Asking, log_probs: bool, num_top: int) -> dict[str, float | None]:
    """Tokens per second of one stream, by what it carries: the best of several interleaved rounds."""
    kinds: dict[str, int | None] = {"tokens_per_second": None}
    if log_probs:
        kinds["log_probs_share"] = 0
    if num_top > 1:
        kinds["top_share"] = num_top
    best, most = dict.fromkeys(kinds, 0.0), asking.most(MEASURED_TOKENS)
    for _ in range(ROUNDS):
        for name, top in kinds.items():
            speed = await _unless_refused(lambda: _fitting(lambda most: _speed(asking, top, most), most))  # noqa: B023
            best[name] = max(best[name], speed or 0.0)
    base = best["tokens_per_second"]
    return {name: speed if name == "tokens_per_second" or not base else speed / base for name, speed in best.items()}


async def _speed(asking: _Asking, num_top: int | None, most: int) -> float:
    first, seen, end = 0.0, 0, None
    settings: dict[str, Any] = {"temperature": 1.0, "ignore_eos": True, "seed": 1}
    async with aclosing(asking.upstream.stream(asking.text, most, num_top=num_top, **settings)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Token):
                first = first or time.monotonic()
                seen += 1
            elif isinstance(piece, End):
                end = piece
    passed, count = time.monotonic() - first, (end.num_tokens if end and end.num_tokens else seen) - 1
    return count / passed if first and passed > 0 and count > 0 else 0.0
