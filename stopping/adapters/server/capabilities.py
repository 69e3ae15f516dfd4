"""What a server can do for a policy, found by asking it, and what each signal costs in speed.

Everything here is tried with short requests: a feature counts as there if it acted, not if it was accepted.
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

from stopping.adapters.server.client import Completion, End, Upstream, UpstreamError
from stopping.adapters.server.protocol import Delta, Token

# Tried in turn as prompts: a tokeniser may know few characters, and a model may end one of them at once.
TEXTS = ("The quick brown fox", "3 4 5>60", "the quick brown fox", "1 2 3 4", "a b c d", "ABCD", "0123", "hello")
IDS = (1, 2, 3)  # of tokens that every vocabulary has; what follows them is a text that the tokeniser knows
NOT_A_TEXT = (401, 403, 404, 429)  # refusals that say nothing of the text
NOT_THERE = (404, 405, 501)  # no such address
LONG_TOKENS = 160  # at most, of the prompt that shows whether prompts are cached
MEASURED_TOKENS = 64
ROUNDS = 3
MISSING_MASS = 1e-4  # of a distribution, that its likeliest tokens may lack to be taken for all of it
CONTROL_TRIES, MOST_CONTROL_TRIES = 3, 30  # at least; at most, within so many
CONTROL_SECONDS = 5.0
IDLE_WITHIN_SECONDS = 5.0
FEWER_TOP = (5, 1)  # asked for where more are refused: the older protocol allows five
NEVER_DRAWN = (
    -100.0
)  # a bias on the closing tag, so that a thought ends by order alone; an infinite one would bar the order too
TEMPLATE_TOKENS = 16  # left for what a chat template adds to a text, and what begins a prompt
RUNNING = ("vllm:num_requests_running", "llamacpp:requests_processing")

_T = TypeVar("_T")

# What would give a capability that is not there.
WHAT_GIVES = {
    "log_probs": "logprobs, which llama.cpp and vLLM send by default, but not llama.cpp with a draft model",
    "num_top": "top log-probabilities; vLLM: --max-logprobs 20",
    "full_distribution": "the log-probabilities of all tokens: --top-log-probs of the vocabulary's size; vLLM: --max-logprobs -1",
    "token_ids": "ids of generated tokens; llama.cpp sends them with logprobs, vLLM by return_token_ids in its newer versions",
    "prompt_ids": "prompts of token ids at /v1/completions, as llama.cpp and vLLM take them",
    "tokenizer": "/tokenize, as llama.cpp and vLLM have it",
    "prefix_cache": "a cache of prompts; llama.cpp: --cache-prompt; vLLM: --enable-prefix-caching",
    "num_choices": "n in a request, as llama.cpp and vLLM take it",
    "control": "/v1/chat/completions/control; llama.cpp: --jinja, and a chat template that it knows to think",
    "usage": "stream_options.include_usage, as llama.cpp and vLLM take it",
    "idle_seconds": "llama.cpp: --slots or --metrics; vLLM: /metrics",
}


class Unsupported(RuntimeError):
    """The server lacks what the policy needs."""


@dataclass(frozen=True)
class Capabilities:
    """What a server can do.

    Attributes:
        model: by its name there.
        log_probs: the drawn token's log-probability comes with it in a stream.
        num_top: how many of the likeliest tokens' come too, of `asked_top`; 0 for none.
        asked_top: how many were asked for.
        full_distribution: those are all tokens there are, so that the distribution's entropy is known.
        token_ids: the ids of generated tokens come with them.
        prompt_ids: prompts may be token ids.
        tokenizer: `llama.cpp` or `vllm`, by the form of its `/tokenize`; empty where a conversation cannot be turned into ids.
        prefix_cache: a prompt that was read before is not read again.
        num_choices: `n` works.
        control: a thought can be closed from outside (`/v1/chat/completions/control`).
        usage: the stream ends with counts of tokens.
        num_slots: requests that it works on at once, others wait; None where it does not say (llama.cpp does).
        context_tokens: of a prompt and its answer together, for one request; None where it does not say (llama.cpp, vLLM do).
        idle_seconds: from closing a stream until the server was idle; None where it does not show that, or was not.
        tokens_per_second: of one stream without log-probabilities.
        log_probs_share, top_share: what is left of that speed with the drawn token's, and with the likeliest tokens'; None where
            they are not there.
        control_seconds, control_lag_tokens: from the order to close a thought to the reply, and tokens of thought after it;
            None without the hook.
    """

    model: str
    log_probs: bool = False
    num_top: int = 0
    asked_top: int = 0
    full_distribution: bool = False
    token_ids: bool = False
    prompt_ids: bool = False
    tokenizer: str = ""
    prefix_cache: bool = False
    num_choices: bool = False
    control: bool = False
    usage: bool = False
    num_slots: int | None = None
    context_tokens: int | None = None
    idle_seconds: float | None = None
    tokens_per_second: float | None = None
    log_probs_share: float | None = None
    top_share: float | None = None
    control_seconds: float | None = None
    control_lag_tokens: int | None = None

    @property
    def continues(self) -> bool:
        """Whether a thought can be continued from its tokens, so that answers can be forced."""
        return self.token_ids and self.prompt_ids and bool(self.tokenizer)


def require_continuation(capabilities: Capabilities, otherwise: str) -> None:
    """Refuse what needs a thought continued from its tokens; `otherwise` says what cannot be done.

    Raises:
        Unsupported: naming what the server lacks, and what would give it.
    """
    lacks = [name for name in ("token_ids", "prompt_ids", "tokenizer") if not getattr(capabilities, name)]
    if lacks:
        given = "; ".join(WHAT_GIVES[name] for name in lacks)
        raise Unsupported(f"{capabilities.model}: {otherwise}; the server lacks {given}")


async def examine(
    upstream: Upstream, *, num_top: int = 20, close: str = "</think>", measure: bool = True
) -> Capabilities:
    """Find out what a server can do; a second or two on a fast one.

    Args:
        upstream: the server.
        num_top: of the likeliest tokens that are wanted with each token; where so many are refused, fewer are asked for.
        close: the tag that ends a thought, to see whether an order closes one.
        measure: speeds, and how soon a cancelled request is gone, which takes some hundred tokens.

    Raises:
        UpstreamError: if it does not complete a prompt at all.
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
        # nor does a token with an unknown log-probability show that they are not
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
    """Return None where the server refuses.

    Raises:
        UpstreamError: if it fails otherwise.
    """
    try:
        return await ask()
    except UpstreamError as error:
        if _is_refusal(error):
            return None
        raise


