"""Reading completions of the OpenAI protocol: chunks of a stream or whole documents, and their tokens.

Extensions of the protocol are read where they are present: token ids with the log-probabilities (llama.cpp: `id`; vLLM:
`return_token_ids`), either field for reasoning (`reasoning_content`, `reasoning`), and log-probabilities of completions in the
chat format or in the older one of parallel lists. Fields that are not named here are ignored. Fields that nothing depends on
(ids of completions, counts) may have any type.
"""

import json
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

# A log-probability at or below this means "unknown", or minus infinity, which JSON lacks: vLLM and OpenAI send -9999, llama.cpp
# the smallest float32, others -1e4 or -inf. No sampled token has a probability too small for a double.
LEAST_LOG_PROB = math.log(math.ulp(0.0))  # -744.4


class Token(NamedTuple):
    """A generated token, or a piece of text if the server does not separate tokens.

    Attributes:
        text: the text that it adds.
        id: its id in the server's vocabulary; None if the server does not send it.
        log_prob: its log-probability at temperature 1; None if it was not requested, not sent, or unknown.
        top: (id, text, log-probability) of the most likely tokens in its place, as many as were requested; a
            log-probability is None if unknown.
        reasoning: whether it was sent as reasoning (chats only).
    """

    text: str
    id: int | None = None
    log_prob: float | None = None
    top: tuple[tuple[int | None, str, float | None], ...] = ()
    reasoning: bool = False


class Likely(Struct):
    """One of the most likely tokens in a place."""

    token: str
    logprob: float | None = None
    id: int | None = None


class Entry(Struct):
    """A token with its log-probability, in the chat format."""

    token: str
    logprob: float | None = None
    id: int | None = None
    top_logprobs: list[Likely | None] | None = None


class LogProbs(Struct):
    """Log-probabilities: `content` in the chat format, or the older lists."""

    content: list[Entry | None] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None


