"""What servers of the OpenAI protocol send of a completion, and the tokens it says.

What they add to that protocol is read where it is there: token ids beside the log-probabilities (llama.cpp: `id`; vLLM:
`return_token_ids`), either field for reasoning (`reasoning_content`, `reasoning`), and log-probabilities of completions in the
form of chat or in the older one of parallel lists. Fields that are not named here are not read.
"""

from typing import NamedTuple

from msgspec import Raw, Struct


class Token(NamedTuple):
    """A generated token, or a piece of text where the server does not tell tokens.

    Attributes:
        text: what it adds.
        id: in the server's vocabulary, None where the server does not say.
        log_prob: at temperature 1, None where it was not asked for or did not come.
        top: (id, text, log-probability) of the likeliest tokens in its place, as many as were asked for.
        reasoning: whether it came as reasoning (chat alone tells).
    """

    text: str
    id: int | None = None
    log_prob: float | None = None
    top: tuple[tuple[int | None, str, float], ...] = ()
    reasoning: bool = False


class Likely(Struct):
    """One of the likeliest tokens in a place."""

    token: str
    logprob: float
    id: int | None = None


class Entry(Struct):
    """A token with its log-probability, as chat has it."""

    token: str
    logprob: float | None = None
    id: int | None = None
    top_logprobs: list[Likely] | None = None


class LogProbs(Struct):
    """Log-probabilities: `content` as chat has it, or the older lists."""

    content: list[Entry] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class Delta(Struct):
    """What a chunk adds to a message, or a whole message."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Choice(Struct):
    """One of the answers, or what a chunk adds to it."""

    text: str | None = None
    delta: Delta | None = None
    message: Delta | None = None
    logprobs: LogProbs | None = None
    token_ids: list[int] | None = None
    finish_reason: str | None = None


class CachedTokens(Struct):
    """How much of a prompt had been read before."""

    cached_tokens: int | None = None


class Usage(Struct):
    """Counts of tokens."""

    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    prompt_tokens_details: CachedTokens | None = None


class Chunk(Struct):
    """A part of a stream."""

    id: str | None = None
    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Raw = Raw(b"null")


def tokens_of(choice: Choice) -> list[Token]:
    """Return the tokens of a choice, in a chunk or whole; one piece of text where it has no log-probabilities or ids.

    Reasoning and content in one choice are told apart by order: reasoning comes first.
    """
    message = choice.message or choice.delta
    reasoning = (message and (message.reasoning_content or message.reasoning)) or ""
    text = choice.text or (message and message.content) or ""
    log_probs, ids = choice.logprobs, choice.token_ids
    if log_probs is not None:
        if log_probs.content:
            tokens = _in_chat_form(log_probs.content, ids, len(reasoning))
            # tags, which the texts of a whole message lack, are among its tokens
            return tokens if choice.message else _with_text(tokens, reasoning, text)
        if log_probs.tokens:
            return _with_text(_in_lists(log_probs, log_probs.tokens, ids), reasoning, text)
    if ids and len(ids) > 1:  # several tokens, one text: only their number and ids are known
        pieces = [Token("", number, reasoning=bool(reasoning)) for number in ids[:-1]]
        return [*pieces, Token(reasoning or text, ids[-1], reasoning=bool(reasoning))]
    found = [Token(reasoning, reasoning=True)] if reasoning else []
    found += [Token(text)] if text else []
    if ids and found:
        found[0] = found[0]._replace(id=ids[0])
    return found


def _with_text(tokens: list[Token], reasoning: str, text: str) -> list[Token]:
    """The same tokens with the chunk's own text: a token's may hold a part of a character alone."""
    if "".join([token.text for token in tokens]) == reasoning + text:
        return tokens
    last = tokens[-1]._replace(text=reasoning + text, reasoning=bool(reasoning))
    return [*(token._replace(text="") for token in tokens[:-1]), last]


def _in_chat_form(entries: list[Entry], ids: list[int] | None, reasoning: int) -> list[Token]:
    found, seen = [], 0
    is_known = ids is not None and len(ids) == len(entries)
    for place, entry in enumerate(entries):
        number = ids[place] if entry.id is None and is_known else entry.id  # type: ignore[index]
        top = tuple([(each.id, each.token, each.logprob) for each in entry.top_logprobs or ()])
        found.append(Token(entry.token, number, entry.logprob, top, seen < reasoning))
        seen += len(entry.token)
    return found


def _in_lists(log_probs: LogProbs, texts: list[str], ids: list[int] | None) -> list[Token]:
    values, tops = log_probs.token_logprobs or [], log_probs.top_logprobs or []
    if len(values) != len(texts):
        raise ValueError(f"token_logprobs: expected one for each of {len(texts)} tokens, got {len(values)}")
    found = []
    for place, text in enumerate(texts):
        top = tops[place] if place < len(tops) else None
        likeliest = tuple([(None, other, value) for other, value in (top or {}).items()])
        number = ids[place] if ids and len(ids) == len(texts) else None
        found.append(Token(text, number, values[place], likeliest))
    return found