def _is_refusal(error: UpstreamError) -> bool:
    """Whether the server said no to what it was asked, in a status or amid a stream; another text, or fewer tokens, may do."""
    return error.status not in NOT_A_TEXT and (error.status is not None or bool(error.body))


async def _probe(upstream: Upstream) -> tuple[str, Completion]:
    """Find a text that the server completes, with what comes of it; one with an answer of some tokens if there is one.

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
    """Ask for so many tokens, and for half as many whenever the server refuses.

    Raises:
        UpstreamError: if it refuses one token, too.
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
    """How a server is asked for answers of some length.

    Attributes:
        upstream: the server.
        text: that it completes.
        num_text_tokens: of the text.
        context_tokens: of the server, None where unknown.
    """

    upstream: Upstream
    text: str
    num_text_tokens: int
    context_tokens: int | None

    def most(self, wanted: int) -> int:
        """Return how many tokens may be asked for."""
        if self.context_tokens is None:
            return wanted
        return max(min(wanted, self.context_tokens - self.num_text_tokens - TEMPLATE_TOKENS), 1)


async def _limits(upstream: Upstream) -> dict[str, int | None]:
    """Return how many requests, and of how many tokens, the server works on, as far as it says."""
    properties = await _or_none(lambda: upstream.get("/props"))
    slots = properties.get("total_slots") if isinstance(properties, dict) else None
    is_count = isinstance(slots, int) and not isinstance(slots, bool) and slots > 0
    return {"num_slots": slots if is_count else None, "context_tokens": await upstream.context_tokens()}


def _mass(token: Token) -> float:
    """Of the likeliest tokens whose log-probability is known."""
    return sum(math.exp(log_prob) for _, _, log_prob in token.top if log_prob is not None)


def _has_ids(completion: Completion) -> bool:
    return bool(completion.tokens) and all(token.id is not None for token in completion.tokens)