class Delta(Struct):
    """What a chunk adds to a message, or a whole message."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Any = None


class Choice(Struct):
    """One of the choices, or what a chunk adds to it."""

    text: str | None = None
    delta: Delta | None = None
    message: Delta | None = None
    logprobs: LogProbs | None = None
    token_ids: list[int] | None = None
    finish_reason: str | None = None


class Usage(NamedTuple):
    """Counts of tokens; None if the server sends none, or an impossible one."""

    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None


class Chunk(Struct):
    """A chunk of a stream."""

    id: Any = None
    choices: list[Choice | None] | None = None
    usage: Any = None
    error: Raw = Raw(b"null")


class Content(NamedTuple):
    """What a chunk, or a whole completion, holds.

    Attributes:
        tokens: its tokens, of all choices in order.
        reason: the finish reason; empty if there is none yet.
        calls_tool: whether it holds a part of a tool call.
    """

    tokens: list[Token]
    reason: str = ""
    calls_tool: bool = False


_DECODE = msgspec.json.Decoder(Chunk).decode


def chunk_of(data: bytes) -> Chunk:
    """Parse a chunk.

    Raises:
        ValueError: if it is not one.
    """
    try:
        return _DECODE(data)
    except ValueError as error:
        if (document := _with_infinities(data)) is None:
            raise error
    return msgspec.convert({**document, "error": Raw(msgspec.json.encode(document.get("error")))}, Chunk)


def document_of(data: bytes) -> Any:
    """Parse a JSON document into plain objects.

    Raises:
        ValueError: if it is not one.
    """
    try:
        return msgspec.json.decode(data)
    except ValueError as error:
        if (document := _with_infinities(data)) is None:
            raise error
    return document


def _with_infinities(data: bytes) -> dict[str, Any] | None:
    """Parse a document with NaN or Infinity, which is not JSON, but which servers written in Python send."""
    if b"NaN" not in data and b"Infinity" not in data:
        return None
    try:
        document = json.loads(data)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def usage_of(said: Any) -> Usage:
    """Return counts of tokens; None for a count that is not a whole number >= 0."""
    said = said if isinstance(said, dict) else {}
    details = said.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return Usage(_count(said.get("completion_tokens")), _count(said.get("prompt_tokens")), _count(cached))


def _count(said: Any) -> int | None:
    is_number = isinstance(said, int | float) and not isinstance(said, bool) and math.isfinite(said)
    return int(said) if is_number and said >= 0 and said == int(said) else None


def known(log_prob: float | None) -> float | None:
    """Return a log-probability; None for a value that means "unknown"."""
    return log_prob if log_prob is not None and LEAST_LOG_PROB < log_prob < math.inf else None


def content_of(choices: Iterable[Choice | None] | None) -> Content:
    """Return the content of a chunk or a completion, given its choices.

    Raises:
        ValueError: if a choice is inconsistent.
    """
    tokens: list[Token] = []
    reason, calls_tool = "", False
    for choice in choices or ():
        if choice is not None:
            tokens += _tokens_of(choice)
            reason = choice.finish_reason or reason
            message = choice.message or choice.delta
            calls_tool = calls_tool or bool(message and message.tool_calls)
    return Content(tokens, reason, calls_tool)


def content_of_document(document: dict[str, Any]) -> Content:
    """Return the content of a chunk or a completion, given as plain objects.

    Raises:
        ValueError: if it does not follow the protocol.
    """
    return content_of(msgspec.convert(document.get("choices") or (), list[Choice | None]))


def _tokens_of(choice: Choice) -> list[Token]:
    """Return the tokens of a choice; one piece of text if it has neither log-probabilities nor ids.

    Within a choice, reasoning comes before content.
    """
    message = choice.message or choice.delta
    reasoning = (message and (message.reasoning_content or message.reasoning)) or ""
    text = choice.text or (message and message.content) or ""
    log_probs, ids = choice.logprobs, choice.token_ids
    if log_probs is not None:
        if log_probs.content:
            tokens = _in_chat_form(log_probs.content, ids, len(reasoning))
            # the tokens of a whole message include tags, which its texts lack
            return tokens if choice.message else _with_text(tokens, reasoning, text)
        if log_probs.tokens:
            return _with_text(_in_lists(log_probs, log_probs.tokens, ids), reasoning, text)
    if ids and len(ids) > 1:  # several tokens with one text: only their ids are known
        pieces = [Token("", number, reasoning=bool(reasoning)) for number in ids[:-1]]
        return [*pieces, Token(reasoning or text, ids[-1], reasoning=bool(reasoning))]
    found = [Token(reasoning, reasoning=True)] if reasoning else []
    found += [Token(text)] if text else []
    if ids and found:
        found[0] = found[0]._replace(id=ids[0])
    return found


def _with_text(tokens: list[Token], reasoning: str, text: str) -> list[Token]:
    """The same tokens with the chunk's own text, as a single token may hold a part of a character."""
    if "".join([token.text for token in tokens]) == reasoning + text:
        return tokens
    last = tokens[-1]._replace(text=reasoning + text, reasoning=bool(reasoning))
    return [*(token._replace(text="") for token in tokens[:-1]), last]


def _in_chat_form(entries: list[Entry | None], ids: list[int] | None, reasoning: int) -> list[Token]:
    found, seen = [], 0
    is_known = ids is not None and len(ids) == len(entries)
    for place, each in enumerate(entries):
        entry = each or Entry("")  # null: an unknown token
        number = ids[place] if entry.id is None and is_known else entry.id  # type: ignore[index]
        tops = [likely or Likely("") for likely in entry.top_logprobs or ()]
        top = tuple([(likely.id, likely.token, known(likely.logprob)) for likely in tops])
        found.append(Token(entry.token, number, known(entry.logprob), top, seen < reasoning))
        seen += len(entry.token)
    return found


def _in_lists(log_probs: LogProbs, texts: list[str], ids: list[int] | None) -> list[Token]:
    values, tops = log_probs.token_logprobs or [], log_probs.top_logprobs or []
    if len(values) != len(texts):
        raise ValueError(f"token_logprobs: expected one for each of {len(texts)} tokens, got {len(values)}")
    found = []
    for place, text in enumerate(texts):
        top = tops[place] if place < len(tops) else None
        likeliest = tuple([(None, other, known(value)) for other, value in (top or {}).items()])
        number = ids[place] if ids and len(ids) == len(texts) else None
        found.append(Token(text, number, known(values[place]), likeliest))
    return found