async def _tokenizer(upstream: Upstream, texts: Sequence[str]) -> str:
    """Which `/tokenize` the server has: llama.cpp's takes `content`, vLLM's `prompt` or `messages`.

    A text may be refused, or have no token, where the tokeniser knows few characters; then another is tried.
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
    """Whether prompts may be token ids, and whether they are cached."""
    ids: list[int] = (
        await _or_none(lambda: tokens_of_text(upstream, text * 8, tokenizer)) if tokenizer else None
    ) or []
    if not ids:
        return {}
    ids = ids[: min(LONG_TOKENS, (context_tokens or 2 * LONG_TOKENS) // 2)]
    while (first := await _or_none(lambda: upstream.complete(ids, 4, temperature=0))) is None and len(ids) > 8:  # noqa: B023
        ids = ids[: len(ids) // 2]  # of a context that is not known
    again = await _or_none(lambda: upstream.complete([*ids, ids[0]], 4, temperature=0))
    is_cached = again is not None and (again.end.num_cached_tokens or 0) >= len(ids) // 2
    return {"prompt_ids": first is not None, "prefix_cache": is_cached}


async def tokens_of_text(upstream: Upstream, text: str, tokenizer: str, *, start: bool = True) -> list[int]:
    """Return the token ids of a text; `start`: with what the model puts first.

    Raises:
        UpstreamError: if the server has no such tokeniser.
    """
    if tokenizer == "llama.cpp":
        body: dict[str, Any] = {"content": text, "add_special": start, "parse_special": True}
    else:
        body = {"model": upstream.model, "prompt": text, "add_special_tokens": start}
    found = await upstream.post("/tokenize", body)
    return [int(number) for number in found["tokens"]]


async def tokens_of_chat(upstream: Upstream, messages: list[dict[str, Any]], tokenizer: str) -> list[int]:
    """Return the token ids of a conversation, up to where the model answers.

    Raises:
        UpstreamError: if the server has no such tokeniser, or refuses the conversation.
    """
    if tokenizer == "llama.cpp":
        prompt = (await upstream.post("/apply-template", {"messages": messages}))["prompt"]
        return await tokens_of_text(upstream, prompt, tokenizer)
    body = {"model": upstream.model, "messages": messages, "add_generation_prompt": True}
    return [int(number) for number in (await upstream.post("/tokenize", body))["tokens"]]


async def _has_choices(upstream: Upstream, text: str) -> bool:
    body = {"model": upstream.model, "prompt": text, "max_tokens": 1, "n": 2}
    found = await _or_none(lambda: upstream.post("/v1/completions", body))
    return isinstance(found, dict) and len(found.get("choices") or ()) == 2


async def _control_tried(asking: _Asking, close: str, tokenizer: str) -> dict[str, Any]:
    """As `_control`, until that is decided: on a busy machine the thought may end before the order comes."""
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
    """Ask for a thought that never closes by itself, order it closed, and see whether an answer comes.

    Nothing is found where the server has no such order, or the model does not think. None where that is not decided: the
    thought was over before the order came.

    The reply's success says only that the order reached a request: of a chat template that is not known to think, it says so too.

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
                choice = chunk.choices[0] if chunk.choices else None
                delta = (choice and choice.delta) or Delta()
                is_thought = bool(delta.reasoning_content or delta.reasoning)
                if ordered_in is None and is_thought:
                    start = time.monotonic()
                    order = {"id": chunk.id, "action": "reasoning_end"}
                    if not (await upstream.post("/v1/chat/completions/control", order)).get("success"):
                        return None
                    ordered_in = time.monotonic() - start
                elif ordered_in is not None and delta.content:
                    return {"control": True, "control_seconds": ordered_in, "control_lag_tokens": lag_tokens}
                elif delta.content:
                    return {}
                else:
                    lag_tokens += is_thought
    except UpstreamError:
        if not is_begun:
            raise
        return {}
    return None


async def is_idle(upstream: Upstream) -> bool | None:
    """Whether the server works on nothing; None where it does not say (`/slots` of llama.cpp, or `/metrics`)."""
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
    """Tokens a second of one stream by what it carries: the best of rounds taken in turn."""
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
